"""
PJPipe's ``LevelMatchStep``.

Arguments as in https://pjpipe.readthedocs.io/en/latest/steps/level_match.html and the
configuration of program 3707 that the package comes with: ``weight_method="rms"``, levels or
planes in each pass, ``combine_nircam_short`` for NIRCam; the rest are its defaults. It reads
JWST's data models, so its inputs are the files with a generalized WCS added (``prepare``), and it
writes corrected files, from which ``collect`` computes the corrections.

Another step of the package imports spacepylot, which is not on PyPI; an empty module replaces
it.
"""

import os
import sys
from unittest import mock

for name in ("spacepylot", "spacepylot.alignment", "spacepylot.alignment_utilities"):
    sys.modules.setdefault(name, mock.MagicMock())

from common import main, plane_of_difference, read  # noqa: E402
from gwcs_from_fits import make_gwcs  # noqa: E402
from pjpipe import LevelMatchStep  # noqa: E402
from stdatamodels.jwst import datamodels  # noqa: E402


def prepare(paths, fit, scratch):
    """Write the files with a generalized WCS."""
    (scratch / "input").mkdir()
    for path in paths:
        data, _, _, wcs = read(path)
        with datamodels.open(path) as model:
            model.meta.wcs = make_gwcs(wcs, data.shape)
            model.save(scratch / "input" / path.name)


def find(paths, fit, scratch):
    """Run the step."""
    os.chdir(scratch)
    nircam = "_nrc" in paths[0].name
    step = LevelMatchStep(
        in_dir=str(scratch / "input"),
        out_dir=str(scratch / "output"),
        step_ext="cal",
        procs=os.cpu_count(),
        band="F200W" if nircam else "F770W",
        fit_type_dithers=fit,
        fit_type_combine_nircam_short=fit,
        fit_type_mosaic_tiles=fit,
        combine_nircam_short=nircam,
        weight_method="rms",
    )
    if not step.do_step():
        msg = "the step reports failures"
        raise RuntimeError(msg)


def collect(paths, fit, scratch):
    """Return the correction of each file."""
    planes = [plane_of_difference(p, scratch / "output" / p.name) for p in paths]
    return [p[0] for p in planes] if fit == "level" else planes


if __name__ == "__main__":
    main(find, prepare, collect)
