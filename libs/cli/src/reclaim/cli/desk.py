"""A part of the story that is asked through a service desk: tickets, people who answer on them, webhooks back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import httpx

from reclaim.cli.story import Story, StoryStuck
from reclaim.sandbox.desks import servicenow

CONNECTION: Final = "service-desk"
PLATFORM: Final = "servicenow"
DEPARTMENTS: Final = ("Finance", "Marketing")
"""Whose seats are asked about: a few tickets show as much as hundreds."""
THEIRS: Final = f"user/department in ({', '.join(repr(each) for each in DEPARTMENTS)})"
RULE: Final = "Idle Platform seats in two departments"


class DeskAct:
    """Plays cases through a simulated service desk. `note` is told what happens."""

    def __init__(self, story: Story, sandbox_url: str, note: Callable[[str], None] = lambda _: None) -> None:
        self._story = story
        self._client = story.client
        self._note = note
        self._address = f"{sandbox_url}/desks/{PLATFORM}"
        self._desk = httpx.Client(base_url=f"{sandbox_url}/sandbox/api/desks/{PLATFORM}", timeout=60)

    def close(self) -> None:
        """Give back sockets."""
        self._desk.close()

    def play(self) -> dict[str, int]:
        """Connect the desk, ask through it, and let one person keep a seat and another give one back.

        Raises:
            StoryStuck: a step did not end in time.
        """
        self.connect()
        flagged = self.ask()
        tickets = self.tickets(flagged)
        kept, revoked = tickets[:1], tickets[1:2]
        self.answer(kept, "lr_keep")
        self.answer(revoked, "lr_revoke")
        self.wait_until(kept, "kept")
        self.wait_until(revoked, "frozen")
        return {"tickets": flagged, "kept": len(kept), "frozen": len(revoked)}

    def connect(self) -> None:
        """Connect the desk, and have it send signed webhooks.

        Raises:
            StoryStuck: something that the connection needs does not work.
        """
        entered = {
            "platform": PLATFORM,
            "settings": {"base_url": self._address, "allow_http": "true", "username": servicenow.USER},
            "credentials": {"password": servicenow.PASSWORD},
        }
        self._client.call("PUT", f"/itsm-gateway/api/desks/{CONNECTION}", json=entered)
        failed = [one for one in self._client.post(f"/itsm-gateway/api/desks/{CONNECTION}/test") if not one["ok"]]
        if failed:
            raise StoryStuck(f"the service desk cannot be used: {failed[0]['detail']}")
        made = self._client.post(
            "/itsm-gateway/api/webhook-secrets", {"connection_id": CONNECTION, "platform": PLATFORM}
        )
        hook = {"url": f"{self._client.url}/itsm-gateway/webhooks/{CONNECTION}", "secret": made["secret"]}
        self._desk.put("/webhook", json=hook).raise_for_status()
        self._note("Connected a service desk: every permission it needs was tried.")

    def ask(self) -> int:
        """Make a rule that asks through the desk, and scan; return how many seats it flagged."""
        connection = self._client.get("/scanner/api/connections")[0]["id"]
        rule = self._client.post(
            "/scanner/api/rules",
            {
                "name": RULE,
                "connection_id": connection,
                "products": ["AUL"],
                "inactive_days": 60,
                "route": "itsm",
                "filter": THEIRS,
                "decision_days": 14,
                "on_timeout": "escalate",
                "grace_days": 14,
                "dry_run": False,
                "most_flagged_share": 100,
            },
        )
        self._client.post(f"/scanner/api/rules/{rule['id']}/activate")
        scan = self._story.finish_scan(self._story.ask_for_scan(rule["id"]))
        return int(scan["flagged"])

    def tickets(self, flagged: int) -> list[dict[str, Any]]:
        """Wait until there are tickets to answer on; return those of this rule, by their numbers."""
        wanted = min(flagged, 2)
        self._story.wait_for("tickets to be opened", lambda: len(self._open()) >= wanted, of=flagged, done=self._count)
        found = self._open()
        self._note(f"Opened tickets for {flagged} idle seats in {' and '.join(DEPARTMENTS)}.")
        return found

    def answer(self, tickets: Sequence[Mapping[str, Any]], tag: str) -> None:
        """Let a person tag and close tickets."""
        for ticket in tickets:
            self.act(ticket, "tag", tag)
            self.act(ticket, "close")
            self._note(f"Ticket {ticket['key']} was closed with {tag}.")

    def act(self, ticket: Mapping[str, Any], action: str, value: str = "") -> None:
        """Let a person do something on a ticket."""
        self._desk.post("/people", json={"ticket": ticket["key"], "action": action, "value": value}).raise_for_status()

    def wait_until(self, tickets: Sequence[Mapping[str, Any]], state: str) -> None:
        """Wait until the cases of tickets stand so.

        Raises:
            StoryStuck: they do not, in time.
        """
        cases = [self._case(ticket) for ticket in tickets]
        self._story.wait_for(
            f"what was answered on tickets to become {state}",
            lambda: all(self._client.get(f"/lifecycle/api/cases/{case}")["case"]["state"] == state for case in cases),
        )

    def ticket(self, key: str) -> dict[str, Any]:
        """Return a ticket as its desk has it, with what was said on it."""
        return next(one for one in self.all() if one["key"] == key)

    def all(self) -> list[dict[str, Any]]:
        """Return every ticket of the desk."""
        found: list[dict[str, Any]] = self._desk.get("/tickets").raise_for_status().json()
        return found

    def _open(self) -> list[dict[str, Any]]:
        return [one for one in self.all() if not one["closed"]]

    def _count(self) -> int:
        return len(self._open())

    @staticmethod
    def _case(ticket: Mapping[str, Any]) -> str:
        return str(ticket["fields"]["correlation_id"]).removeprefix("lr-case-")
