# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Rows of the benchmark: trials, and the ranges in which their figures must lie."""

import zlib
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

__all__ = ["Figure", "Goal", "Row", "Skip", "bias", "growth", "mean", "ratio_to_best", "rms"]

# Smallest fraction of trials with a warning that excuses a figure.
MOSTLY = 0.95


class Skip(Exception):  # noqa: N818
    """Raised by a row that cannot run here, with the reason."""


def rms(samples):
    """Return the root mean square of all samples."""
    return float(np.sqrt(np.mean(np.square(np.concatenate([np.ravel(s) for s in samples])))))


def mean(samples):
    """Return the mean of all samples."""
    return float(np.mean(np.concatenate([np.ravel(s) for s in samples])))


def bias(samples):
    """Return the mean error divided by the rms stated error; samples are (error, stated)."""
    error, stated = np.reshape(samples, (-1, 2)).T
    return float(np.mean(error) / np.sqrt(np.mean(np.square(stated))))


def growth(samples):
    """Return the root of the ratio of two sums; samples are pairs of sums of squares."""
    first, second = np.sum(np.reshape(samples, (-1, 2)), axis=0)
    return float(np.sqrt(first / second))


def ratio_to_best(samples):
    """Return the rms of the first divided by the smallest other; samples are sums of squares."""
    first, *others = np.sqrt(np.sum(samples, axis=0))
    return float(first / min(others))


@dataclass(frozen=True)
class Goal:
    """Figure of a row, and the range in which it must lie.

    Parameters
    ----------
    label : str
        Its name; the trials return samples under it.
    low, high : float
        The range.
    score : callable
        Makes one number of the samples of all trials.
    excuse : {None, "warned", "refused"}
        Samples named ``"LABEL: warned"`` or ``"LABEL: refused"`` also meet the goal if nearly
        all are true. A refused trial has no other samples.
    before : float or None
        The figure before the errors were made to hold on real noise.
    """

    label: str
    low: float
    high: float
    score: Callable = rms
    excuse: str | None = None
    before: float | None = None

    def figure(self, outcomes, slack=0.0):
        """Return the figure of the outcomes of all trials.

        Parameters
        ----------
        outcomes : list of dict
            Samples by label, one dictionary per trial.
        slack : float
            Widen the range by this fraction of its limits, as for few trials.
        """
        samples = [o[self.label] for o in outcomes if self.label in o]
        value = self.score(samples) if samples else np.nan
        excused = 0.0
        if self.excuse is not None:
            flags = [o.get(f"{self.label}: {self.excuse}", 0.0) for o in outcomes]
            excused = float(np.mean(flags)) if flags else 0.0
        low, high = _widened(self.low, -slack), _widened(self.high, slack)
        met = low <= value <= high or excused >= MOSTLY
        return Figure(self, value, excused, bool(met))

    @property
    def range(self):
        """The range as text."""
        excuse = {None: "", "warned": ", or warned", "refused": ", or refused"}[self.excuse]
        if np.isinf(self.low):
            return f"at most {self.high:g}{excuse}"
        if np.isinf(self.high):
            return f"at least {self.low:g}{excuse}"
        return f"{self.low:g} to {self.high:g}{excuse}"


def _widened(limit, slack):
    return limit + slack * abs(limit) if np.isfinite(limit) else limit


@dataclass(frozen=True)
class Figure:
    """Value of a goal, the fraction of excused trials, and the verdict."""

    goal: Goal
    value: float
    excused: float
    met: bool


@dataclass(frozen=True)
class Row:
    """A case of the benchmark: its trial and its goals.

    Parameters
    ----------
    name : str
        Short name.
    title : str
        The difference from white noise.
    trial : callable
        Given a generator of random numbers, makes one set, matches it, and returns samples by
        label.
    goals : tuple of `Goal`
        Its figures.
    trials : int
        Number of sets.
    """

    name: str
    title: str
    trial: Callable
    goals: tuple
    trials: int = 40

    def outcomes(self, trials=None, jobs=1):
        """Return the samples of all trials."""
        seeds = range(self.trials if trials is None else min(trials, self.trials))
        keys = [[seed, zlib.crc32(self.name.encode())] for seed in seeds]
        if jobs == 1 or len(seeds) == 1:
            return [_outcome(self.trial, key) for key in keys]
        with ProcessPoolExecutor(jobs) as pool:
            return list(pool.map(partial(_outcome, self.trial), keys))

    def figures(self, trials=None, jobs=1):
        """Return a `Figure` for each goal."""
        outcomes = self.outcomes(trials, jobs)
        return [goal.figure(outcomes) for goal in self.goals]

    def with_before(self, values):
        """Return the row with the figures of an earlier version of the package, by label."""
        goals = tuple(replace(g, before=values.get(g.label)) for g in self.goals)
        return replace(self, goals=goals)


def _outcome(trial, key):
    """Return the samples of one trial."""
    return trial(np.random.default_rng(key))
