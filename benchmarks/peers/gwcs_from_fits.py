"""Convert a FITS WCS with SIP distortion to a generalized WCS."""

import numpy as np
from astropy import coordinates, units as u
from astropy.modeling import models
from gwcs import WCS, coordinate_frames


def _polynomial(matrix, plus):
    """Return SIP's polynomial as a model, plus x (``(1, 0)``) or y (``(0, 1)``)."""
    degree = len(matrix) - 1
    p, q = np.nonzero(np.add.outer(np.arange(degree + 1), np.arange(degree + 1)) <= degree)
    values = {
        f"c{i}_{j}": float(matrix[i, j]) + float((i, j) == plus) for i, j in zip(p, q, strict=True)
    }
    return models.Polynomial2D(degree, **values)


def _pair(first, second):
    """Return the model (x, y) -> (first, second)."""
    model = _polynomial(first, (1, 0)) & _polynomial(second, (0, 1))
    return models.Mapping((0, 1, 0, 1)) | model


def make_gwcs(wcs, shape):
    """Return the generalized WCS of an astropy WCS (TAN-SIP)."""
    crpix = wcs.wcs.crpix - 1.0
    shift = models.Shift(-crpix[0]) & models.Shift(-crpix[1])
    bend = _pair(wcs.sip.a, wcs.sip.b)
    bend.inverse = _pair(wcs.sip.ap, wcs.sip.bp)
    linear = models.AffineTransformation2D(wcs.wcs.get_cdelt()[:, np.newaxis] * wcs.wcs.get_pc())
    sky = models.Pix2Sky_TAN() | models.RotateNative2Celestial(*wcs.wcs.crval, wcs.wcs.lonpole)
    detector = coordinate_frames.Frame2D(name="detector", unit=(u.pix, u.pix))
    world = coordinate_frames.CelestialFrame(
        name="world", reference_frame=coordinates.ICRS(), unit=(u.deg, u.deg)
    )
    result = WCS([(detector, shift | bend | linear | sky), (world, None)])
    result.bounding_box = (-0.5, shape[1] - 0.5), (-0.5, shape[0] - 0.5)
    return result
