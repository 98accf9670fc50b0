# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Parameters of pipeline steps, derived from the option classes of the package."""

from dataclasses import Field, fields
from typing import Any

from levelmatch.cli.flags import descriptions
from levelmatch.options import FIT_TYPES, MeasureOptions, ReadOptions, SolveOptions, choices_of
from levelmatch.pass_names import PASS_OF

__all__ = ["SPEC", "match_options"]

# Option classes and their fields that are parameters of a step.
NAMES = {
    "read": (ReadOptions, ("dq_bits", "rematch", "pixel_area", "mix_filters", "flux_scale")),
    "measure": (
        MeasureOptions,
        ("method", "location", "clip", "structure", "mask_sources", "n_workers"),
    ),
    "solve": (
        SolveOptions,
        tuple(f.name for f in fields(SolveOptions) if f.name != "sky_keyword"),
    ),
}
# Texts of values in the parameters of a step.
WORDS = {None: "none", True: "true", False: "false"}


def _spec() -> str:
    """Return the specification of a step's parameters for ``configobj``."""
    fit_types = ", ".join(repr(name) for name in FIT_TYPES)
    lines = [f"fit_type = option({fit_types}, default='level') # Correction of all passes"]
    for name, matched in PASS_OF.items():
        lines.append(
            f"fit_type_{name} = option({fit_types}, '', default='') # Correction of the pass "
            f"{matched}, by default fit_type"
        )
    lines += [
        "recombine_lyot = boolean(default=False) # Match the Lyot coronagraph of MIRI as well",
        "combine_nircam_short = boolean(default=False) # Match the NIRCam short-wavelength chips",
        "reference = string(default='auto') # Image or tile whose correction is zero",
        "group_by = string(default='auto') # Assigns images to tiles",
    ]
    for options, names in NAMES.values():
        by_name = {f.name: f for f in fields(options)}
        texts = descriptions(options)
        lines += [_line(by_name[name], texts[name]) for name in names]
    return "\n".join([*lines, *_OWN_LINES, ""])


# Parameters of the step that belong to no option.
_OWN_LINES = [
    "in_memory = boolean(default=True) # If False, keep the models in temporary files",
    "output_use_model = boolean(default=True) # Save each image under its own name",
    "suffix = string(default='levelmatch') # Suffix of the saved images",
]


def _line(field: Field, text: str) -> str:
    """Return the line of the specification for a field."""
    kind, default = field.metadata, field.default
    if "choices" in kind:
        values = ", ".join(repr(_word(value)) for value in kind["choices"])
        return f"{field.name} = option({values}, default={_word(default)!r}) # {text}"
    if "number" in kind:
        check = "integer" if kind["whole"] else "float"
        return f"{field.name} = {check}(default={default}) # {text}"
    if isinstance(default, bool):
        return f"{field.name} = boolean(default={default}) # {text}"
    shown = "None" if default is None else repr(default)
    return f"{field.name} = string(default={shown}) # {text}"


def _word(value: Any) -> str:
    return value if isinstance(value, str) else WORDS[value]


SPEC = _spec()


def match_options(parameters: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of `~levelmatch.match_levels` from the parameters of a step.

    Parameters
    ----------
    parameters : dict
        The parameters of the step.

    Returns
    -------
    options : dict
        The arguments.
    """
    names = ("recombine_lyot", "combine_nircam_short", "reference", "group_by")
    out: dict[str, Any] = {name: parameters[name] for name in names}
    for name in PASS_OF:
        key = f"fit_type_{name}"
        out[key] = parameters[key] or parameters["fit_type"]
    for key, (options, fields_of_step) in NAMES.items():
        values = {name: _value(options, name, parameters[name]) for name in fields_of_step}
        out[key] = options(**values)
    return out


def _value(options: type, name: str, value: Any) -> Any:
    """Return the value of a parameter in the form of the option class."""
    return next((c for c in choices_of(options, name) if _word(c) == value), value)
