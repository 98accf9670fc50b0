# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Uncertainty extensions of an image in its file."""

import numpy as np
from astropy.io import fits
from astropy.nddata import (
    InverseVariance,
    NDUncertainty,
    StdDevUncertainty,
    VarianceUncertainty,
)

from levelmatch.images.mask_arrays import as_image, image_shape, partner_hdu

__all__ = ["POWERS", "read_uncertainty"]

# Power by which each uncertainty scales with a factor of the data.
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
        Index of the image's HDU.
    shape : tuple of int
        Shape of the image.

    Returns
    -------
    uncertainty : `~astropy.nddata.NDUncertainty` or None
        Content of the ERR extension of JWST, or of the UNCERT extension written by `CCDData`;
        `None` if the file has neither in the image's shape.
    """
    kinds = {kind.__name__: kind for kind in POWERS}
    for name in ("ERR", "UNCERT"):
        i = partner_hdu(hdus, index, name)
        if i is not None and image_shape(hdus[i].shape) == shape:
            kind = kinds.get(hdus[i].header.get("UTYPE"), StdDevUncertainty)
            data = as_image(hdus[i].data)
            return kind(np.array(data, dtype=data.dtype.newbyteorder("=")))
    return None
