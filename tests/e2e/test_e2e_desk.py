"""Asked through a service desk, from the ticket to the account and back; the judge is the org's own write log."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from reclaim.cli.desk import DeskAct
from tests.e2e.world import Embedded

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Embedded]:
    with Embedded(tmp_path, users=300, seed=3) as started:
        yield started


def test_a_reopened_ticket_lets_the_holder_in_again_and_nothing_is_reclaimed(world: Embedded) -> None:
    with world.story() as story:
        desk = DeskAct(story, world.sandbox_url, note=print)
        try:
            story.connect()
            figures = desk.play()
            assert figures["kept"] == figures["frozen"] == 1
            (case,) = story.cases("frozen")
            ticket = next(one for one in desk.all() if case["id"] in one["fields"]["correlation_id"])
            deadline = time.monotonic() + 30
            while not any("The seat was frozen" in said["text"] for said in desk.ticket(ticket["key"])["comments"]):
                assert time.monotonic() < deadline
                time.sleep(0.2)
            desk.act(ticket, "reopen")
            desk.wait_until([ticket], "restored")
            story.wait_for("the ticket to be told and closed", lambda: bool(desk.ticket(ticket["key"])["closed"]))
            said = [comment["text"] for comment in desk.ticket(ticket["key"])["comments"]]
            assert "The seat was restored by" in said[-2]
            assert "was reopened" in said[-2]
            history = story.client.get(f"/lifecycle/api/cases/{case['id']}")["history"]
            appeal = next(entry for entry in history if entry["command"] == "decide_keep")
            assert (appeal["channel"], appeal["accepted"]) == ("itsm", True)
            assert not story.outcome().differences
            assert [row for row in story.writes() if row["field"] == "IsActive"] == []
        finally:
            desk.close()
