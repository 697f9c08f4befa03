"""Timing: all subjects of a case in turn, round after round, so that all see the same machine."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from statistics import median, quantiles
from timeit import Timer
from typing import NamedTuple

from cyopt.bench.implementations import Subject


class Effort(NamedTuple):
    """How long to measure."""

    rounds: int  # of all subjects, at most
    least: int  # rounds of a subject whose budget is used up
    sample: float  # seconds in one round
    budget: float  # seconds of one subject in one case


FULL = Effort(rounds=11, least=3, sample=3e-3, budget=1.0)
QUICK = Effort(rounds=5, least=3, sample=2e-3, budget=0.2)

_WARMED_BY_ITSELF = 20e-3  # seconds: a longer sample does not depend on what was in the caches


def measure(
    subjects: Sequence[Subject], effort: Effort, advance: Callable[[], None]
) -> list[list[float]]:
    """Seconds of one call, for each subject and each of its rounds.

    A sample is as many calls as take `effort.sample`, after as many that bring the subject's data
    back into the caches. Each round has a different order, so that no subject always follows the
    same one; slow subjects have fewer rounds. `advance` is called after each round.
    """
    timers = [Timer(s.statement, globals=s.namespace) for s in subjects]
    calls = [_calibrate(s, t, effort) for s, t in zip(subjects, timers, strict=True)]
    seconds: list[list[float]] = [[] for _ in subjects]
    turns = list(zip(subjects, timers, calls, seconds, strict=True))
    order = random.Random(0)
    for _ in range(effort.rounds):
        order.shuffle(turns)
        for subject, timer, n, samples in turns:
            if len(samples) < effort.least or sum(samples) * n < effort.budget:
                subject.prepare()
                if not samples or samples[-1] * n < _WARMED_BY_ITSELF:
                    _seconds(subject, timer, n)
                samples.append(_seconds(subject, timer, n) / n)
        advance()
    return seconds


def _seconds(subject: Subject, timer: Timer, n: int) -> float:
    """Seconds of n calls, plus the wait for what they started if the subject times it."""
    finish = Timer(subject.finish or "pass")  # made before: that takes longer than a step
    seconds = timer.timeit(n)
    return seconds + (finish.timeit(1) if subject.finish else 0.0) * subject.times_finish


def _calibrate(subject: Subject, timer: Timer, effort: Effort) -> int:
    """Calls that together take about `effort.sample`."""
    subject.prepare()
    timer.timeit(1)
    n, seconds = 1, _seconds(subject, timer, 1)
    while seconds < effort.sample / 2 and n < 1_000_000:
        n = max(2 * n, min(100 * n, int(n * effort.sample / max(seconds, 1e-9))))
        seconds = _seconds(subject, timer, n)
    return n


def spread(values: Sequence[float]) -> float:
    """The distance of the quartiles, as a part of the median."""
    low, middle, high = quantiles(values, n=4, method="inclusive")
    return (high - low) / middle


def ratio(one: Sequence[float], other: Sequence[float]) -> float:
    """The median of one / other over the rounds that both have: drift affects both alike."""
    return median([a / b for a, b in zip(one, other, strict=False)])
