"""Many histories with every kind of fault: nothing may be violated, and a seed is the same history each time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.stage import Stage, Summary, play_many, summed_up
from tests.simulation.world import Chances

PART = 100
SOME = [range(start, start + PART) for start in range(0, 2_000, PART)]
"""The histories of `make test`, a hundred at a time."""
MANY = range(1_000, 11_000)
CALM = Chances(hold=0, kill=0, database=0, broker=0, org=0, mail=0)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seeds", SOME, ids=lambda seeds: f"{seeds.start}-{seeds.stop - 1}")
def test_no_history_violates_an_invariant(stage: Stage, seeds: range) -> None:
    total = summed_up(stage.play(seed) for seed in seeds)
    assert not total.failed, total.text()
    assert total.histories == PART
    assert total.cases > PART
    # A simulation in which nothing goes wrong, or nothing goes right, proves nothing.
    assert len(total.faults) > 40, total.text()
    assert {"reclaimed", "restored", "kept", "cancelled", "skipped", "attention", "reactivated"} <= set(total.states)


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_no_history_of_many_violates_an_invariant() -> None:
    *_, total = play_many(MANY)
    assert not total.failed, total.text()
    assert total.histories == len(MANY)
    _had_everything(total)


def test_without_faults_histories_come_to_their_end(stage: Stage) -> None:
    outcomes = [stage.play(seed, chances=CALM) for seed in range(10)]
    assert [outcome.violations for outcome in outcomes] == [[]] * 10
    assert sum(outcome.cases for outcome in outcomes) > 10


def test_a_seed_is_the_same_history_each_time(stage: Stage) -> None:
    first, second = ([stage.play(seed) for seed in range(5)] for _ in range(2))
    assert [outcome.trace for outcome in first] == [outcome.trace for outcome in second]
    assert [outcome.signature for outcome in first] == [outcome.signature for outcome in second]
    assert len({tuple(outcome.trace) for outcome in first}) == 5


ROOT = Path(__file__).parents[2]
REPLAY = """
from tests.simulation.stage import Stage, quiet
with quiet(), Stage() as stage:
    for seed in range(10):
        outcome = stage.play(seed)
        print(seed, *outcome.trace, *outcome.signature, sep="\\n")
"""


def test_a_seed_replays_in_another_process() -> None:
    """Each process scatters sets and dicts in a way of its own; a failing seed is looked at in another one."""

    def play(scatter: int) -> subprocess.Popen[str]:
        environment = {**os.environ, "PYTHONHASHSEED": str(scatter)}
        return subprocess.Popen(
            [sys.executable, "-c", REPLAY], env=environment, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )

    first, second = (process.communicate()[0].splitlines() for process in [play(1), play(2)])
    assert len(first) > 10 * 40
    assert first == second


def _had_everything(total: Summary) -> None:
    for state in ("reclaimed", "restored", "kept", "cancelled", "skipped", "attention", "reactivated"):
        assert total.states[state] > 0, f"no case was {state}\n{total.text()}"
    for kind in (
        "kill: before an outside call",
        "kill: after an outside call",
        "kill before commit",
        "kill after commit",
        "cut",
        "cut before commit",
        "cut after commit",
        "busy",
        "disk full",
        "deadlock",
        "broker: lost",
        "broker: unconfirmed",
        "broker: doubled",
        "broker: half stored",
        "broker: reordered",
        "broker: redelivered",
        "broker: receipt lost",
        "broker: goes away",
        "broker: poison",
        "org: 503 Service Unavailable",
        "org: 429 Too Many Requests",
        "org: 403 REQUEST_LIMIT_EXCEEDED",
        "org: INVALID_SESSION_ID: Session expired or invalid",
        "org: timed out after commit",
        "org: partial success",
        "org: UNABLE_TO_LOCK_ROW",
        "org: unreadable part",
        "org: cut list",
        "org: short list",
        "org: empty list",
        "mail: 451",
        "mail: 550",
        "mail: server away",
        "mail: timed out after it was accepted",
        "desk: 503",
        "desk: 429 with Retry-After",
        "desk: not done, and no answer",
        "desk: done, and the answer lost",
        "desk: credentials revoked",
        "webhook: lost",
        "webhook: twice",
        "ticket: keep",
        "ticket: revoke",
        "ticket: downgrade",
        "ticket: changed their mind",
        "ticket: closed",
        "ticket: reopened",
        "ticket: deleted",
        "ticket: done",
        "ticket: given up",
        "rule: asks on a desk",
        "held in an outside call",
        "connection: access changed",
        "connection: fields changed",
        "connection: account hidden or shown",
        "connection: person excluded",
        "connection: cases of the rule taken back",
        "connection: connection removed",
        "rule: downgrade",
        "rule: task",
        "rule: dry run",
        "rule: working days",
        "rule: no reclaim before days off",
        "rule: hours",
        "rule: holder first",
        "rule: reminders",
        "rule: named successor",
        "time: +14 days",
        "time: -2 hours",
        "time: ±10 minutes between hosts",
    ):
        assert total.faults[kind] > 0, f"{kind} never happened\n{total.text()}"
