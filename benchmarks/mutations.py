"""Mutations of images, records and configurations, and good ones to start from.

Each is drawn from a generator, so that a seed and a number name a case.
"""

from pathlib import Path

import numpy as np
import yaml
from astropy.io import fits

SHAPE = (40, 48)
LEVELS = {"a.fits": 1.5, "b.fits": -2.0}
# Values of cards.
CARDS = (
    *("", "T", "F", "'text'", "''", "NaN", "INF", "-1", "0", "1", "2", "3", "8", "16", "-32", "64"),
    *("1E400", "1D5", "1,5", "(1,2)", "999999999", "4294967296", "9223372036854775808", "-0.0"),
    *("'RA---TAN'", "'DEC--TAN'", "'GLON-CAR'", "'RA---TAN-SIP'", "'\x1b[31m'", "'a\tb'", "'deg'"),
    *("'MJy/sr'", "'Jy'", "'IMAGE'", "'BINTABLE'", "'DQ'", "'ERR'", "'SCI'", "'RICE_1'", "90.0"),
)
KEYWORDS = (
    *("CRVAL1", "CRPIX2", "CTYPE1", "CTYPE2", "CD1_1", "PC1_1", "PC2_1", "CDELT1", "CUNIT1"),
    *("LONPOLE", "RADESYS", "EQUINOX", "BSCALE", "BZERO", "BLANK", "BUNIT", "EXTNAME", "EXTVER"),
    *("NAXIS", "NAXIS1", "NAXIS2", "NAXIS3", "BITPIX", "PCOUNT", "GCOUNT", "XTENSION", "SIMPLE"),
    *("END", "CONTINUE", "HIERARCH", "PV2_1", "A_ORDER", "AP_ORDER", "WCSAXES", "LMFLUX", "LMREC"),
    *("ZBITPIX", "ZNAXIS1", "ZTILE1", "ZCMPTYPE", "ZNAME1", "ZVAL1", "TFORM1", "TTYPE1", "TFIELDS"),
    *("TELESCOP", "DATE-OBS", "FILENAME", "DT_BGR", "SUBSTRT1", "DETECTOR", "EXTEND", "INHERIT"),
)
# Texts and numbers of records and configurations.
TEXTS = (
    *("", " ", ".", "..", "-o", "*", "~", "../../x", "/etc/passwd", "a/../b.fits", "a\\b.fits"),
    *("\x1b[31mred", "a\nb", "a\tb", "<script>alert(1)</script>", "name\u202egnp.exe", "x" * 5000),
    *("level", "level+slope", "b.fits", "none", "nan", "1e999", "é\u0301", "\U0001f4a5"),
)
NUMBERS = (
    *(0, -1, 1, 2, 7, 0.5, -0.5, 1e308, 5e-324, 2**31, 2**63, 10**30),
    *(float("nan"), float("inf"), -float("inf")),
)


def write_images(folder, kind):
    """Write two overlapping images of a flat sky with levels of their own; return the paths.

    Their true levels do not depend on positions, so they judge a result whatever the WCS.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(7)
    for k, (name, level) in enumerate(LEVELS.items()):
        data = (5 + level + 0.01 * rng.standard_normal(SHAPE)).astype(np.float32)
        header = fits.Header()
        header["CTYPE1"], header["CTYPE2"] = "RA---TAN", "DEC--TAN"
        header["CRVAL1"], header["CRVAL2"] = 150.0, 2.0
        header["CRPIX1"], header["CRPIX2"] = 24.5 - 15.3 * k, 20.5 - 8.2 * k
        header["CDELT1"], header["CDELT2"] = -1 / 3600, 1 / 3600
        header["CUNIT1"] = header["CUNIT2"] = "deg"
        header["RADESYS"], header["BUNIT"] = "ICRS", "MJy/sr"
        hdus = [fits.PrimaryHDU()]
        if kind == "compressed":
            hdus.append(fits.CompImageHDU(data, header, name="SCI"))
        else:
            hdus.append(fits.ImageHDU(data, header, name="SCI"))
        if kind == "integers":
            hdus[1].scale("int16", bscale=0.001, bzero=0.0)
            hdus[1].header["BLANK"] = -32768
        if kind == "planes":
            flags = np.zeros(SHAPE, np.uint32)
            flags[:, 20:30] = 1
            hdus[1].data[:, 20:30] += 100
            error = np.full(SHAPE, 0.01, np.float32)
            hdus += [fits.ImageHDU(error, name="ERR"), fits.ImageHDU(flags, name="DQ")]
        fits.HDUList(hdus).writeto(folder / name, overwrite=True)
    return [folder / name for name in LEVELS]


def _pick(rng, items):
    return items[int(rng.integers(len(items)))]


# --------------------------------------------------------------------------------------
# Bytes


def edited_fits(content, rng):
    """Return a FITS file with one to three edits, most of them of cards."""
    for _ in range(rng.integers(1, 4)):
        cards = [i for i in range(0, len(content), 80) if content[i + 8 : i + 10] == b"= "]
        card = _pick(rng, cards) if cards else 0
        kind = rng.integers(12)
        value = _pick(rng, CARDS).encode()
        if kind < 5:
            content = _replaced(content, card, (content[card : card + 10] + value).ljust(80)[:80])
        elif kind < 7:
            new = (_pick(rng, KEYWORDS).ljust(8).encode() + b"= " + value).ljust(80)[:80]
            content = _replaced(content, card, new)
        elif kind == 7:
            digit = card + 10 + int(rng.integers(22))
            content = _replaced(content, digit, bytes([int(rng.integers(32, 127))]))
        else:
            content = edited_bytes(content, rng)
    return content


def edited_bytes(content, rng):
    """Return bytes with an edit at any place."""
    place = int(rng.integers(max(len(content), 1)))
    new = rng.integers(0, 256, int(rng.integers(1, 17)), dtype=np.uint8).tobytes()
    kind = rng.integers(6)
    if kind == 0:
        return content[:place]
    if kind == 1:
        return content[:place] + new + content[place:]
    if kind == 2:
        return content[:place] + content[place + len(new) :]
    if kind == 3:
        return content[:place] + content[place : place + 200] + content[place:]
    return _replaced(content, place, new)


def _replaced(content, place, new):
    return content[:place] + new + content[place + len(new) :]


# --------------------------------------------------------------------------------------
# Trees


def edited_tree(content, rng):
    """Return a record whose tree, or one of whose arrays, is valid ASDF but odd."""
    end = content.index(b"\n...") + 5
    text, blocks = content[:end], content[end:]
    root = yaml.compose(text, Loader=yaml.CSafeLoader)
    if rng.integers(4) == 0:
        return text + _edited_block(blocks, rng)
    places = [p for p in _places(root) if p[0] is not root or rng.integers(20) == 0]
    parent, k = _pick(rng, places)
    _edit(parent, k, rng)
    tree = yaml.serialize(root, explicit_start=True, explicit_end=True, version=(1, 1))
    head = text[: text.index(b"%YAML")]
    return head + tree.encode("utf-8", "surrogatepass") + blocks


def _places(root):
    """Return the places of all nodes: a node, and the index of a child."""
    out, left = [], [root]
    while left:
        node = left.pop()
        if not isinstance(node, yaml.ScalarNode):
            out += [(node, k) for k in range(len(node.value))]
            children = (c[1] if isinstance(c, tuple) else c for c in node.value)
            left += [c for c in children if not isinstance(c, yaml.ScalarNode)]
    return out


def _edit(parent, k, rng):
    old = parent.value[k]
    kind = rng.integers(10)
    if kind == 0:
        del parent.value[k]
    elif kind == 1:
        parent.value.insert(k, old)
    elif isinstance(old, tuple) and kind == 2:
        key = yaml.ScalarNode("tag:yaml.org,2002:str", _pick(rng, TEXTS))
        parent.value[k] = (key, old[1])
    else:
        new = odd_node(rng)
        parent.value[k] = (old[0], new) if isinstance(old, tuple) else new


def odd_node(rng):
    """Return a node that no good record has at its place."""
    kind = rng.integers(8)
    scalar = yaml.ScalarNode
    if kind < 3:
        return scalar("tag:yaml.org,2002:str", _pick(rng, TEXTS), style='"')
    if kind < 5:
        return yaml.compose(yaml.safe_dump(_pick(rng, NUMBERS)))
    if kind == 5:
        odd = (None, True, [], {}, [[]], [1] * 1000, {"a": {"b": [None]}}, [float("nan")] * 3)
        return yaml.compose(yaml.safe_dump(_pick(rng, odd)))
    if kind == 6:
        words = [scalar("tag:yaml.org,2002:str", "touch executed")]
        return yaml.SequenceNode("tag:yaml.org,2002:python/object/apply:os.system", words)
    source = _pick(rng, ("file:///etc/passwd", "0", "99", "-1", "1"))
    text = f"{{source: {source}, datatype: float64, byteorder: little, shape: [4]}}"
    return yaml.compose(f"!<tag:stsci.edu:asdf/core/ndarray-1.1.0> {text}")


def _edited_block(blocks, rng):
    """Return blocks of which one has odd numbers, without a checksum."""
    starts, place = [], blocks.find(b"\xd3BLK")
    while place >= 0:
        starts.append(place)
        place = blocks.find(b"\xd3BLK", place + 4)
    start = _pick(rng, starts)
    used = int.from_bytes(blocks[start + 22 : start + 30], "big")
    if used < 8 or blocks[start + 10 : start + 14] != bytes(4):
        return blocks[:start] + blocks[start + 1 :]
    odd = (np.float64(_pick(rng, NUMBERS[:9] + NUMBERS[-3:])), np.int64(_pick(rng, (-1, 2**62, 9))))
    place = start + 54 + 8 * int(rng.integers(used // 8))
    blocks = _replaced(blocks, place, _pick(rng, odd).tobytes())
    return _replaced(blocks, start + 38, bytes(16))


# --------------------------------------------------------------------------------------
# Configurations

OPTIONS = (
    *("files", "output", "fit-type", "fit-type-dithers", "fit-type-mosaic-tiles", "recombine-lyot"),
    *("combine-nircam-short", "reference", "time-from-background", "group-by", "weights", "hdu"),
    *("dq-bits", "blank", "clip", "sigma", "max-pairs", "min-area", "min-linear", "rms-limit"),
    *("method", "n-workers", "slope-prior", "flux-scale", "on-error", "hold", "fit-exclude"),
    *("anchor", "subtract-local", "report", "overwrite", "dry-run", "robust", "max-bytes"),
    *("weight-files", "mask-files", "extend", "config", "quiet", "log", "no-such-option", "table"),
)


def odd_config(rng, files):
    """Return a configuration of the files with one to three odd options."""
    lines = [f"files = {[str(f) for f in files]}", 'output = "out"']
    for _ in range(rng.integers(1, 4)):
        name = _pick(rng, OPTIONS)
        if rng.integers(4) == 0:
            name = name.replace("-", "_")
        lines.append(f"{name} = {_toml(_odd_value(rng))}")
    content = "\n".join(lines).encode("utf-8", "surrogatepass")
    return edited_bytes(content, rng) if rng.integers(3) == 0 else content


def _odd_value(rng, depth=0):
    kind = rng.integers(8 if depth < 3 else 5)
    if kind < 2:
        return _pick(rng, TEXTS)
    if kind < 4:
        return _pick(rng, NUMBERS)
    if kind == 4:
        return bool(rng.integers(2))
    if kind == 5:
        return {f"k{k}": _odd_value(rng, depth + 1) for k in range(rng.integers(3))}
    return [_odd_value(rng, depth + 1) for _ in range(rng.integers(4))]


def _toml(value):
    """Return a value as TOML."""
    if isinstance(value, str):
        quoted = value.replace("\\", "\\\\").replace('"', '\\"')
        return '"' + "".join(c if c >= " " else f"\\u{ord(c):04x}" for c in quoted) + '"'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k} = {_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return repr(value)


def case(sweep, number, seed, good):
    """Return the content of a case.

    Parameters
    ----------
    sweep : str
        ``"fits-..."``, ``"record"``, ``"tree"`` or ``"config"``.
    number, seed : int
        The case.
    good : bytes or list of path
        The good file; for configurations the files.
    """
    rng = np.random.default_rng([seed, number, *sweep.encode()])
    if sweep == "config":
        return odd_config(rng, [Path(path) for path in good])
    if sweep == "tree":
        return edited_tree(good, rng)
    if sweep == "record":
        return edited_bytes(edited_bytes(good, rng) if rng.integers(2) else good, rng)
    return edited_fits(good, rng)
