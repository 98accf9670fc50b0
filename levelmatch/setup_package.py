# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Definitions of the compiled modules, which extension-helpers reads at build time."""

from pathlib import Path

import numpy as np
from setuptools import Extension

__all__ = ["get_extensions"]

FLAGS = ["-O3", "-ffp-contract=off", "-fno-math-errno"]
# Flags that allow sums to be reordered and vectorised, while NaN keeps its meaning.
REORDER = ["-fno-trapping-math", "-fno-signed-zeros", "-fassociative-math"]
# Additional sources and flags of each module.
MODULES = {
    "images/_decode": (["_decode.h"], REORDER),
    "measure/_cells": (
        ["_loops.h", "_loops_typed.h", "_measured.pxi", "_median.h", "_peaks.h", "_sampling.pxi"],
        REORDER,
    ),
    "measure/_gains": (["_inflation.pxi", "_median.h", "_normal.h"], REORDER),
    "measure/_summary": (
        [
            "_inflation.pxi",
            "_measured.pxi",
            "_median.h",
            "_plane.pxi",
            "_strips.pxi",
            "_wings.pxi",
        ],
        [],
    ),
    "sky/_geometry": (["_map.h"], REORDER),
    "solve/_dissection": ([], []),
    "solve/_fronts": ([], []),
    "solve/_pairs": ([], []),
}


def get_extensions():
    """Return the compiled extensions of the package."""
    return [_extension(Path("levelmatch", name), *how) for name, how in MODULES.items()]


def _extension(path, headers, flags):
    return Extension(
        ".".join(path.parts),
        [str(path.with_suffix(".pyx"))],
        include_dirs=[np.get_include(), str(path.parent), "levelmatch"],
        depends=["levelmatch/_clones.h", *(str(path.parent / header) for header in headers)],
        define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_9_API_VERSION")],
        extra_compile_args=[*FLAGS, *flags],
    )
