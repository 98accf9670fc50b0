# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Uncertainties beside an image in its file."""

import numpy as np
from astropy.io import fits
from astropy.nddata import (
    InverseVariance,
    NDUncertainty,
    StdDevUncertainty,
    VarianceUncertainty,
)

from levelmatch.images.planes import as_plane, partner_hdu, plane_shape

__all__ = ["POWERS", "read_uncertainty"]

# An uncertainty scales as this power of a factor of the data.
POWERS = {StdDevUncertainty: 1, VarianceUncertainty: 2, InverseVariance: -2}


def read_uncertainty(
    hdus: fits.HDUList, index: int, shape: tuple[int, int]
) -> NDUncertainty | None:
    """Return the uncertainty of an image in a file.

    Parameters
    ----------
    hdus : `~astropy.io.fits.HDUList`
        The open file.
    index : int
        The HDU of the image.
    shape : tuple of int
        The shape of the image.

    Returns
    -------
    uncertainty : `~astropy.nddata.NDUncertainty` or None
        The ERR extension of JWST, or the UNCERT extension that `CCDData` writes; `None` if
        the file has neither.
    """
    kinds = {kind.__name__: kind for kind in POWERS}
    for name in ("ERR", "UNCERT"):
        i = partner_hdu(hdus, index, name)
        if i is not None and plane_shape(hdus[i].shape) == shape:
            kind = kinds.get(hdus[i].header.get("UTYPE"), StdDevUncertainty)
            data = as_plane(hdus[i].data)
            return kind(np.array(data, dtype=data.dtype.newbyteorder("=")))
    return None
