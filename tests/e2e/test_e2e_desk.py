"""Asked through a service desk, from the ticket to the account and back; the judge is the org's own write log."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from reclaim.cli.desk import DeskAct
from reclaim.cli.story import Story, StoryStuck
from reclaim.sandbox.desks.generic import SECRET
from tests.e2e.world import Embedded

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    with Embedded(tmp_path_factory.mktemp("world"), users=300, seed=3) as started:
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

            def told() -> list[str]:
                comments = [comment["text"] for comment in desk.ticket(ticket["key"])["comments"]]
                return [text for text in comments if "The seat was restored by" in text]

            story.wait_for(
                "the ticket to be told and closed", lambda: bool(desk.ticket(ticket["key"])["closed"]) and bool(told())
            )
            (restored,) = told()
            assert "was reopened" in restored
            history = story.client.get(f"/lifecycle/api/cases/{case['id']}")["history"]
            appeal = next(entry for entry in history if entry["command"] == "decide_keep")
            assert (appeal["channel"], appeal["accepted"]) == ("itsm", True)
            assert not story.outcome().differences
            assert [row for row in story.writes() if row["field"] == "IsActive"] == []
        finally:
            desk.close()


def answered_by_mail(story: Story, case: dict[str, Any]) -> bool:
    """Let the manager send the form behind the mail's link; False if its page says that it is decided already.

    That is the page instead of the form, or the answer to the form of who opened it in time.
    """
    try:
        story.decide([case], "revoke", "Left the team.")
    except (ValueError, StoryStuck) as too_late:
        if not re.search(r"has no form|was answered with (409|410)$", str(too_late)):
            raise
        return False
    return True


def test_mail_and_ticket_answer_at_once_and_one_of_them_decides(world: Embedded) -> None:
    with world.story() as story:
        desk = DeskAct(story, world.sandbox_url, note=print)
        try:
            connected = story.client.get("/scanner/api/connections")
            connection = connected[0]["id"] if connected else story.connect()
            desk.connect()
            rule = story.client.post(
                "/scanner/api/rules",
                {
                    "name": "Asked both ways",
                    "connection_id": connection,
                    "products": ["SFDC"],
                    "inactive_days": 90,
                    "route": "both",
                    "filter": "user/department in ('Finance', 'Sales')",
                    "decision_days": 14,
                    "on_timeout": "escalate",
                    "grace_days": 14,
                    "dry_run": False,
                    "most_flagged_share": 100,
                },
            )
            story.client.post(f"/scanner/api/rules/{rule['id']}/activate")
            flagged = story.finish_scan(story.ask_for_scan(rule["id"]))["flagged"]
            cases = [case for case in story.cases("awaiting_decision") if case["policy"]["rule_id"] == rule["id"]]

            def ticket_of(case: dict[str, Any]) -> dict[str, Any] | None:
                return next((one for one in desk.all() if case["id"] in one["fields"]["correlation_id"]), None)

            def asked() -> bool:
                cases[:] = [
                    case for case in story.cases("awaiting_decision") if case["policy"]["rule_id"] == rule["id"]
                ]
                mails = [story.client.get(f"/approvals/api/requests/{case['id']}")["mails"] for case in cases]
                sent = all(any(mail["status"] == "sent" for mail in each) for each in mails)
                return len(cases) == flagged and sent and all(ticket_of(case) for case in cases)

            story.wait_for("everybody to be asked both ways", asked)
            assert cases
            tickets = [ticket for case in cases if (ticket := ticket_of(case)) is not None]
            # In opposite orders, so that each comes first for some.
            on_tickets = threading.Thread(target=desk.answer, args=(tickets[::-1], "lr_keep"))
            on_tickets.start()
            too_late = [case["id"] for case in cases if not answered_by_mail(story, case)]
            on_tickets.join()

            def ended() -> bool:
                return {story.client.get(f"/lifecycle/api/cases/{case['id']}")["case"]["state"] for case in cases} <= {
                    "kept",
                    "restored",
                }

            # A keep that comes second is an appeal: whoever was first, nobody loses the seat.
            story.wait_for("every case to end", ended)

            def said(case: dict[str, Any]) -> list[dict[str, Any]]:
                history = story.client.get(f"/lifecycle/api/cases/{case['id']}")["history"]
                return [entry for entry in history if entry["command"].startswith("decide_")]

            def all_heard() -> bool:
                # Whose link was followed too late was told so by its page; what comes after the end is heard as well.
                wanted = {case["id"]: {"itsm"} if case["id"] in too_late else {"itsm", "email"} for case in cases}
                return all({entry["channel"] for entry in said(case)} == wanted[case["id"]] for case in cases)

            story.wait_for("every answer to be heard", all_heard)
            for case in cases:
                heard = said(case)
                assert len([one for one in heard if one["accepted"] and one["before"] == "awaiting_decision"]) == 1
            story.wait_for(
                "the tickets to be told",
                lambda: (
                    all(
                        "The case was closed" in desk.ticket(ticket["key"])["comments"][-1]["text"]
                        or "The seat was restored" in desk.ticket(ticket["key"])["comments"][-1]["text"]
                        for ticket in tickets
                        if desk.ticket(ticket["key"])["comments"]
                    )
                    and all(desk.ticket(ticket["key"])["comments"] for ticket in tickets)
                ),
            )

            def told_by_mail(case: dict[str, Any]) -> bool:
                mails = story.client.get(f"/approvals/api/requests/{case['id']}")["mails"]
                return any(mail["kind"] in {"closed", "restored"} and mail["status"] == "sent" for mail in mails)

            # Nobody kept a seat by mail: whoever answered there, or could not any more, hears that it was kept.
            story.wait_for("the managers to be told", lambda: all(told_by_mail(case) for case in cases))
            assert not story.outcome().differences
        finally:
            desk.close()


def test_a_rule_hears_which_desks_there_are(world: Embedded) -> None:
    with world.story() as story:
        client = story.client
        connected = client.get("/scanner/api/connections")
        rule = client.post(
            "/scanner/api/rules",
            {
                "name": "At a desk of its own",
                "connection_id": connected[0]["id"] if connected else story.connect(),
                "products": ["SFDC"],
                "inactive_days": 90,
                "route": "itsm",
                "desk": "emea",
                "decision_days": 14,
                "on_timeout": "escalate",
                "grace_days": 14,
            },
        )

        def warned(text: str) -> Callable[[], bool]:
            return lambda: text in (client.get(f"/scanner/api/rules/{rule['id']}")["warning"] or "nothing")

        address = {"base_url": f"{world.sandbox_url}/desks/generic", "allow_http": "true"}
        entered = {"platform": "generic", "settings": address, "credentials": {"secret": SECRET}, "asks": False}
        client.call("PUT", "/itsm-gateway/api/desks/apac", json=entered)
        story.wait_for("another desk to be heard of", warned("No service desk is connected as emea"))
        client.call("PUT", "/itsm-gateway/api/desks/emea", json=entered)
        story.wait_for("the rule's desk to be heard of", warned("nothing"))
        client.call("DELETE", "/itsm-gateway/api/desks/emea")
        story.wait_for("its end to be heard of", warned("The service desk emea was disconnected"))
        client.call("DELETE", "/itsm-gateway/api/desks/apac")
