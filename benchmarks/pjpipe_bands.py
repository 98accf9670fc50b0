"""PJPipe: the steps of levelmatch and of PJPipe on a band of MIRI and a band of NIRCam.

Needs pjpipe (tox -e test-pjpipe has it). Both steps run in the same folders with the defaults of
PJPipe, and NIRCam's short chips are combined. Prints for each the wall time, the processor time and
the rms of the levels about the true ones, after their mean is taken out.
Run as ``python benchmarks/pjpipe_bands.py [--bands F770W,F200W] [--processors N]``.
"""

import argparse
import sys
import tempfile
import warnings
from pathlib import Path
from unittest import mock

import numpy as np
from astropy.io import fits
from processes import measure

from levelmatch import testing

# PJPipe takes more than 20 minutes for the larger sets of the other benchmarks.
BANDS = {
    "F770W": lambda: testing.simulate_miri(tiles=(2, 2), n_dithers=4, noise=0.5),
    "F200W": lambda: testing.simulate_nircam_short(
        n_tiles=1, n_dithers=4, shape=(1024, 1024), noise=0.3
    ),
}
PROGRAMS = ("levelmatch", "pjpipe")
LIMIT = 1800  # seconds


def write_band(band, folder):
    """Write the exposures of a band with a generalized WCS; return the true levels."""
    sys.path.append(str(Path(__file__).with_name("peers")))
    from astropy.wcs import WCS
    from gwcs_from_fits import make_gwcs
    from stdatamodels.jwst import datamodels

    simulation = BANDS[band]()
    for path in simulation.write(folder):
        header = fits.getheader(path, "SCI")
        with datamodels.open(path) as model:
            model.meta.wcs = make_gwcs(WCS(header), model.data.shape)
            model.save(path)
    return simulation.truth


def run_step(program, band, folder, processors):
    """Run the step of a program."""
    # Another step of PJPipe imports this package, which is on no package index.
    for name in ("spacepylot", "spacepylot.alignment", "spacepylot.alignment_utilities"):
        sys.modules.setdefault(name, mock.MagicMock())
    if program == "pjpipe":
        from pjpipe import LevelMatchStep
    else:
        from levelmatch.pjpipe import LevelMatchStep
    step = LevelMatchStep(
        in_dir=str(folder / "cal"),
        out_dir=str(folder / program),
        step_ext="cal",
        procs=processors,
        band=band,
        combine_nircam_short=True,
    )
    if not step.do_step():
        sys.exit("the step reports failures")


def subtracted(folder, program, names):
    """Return the median level that a step subtracted from each file."""
    levels = []
    for name in names:
        before, after = (fits.getdata(folder / part / name, "SCI") for part in ("cal", program))
        change = before.astype(float) - after
        levels.append(np.median(change[np.isfinite(change) & (before != 0)]))
    return levels


def main():
    """Print a line for each band and program."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bands", default=",".join(BANDS))
    parser.add_argument("--programs", default=",".join(PROGRAMS))
    parser.add_argument("--processors", type=int, default=1)
    parser.add_argument("--step", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    if given.step:
        run_step(given.programs, given.bands, given.step, given.processors)
        return
    for band in given.bands.split(","):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            truth = write_band(band, folder / "cal")
            for program in given.programs.split(","):
                options = ["--programs", program, "--bands", band, "--step", str(folder)]
                command = [sys.executable, str(Path(__file__).absolute()), *options]
                command += ["--processors", str(given.processors)]
                one = measure(command, log=folder / "log", limit=LIMIT, cwd=folder)
                if one.code:
                    sys.exit(f"{band}, {program}: {(folder / 'log').read_text()}")
                errors = testing.level_errors(subtracted(folder, program, truth["name"]), truth)
                print(
                    f"{band}, {len(truth)} images: {program:10s} {one.wall:6.1f} s, CPU "
                    f"{one.cpu:6.1f} s, {one.memory / 2**20:.0f} MiB, rms {np.std(errors):.4f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
