"""Limits on time grow with what else the machine does, and still end."""

from __future__ import annotations

import itertools

import patience
import pytest


def clock_of(seconds):
    """A clock by which each piece of reference work takes so long."""
    ticks = itertools.chain.from_iterable((t, t + seconds) for t in itertools.count(0, 1000))
    return lambda: next(ticks)


@pytest.mark.parametrize(("times", "grown"), [(0.5, 1), (1, 1), (3, 3), (10, 10)])
def test_a_limit_grows_with_the_time_of_the_reference_work(times, grown):
    assert patience.scaled(30, clock_of(times * patience.IDLE)) == pytest.approx(30 * grown)


def test_one_interruption_does_not_count():
    ticks = iter([0, 0.001, 1, 9, 10, 10.001, 20, 20.001, 30, 30.001])
    assert patience.slowness(lambda: next(ticks)) == 1


@pytest.mark.parametrize(("busy", "asked"), [(1, 6), (10, 60)])
def test_waiting_lasts_longer_on_a_busy_machine_and_ends(monkeypatch, busy, asked):
    now, questions = [0.0], []

    def done(seconds):
        questions.append(seconds)
        now[0] += seconds
        return False

    monkeypatch.setattr(patience, "slowness", lambda: busy)
    monkeypatch.setattr(patience.time, "perf_counter", lambda: now[0])
    assert not patience.wait_until(done, 30)
    assert len(questions) == asked


def test_waiting_ends_with_the_answer():
    answers = iter([False, True])
    assert patience.wait_until(lambda seconds: next(answers), 1000)
