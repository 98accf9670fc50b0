# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""HST: levels for AstroDrizzle."""

from pathlib import Path

from levelmatch.atomic import refuse_existing, write_content
from levelmatch.docstrings import share_parameters
from levelmatch.exceptions import FrameError
from levelmatch.images.notes import chips_are_left_out
from levelmatch.option_values import as_path, check_type
from levelmatch.record.run_result import RunResult

__all__ = ["write_skyfile"]


@share_parameters
def write_skyfile(result: RunResult, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write the levels of a result for AstroDrizzle's parameter ``skyfile``.

    Each line holds the name of a file and the levels of its chips, in the order of the file. The
    levels are total levels in the unit of the image. AstroDrizzle subtracts them, so the pixels
    must not be corrected, see ``subtract`` of `~levelmatch.SolveOptions`.

    Parameters
    ----------
    result : `~levelmatch.MatchResult` or `~levelmatch.Record`
        The result.
    path : str or `~pathlib.Path`
        The file.
    <<written>>

    Raises
    ------
    FrameError
        If a correction is a plane, a chip of a file is not matched, or a name has a blank; the
        message names the image.
    FileExistsError
        If the file exists and ``overwrite`` is not set.
    """
    check_type("result", result, RunResult, "a MatchResult or a Record")
    path = as_path("path", path)
    refuse_existing(path, overwrite=overwrite)
    files: dict[str, list[float]] = {}
    chips: dict[str, list[str]] = {}
    for frame in result.frames:
        if not frame.correction.is_level:
            msg = f"{frame.name}: its correction is a plane or a pattern, and a skyfile has levels"
            raise FrameError(msg)
        if len(frame.file.split()) != 1:
            msg = f"{frame.name}: AstroDrizzle cannot read names with blanks; rename the file"
            raise FrameError(msg)
        files.setdefault(frame.file, []).append(float(frame.correction.constant))
        chips.setdefault(frame.file, []).append(frame.extension)
    for name, found in chips.items():
        several = [f"SCI,{k + 1}" for k in range(len(found))]
        whole = found == [""] or (len(found) > 1 and found == several)
        if not whole or chips_are_left_out(name, result.options):
            msg = f"{name}: a skyfile needs the levels of all chips, SCI,1 first; match all of them"
            raise FrameError(msg)
    lines = [f"{name} {' '.join(map(repr, levels))}" for name, levels in files.items()]
    write_content(path, "\n".join(["# applied = no", *lines, ""]).encode())
    return path
