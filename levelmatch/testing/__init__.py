# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Simulated dithered mosaics with known levels.

Each set is one scene on the sky (a spiral disc, nebulosity, stars) seen by many overlapping
images, each with its own background level or plane. The truth comes with the set, so any
level-matching setting can be judged: `level_errors` and `plane_errors` compare the corrections
found with those added.

Throughout the package, a background plane is ``f(s) = level + slope_u * u + slope_v * v``. Here
``u`` and ``v`` are the components of the sky unit vector ``s``, in arcmin, toward East and North
at the image's centre. East is ``(-sin ra, cos ra, 0)``, North is ``(-sin dec cos ra,
-sin dec sin ra, cos dec)``, and the centre is pixel ``((ny - 1) / 2, (nx - 1) / 2)``.
"""

from levelmatch.testing.detectors import miri_regions
from levelmatch.testing.sets import (
    SimulatedSet,
    simulate_generic,
    simulate_miri,
    simulate_nircam_short,
)
from levelmatch.testing.truth import level_errors, plane_errors

__all__ = [
    "SimulatedSet",
    "level_errors",
    "miri_regions",
    "plane_errors",
    "simulate_generic",
    "simulate_miri",
    "simulate_nircam_short",
]
