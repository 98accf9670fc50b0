# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The configuration file."""

from pathlib import Path

import click
from click.core import ParameterSource

from levelmatch.cli.errors import Failure
from levelmatch.cli.flags import Choices, Value
from levelmatch.cli.inputs import expand
from levelmatch.cli.options import MEASURE, READ, SOLVE

__all__ = ["merge", "read_config", "recorded_values"]

# Largest size of a configuration file, in bytes.
MOST_BYTES = 1 << 20


def read_config(path, params):
    """Return the checked options of a TOML file, by their Python names."""
    import tomllib

    path = Path(path)
    if path.exists() and not (path.is_file() and path.stat().st_size < MOST_BYTES):
        msg = f"{path}: not a configuration: it is not a file, or is larger than {MOST_BYTES} bytes"
        raise Failure(msg, 2)
    try:
        with open(path, "rb") as stream:
            content = tomllib.load(stream)
    except OSError as error:
        msg = f"{path}: {error.strerror or error}"
        raise Failure(msg, 2) from error
    except (ValueError, RecursionError) as error:
        msg = f"{path}: not TOML: {error}"
        raise Failure(msg, 2) from error
    by_name = {p.name: p for p in params if p.name != "config" and p.expose_value}
    options = {}
    for key, value in content.items():
        name = key.replace("-", "_")
        if name not in by_name:
            msg = f"{path}: there is no option {key!r}{_nearest(name, by_name)}"
            raise Failure(msg, 2)
        if name in options:
            msg = f"{path}: {key!r} is given twice, with - and with _"
            raise Failure(msg, 2)
        options[name] = _check_value(path, key, value, by_name[name])
    return options


def _nearest(name, names):
    """Return a question with the most similar name, or an empty string."""
    from difflib import get_close_matches

    near = get_close_matches(name, names, n=1)
    return f"; did you mean {near[0].replace('_', '-')!r}?" if near else ""


def _check_value(path, key, value, param):
    """Check a value of the file, and return it in the form of the package."""
    kinds, words = _kinds(param)
    members = value if isinstance(value, list) and list in kinds else [value]
    # bool is a subclass of int, but true is not a number in a configuration.
    good = type(value) in kinds if isinstance(value, bool) else isinstance(value, kinds)
    if param.name not in ("hdu", "blank"):
        good &= all(isinstance(m, str) for m in members if isinstance(value, list))
    if not good:
        msg = f"{path}: {key} = {value!r}: expected {words}"
        raise Failure(msg, 2)
    if param.name == "files":
        return _expand(path, members)
    if param.name in ("output", "catalogue"):
        return Path(path).parent / value
    if param.multiple:
        return tuple(members)
    if isinstance(value, list):
        return value if param.name == "dq_bits" else tuple(value)
    is_number = isinstance(param.type, Value) and param.type.number is not None
    if isinstance(param.type, Choices | Value) and not (is_number or isinstance(value, str)):
        return value
    try:
        return param.type.convert(value, None, None)
    except click.BadParameter as error:
        msg = f"{path}: {key}: {error.message}"
        raise Failure(msg, 2) from error


# Types and their names for options that accept more types than their flags.
SPECIAL_KINDS = {
    "blank": ((str, bool, int, float, list), "text, false, a number or a list of numbers"),
    "files": ((str, list), "text or a list of text"),
    "group_by": ((str, list), "text or a list of text"),
    "hold": ((str, list), "text or a list of text"),
    "fit_exclude": ((str, list), "text or a list of text"),
    "dq_bits": ((str, int, list), "text, a whole number or a list of text"),
    "hdu": ((str, int, list), "text, a whole number or [name, version]"),
    "reference": ((str, int), "text or a whole number"),
}
KIND_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def _kinds(param):
    """Return the types that an option accepts in TOML, and their names."""
    if param.name in SPECIAL_KINDS:
        return SPECIAL_KINDS[param.name]
    if getattr(param, "is_flag", False):
        return (bool,), KIND_WORDS[bool]
    kinds = [kind for kind in KIND_WORDS if kind in _python_types(param.type)]
    words = " or ".join(KIND_WORDS[kind] for kind in kinds)
    # A whole number is accepted for any number.
    return (*kinds, int) if float in kinds else tuple(kinds), words


def _python_types(kind):
    """Return the Python types of the values of an option type."""
    if isinstance(kind, Choices):
        return {str} | {type(value) for value in kind.values.values()}
    if not isinstance(kind, Value):
        return {str}
    if kind.number is None:
        return {str, *kind.kinds}
    number = {float if float in kind.kinds else int}
    # The text "none" stands for no value.
    return number | {str} if type(None) in kind.kinds else number


def _expand(path, patterns):
    """Return the files of a configuration's arguments, which are relative to its folder."""
    try:
        return tuple(f for pattern in patterns for f in expand(path.parent / pattern))
    except ValueError as error:
        msg = f"{path}: files: {error}"
        raise Failure(msg, 2) from error


def recorded_values(record):
    """Return the options of a recorded run by their Python names."""
    options = record.options
    if options["function"] != "match_levels":
        msg = f"--extend: the record is of {options['function']}, not of match_levels"
        raise Failure(msg, 2)
    passes = {plan["name"]: plan for plan in options["passes"]}
    read = options["read"]
    if not isinstance(read["flux_scale"], str | None):
        msg = "--extend: the record's factors of flux_scale were given in Python; extend it there"
        raise Failure(msg, 2)
    mosaic, keys = passes["mosaic"], options["group_by"]
    return {
        **_recorded_fields(options["measure"], MEASURE),
        **_recorded_fields(options["solve"], SOLVE),
        # Each run must allow anew to match images again.
        **_recorded_fields(read, [name for name in READ if name != "rematch"]),
        "ignore_regions": read.get("regions"),
        "hold": _recorded_held(options["solve"].get("hold")),
        "fit_exclude": _recorded_names(options["solve"].get("fit_exclude")),
        "group_by": (keys,) if isinstance(keys, str) else tuple(keys),
        "fit_type_dithers": passes["dithers"]["fit_type"],
        "subtract_local": passes["dithers"]["subtract_local"],
        "fit_type_mosaic_tiles": mosaic["fit_type"],
        "reference": mosaic["image"] or mosaic["reference"],
        "time_from_background": mosaic["keyword"],
        **_recorded_anchor(options.get("anchor")),
        **_recorded_pass(passes, "lyot", "recombine_lyot"),
        **_recorded_pass(passes, "nircam_short", "combine_nircam_short"),
        "fit_type_combine_detectors": passes.get("detectors", mosaic)["fit_type"],
    }


def _recorded_anchor(anchor):
    """Return the recorded options of an anchor, which is measured again."""
    if anchor is None:
        return {}
    if not all(anchor["paths"]):
        msg = "--extend: the record's anchor was given in Python; extend it there"
        raise Failure(msg, 2)
    return {
        "anchor": tuple(Path(path) for path in anchor["paths"]),
        "anchor_fwhm": anchor["fwhm"],
        "anchor_colour": anchor["asked_colour"],
        "anchor_fit_type": anchor["fit_type"],
    }


def _recorded_names(names):
    """Return recorded names in the form of the flag."""
    return (names,) if isinstance(names, str) else tuple(names or ())


def _recorded_held(held):
    """Return recorded names, or names with levels, in the form of the flag."""
    if isinstance(held, dict):
        return tuple(f"{name}={level!r}" for name, level in held.items())
    return _recorded_names(held)


def _recorded_fields(values, names):
    """Return the recorded fields of an option class; fields new in this release are missing."""
    return {
        # Records hold tuples as lists. Only dq_bits is a list.
        name: tuple(value) if isinstance(value, list) and name != "dq_bits" else value
        for name, value in values.items()
        if name in names
    }


def _recorded_pass(passes, name, option):
    """Return the two options of an optional pass."""
    fit_type = passes[name]["fit_type"] if name in passes else "level"
    return {option: name in passes, f"fit_type_{option}": fit_type}


def is_given(ctx, name):
    """Return whether an option was given on the command line."""
    return ctx.get_parameter_source(name) not in (ParameterSource.DEFAULT, None)


def merge(ctx, values, config):
    """Return the options of the command line and of a configuration; the former have priority."""
    # --fit-type on the command line overrides the fit types of single passes in the file.
    for_all = values["fit_type"] is not None
    for name, value in config.items():
        if for_all and name.startswith("fit_type_"):
            continue
        if not (values["files"] if name == "files" else is_given(ctx, name)):
            values[name] = value
    return values
