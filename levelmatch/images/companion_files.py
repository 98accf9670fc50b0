# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Recognise files of weights, masks and errors among those of images."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from levelmatch.images.sources import FileSource
from levelmatch.sky.grid import are_at_one_place

__all__ = ["companion_files", "misplaced_mask"]

# Parts of names of files that describe the pixels of another file.
_WORDS = frozenset(
    """
    weight weights wht wgt wt sumwt expwt ivar invvar conf confidence oow
    cov coverage mcov exp expmap exptime nexp depth psfdepth galdepth rrhr
    mask msk mskimg objmask bpm dq dqm dqmask ood flag flags flg badpix maskbits
    imsk bimsk bdmsk brmsk mmsk seg segm segmentation
    err error errors unc uncert uncertainty bunc cbunc munc rms sigma var variance std stddev
    noise noisemap snr chi2
    area model resid residual bkg background skybg psf pb ctx con tt1
    """.split()
)
# Parts at the end of a name that give the format.
_FORMATS = frozenset("fit fits fts fz gz bz2 xz asdf".split())


def companion_files(frames: Iterable[Any]) -> dict[Path, Path]:
    """Return the files that belong to other files of an input, such as their weights.

    Such a file lies at the same place on the sky as the other, and its name has one more word, as
    ``m31.weight.fits`` beside ``m31.fits``, or another word, as ``m31_unc.fits`` beside
    ``m31_int.fits``.

    Parameters
    ----------
    frames : iterable of `~levelmatch.images.frame.Frame`
        The images.

    Returns
    -------
    found : dict of `~pathlib.Path` to `~pathlib.Path`
        The image's file of each such file.
    """
    firsts: dict[Path, Any] = {}
    for frame in frames:
        if isinstance(frame.source, FileSource):
            firsts.setdefault(frame.source.path, frame)
    words = {path: _words(path) for path in firsts}
    beside = [path for path in firsts if not _WORDS.isdisjoint(words[path])]
    images: dict[tuple[str, ...], list[Path]] = {}
    for path in set(firsts).difference(beside) if beside else ():
        for key in (words[path], *_with_gaps(words[path])):
            images.setdefault(key, []).append(path)
    found = {}
    for path in beside:
        others = [other for key in _keys(words[path]) for other in images.get(key, ())]
        grid = firsts[path].whole_grid
        same = [other for other in others if are_at_one_place(grid, firsts[other].whole_grid)]
        if same:
            found[path] = min(same)
    return found


def misplaced_mask(frames: Iterable[Any], kind: str) -> tuple[Path, Path, Path] | None:
    """Return a mask, the image to which it is given and the one to which it belongs, or `None`.

    A list in another order than the images gives masks to other images. It is recognised only if
    each mask belongs to one of the images by its name.

    Parameters
    ----------
    frames : iterable of `~levelmatch.images.frame.Frame`
        The images.
    kind : {"mask", "weight"}
        The kind of the arrays that have files of their own.
    """
    given: dict[Path, Path] = {}
    images: dict[tuple[str, ...], set[Path]] = {}
    for frame in frames:
        path = getattr(frame.source, "path", None)
        if path is None:
            continue
        for key in (_words(path), *_with_gaps(_words(path))):
            images.setdefault(key, set()).add(path)
        for mask in getattr(frame.source, "masks", ()):
            if mask.path is not None and mask.kind == kind:
                given[path] = mask.path
    owners: dict[Path, tuple[Path, Path]] = {}
    for path, mask in given.items():
        # A mask in another folder may have the name of its image.
        keys = _words(mask), *_keys(_words(mask))
        found = set().union(*(images.get(key, set()) for key in keys))
        if len(found) != 1 or mask in owners:
            return None
        owners[mask] = path, found.pop()
    wrong = ((m, path, owner) for m, (path, owner) in sorted(owners.items()) if path != owner)
    return next(wrong, None)


def _words(path: Path) -> tuple[str, ...]:
    """Return the parts of a file's name in lower case, without those of its format."""
    words = re.split(r"[^a-z0-9]+", path.name.lower())
    while words and words[-1] in _FORMATS:
        words.pop()
    return tuple(words)


def _with_gaps(words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Yield the parts of a name, each of them in turn replaced by an empty one."""
    for k in range(len(words)):
        yield (*words[:k], "", *words[k + 1 :])


def _keys(words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Yield the keys of images' names, by which the image of such a file is found."""
    for k, word in enumerate(words):
        if word in _WORDS:
            yield (*words[:k], *words[k + 1 :])
            yield (*words[:k], "", *words[k + 1 :])
