# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""True corrections of a simulated set, and errors of fitted corrections."""

from collections.abc import Mapping

import numpy as np
from astropy import units as u
from astropy.table import QTable

from levelmatch.option_values import check_type
from levelmatch.testing.sky import ARCMIN, lonlat, plane_basis, project, sky_grid, tangent_frame

__all__ = ["footprint", "level_errors", "plane_errors"]


def footprint(exposure):
    """Return unit vectors on an odd number of equal cells of an image along each axis."""
    n_cells = 9 if exposure.detector.sip is None else 33
    y, x = (_cells(n, n_cells) for n in exposure.detector.shape)
    return sky_grid(exposure.wcs, y, x)


def _cells(n, n_cells):
    """Return the centres, in pixels, of equal cells along an axis of n pixels."""
    return (np.arange(n_cells) + 0.5) * n / n_cells - 0.5


def scene_bounds(frame, grids):
    """Return ((y0, y1), (x0, x1)) of footprints about a frame, in arcsec, with a margin."""
    bounds = []
    positions = [project(frame, grid[:: len(grid) - 1, :: len(grid) - 1]) for grid in grids]
    for values in np.moveaxis(positions, 1, 0):
        margin = 0.1 * np.ptp(values[0])
        bounds.append((values.min() - margin, values.max() + margin))
    return tuple(bounds)


def true_planes(exposures, planes, grids, recipe):
    """Return the truth table of a set."""
    n_cells = len(grids[0])
    science = recipe.science(exposures[0].detector.shape)
    y, x = (np.rint(_cells(n, n_cells)).astype(int) for n in science.shape)
    science = science[np.ix_(y, x)]
    centers = np.array([grid[n_cells // 2, n_cells // 2] for grid in grids])
    ra, dec = lonlat(centers)
    truth = QTable()
    truth["name"] = [exposure.name for exposure in exposures]
    truth["tile"] = [exposure.tile for exposure in exposures]
    truth["detector"] = [exposure.cards.get("DETECTOR", "") for exposure in exposures]
    truth["ra"] = np.degrees(ra) * u.deg
    truth["dec"] = np.degrees(dec) * u.deg
    units = (recipe.unit, recipe.unit / u.arcmin, recipe.unit / u.arcmin)
    for k, prefix in enumerate(("", "lyot_") if recipe.lyot else ("",)):
        columns = np.transpose([both[k] for both in planes])
        for name, values, unit in zip(("level", "slope_u", "slope_v"), columns, units, strict=True):
            truth[prefix + name] = values * unit
    truth["gram"] = [
        _gram(grid[science], center) for grid, center in zip(grids, centers, strict=True)
    ]
    return truth


def _gram(s, center):
    """Return the mean outer product (3, 3) of (1, u, v) over unit vectors (n, 3)."""
    uu, vv = plane_basis(s, center)
    basis = np.stack([np.ones_like(uu), uu, vv])
    return basis @ basis.T / len(uu)


def level_errors(found, truth, *, groups=None):
    """
    Return found levels minus true levels, without their mean.

    A constant common to all images cannot be known from their overlaps, so it does not count.

    Parameters
    ----------
    found : array_like, `~astropy.units.Quantity` or mapping
        The level to be subtracted from each image: (n,) in the order of ``truth``, or by name.
        Without a unit, in that of the truth.
    truth : `~astropy.table.QTable`
        Truth of a `SimulatedSet`, or some of its rows.
    groups : array_like, optional
        Labels (n,) of groups that were matched each on its own: the mean is taken out of each.

    Returns
    -------
    errors : `~astropy.units.Quantity`
        Residual (n,) of each image.

    Raises
    ------
    ValueError
        If ``found`` or ``groups`` do not have one value per row of ``truth``.
    """
    check_type("truth", truth, QTable, "the table of a SimulatedSet")
    unit = truth["level"].unit
    errors = _one_per_image(found, truth, unit, shape=()) - truth["level"].value
    labels = np.zeros(len(truth)) if groups is None else np.asarray(groups)
    if labels.shape != (len(truth),):
        msg = f"groups must have shape ({len(truth)},), not {labels.shape}"
        raise ValueError(msg)
    _, index = np.unique(labels, return_inverse=True)
    means = np.bincount(index, weights=errors) / np.bincount(index)
    return (errors - means[index]) << unit


def plane_errors(found, truth):
    """
    Return the rms of found minus true planes over each image, without one common plane.

    One plane over the whole mosaic cannot be known from overlaps, so the one that leaves the
    smallest mean square over all images does not count.

    Parameters
    ----------
    found : array_like or mapping
        The plane to be subtracted from each image, (level, slope_u, slope_v) about the image's
        own centre, in the unit of the truth and per arcmin: (n, 3) in the order of ``truth``,
        or by name.
    truth : `~astropy.table.QTable`
        Truth of a `SimulatedSet`, or some of its rows.

    Returns
    -------
    errors : `~astropy.units.Quantity`
        Rms residual (n,) over the science pixels of each image.

    Raises
    ------
    ValueError
        If ``found`` does not have one plane per row of ``truth``.
    """
    check_type("truth", truth, QTable, "the table of a SimulatedSet")
    unit = truth["level"].unit
    names = ("level", "slope_u", "slope_v")
    units = (unit, unit / u.arcmin, unit / u.arcmin)
    true = [truth[name].to_value(q) for name, q in zip(names, units, strict=True)]
    errors = _one_per_image(found, truth, None, shape=(3,)) - np.transpose(true)
    gram = np.asarray(truth["gram"])
    common = _common_planes(truth["ra"].to_value(u.rad), truth["dec"].to_value(u.rad))
    # Scaled by the Cholesky factor of its Gram matrix, a plane's norm is its rms.
    root = np.swapaxes(np.linalg.cholesky(gram), -1, -2)
    design, errors = root @ common, (root @ errors[:, :, np.newaxis])[:, :, 0]
    best = np.linalg.lstsq(design.reshape(-1, 3), errors.ravel(), rcond=None)[0]
    return np.linalg.norm(errors - design @ best, axis=1) << unit


def _common_planes(ra, dec):
    """Return matrices (n, 3, 3) from a plane about the mean centre to one about each centre."""
    frames = np.array([tangent_frame(*position) for position in zip(ra, dec, strict=True)])
    center = frames[:, :, 0].sum(axis=0)
    axes = tangent_frame(*lonlat(center))[:, 1:]
    matrices = np.zeros((len(frames), 3, 3))
    matrices[:, 0, 0] = 1.0
    matrices[:, 0, 1:] = frames[:, :, 0] @ axes / ARCMIN
    matrices[:, 1:, 1:] = np.swapaxes(frames[:, :, 1:], 1, 2) @ axes
    return matrices


def _one_per_image(found, truth, unit, shape):
    """Return the corrections found for each image as an array (n, *shape)."""
    if isinstance(found, Mapping):
        missing = [str(name) for name in truth["name"] if name not in found]
        if missing:
            msg = f"{len(missing)} images are not in found, the first is {missing[0]}"
            raise ValueError(msg)
        found = [found[name] for name in truth["name"]]
        if unit is not None:
            found = u.Quantity(found, unit)
    if isinstance(found, u.Quantity) and unit is not None:
        found = found.to_value(unit)
    try:
        values = np.asarray(found, dtype=float)
    except (TypeError, ValueError) as error:
        msg = f"found must be numbers, not {found!r:.60}"
        raise ValueError(msg) from error
    if values.shape != (len(truth), *shape):
        msg = f"found must have shape {(len(truth), *shape)}, not {values.shape}"
        raise ValueError(msg)
    return values
