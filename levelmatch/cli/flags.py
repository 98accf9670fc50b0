# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Flags of the command line, derived from the option classes of the package.

A new field of an option class becomes a flag without a change in this module. Its annotation and
metadata give the type of the flag, and the first sentence of its description gives the help.
"""

import re
from dataclasses import fields
from inspect import cleandoc
from types import UnionType
from typing import get_args

import click

from levelmatch.options import CoaddOptions, MeasureOptions, ReadOptions, SolveOptions

__all__ = [
    "CLASSES",
    "Choices",
    "GroupedCommand",
    "Value",
    "descriptions",
    "flag_name",
    "flags_of",
    "names_of",
]

# Fields without a derived flag. `levelmatch run` has its own options for extend, checkpoint,
# regions, hold and fit_exclude; stacked does not apply to all passes together.
NO_FLAG = ("extend", "checkpoint", "stacked", "regions", "hold", "fit_exclude")
CLASSES = (ReadOptions, MeasureOptions, SolveOptions, CoaddOptions)
METAVARS = {
    "blank": "VALUES",
    "combine_detectors": "KEYWORD",
    "dq_bits": "BITS",
    "flux_scale": "KEYWORD",
    "hdu": "HDU",
    "levels": "FILE",
    "mask_files": "PATTERN",
    "tile_size": "PIXELS",
    "slope_prior": "SIGMA",
    "time_from_background": "KEYWORD",
    "weight_files": "PATTERN",
}


def flag_name(name):
    """Return the flag of a field."""
    return f"--{name.replace('_', '-')}"


def names_of(options):
    """Return the names of the fields of an option class that have a flag."""
    return tuple(f.name for f in fields(options) if f.name not in NO_FLAG)


class Choices(click.Choice):
    """Type of a flag with several values, which may include true, false and none.

    Parameters
    ----------
    values : sequence of str, bool or None
        The values in the form of the package.
    """

    def __init__(self, values):
        self.values = {_spelled(value): value for value in values}
        super().__init__(list(self.values))

    def convert(self, value, param, ctx):
        """Return the value in the form of the package."""
        text = super().convert(_spelled(value), param, ctx)
        return self.values[text]


class Value(click.ParamType):
    """Type of a number or text, or of none if the package accepts `None`.

    Parameters
    ----------
    kinds : tuple of type
        The types that the package accepts.
    """

    def __init__(self, kinds):
        self.kinds = kinds
        only_numbers = set(kinds) <= {int, float, type(None)}
        self.number = (click.FLOAT if float in kinds else click.INT) if only_numbers else None
        self.name = self.number.name if only_numbers else "text"

    def convert(self, value, param, ctx):
        """Return the value in the form of the package."""
        if value == "none" and type(None) in self.kinds:
            return None
        if self.number is not None:
            return self.number.convert(value, param, ctx)
        if not isinstance(value, str):
            return value
        for kind in (int, float):
            if kind in self.kinds:
                try:
                    return kind(value)
                except ValueError:
                    pass
        return value


def _spelled(value):
    return value if isinstance(value, str) else str(value).lower()


def _type_of(field):
    """Return the type of a flag from the metadata and the annotation of its field."""
    kinds = get_args(field.type) if isinstance(field.type, UnionType) else (field.type,)
    if "choices" in field.metadata:
        return Choices(field.metadata["choices"])
    return Value(kinds)


def descriptions(options):
    """Return the first sentence of the description of each field, as plain text."""
    text = cleandoc(options.__doc__)
    section = re.search(r"^Parameters\n-+\n(.*?)(?:\n\n\S[^\n]*\n-+\n|\Z)", text, re.S | re.M)
    entries = re.split(r"^(?=\S)", section[1] if section else "", flags=re.M)
    out = {}
    for entry in filter(None, entries):
        heads, _, body = entry.partition("\n")
        body = " ".join(body.split())
        sentence = _plain(re.match(r"(.*?\.)(?=\s+[^a-z\s]|$)|.*", body)[0])
        out |= {name.strip(): sentence for name in heads.partition(" : ")[0].split(",")}
    return out


def _plain(text):
    """Remove reStructuredText markup, and write values and options as on the command line."""
    text = re.sub(r'``\("(\w+)", (\d+)\)``', r"\1,\2", text)
    text = re.sub(r"``\"?([^`]*?)\"?``", r"\1", text)
    text = re.sub(r"`~?(?:[\w.]+\.)?(\w+)`", r"\1", text)
    text = re.sub(r"\b(None|True|False)\b", lambda match: match[0].lower(), text)
    return re.sub(r"(?<![\w.])[a-z]+(?:_[a-z]+)+\b", _flag_of_field, text)


def _flag_of_field(match):
    """Return the flag of a matched name if it is an option."""
    known = {name for options in CLASSES for name in names_of(options)}
    return flag_name(match[0]) if match[0] in known else match[0]


# Names of the options in each group of the help, in their order. The other options are common.
GROUPS = {
    "JWST": (
        *("recombine_lyot", "fit_type_recombine_lyot", "combine_nircam_short", "skylist"),
        *("fit_type_combine_nircam_short", "time_from_background", "subtract_local"),
    ),
    "File": (*names_of(ReadOptions), "skyfile", "ignore_regions"),
    "Statistics": (*names_of(MeasureOptions), *names_of(SolveOptions), "hold", "fit_exclude"),
}


class GroupedCommand(click.Command):
    """Command whose help shows its options in groups."""

    def format_options(self, ctx, formatter):
        """Write the options, group by group."""
        groups = {name: [] for name in ("Common", *GROUPS)}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None and isinstance(param, click.Option):
                own = (group for group, names in GROUPS.items() if param.name in names)
                groups[next(own, "Common")].append(record)
        for name, records in groups.items():
            if records:
                with formatter.section(f"{name} options"):
                    formatter.write_dl(records)


def flags_of(options, *, types=None, without=(), recorded=False):
    """Return the flags of an option class as decorators, in the order of its fields.

    Parameters
    ----------
    options : type
        The option class.
    types : mapping or None
        Types of flags that cannot be derived from annotations, by name of the field.
    without : tuple of str
        Fields to leave out.
    recorded : bool
        Whether values of a record replace the defaults, so that flags have no default.
    """
    words = descriptions(options)
    return [
        _flag_of(f, words.get(f.name, ""), (types or {}).get(f.name), recorded)
        for f in fields(options)
        if f.name not in (*NO_FLAG, *without)
    ]


def _flag_of(field, words, kind, recorded):
    """Return the flag of a field as a decorator."""
    name = flag_name(field.name)
    default = None if recorded else field.default
    if field.type is bool:
        names = f"{name}/--no-{name[2:]}"
        return click.option(names, field.name, default=default, help=words)
    return click.option(
        name,
        field.name,
        type=kind or _type_of(field),
        default=default,
        show_default=default is not None,
        metavar=METAVARS.get(field.name),
        help=words,
    )
