"""What goes wrong outside: each gives a message that says what to do, and nothing is lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reclaim.cli.story import BUSY, Story
from reclaim.sandbox.faults import REFUSALS
from tests.e2e.world import Embedded

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Embedded]:
    with Embedded(tmp_path, users=120, seed=5) as started:
        yield started


def fault(world: Embedded, kind: str, **given: Any) -> None:
    world.sandbox("POST", "/faults", json={"kind": kind, **given})


def in_attention(story: Story) -> dict[str, dict[str, Any]]:
    """Return holder's id → case, of those that wait for a person."""
    return {case["seat"]["holder"]["id"]: case for case in story.cases("attention")}


def test_nobody_to_ask_stands_in_attention_with_the_remedy(world: Embedded) -> None:
    people = {each["id"]: each for each in world.sandbox("GET", "/users", params={"expect": "reclaimable"})}
    alone = [user for user, each in people.items() if "no_manager" in each["traits"]]
    unreachable = [user for user, each in people.items() if "manager_without_mail" in each["traits"]]
    with world.story() as story:
        scan = story.finish_scan(story.begin())
        story.wait_until_asked(scan["flagged"])
        waiting = in_attention(story)
        assert set(waiting) == {*alone, *unreachable}
        for case in waiting.values():
            assert case["attention"]["reason"]
            assert case["attention"]["remedy"]
        told = [m for m in world.sandbox("GET", "/mailbox/messages") if "operations" in str(m["to"])]
        assert told == [], "no address of operations is set in this world"
        # An operator decides for the manager, and the case goes on.
        first = waiting[alone[0]]["id"]
        story.client.post(f"/lifecycle/api/cases/{first}/decision", {"decision": "revoke", "reason": "asked HR"})
        story.wait_for("the account to be frozen", lambda: len(story.cases("frozen")) == 1)


def test_a_mail_server_that_is_away_delays_the_deadline_and_loses_nobody(world: Embedded) -> None:
    world.sandbox("POST", "/mailbox/refuse", json={"outage": True})
    with world.story() as story:
        scan = story.finish_scan(story.begin())
        story.wait_for("the cases to open", lambda: sum(story_counts(story).values()) == scan["flagged"])
        story.let_time_pass(30, "nobody was asked, so nobody is late")
        assert story_counts(story).get("awaiting_decision", 0) == 0
        assert [each for each in story.writes() if each["field"] == "IsFrozen"] == []
        world.sandbox("POST", "/mailbox/refuse", json={"outage": False})
        story.wait_until_asked(scan["flagged"])


def test_a_scan_survives_an_overloaded_org_in_its_middle(world: Embedded) -> None:
    with world.story() as story:
        rule = story.make_rule(story.connect())
        preview = story.client.get(f"/scanner/api/rules/{rule}/preview")
        fault(world, "server_unavailable", match={"path_regex": "/query"}, after=3, times=12)
        scan = story.finish_scan(story.ask_for_scan(rule))
        assert scan["flagged"] == preview["flagged"]
        story.wait_until_asked(scan["flagged"])


def test_a_scan_of_an_empty_org_opens_nothing_and_says_why(world: Embedded) -> None:
    with world.story() as story:
        rule = story.make_rule(story.connect())
        fault(world, "empty_scan", match={"path_regex": "/query"}, times=1000)
        scan = story.client.post("/scanner/api/scans", {"rule_id": rule, "dry_run": False})
        story.wait_for(
            "the scan to give up",
            lambda: story.client.get(f"/scanner/api/scans/{scan['id']}")["status"] in {"stopped", "failed", "waiting"},
        )
        ended = story.client.get(f"/scanner/api/scans/{scan['id']}")
        assert ended["flagged"] == 0
        assert ended["reason"]
        assert story.cases() == []


def test_an_org_that_refuses_leaves_the_case_to_a_person_in_its_own_words(world: Embedded) -> None:
    with world.story() as story:
        scan = story.finish_scan(story.begin())
        asked = story.wait_until_asked(scan["flagged"])
        story.decide(asked, "revoke", "")
        story.wait_for("the accounts to be frozen", lambda: not story.cases("awaiting_decision", *BUSY))
        frozen = [case["seat"]["holder"]["id"] for case in story.cases("frozen")]
        world.sandbox("PUT", "/settings", json={"default_case_owner": frozen[0]})
        fault(world, "timeout_after_commit", match={"method": "PATCH"}, times=1)
        story.let_time_pass(31, "the grace period ends")
        story.wait_for("the rest to be reclaimed", lambda: len(story.cases("reclaimed")) == len(frozen) - 1)
        blocked = in_attention(story)[frozen[0]]
        assert "default" in blocked["attention"]["reason"].lower()
        assert blocked["attention"]["remedy"]
        ended = [each["id"] for each in story.writes() if each["field"] == "IsActive"]
        assert len(ended) == len(set(ended)), "an answer that was lost is read up, never sent again blindly"
        world.sandbox("PUT", "/settings", json={"default_case_owner": ""})
        story.client.post(f"/lifecycle/api/cases/{blocked['id']}/retry")
        story.wait_for("the last seat", lambda: len(story.cases("reclaimed")) == len(frozen))


def test_each_refusal_stands_in_attention_in_the_orgs_words_with_what_to_do(world: Embedded) -> None:
    """The org refuses seats and records, each for another reason, and the others are reclaimed."""
    with world.story() as story:
        scan = story.finish_scan(story.begin())
        story.decide(story.wait_until_asked(scan["flagged"]), "revoke", "")
        story.wait_for("the accounts to be frozen", lambda: not story.cases("awaiting_decision", *BUSY))
        frozen = [case["seat"]["holder"]["id"] for case in story.cases("frozen")]
        assert len(frozen) > len(REFUSALS)
        named = dict(zip(frozen, REFUSALS, strict=False))
        fault(world, "row_refused", match={"method": "PATCH", "object": "User"}, times=None, params={"refusals": named})
        story.let_time_pass(31, "the grace period ends")
        story.wait_for("the rest to be reclaimed", lambda: not story.cases("frozen", *BUSY))
        waiting = in_attention(story)
        for holder, name in named.items():
            code, message = REFUSALS[name]
            assert waiting[holder]["attention"]["reason"] == f"{code}: {message}"
            assert waiting[holder]["attention"]["remedy"]
        assert len(story.cases("reclaimed")) == len(frozen) - len(named)
        world.sandbox("DELETE", "/faults")
        for holder in named:
            story.client.post(f"/lifecycle/api/cases/{waiting[holder]['id']}/retry")
        story.wait_for("the others", lambda: len(story.cases("reclaimed")) == len(frozen))
        ended = [each["id"] for each in story.writes() if each["field"] == "IsActive"]
        assert sorted(ended) == sorted(frozen), "each seat was freed once"


def story_counts(story: Story) -> dict[str, int]:
    counts: dict[str, int] = story.client.get("/lifecycle/api/summary")["cases"]
    return counts
