# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Views of a result: text, figures, an HTML page, and a notebook cell."""

import base64
import io
from html import escape
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from levelmatch.diagnostics import Diagnostics
from levelmatch.record.tables import with_short_names
from levelmatch.summary import headline, notes, summary_lines

__all__ = ["Views"]

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


class Views:
    """Methods that show a result or its record."""

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
