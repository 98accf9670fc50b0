# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Data-quality bits that make a pixel bad: of JWST, of headers that name them, and of others."""

import re
from collections.abc import Mapping

from astropy.nddata.bitmask import interpret_bit_flags

from levelmatch.images.jwst import DEFAULT_BAD_BITS, DQ_BITS

__all__ = ["LSST_BAD", "bad_bits", "header_bits"]

# Mask planes of the LSST pipelines whose pixels are bad by default.
LSST_BAD = ("BAD", "SAT", "CR", "EDGE", "NO_DATA", "INTRP", "UNMASKEDNAN")
_NAME = re.compile(r"[A-Za-z_]\w*")


def header_bits(header: Mapping) -> dict[str, int]:
    """Return the bits named by the cards ``MP_name`` of a header, as LSST's pipelines write."""
    return {
        key[3:].upper(): 1 << header[key]
        for key in header
        if key.startswith("MP_") and isinstance(header[key], int)
    }


def bad_bits(flags, is_jwst: bool = False, names: Mapping[str, int] | None = None) -> int:
    """Return the data-quality bits that make a pixel bad, as one integer.

    Parameters
    ----------
    flags : None, int, str or list
        Bits in the form of `~astropy.nddata.bitmask.interpret_bit_flags`: a number, or names
        and numbers joined by ``+``, ``,`` or ``|``; a leading ``~`` inverts the selection.
        `None` selects the default: DO_NOT_USE and NON_SCIENCE for JWST; BAD, SAT, CR, EDGE,
        NO_DATA, INTRP and UNMASKEDNAN if the header names its bits; every bit otherwise.
    is_jwst : bool
        Whether the image is JWST's.
    names : mapping or None
        Bits that the header names; by default JWST's.

    Raises
    ------
    ValueError
        If the flags are not understood, or a name is not known.
    """
    if flags is None:
        if names:
            return sum(names[name] for name in LSST_BAD if name in names)
        return DEFAULT_BAD_BITS if is_jwst else ~0
    text = flags
    if isinstance(flags, list | tuple) and any(isinstance(flag, str) for flag in flags):
        text = "+".join(map(str, flags))
    if isinstance(text, str):
        text = _NAME.sub(lambda found: str(_bit(found[0], names)), text)
    try:
        return int(interpret_bit_flags(list(text) if isinstance(text, tuple) else text))
    except (TypeError, ValueError) as error:
        msg = f"dq_bits: {flags!r} is not understood: {error}"
        raise ValueError(msg) from error


def _bit(name, names):
    """Return the bit of a name."""
    bits = names or DQ_BITS
    if name.upper() not in bits:
        what = f"among the bits {', '.join(names)}" if names else "the name of a JWST"
        msg = f"dq_bits: {name!r} is not {what}{'' if names else ' data-quality bit'}"
        raise ValueError(msg)
    return bits[name.upper()]
