"""The same story on both sizes of the product ends in the same state, and the org's own log agrees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from reclaim.cli.story import Outcome, Story
from tests.e2e.world import Distributed, Embedded, final_state

pytestmark = [pytest.mark.servers, pytest.mark.timeout(420)]


def check(outcome: Outcome, story: Story) -> None:
    """Check what must hold at the end of every story."""
    figures = outcome.figures
    assert outcome.differences == []
    assert figures["audit"]["verified"]
    assert figures["reclaimed"] > 0
    assert figures["appealed"] > 0
    assert figures["records_transferred"] > 0
    assert figures["reactivated"] == 1
    assert all(figures["decided"].values())
    assert set(figures["cases"]) <= {"kept", "restored", "reclaimed", "reactivated", "cancelled", "attention"}
    assert story.client.get("/savings/api/verify")["ok"]


def test_both_sizes_tell_the_same_story(tmp_path: Path, fresh_vhost: Any, databases: dict[str, str]) -> None:
    ends = []
    for world in (
        Embedded(_folder(tmp_path, "embedded")),
        Distributed(_folder(tmp_path, "distributed"), bus=tuple(fresh_vhost), databases=databases),
    ):
        with world, world.story() as story:
            check(story.play(), story)
            ends.append(final_state(story))
    embedded, distributed = ends
    assert embedded["parked"] == distributed["parked"] == []
    assert embedded == distributed


def test_a_dry_run_goes_through_everything_and_writes_nothing(tmp_path: Path) -> None:
    with Embedded(tmp_path) as world, world.story(dry_run=True) as story:
        outcome = story.play()
        assert outcome.figures["frozen"] > 0
        assert outcome.figures["reclaimed"] > 0
        assert outcome.differences == []
        assert story.writes() == []
        assert outcome.figures["savings"]["annualized_run_rate"] in {"0.00", "0"}


def _folder(parent: Path, name: str) -> Path:
    folder = parent / name
    folder.mkdir()
    return folder
