# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Settings of one call: its option classes, and keywords of earlier releases.

The module is light to import.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from levelmatch.option_values import check_progress, check_type
from levelmatch.options import CoaddOptions, MeasureOptions, ReadOptions, SolveOptions

__all__ = ["MOVED_OF_MOSAIC", "Settings", "filled", "plain", "solve_in_unit"]

GROUP_BY = ("auto", "jwst", "overlap", "exposure")
# Keywords of earlier releases, and the keyword of the option class that holds them now.
MOVED = {
    "weights": "solve",
    "time_from_background": "solve",
    "subtract_local": "solve",
    "hdu": "read",
    "dq_bits": "read",
    "flux_scale": "read",
    "apply_flux_scale": "read",
    "rematch": "read",
    "stacked": "measure",
    "extend": "measure",
    "checkpoint": "measure",
}
# The same for `levelmatch.make_mosaic`.
MOVED_OF_MOSAIC = {
    **{name: home for name, home in MOVED.items() if home == "read"},
    **dict.fromkeys((f.name for f in fields(CoaddOptions)), "coadd"),
}
CLASSES = {"read": ReadOptions, "measure": MeasureOptions, "solve": SolveOptions}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Checked settings of one run.

    Parameters
    ----------
    group_by : str, list of str or callable
        See `match_dithers`.
    read : `ReadOptions`
        Options of reading.
    measure : `MeasureOptions`
        Options of measuring.
    solve : `SolveOptions`
        Options of solving.
    progress_bar : callable or None
        Wraps an iterable over the pairs.
    """

    group_by: object = "auto"
    read: ReadOptions = field(default_factory=ReadOptions)
    measure: MeasureOptions = field(default_factory=MeasureOptions)
    solve: SolveOptions = field(default_factory=SolveOptions)
    progress_bar: Callable | None = None

    @classmethod
    def of(cls, function, moved, group_by="auto", progress_bar=None, options=(None, None, None)):
        """Return the settings of a call.

        Parameters
        ----------
        function : str
            Name of the function, for messages.
        moved : dict
            Keywords of earlier releases.
        group_by, progress_bar : object
            Settings of the class.
        options : tuple
            Options of reading, measuring and solving; each may be `None`.

        Returns
        -------
        settings : `Settings`
            The settings.

        Raises
        ------
        TypeError, ValueError
            If an argument is not understood; the message names it.
        """
        _check_group_by(group_by)
        check_progress(progress_bar)
        classes = filled(function, moved, dict(zip(CLASSES, options, strict=True)), MOVED)
        return cls(group_by=group_by, progress_bar=progress_bar, **classes)

    def in_unit(self, unit: Any) -> "Settings":
        """Return the settings without quantities, see `solve_in_unit`."""
        return replace(self, solve=solve_in_unit(self.solve, unit))

    def plain(self) -> dict:
        """Return the settings as plain values that a file can hold."""
        out: dict = {"group_by": plain(self.group_by)}
        for name, options in CLASSES.items():
            names = [f.name for f in fields(options) if f.name not in ("extend", "checkpoint")]
            out[name] = {key: plain(getattr(getattr(self, name), key)) for key in names}
        return out


def solve_in_unit(solve: SolveOptions, unit: Any) -> SolveOptions:
    """Return options of solving with numbers in the common unit in place of quantities.

    Parameters
    ----------
    solve : `~levelmatch.SolveOptions`
        The options.
    unit : `~astropy.units.Unit` or None
        The common unit.

    Returns
    -------
    solve : `~levelmatch.SolveOptions`
        The options.

    Raises
    ------
    `~astropy.units.UnitConversionError`
        If a quantity is of another kind; the message names the option.
    """
    # This import takes longer than printing the help of the command line.
    from astropy import units as u

    from levelmatch.images.units import in_unit

    unit = unit or u.dimensionless_unscaled
    units = {"floor": unit, "slope_prior": unit / u.arcmin}
    found = {name: getattr(solve, name) for name in units}
    values = {
        name: in_unit(name, value, units[name])
        for name, value in found.items()
        if isinstance(value, u.Quantity)
    }
    return replace(solve, **values)


def filled(function: str, moved: Mapping, options: Mapping, homes: Mapping) -> dict[str, Any]:
    """Return the option classes of a call, with the values of keywords of earlier releases.

    Parameters
    ----------
    function : str
        Name of the function, for messages.
    moved : mapping
        Values of keywords of earlier releases.
    options : mapping
        Option class for each of its keywords; `None` for the defaults.
    homes : mapping
        Keyword of the option class that holds each keyword of earlier releases.

    Returns
    -------
    options : dict
        Option class for each of its keywords.

    Raises
    ------
    TypeError
        If a keyword is unknown, or an option has another class.
    """
    classes = {**CLASSES, "coadd": CoaddOptions}
    for name, value in options.items():
        check_type(name, value, classes[name] | None, classes[name].__name__)
    out = {name: value or classes[name]() for name, value in options.items()}
    changes: dict[str, dict] = {}
    for name, value in moved.items():
        if name not in homes:
            msg = f"{function}() got an unexpected keyword argument {name!r}"
            raise TypeError(msg)
        changes.setdefault(homes[name], {})[name] = value
    for home, values in changes.items():
        _warn_moved(function, f"{home}={classes[home].__name__}", values)
        out[home] = replace(out[home], **values)
    return out


def _warn_moved(function, place, values):
    """Warn of keywords of earlier releases."""
    # This import takes longer than printing the help of the command line.
    from levelmatch.exceptions import LevelMatchDeprecationWarning, warn_user

    call = ", ".join(f"{name}={value!r}"[:60] for name, value in values.items())
    msg = f"{function}: give {place}({call}); the keyword "
    msg += f"{' and '.join(values)} of {function} will be removed in the next release"
    warn_user(msg, LevelMatchDeprecationWarning)


def _check_group_by(group_by):
    """Refuse any other than a word, header keywords or a function."""
    if callable(group_by) or (isinstance(group_by, str) and group_by):
        return
    if not isinstance(group_by, list | tuple) or not all(isinstance(k, str) for k in group_by):
        msg = f"group_by: {group_by!r} is none of {GROUP_BY}, header keywords or a function"
        raise TypeError(msg)
    if not group_by:
        msg = f"group_by: {group_by!r} names no keyword; name one"
        raise ValueError(msg)


def plain(value: Any) -> object:
    """Return an option as a plain value that a file can hold; for other objects, their name."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if hasattr(value, "colnames"):
        return {name: plain(value[name]) for name in value.colnames}
    # A quantity cannot be converted to a list.
    value = value.value if hasattr(value, "to_value") else value
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if hasattr(value, "serialize"):
        return value.serialize(format="ds9")
    if isinstance(value, os.PathLike):
        return str(value)
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return getattr(value, "__qualname__", None) or str(value)
