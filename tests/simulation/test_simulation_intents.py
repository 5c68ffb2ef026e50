"""A dry run writes nothing, and intends what a live run does: the same seeds, played both ways."""

from __future__ import annotations

from tests.simulation.bugs import dry_run_freezes_unasked
from tests.simulation.history import LOOSE, Outcome
from tests.simulation.stage import Stage
from tests.simulation.world import Chances

SEEDS = range(20)
CALM = Chances(hold=0, kill=0, database=0, broker=0, org=0, mail=0)
"""What strikes a call to the org strikes a live run only; other tests are about that."""


def play(stage: Stage, seed: int, *, dry_run: bool) -> Outcome:
    terms = {"dry_run": dry_run, "reclaim_by": "deactivate"}
    return stage.play(seed, chances=CALM, limits=LOOSE, terms=terms, paired=True)


def test_a_dry_run_intends_what_a_live_run_does(stage: Stage) -> None:
    acted = 0
    for seed in SEEDS:
        live, dry = (play(stage, seed, dry_run=dry_run) for dry_run in (False, True))
        assert not live.violations + dry.violations
        assert dry.recorded == live.recorded, f"seed {seed}"
        assert not [write for write in dry.written if write.by_us]
        acted += len([write for write in live.written if write.by_us])
    assert acted > len(SEEDS) / 2, "what does nothing has nothing to intend"


def test_a_dry_run_that_intends_more_is_seen(stage: Stage) -> None:
    def differs(seed: int) -> bool:
        with dry_run_freezes_unasked():
            dry = play(stage, seed, dry_run=True)
        return dry.recorded != play(stage, seed, dry_run=False).recorded

    assert any(differs(seed) for seed in SEEDS)
