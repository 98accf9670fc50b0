# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests of the choice of the reference."""

from types import SimpleNamespace

import numpy as np
import pytest

from levelmatch import match_levels, match_mosaic
from levelmatch.solve.reference import ReferenceChooser
from levelmatch.testing import simulate_generic


def frames_of(*items):
    """Return stand-ins of frames: (name, part, header)."""
    return [SimpleNamespace(name=n, part=p, meta=m) for n, p, m in items]


def choose(frames, pairs, area=None, *, groups=None, members=None, reference="auto"):
    groups = np.arange(len(frames)) if groups is None else np.array(groups)
    pairs = np.array(pairs, dtype=int).reshape(-1, 2)
    area = np.ones(len(pairs)) if area is None else np.array(area, float)
    members = np.unique(groups) if members is None else np.array(members)
    chooser = ReferenceChooser(frames, groups, pairs, area, keyword="DT_BGR")
    return chooser.choose(members, reference)


PLAIN = frames_of(*((n, "science", {}) for n in "abcd"))


@pytest.mark.parametrize(
    ("pairs", "area", "expected"),
    [
        ([(0, 1), (1, 2), (1, 3)], None, "b"),
        ([(0, 1), (1, 2), (2, 3)], None, "b"),
        ([(0, 1), (1, 2), (2, 3)], [1, 2, 5], "c"),
        ([(0, 1), (2, 3)], [3, 4], "c"),
        ([(0, 1), (2, 3)], [4, 4], "a"),
        # A group with several pairs to another group counts it once.
        ([(0, 1), (0, 1), (0, 1), (2, 3), (2, 1)], None, "b"),
    ],
)
def test_most_overlaps_then_area_then_name(pairs, area, expected):
    assert choose(PLAIN, pairs, area).name == expected


def test_reason_in_words():
    assert choose(PLAIN, [(0, 1), (1, 2), (1, 3)]).reason == "most overlaps (3)"
    assert choose(PLAIN, [], members=[2]).reason == "the only image of its set"


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ((3, -1, 2, None), "b"),
        ((3, -1, 1, None), "b"),
        ((0, None, None, None), "a"),
        (("", " ", "2.5", "x"), "c"),
        ((np.nan, np.inf, 9, None), "c"),
        ((True, 0.5, 2, 2), "b"),
    ],
)
def test_closest_to_the_backgrounds(times, expected):
    frames = frames_of(
        *(
            (n, "science", {} if t is None else {"DT_BGR": t})
            for n, t in zip("abcd", times, strict=True)
        )
    )
    # Overlaps have no effect in this case.
    choice = choose(frames, [(3, 0), (3, 1), (3, 2)])
    assert choice.name == expected
    assert choice.reason.startswith("closest in time to the backgrounds (|DT_BGR| = ")


def test_never_a_lyot_image():
    frames = frames_of(
        ("al", "lyot", {"DT_BGR": 0.0}),
        ("as", "science", {"DT_BGR": 5.0}),
        ("bl", "lyot", {}),
        ("bs", "science", {}),
    )
    assert choose(frames, [(0, 1), (0, 2), (0, 3)]).name == "as"
    untimed = frames_of(("al", "lyot", {}), ("as", "science", {}), ("bs", "science", {}))
    assert choose(untimed, [(0, 1), (0, 2)]).name == "as"
    # Lyot images are selected if a set has no others.
    assert choose(frames, [(0, 2)], members=[0, 2]).name == "al"


def test_named_group_in_its_own_set_only():
    choice = choose(PLAIN, [(0, 1), (2, 3)], reference=3, members=[2, 3])
    assert (choice.group, choice.reason) == (3, "named by the user")
    other = choose(PLAIN, [(0, 1), (2, 3)], reference=3, members=[0, 1])
    assert other.reason == "most overlaps (1); d, which was named, is not in its set"
    # Index 0 is a valid index.
    assert choose(PLAIN, [(1, 2)], reference=0).group == 0


def test_group_of_several_images_goes_by_its_first():
    choice = choose(PLAIN, [(0, 1)], groups=[0, 0, 1, 1], reference=1)
    assert (choice.group, choice.name) == (1, "c")


@pytest.mark.parametrize("function", [match_mosaic, match_levels])
def test_named_by_a_path(tmp_path, monkeypatch, function):
    paths = simulate_generic(n_images=4, shape=(48, 48)).write(tmp_path)
    monkeypatch.chdir(tmp_path)
    for reference in (paths[2], str(paths[2]), f"./{paths[2].name}"):
        assert function(paths, reference=reference, group_by="FILENAME").reference == paths[2].name
    with pytest.raises(ValueError, match=r"reference: .*elsewhere.* is neither an image"):
        function(paths, reference=tmp_path / "elsewhere" / paths[2].name, group_by="FILENAME")
