# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""A run of a matching function: its passes, options, time and software."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import Any

import numpy as np
from astropy import units as u

from levelmatch.solve.passes import Pass

__all__ = ["Provenance", "Run", "history_entry", "now"]


def now() -> str:
    """Return the current time in UTC, ISO 8601, to the microsecond.

    This time identifies a run in headers.
    """
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages on which results depend, by name."""
    from platform import python_version

    packages = ("levelmatch", "numpy", "scipy", "astropy")
    return {"python": python_version(), **{name: _version(name) for name in packages}}


@cache
def _version(package: str) -> str:
    # The cache avoids reading a long metadata file again.
    from importlib.metadata import version

    return version(package)


def history_entry(function: str, n_images: int) -> dict[str, Any]:
    """Return the entry of a call, at the current time, in the history of a run."""
    return {"time": now(), "function": function, "images": n_images, "software": versions()}


@dataclass(frozen=True, eq=False)
class Run:
    """Run of a matching function.

    Parameters
    ----------
    function : str
        Name of the function.
    planned : list of `~levelmatch.solve.passes.Pass`
        The passes before they are solved.
    options : dict
        The options as plain values.
    created : str
        Time of the call, in UTC, ISO 8601.
    order : list of int
        For each image in the order of the input, its index among the images sorted by name.
    recombine : bool
        Whether the output joins Lyot parts to the images of their science parts.
    sky : `~numpy.ndarray`, shape (n,), or None
        Sigma-clipped sky levels of the images, if they were measured.
    subsets : list of int
        For each image, sorted by name, the index of the disconnected set assigned by an
        earlier function.
    versions : dict
        Versions of Python and of the packages, by name.
    unit : `~astropy.units.Unit` or None
        The common unit, in which the images were compared.
    history : list of dict
        Runs that led to the result, the oldest first.
    parent : dict or None
        ``name`` and ``sha256`` of the record that was solved again.
    """

    function: str
    planned: list[Pass]
    options: dict[str, Any]
    created: str
    order: list[int]
    recombine: bool
    sky: np.ndarray | None
    subsets: list[int]
    versions: dict[str, str]
    unit: u.UnitBase | None
    history: list[dict] = field(default_factory=list)
    parent: dict[str, str] | None = None

    @classmethod
    def of(
        cls,
        function: str,
        planned: Iterable[Pass],
        options: dict[str, Any],
        collection: Any,
        sky: np.ndarray | None,
    ) -> "Run":
        """Return a run, at the current time, of a function on a collection of images.

        Parameters
        ----------
        function, planned, options, sky
            See `Run`.
        collection : object
            The images, with ``frames``, ``order``, ``recombine`` and ``unit``.
        """
        entry = history_entry(function, len(collection.frames))
        return cls(
            function,
            list(planned),
            options,
            entry["time"],
            [int(k) for k in collection.order],
            collection.recombine,
            sky,
            [int(frame.subset) for frame in collection.frames],
            entry["software"],
            collection.unit,
            [entry],
        )

    @property
    def n_corrections(self) -> int:
        """Number of corrections added to each image by the run."""
        return sum(1 + p.subtract_local for p in self.planned) + ("anchor" in self.options)

    @property
    def all_options(self) -> dict[str, Any]:
        """The function, its passes and its options, as nested plain values."""
        plans = [p.plan for p in self.planned]
        return {"function": self.function, "passes": plans, **self.options}


@dataclass(frozen=True)
class Provenance:
    """Identity of a run and its record, as written to headers.

    Parameters
    ----------
    version : str
        Version of levelmatch.
    created : str
        Time of the run, in UTC, ISO 8601.
    record : str
        File name of the run's record; empty without a record.
    sha256 : str
        SHA-256 of the record.
    keep : bool
        Whether levels are kept in the headers, not subtracted.
    sky_keyword : str
        Additional header keyword of kept levels; if empty, only the telescope's own keyword is
        written.
    """

    version: str
    created: str
    record: str = ""
    sha256: str = ""
    keep: bool = False
    sky_keyword: str = ""

    @classmethod
    def of(cls, run: Run, record: str = "", sha256: str = "") -> "Provenance":
        """Return the provenance of a run and its record."""
        solve = run.options.get("solve", {})
        return cls(
            run.versions["levelmatch"],
            run.created,
            record,
            sha256,
            keep=not solve.get("subtract", True),
            sky_keyword=solve.get("sky_keyword") or "",
        )
