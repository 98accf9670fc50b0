"""
stcal's ``skymatch``, as the JWST pipeline's ``SkyMatchStep`` calls it.

The step's default arguments are those of
https://jwst-pipeline.readthedocs.io/en/latest/jwst/skymatch/arguments.html: method "match", sky
statistic "mode" in bins of 0.1 sigma after 5 clippings at 4 sigma, data-quality bits
"~DO_NOT_USE+NON_SCIENCE". Images are not grouped: the step would give the detectors of one NIRCam
exposure one common level, but here their levels differ. skymatch has levels only.
"""

from common import main, read
from gwcs_from_fits import make_gwcs
from stcal.skymatch import SkyImage, SkyStats, skymatch


def find(paths, fit, scratch):
    """Return the sky of each image."""
    statistic = SkyStats(skystat="mode", nclip=5, lsig=4.0, usig=4.0, binwidth=0.1)
    images = []
    for path in paths:
        data, _, good, fits_wcs = read(path)
        wcs = make_gwcs(fits_wcs, data.shape)
        images.append(
            SkyImage(
                image=data,
                mask=good,
                wcs_fwd=wcs.__call__,
                wcs_inv=wcs.invert,
                skystat=statistic,
                sky_id=path.name,
            )
        )
    skymatch(images, skymethod="match", match_down=True, subtract=False)
    return [image.sky for image in images]


if __name__ == "__main__":
    main(find)
