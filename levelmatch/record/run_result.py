# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Corrections of a run, and the pairs from which they were solved, as tables, text and figures."""

import base64
import io
from collections.abc import Sequence
from functools import cached_property
from html import escape
from importlib import import_module
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
from astropy import units as u
from astropy.table import QTable

from levelmatch.diagnostics import Diagnostics
from levelmatch.docstrings import share_parameters
from levelmatch.images.frame import Frame, all_held
from levelmatch.images.units import unit_words
from levelmatch.measure.correlated_errors import pooled_passes
from levelmatch.measure.table import PairTable
from levelmatch.option_values import check_type
from levelmatch.record.run import Provenance, Run
from levelmatch.record.solved_again import pass_of_pairs
from levelmatch.record.tables import (
    connected_sets,
    image_table,
    loop_table,
    pair_table,
    with_short_names,
)
from levelmatch.sky.vectors import transfer_matrix
from levelmatch.solve.passes import Pass
from levelmatch.solve.reference import Reference
from levelmatch.solve.wings import Wings, find_wings
from levelmatch.summary import anchored_gauge, gauge_sentence, headline, notes, summary_lines

__all__ = [
    "RunResult",
    "row_of",
]


# Number of rows of the table in a notebook.
N_ROWS = 10
# Columns of the table in a notebook.
COLUMNS = "name", "tile", "level", "error", "n_pairs"
# Kinds of plots. Each is a function ``plot_KIND`` of `levelmatch.plots`.
KINDS = "overlaps", "levels", "residuals", "closures", "gains", "mosaic"
# Kinds of plots in the default figure.
PANELS = "overlaps", "levels", "residuals", "closures"


def _package(name: str) -> Any:
    """Import a subpackage that draws results; it imports the modules of records in turn."""
    return import_module(f"levelmatch.{name}")


def row_of(name: str, items: Sequence) -> int:
    """Return the index of the item with a name.

    Raises
    ------
    KeyError
        If no item has the name.
    """
    names = [item.name for item in items]
    if name not in names:
        msg = f"there is no image {name!r}; the first is {names[0]!r}"
        raise KeyError(msg)
    return names.index(name)


@share_parameters
class RunResult:
    """Numbers of a run: corrections, pairs and passes, without pixels.

    It is the base class of `~levelmatch.MatchResult` and `~levelmatch.Record`.

    Parameters
    ----------
    <<run>>
    """

    def __init__(
        self, frames: list[Frame], passes: list[Pass], measured: PairTable, run: Run
    ) -> None:
        self.frames = list(frames)
        self.passes = list(passes)
        self.measured = measured
        self.run = run

    @cached_property
    def pooled(self) -> PairTable:
        """The pairs with the errors of the passes, correlated noise included."""
        pass_of = pass_of_pairs([p.rows for p in self.passes], len(self.measured))
        grids = [frame.whole_grid for frame in self.sorted_frames]
        return pooled_passes(self.measured, pass_of, [p.fit_type for p in self.passes], grids)

    @cached_property
    def wings(self) -> Wings:
        """Heights of the wings of stars in the images, and their effects on the pairs."""
        return find_wings(self.measured)

    @property
    def sorted_frames(self) -> list[Frame]:
        """The images sorted by name, which is the order in passes and pairs."""
        return sorted(self.frames, key=lambda frame: frame.name)

    @cached_property
    def rank(self) -> np.ndarray:
        """Index of each image among the images sorted by name, shape (n,)."""
        return np.argsort(np.argsort([frame.name for frame in self.frames], kind="stable"))

    @property
    def unit(self) -> u.UnitBase | None:
        """The common unit, in which the images were compared."""
        return self.run.unit

    @property
    def options(self) -> dict[str, Any]:
        """The function, its passes and its options, as nested plain values."""
        return self.run.all_options

    @property
    def versions(self) -> dict[str, str]:
        """Versions of Python and of the used packages, by name."""
        return dict(self.run.versions)

    @property
    def created(self) -> str:
        """Time of the run, in UTC, ISO 8601."""
        return self.run.created

    @property
    def provenance(self) -> Provenance:
        """Identity of the run for headers, without a record."""
        return Provenance.of(self.run)

    @property
    def n_earlier(self) -> int:
        """Number of corrections that an image had before this run."""
        return len(self.frames[0].corrections) - self.run.n_corrections

    # ------------------------------------------------------------------ gauge

    @property
    def reference(self) -> str:
        """Name of the image whose correction is zero, or ``"mean"`` if the mean is zero."""
        return self.references[0].name if self.references else "mean"

    @property
    def reference_reason(self) -> str:
        """Reason for the choice of the reference."""
        if self.references:
            return self.references[0].reason
        held = all_held(self.frames)
        return "the caller holds all images" if held else "the mean correction is zero"

    @property
    def references(self) -> list[Reference]:
        """The reference of each connected set; empty if the mean correction is zero.

        These are the references of the last pass that has any. The Lyot pass counts only if it
        is the last one.
        """
        of_all = [p for p in self.passes if p.name != "fit_exclude"]
        last = of_all[-1:]
        earlier = [p for p in of_all[:-1] if p.name != "lyot"]
        return next((p.references for p in [*last, *reversed(earlier)] if p.references), [])

    @property
    def gauge(self) -> str:
        """Sentence on the gauge: the conditions that fix the levels beyond their differences."""
        gauge = self.reference_reason
        if not all_held(self.frames):
            solve = self.options.get("solve", {})
            gauge = gauge_sentence(self.passes, solve, unit_words(self.unit))
        return anchored_gauge(gauge, self.options.get("anchor"))

    @property
    def suspects(self) -> list[str]:
        """Names of the images that disagree with their neighbours, the worst first.

        Images whose levels disagree precede images whose flux scales disagree.
        """
        facts = Diagnostics(self)
        images = [i for s in facts.suspects.values() for i in s.images]
        images += [difference.image for difference in facts.flux_differences]
        return [self.frames[facts.order[i]].name for i in dict.fromkeys(images)]

    @property
    def notes(self) -> list[str]:
        """Sentences on the pairs, images, flux scales and sets that need attention."""
        return notes(self)

    # ------------------------------------------------------------------ tables

    @property
    def table(self) -> QTable:
        """The images as a `~astropy.table.QTable`, one row per image or part of a MIRI image.

        ``level`` is the level subtracted at the image's centre. ``slope_u`` and ``slope_v`` are
        the slopes subtracted toward East and North. The columns ``level_dithers`` and so on hold
        the levels of the passes. ``error`` is the standard error of ``level`` relative to the
        gauge; it includes the noise of the reference. ``slope_n_sigma`` is the significance of
        the slopes. ``meta["gauge"]`` holds `gauge`. ``meta["notes"]`` holds the notes of the run
        on its images.
        """
        return image_table(self)

    @property
    def pairs(self) -> QTable:
        """The pairs as a `~astropy.table.QTable`, one row per pair, in the common unit.

        ``level`` is the difference, first image minus second, before matching. ``residual`` is
        the difference after matching. ``n_sigma`` is the residual divided by its expected error.
        ``kept`` states whether the solution used the pair, and ``reason`` why it did not.
        ``weight`` is the weight in the least-squares sum. ``robust`` is the fraction of its
        weight that the pair kept: 1 for a pair that agrees with the others. ``gain`` is the
        relative difference of the two flux scales. No column depends on the gauge.
        """
        return pair_table(self)

    @property
    def closures(self) -> QTable:
        """Independent loops of overlapping images as a `~astropy.table.QTable`, one row per loop.

        ``pass`` is the pass. ``images`` names the images of the loop, or the tiles if the pass
        gives the images of a tile one level. ``n_pairs`` is the number of pairs. ``closure`` is
        the sum of the differences around the loop, after subtraction of fitted planes; it is
        zero except for errors. ``sigma`` is the standard error of the sum, with the floor, and
        ``n_sigma`` the ratio of both. ``meta["rms"]`` is the root mean square of the ratios. No
        column depends on the gauge.
        """
        return loop_table(self)

    # ------------------------------------------------------------------ errors

    def slope_significance(self) -> np.ndarray:
        """Return the significance of each image's slopes, in the order of the input.

        The significance, of shape (n,), is the square root of the Wald statistic of the two
        slopes of all passes of this run, about the image's centre. It is NaN without slopes.
        """
        planes = [p for p in self.passes if p.solution.coefficients.shape[1] > 1]
        out = np.full(len(self.frames), np.nan)
        for row, frame in enumerate(self.frames) if planes else ():
            i, axes = self.rank[row], frame.whole_grid.axes
            slopes, covariance = np.zeros(2), np.zeros((2, 2))
            # A slope that was not fitted is zero within rounding errors, and so is its error.
            for p in (p for p in planes if p.solution.active[p.group[i], 1:].any()):
                slopes += p.correction(i).coefficients(axes)[1:]
                covariance += p.covariance(i, axes)[1:, 1:]
            inverse = np.linalg.pinv(covariance, rcond=1e-10, hermitian=True)
            out[row] = np.sqrt(max(float(slopes @ inverse @ slopes), 0.0))
        return out

    def covariance(self, i: int | str, j: int | str) -> np.ndarray:
        """Return the covariance of the corrections of two rows of `table`.

        Parameters
        ----------
        i, j : int or str
            Rows of `table`, or their names.

        Returns
        -------
        covariance : `~numpy.ndarray`, shape (3, 3)
            Covariance of level and slopes (per arcmin), each about its image's centre, in the
            common unit and relative to the gauge. NaN if no chain of pairs connects the two
            images. The covariance of the difference of two corrections is
            ``c(i, i) + c(j, j) - c(i, j) - c(j, i)``.

        Raises
        ------
        KeyError
            If no row has the name.
        """
        for name, row in (("i", i), ("j", j)):
            check_type(name, row, str | Integral, "a row of the table, or its name")
        rows = [row_of(k, self.frames) if isinstance(k, str) else int(k) for k in (i, j)]
        at = [self.rank[k] for k in rows]
        sets, _, unknown = connected_sets(self.passes, len(self.frames))
        if sets[at[0]] != sets[at[1]] or unknown[at[0]]:
            return np.full((3, 3), np.nan)
        carried = self.passes[-1].carried if self.passes else None
        if carried is not None:
            return carried.covariance(*map(int, at))
        total = np.zeros((3, 3))
        axes = [self.frames[k].whole_grid.axes for k in rows]
        for p in self.passes:
            groups = [p.group[self.rank[k]] for k in rows]
            part = p.solution.covariance(*groups)
            if len(part) == 1:
                total[0, 0] += part[0, 0]
                continue
            change = [
                transfer_matrix(p.group_axes[g], a) for g, a in zip(groups, axes, strict=True)
            ]
            total += change[0] @ part @ change[1].T
        return total

    # ------------------------------------------------------------------ views

    def summary(self) -> str:
        """Return the headline, the passes, the references and the notes as text.

        Returns
        -------
        text : str
            One sentence or note on each line.
        """
        facts = Diagnostics.of(self)
        lines = [*headline(facts), "", *summary_lines(facts)]
        return "\n".join([*lines, *(f"Note: {note}" for note in notes(facts))])

    def plot(self, kind: str | None = None, /, **options: Any) -> Any:
        """Plot the result; needs matplotlib.

        Parameters
        ----------
        kind : {"overlaps", "levels", "residuals", "closures", "gains", "mosaic"} or None
            Kind of the plot, which selects a function of `levelmatch.plots`. By default the
            first four kinds are drawn into one figure.
        **options
            Keyword arguments of this function.

        Returns
        -------
        axes : `~matplotlib.axes.Axes` or `~matplotlib.figure.Figure`
            The axes of one kind, or the figure.

        Raises
        ------
        ValueError
            If ``kind`` is unknown.
        """
        if kind is not None:
            if kind not in KINDS:
                msg = f"kind: {kind!r} is none of {KINDS}"
                raise ValueError(msg)
            return getattr(_package("plots"), f"plot_{kind}")(self, **options)
        from levelmatch.plots.style import new_figure

        figure = new_figure(figsize=(10, 8))
        self._draw(figure, PANELS)
        return figure

    def _draw(self, figure: Any, kinds: tuple[str, ...]) -> None:
        """Draw plots into a figure, two in a row."""
        plots = _package("plots")
        panels = np.ravel(figure.subfigures(len(kinds) // 2, 2))
        for panel, kind in zip(panels, kinds, strict=True):
            sky = {"projection": plots.sky_wcs(self)} if kind == "overlaps" else {}
            more = {"kind": "histogram"} if kind == "residuals" else {}
            getattr(plots, f"plot_{kind}")(self, ax=panel.add_subplot(**sky), **more)

    def report(self, path: str | Path, **options: Any) -> Path:
        """Write an HTML report on the result.

        Parameters
        ----------
        path : str or `~pathlib.Path`
            Path of the page.
        **options
            Keyword arguments of `levelmatch.report.write_report`.

        Returns
        -------
        path : `~pathlib.Path`
            Path of the page.
        """
        return _package("report").write_report(self, path, **options)

    def _repr_html_(self) -> str:
        """Return the headline, the first rows of the table and a picture, for notebooks."""
        facts = Diagnostics.of(self)
        words = "".join(f"<p><b>{escape(line)}</b></p>" for line in headline(facts))
        n_more = len(facts.frames) - N_ROWS
        table, patterns = with_short_names(facts.table[:N_ROWS][list(COLUMNS)])
        rows = "\n".join(table.pformat(max_lines=-1, max_width=-1, html=True))
        more = [f"{n_more} more images"] if n_more > 0 else []
        below = "".join(f"<p>{escape(note)}</p>" for note in [*more, *patterns])
        return f"<div>{words}{rows}{below}{self._picture()}</div>"

    def _picture(self) -> str:
        """Return overlaps and levels as an HTML image, or an empty string without matplotlib."""
        try:
            from matplotlib.backends.backend_agg import FigureCanvasAgg
            from matplotlib.figure import Figure
        except ImportError:
            return ""
        figure = Figure(figsize=(8, 3.4), dpi=90, layout="constrained")
        FigureCanvasAgg(figure)
        self._draw(figure, ("overlaps", "levels"))
        out = io.BytesIO()
        figure.savefig(out, format="png")
        data = base64.b64encode(out.getvalue()).decode("ascii")
        return f'<img alt="Overlaps and levels" src="data:image/png;base64,{data}">'
