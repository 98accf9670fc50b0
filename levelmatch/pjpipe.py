# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""A replacement for the level matching step of the PHANGS-JWST pipeline (PJPipe).

Only `install` imports PJPipe.
"""

import re
import shutil
import warnings
from dataclasses import dataclass, fields
from logging import getLogger
from pathlib import Path
from typing import Any

from levelmatch.exceptions import LevelMatchWarning
from levelmatch.matching import match_levels
from levelmatch.options import MeasureOptions, SolveOptions, fit_terms
from levelmatch.results.result import MatchResult
from levelmatch.text import values

__all__ = ["LevelMatchStep", "install"]

logger = getLogger(__name__)

# File that marks the step as complete.
COMPLETE = "level_match_step_complete.txt"
# Method of measuring for each reproject_func. The defaults of both packages are bilinear.
METHODS = {"interp": "direct", "adaptive": "adaptive", "exact": "exact"}
WEIGHTS = ("equal", "npix", "rms", "ivar")
# Parameters without effect, and the reason.
IDLE = {
    "sigma": "local levels are clipped at 3 sigma",
    "npixels": "sources are grown by the package's own kernel",
    "dilate_size": "sources are grown by the package's own kernel",
    "max_iters": "clipping ends when it converges",
    "max_points": "no histograms are drawn",
}
# Numbers in the names of MIRI's filters.
MIRI = {560, 770, 1000, 1130, 1280, 1500, 1800, 2100, 2550}
# Longest wavelength of the NIRCam short-wavelength channel, in units of 10 nm.
LONGEST_SHORT = 212


@dataclass(eq=False)
class LevelMatchStep:
    """Level matching of one band of one target, in the folders of PJPipe.

    The constructor and `do_step` have the signatures of ``pjpipe.LevelMatchStep`` 1.3.0.

    Parameters
    ----------
    in_dir, out_dir : str or `~pathlib.Path`
        Folder of the input files, and folder of the output files, which have the same names.
    step_ext : str
        Suffix of the input files, such as ``cal`` for ``*_cal.fits``.
    procs : int
        Number of threads.
    band : str
        Filter, such as ``F770W``, ``F770W_bgr`` or ``F115W_niriss``.
    fit_type_dithers, fit_type_recombine_lyot : {"level", "level+slope", "auto"}
        See `~levelmatch.match_levels`.
    fit_type_combine_nircam_short, fit_type_mosaic_tiles : {"level", "level+slope", "auto"}
        See `~levelmatch.match_levels`.
    recombine_lyot : bool
        Whether to match the Lyot coronagraph to the main chip and join the two files. It has an
        effect in MIRI's bands only.
    combine_nircam_short : bool
        Whether to match the short-wavelength chips of a module. It has an effect in NIRCam's
        bands up to 2.12 micron only.
    do_local_subtraction : bool
        Whether to subtract the sky level of the first dither of each tile. It is switched off
        for dithers with slopes.
    sigma, npixels, dilate_size, max_iters, max_points : float or int
        Parameters without effect. A log line names the parameters that differ from their defaults.
    do_sigma_clip : bool
        Whether to mask the sources of each image.
    weight_method : {"equal", "npix", "rms", "ivar"}
        Weights of the pairs. ``"ivar"`` is the default of this package and unknown to PJPipe.
    min_area_percent : float
        Smallest number of pixels of an overlap, as a fraction of the mean.
    min_linear_frac : float
        Smallest length of an overlap, as a fraction of an image.
    rms_sig_limit : float
        Largest scatter within an overlap, in standard deviations above the mean.
    reproject_func : {"interp", "exact", "adaptive"}
        Sampling of a pair: the bilinear sampling of this package, or a function of reproject.
    overwrite : bool
        Whether to remove the outputs of an earlier run.

    Raises
    ------
    ValueError
        If a parameter has an unknown value; the message names both.
    """

    in_dir: str | Path
    out_dir: str | Path
    step_ext: str
    procs: int
    band: str
    fit_type_dithers: str = "level"
    fit_type_recombine_lyot: str = "level"
    fit_type_combine_nircam_short: str = "level"
    fit_type_mosaic_tiles: str = "level"
    recombine_lyot: bool = False
    combine_nircam_short: bool = False
    do_local_subtraction: bool = True
    sigma: float = 3
    npixels: int = 3
    dilate_size: int = 7
    max_iters: int = 20
    max_points: int = 10000
    do_sigma_clip: bool = False
    weight_method: str = "equal"
    min_area_percent: float = 0.002
    min_linear_frac: float = 0.2
    rms_sig_limit: float = 2
    reproject_func: str = "interp"
    overwrite: bool = False

    def __post_init__(self) -> None:
        self.in_dir, self.out_dir = str(self.in_dir), str(self.out_dir)
        self._check()
        if self.do_local_subtraction and fit_terms(self.fit_type_dithers) != 1:
            logger.warning("do_local_subtraction is off: fit_type_dithers is not level")
            self.do_local_subtraction = False
        self.plot_dir = str(Path(self.out_dir) / "plots")
        Path(self.plot_dir).mkdir(parents=True, exist_ok=True)

    def _check(self) -> None:
        """Refuse unknown values before anything is read."""
        for key in ("dithers", "recombine_lyot", "combine_nircam_short", "mosaic_tiles"):
            try:
                fit_terms(getattr(self, f"fit_type_{key}"))
            except ValueError as error:
                msg = f"fit_type_{key}: {str(error).partition(': ')[2]}"
                raise ValueError(msg) from error
        for key, known in (("reproject_func", tuple(METHODS)), ("weight_method", WEIGHTS)):
            if getattr(self, key) not in known:
                msg = f"{key}: {getattr(self, key)!r} is none of {known}"
                raise ValueError(msg)
        self._options()

    # ------------------------------------------------------------------ the step

    def do_step(self) -> bool:
        """Match the files of the input folder, and write them to the output folder.

        The output folder also gets the record ``levelmatch.asdf``, plots if matplotlib is
        installed, and finally ``level_match_step_complete.txt``. Later calls do nothing unless
        ``overwrite`` is set.

        Returns
        -------
        done : bool
            Always True. PJPipe removes the folder of a band whose step returns False, so
            failures raise errors.

        Raises
        ------
        LevelMatchError
            If an image cannot be used; the message names it. No image is written in this case.
        ValueError
            If the band is unknown and a pass depends on it.
        """
        out_dir = Path(self.out_dir)
        if self.overwrite and out_dir.exists():
            shutil.rmtree(out_dir)
        Path(self.plot_dir).mkdir(parents=True, exist_ok=True)
        complete = out_dir / COMPLETE
        if complete.exists():
            logger.info("%s exists: the step is complete", complete)
            return True
        defaults = {f.name: f.default for f in fields(self)}
        named = [f"{k} ({why})" for k, why in IDLE.items() if getattr(self, k) != defaults[k]]
        if named:
            logger.info("without effect in levelmatch: %s", ", ".join(named))
        files = sorted(Path(self.in_dir).glob(f"*_{self.step_ext}.fits"))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", LevelMatchWarning)
            result = match_levels(files, **self._options())
        for warning in caught:
            logger.warning("%s", warning.message)
        # Without the complete file, existing outputs are those of an interrupted run.
        result.write(out_dir, overwrite=True)
        for row in result.table:
            logger.info("%s: level %.4g +- %.2g", row["name"], *map(values, row["level", "error"]))
        self._plot(result)
        complete.touch()
        return True

    def _options(self) -> dict[str, Any]:
        """Return the arguments of `~levelmatch.match_levels`."""
        lyot = self.recombine_lyot and instrument_of(self.band) == "miri"
        short = self.combine_nircam_short and instrument_of(self.band) == "nircam_short"
        return {
            "fit_type_dithers": self.fit_type_dithers,
            "fit_type_recombine_lyot": self.fit_type_recombine_lyot,
            "fit_type_combine_nircam_short": self.fit_type_combine_nircam_short,
            "fit_type_mosaic_tiles": self.fit_type_mosaic_tiles,
            "recombine_lyot": bool(lyot),
            "combine_nircam_short": bool(short),
            "measure": MeasureOptions(
                method=METHODS[self.reproject_func],
                mask_sources=bool(self.do_sigma_clip),
                n_workers=self.procs,
            ),
            "solve": SolveOptions(
                weights=self.weight_method,
                min_area=self.min_area_percent,
                min_linear=self.min_linear_frac,
                rms_limit=self.rms_sig_limit,
                subtract_local=bool(self.do_local_subtraction),
            ),
        }

    def _plot(self, result: MatchResult) -> None:
        """Plot the levels and the residuals of the pairs to files."""
        try:
            from matplotlib.figure import Figure
        except ImportError:
            logger.info("no plots: matplotlib is not installed")
            return
        from levelmatch.plots import plot_levels, plot_residuals

        for name, draw in (("levels", plot_levels), ("residuals", plot_residuals)):
            # A figure without pyplot selects no backend.
            figure = Figure(figsize=(8, 6), layout="constrained")
            draw(result, ax=figure.add_subplot())
            for suffix in ("png", "pdf"):
                figure.savefig(Path(self.plot_dir) / f"{name}_level_match.{suffix}")


def instrument_of(band: str) -> str:
    """Return the instrument of a band: miri, niriss, nircam_short or nircam_long.

    Raises
    ------
    ValueError
        If the band is not the name of a filter.
    """
    name = str(band).replace("_bgr", "")
    found = re.fullmatch(r"F(\d{3,4})(?:W2?|M|N)(_niriss|_nircam|_miri)?", name)
    if found is None:
        msg = f"band: {band!r} is not the name of a filter, such as F770W or F115W_niriss"
        raise ValueError(msg)
    number = int(found[1])
    if number in MIRI:
        return "miri"
    if found[2] == "_niriss":
        return "niriss"
    return "nircam_short" if number <= LONGEST_SHORT else "nircam_long"


def install() -> None:
    """Replace PJPipe's own step by `LevelMatchStep` in this process.

    Call this function before ``pjpipe.PJPipeline`` runs. The configuration needs no change.
    """
    import pjpipe
    import pjpipe.pipeline

    pjpipe.LevelMatchStep = pjpipe.pipeline.LevelMatchStep = LevelMatchStep
