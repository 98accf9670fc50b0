# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The compiled kernel, found by extension-helpers at build time."""

from pathlib import Path

import numpy as np
from setuptools import Extension

__all__ = ["get_extensions"]


def get_extensions():
    """Return the compiled extensions of the package."""
    folder = Path("levelmatch")
    return [
        Extension(
            "levelmatch.sampling",
            [str(folder / "sampling.pyx")],
            include_dirs=[np.get_include(), str(folder)],
            depends=[str(folder / "_loops.h")],
            define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_9_API_VERSION")],
            # Sums may be reordered, so that they vectorise; NaN keeps its meaning.
            extra_compile_args=[
                "-O3",
                "-ffp-contract=off",
                "-fno-math-errno",
                "-fno-trapping-math",
                "-fno-signed-zeros",
                "-fassociative-math",
            ],
        )
    ]
