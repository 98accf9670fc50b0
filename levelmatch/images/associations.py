# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Associations of the JWST and Roman pipelines: lists of exposures in JSON."""

import json
import os
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from levelmatch.exceptions import FrameError
from levelmatch.images.file_checks import check_regular

__all__ = [
    "PIPELINE_OPTIONS",
    "Association",
    "expand_associations",
    "is_association",
    "is_science",
    "output_association",
    "read_association",
]


SUFFIX = ".json"
# Largest size of an association, in bytes.
MOST_TEXT = 1 << 26
# Key that the package adds to an association.
KEY = "levelmatch"
# Options with which the pipelines leave matched images unchanged.
PIPELINE_OPTIONS = "--steps.skymatch.skip=true"
# Keys of a member whose values name a file.
FILE_KEYS = ("expname", "tweakreg_catalog")


@dataclass(frozen=True, eq=False)
class Association:
    """An association file.

    Parameters
    ----------
    path : `~pathlib.Path`
        The file.
    tree : dict
        Its content.
    """

    path: Path
    tree: dict[str, Any]

    @property
    def products(self) -> list[dict[str, Any]]:
        """The products, each with its list of members."""
        return self.tree["products"]

    @property
    def science_files(self) -> list[Path]:
        """Files of the science members of all products, without repetition."""
        members = [m for product in self.products for m in product["members"]]
        return list(dict.fromkeys(self.file_of(m["expname"]) for m in members if is_science(m)))

    def file_of(self, name: str) -> Path:
        """Return the file named by a member, relative to the folder of the association."""
        return self.path.parent / name


def is_science(member: Mapping) -> bool:
    """Return whether a member of a product is a science exposure."""
    return str(member["exptype"]).strip().lower() == "science"


def is_association(path: Any) -> bool:
    """Return whether an input is the path of an association, by its suffix ``.json``."""
    return isinstance(path, str | Path) and Path(path).suffix.lower() == SUFFIX


# --------------------------------------------------------------------------------------
# Read


def read_association(path: str | Path) -> Association:
    """Read an association of JWST or Roman.

    Parameters
    ----------
    path : str or `~pathlib.Path`
        The file, such as ``jw02107-o001_20240101t000000_image3_00001_asn.json``.

    Returns
    -------
    association : `Association`
        The association.

    Raises
    ------
    FrameError
        If the file is not an association, or has no science members; the message names it.
    """
    path = Path(path)
    try:
        check_regular(path, MOST_TEXT)
        tree = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        msg = f"{path}: there is no such file; check its path"
        raise FrameError(msg) from error
    except (OSError, ValueError, RecursionError) as error:
        msg = f"{path.name}: not a readable association: {error}"
        raise FrameError(msg) from error
    _check_tree(path.name, tree)
    association = Association(path, tree)
    if not association.science_files:
        msg = f"{path.name}: no product has a member of the exptype science; name the images"
        raise FrameError(msg)
    return association


def _check_tree(name: str, tree: Any) -> None:
    """Refuse a tree without products, or with members that lack a name or a type."""
    products = tree.get("products") if isinstance(tree, dict) else None
    if not isinstance(products, list) or not all(isinstance(p, dict) for p in products):
        msg = f"{name}: not an association: it has no list 'products'"
        raise FrameError(msg)
    for product in products:
        members = product.get("members")
        if not isinstance(members, list):
            msg = f"{name}: the product {product.get('name')!r} has no list 'members'"
            raise FrameError(msg)
        for i, member in enumerate(members):
            is_dict = isinstance(member, dict)
            values = [member.get(k) for k in ("expname", "exptype")] if is_dict else []
            if len(values) != 2 or not all(isinstance(v, str) and v.strip() for v in values):
                msg = (
                    f"{name}: member {i} of the product {product.get('name')!r} lacks 'expname' "
                    f"or 'exptype': {str(member)[:80]}"
                )
                raise FrameError(msg)


def expand_associations(images: Iterable[Any]) -> tuple[list[Any], dict[Path, tuple[Path, ...]]]:
    """Replace the associations in a list by the files of their science members.

    Parameters
    ----------
    images : iterable, str or `~pathlib.Path`
        Images of any kind and paths of associations, or the path of one association.

    Returns
    -------
    images : list
        The images. A file that several associations list occurs once.
    associations : dict of `~pathlib.Path` to tuple of `~pathlib.Path`
        For each listed file, the associations that list it.

    Raises
    ------
    FrameError
        If an association cannot be read, or a file that it lists does not exist.
    """
    out: list[Any] = []
    listed: dict[Path, tuple[Path, ...]] = {}
    given: Iterable[Any] = [images] if is_association(images) else images
    for image in given:
        if not is_association(image):
            out.append(image)
            continue
        association = read_association(image)
        for file in association.science_files:
            if not file.is_file():
                msg = f"{association.path.name}: its member {file} does not exist"
                raise FrameError(msg)
            if file not in listed:
                out.append(file)
            if association.path not in listed.get(file, ()):
                listed[file] = (*listed.get(file, ()), association.path)
    return out, listed


# --------------------------------------------------------------------------------------
# Write


def output_association(
    association: Association,
    written: Mapping[Path, Path],
    directory: Path,
    provenance: Any = None,
) -> bytes:
    """Return the content of an association of written images.

    Parameters
    ----------
    association : `Association`
        The association of the inputs.
    written : mapping of `~pathlib.Path` to `~pathlib.Path`
        Output file for each input file.
    directory : `~pathlib.Path`
        The folder of the new association.
    provenance : `~levelmatch.record.run.Provenance` or None
        The run, which is added with the options of the pipeline. `None` if the corrections are
        undone.

    Returns
    -------
    content : bytes
        The new association. Its science members name the outputs; science members without an
        output are removed. Other members and all other content are kept, with file names relative
        to the new folder.
    """
    tree = _output_tree(association, {_absolute(p): out for p, out in written.items()}, directory)
    tree.pop(KEY, None)
    if provenance is not None:
        tree[KEY] = {"version": provenance.version, "created": provenance.created}
        if provenance.record:
            tree[KEY] |= {"record": provenance.record, "record_sha256": provenance.sha256}
        tree[KEY]["pipeline_options"] = PIPELINE_OPTIONS
    return json.dumps(tree, indent=4, ensure_ascii=False).encode() + b"\n"


def _output_tree(
    association: Association, outputs: Mapping[Path, Path], directory: Path
) -> dict[str, Any]:
    """Return the content of an association with the names of the outputs."""
    tree = deepcopy(association.tree)
    for product in tree["products"]:
        members: dict[Any, dict[str, Any]] = {}
        for i, member in enumerate(product["members"]):
            out = outputs.get(_absolute(association.file_of(member["expname"])))
            if out is None and is_science(member):
                continue
            for key in FILE_KEYS:
                if isinstance(member.get(key), str) and member[key]:
                    member[key] = _moved(association.file_of(member[key]), member[key], directory)
            if out is not None and is_science(member):
                member["expname"] = os.path.relpath(out, directory)
            # The two parts of a MIRI image share one output, which is listed once.
            members.setdefault(out if is_science(member) else i, member)
        product["members"] = list(members.values())
    return tree


def _moved(path: Path, name: str, directory: Path) -> str:
    """Return the name of a file relative to another folder; keep absolute names and URLs."""
    if Path(name).is_absolute() or urlparse(name).scheme or name in ("None", "N/A"):
        return name
    return os.path.relpath(_absolute(path), _absolute(directory))


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))
