# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The compiled modules, found by extension-helpers at build time."""

from pathlib import Path

import numpy as np
from setuptools import Extension

__all__ = ["get_extensions"]


FLAGS = ["-O3", "-ffp-contract=off", "-fno-math-errno"]
# Sums may be reordered, so that they vectorise; NaN keeps its meaning.
REORDER = ["-fno-trapping-math", "-fno-signed-zeros", "-fassociative-math"]


def get_extensions():
    """Return the compiled extensions of the package."""
    folder = Path("levelmatch")
    return [
        Extension(
            f"levelmatch.{name}",
            [str(folder / f"{name}.pyx")],
            include_dirs=[np.get_include(), str(folder)],
            depends=[str(folder / "_loops.h"), str(folder / "_median.h")],
            define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_9_API_VERSION")],
            extra_compile_args=[*FLAGS, *extra],
        )
        for name, extra in (("sampling", REORDER), ("summary", []))
    ]
