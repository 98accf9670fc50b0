# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The call that led to a result: its function, options, time and software."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import Any

import numpy as np
from astropy import units as u

from levelmatch.solve.passes import Pass

__all__ = ["Provenance", "Run", "now", "versions"]


def now() -> str:
    """Return the time in UTC, ISO 8601, to the microsecond.

    Headers distinguish runs by this time.
    """
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that a result depends on, by name."""
    from platform import python_version

    packages = ("levelmatch", "numpy", "scipy", "astropy")
    return {"python": python_version(), **{name: _version(name) for name in packages}}


@cache
def _version(package: str) -> str:
    # Cached, since each call reads a long metadata file.
    from importlib.metadata import version

    return version(package)


@dataclass(frozen=True, eq=False)
class Run:
    """One call of a matching function.

    Parameters
    ----------
    function : str
        Name of the function.
    planned : list of `~levelmatch.solve.passes.Pass`
        Its passes as planned.
    options : dict
        Its options as plain values.
    created : str
        Time of the call, in UTC, ISO 8601.
    order : list of int
        Row of each image of the input, in its order, among the images sorted by name.
    recombine : bool
        Whether Lyot parts are written into the images of their science partners.
    sky : `~numpy.ndarray`, shape (n,), or None
        Clipped sky levels of the images, if they were measured.
    subsets : list of int
        For each image, sorted by name, the index of the disconnected set assigned by an
        earlier function.
    versions : dict
        Versions of the packages.
    unit : `~astropy.units.Unit` or None
        Unit in which the images were compared.
    history : list of dict
        Calls that led to the result, the oldest first.
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
        """Return the run of a function on a collection of images, as of now.

        Parameters
        ----------
        function, planned, options, sky
            See `Run`.
        collection : object
            The images, with ``frames``, ``order``, ``recombine`` and ``unit``.
        """
        created, used = now(), versions()
        entry = {
            "time": created,
            "function": function,
            "images": len(collection.frames),
            "software": used,
        }
        return cls(
            function,
            list(planned),
            options,
            created,
            [int(k) for k in collection.order],
            collection.recombine,
            sky,
            [int(frame.subset) for frame in collection.frames],
            used,
            collection.unit,
            [entry],
        )

    @property
    def n_corrections(self) -> int:
        """Number of corrections that the run adds to each image."""
        return sum(1 + p.subtract_local for p in self.planned) + ("anchor" in self.options)

    @property
    def all_options(self) -> dict[str, Any]:
        """The function, its passes and its options, as nested plain values."""
        plans = [p.plan for p in self.planned]
        return {"function": self.function, "passes": plans, **self.options}


@dataclass(frozen=True)
class Provenance:
    """The run as headers name it.

    Parameters
    ----------
    version : str
        Version of levelmatch.
    created : str
        Time of the run, in UTC, ISO 8601.
    record : str
        File name of the run's record, blank if there is none.
    sha256 : str
        SHA-256 of that record.
    keep : bool
        Whether levels are kept in the headers, not subtracted.
    sky_keyword : str
        Header keyword of kept levels; blank for those of the telescope alone.
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
