"""Killing any one service at any moment, and starting it again, changes nothing in the end."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_e2e_story import check
from tests.e2e.world import Distributed, Embedded, Killer, final_state

pytestmark = [pytest.mark.servers, pytest.mark.timeout(900)]

KILLS = 20
SEED = 20_260_302


def test_killing_any_service_at_any_moment_changes_nothing(
    tmp_path: Path, fresh_vhost: Any, databases: dict[str, str]
) -> None:
    options: dict[str, Any] = {"users": 150, "seed": 11}
    with Embedded(_folder(tmp_path, "calm"), **options) as world, world.story() as story:
        story.play()
        calm = final_state(story)

    world = Distributed(_folder(tmp_path, "stormy"), bus=tuple(fresh_vhost), databases=databases, **options)
    with world, world.story(patience=300, stubborn=300) as story:
        scan = story.begin()
        killer = Killer(world, random.Random(SEED))
        killer.start()
        try:
            story.go_on(scan)
            while len(killer.killed) < KILLS and killer.is_alive():
                time.sleep(0.5)  # the story was quicker: what has ended must not change either
        finally:
            killer.stop()
        print(f"killed {len(killer.killed)} times: {killer.killed}")
        assert len(killer.killed) >= KILLS
        check(story.outcome(), story)
        assert final_state(story) == calm


def _folder(parent: Path, name: str) -> Path:
    folder = parent / name
    folder.mkdir()
    return folder
