"""The main job, played from outside: everything goes through the services' APIs, mails and pages, as people would.

The story is the same on every size of the product: the demo plays it embedded, the end-to-end tests play it against
one process and against a process a service. It chooses by the order of the holders' ids, so one org gives one end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from types import MappingProxyType
from typing import Any, Final, Protocol

import httpx

from reclaim.cli import waiting
from reclaim.cli.client import CONFLICT, GONE, Client
from reclaim.cli.people import Mailbox, Reader

PATIENCE: Final = 180.0
"""Seconds that any step may take before the story is given up."""

DECISION_DAYS: Final = 14
GRACE_DAYS: Final = 30
INACTIVE_DAYS: Final = 90
ANSWERED: Final = frozenset({CONFLICT, GONE})
"""What a page says to who sends again, when the first try had arrived: decided already, or closed since."""

YEAR_GOES_ON: Final = 60
"""Days the story waits at the end, for the savings of the year to add up."""

WIDE_LIMITS: Final = {
    **{f"{cap}_most": 100_000 for cap in ("run", "day", "month")},
    **{f"{cap}_share": 100 for cap in ("run", "day", "month")},
    "canary": 0,
    "reason": "A simulated org, to be seen from end to end in one go.",
}
"""Limits that let the story act on as many seats as its org has."""

BUSY: Final = (
    "checking_before_freeze",
    "freezing",
    "restoring",
    "checking_before_reclaim",
    "handing_over",
    "reclaiming",
    "downgrading",
    "reactivating",
)


class StoryStuck(Exception):
    """A step did not come to its end in time; the message says what was waited for."""


class Movable(Protocol):
    """A clock that every process of the story follows."""

    def advance(self, by: timedelta) -> None:
        """Move it."""
        ...


@dataclass
class Outcome:
    """What the story led to, in the services' own figures; `differences` is empty if the org's log agrees."""

    figures: dict[str, Any] = field(default_factory=dict)
    differences: list[str] = field(default_factory=list)


class Story:
    """Plays the life of many seats. `note` is told what happens, `progress` how far a step is (done, of).

    `terms` are added to the rule's. `patience` is how long a step may take, `stubborn` for how long its people
    try again when a page does not come.
    """

    def __init__(
        self,
        client: Client,
        sandbox_url: str,
        clock: Movable,
        *,
        connection: Mapping[str, Any],
        rule_name: str = "Idle Salesforce seats",
        terms: Mapping[str, Any] = MappingProxyType({}),
        note: Callable[[str], None] = lambda _: None,
        progress: Callable[[int, int], None] = lambda _done, _of: None,
        dry_run: bool = False,
        stubborn: float = 0,
        patience: float = PATIENCE,
    ) -> None:
        self.client = client
        self.clock = clock
        self.connection = connection
        self.rule_name = rule_name
        self.terms = terms
        self.dry_run = dry_run
        self._note = note
        self._progress = progress
        self._patience = patience
        self._stubborn = stubborn > 0
        self._sandbox = httpx.Client(base_url=sandbox_url, timeout=60)
        self._mailbox = Mailbox(sandbox_url)
        self._reader = Reader(patience=stubborn)

    def close(self) -> None:
        """Give back sockets."""
        self._sandbox.close()
        self._mailbox.close()
        self._reader.close()

    def play(self) -> Outcome:
        """Play from the first connection to the dollar in the report.

        Raises:
            StoryStuck: a step did not end in time.
        """
        return self.go_on(self.begin())

    def begin(self) -> str:
        """Connect the org, make the rule and ask for a scan; return the scan's id."""
        return self.ask_for_scan(self.make_rule(self.connect()))

    def go_on(self, scan_id: str) -> Outcome:
        """Play from a scan that was asked for to the dollar in the report.

        Raises:
            StoryStuck: a step did not end in time.
        """
        scan = self.finish_scan(scan_id)
        asked = self.wait_until_asked(scan["flagged"])
        kept, revoked, silent = self.share_out(asked)
        self.come_back(silent[-1:])
        self.decide(kept, "keep", "Comes back from leave next week.")
        self.decide(revoked, "revoke", "")
        self.wait_for("the revoked accounts to be frozen", lambda: self._count("frozen") == len(revoked))
        self.let_time_pass(DECISION_DAYS + 1, "nobody answers for the others: the rule's time-out applies")
        self.wait_for("the time-outs", lambda: not self._count("awaiting_decision", *BUSY))
        frozen = self.cases("frozen")
        appealing = frozen[3::8]
        self.appeal(appealing)
        self.wait_for("the appeals to be granted", lambda: self._count("restored") == len(appealing))
        self.let_time_pass(GRACE_DAYS + 1, "the grace period ends without another appeal")
        self.wait_for("the seats to be reclaimed", lambda: not self._count("frozen", *BUSY))
        reclaimed = self.cases("reclaimed")
        self.reactivate(reclaimed[:1])
        self.wait_for("the reactivation", lambda: self._count("reactivated") == len(reclaimed[:1]))
        self.let_time_pass(YEAR_GOES_ON, "the year goes on, and the savings add up")
        self.wait_until_booked()
        return self.outcome()

    # The steps.

    def connect(self) -> str:
        """Connect the org; return the connection's id."""
        added = self.client.post("/scanner/api/connections", self.connection)
        self._note(f"Connected {added['name']}: every permission it needs was tried.")
        self.open_limits(str(added["id"]), added["name"])
        return str(added["id"])

    def open_limits(self, connection: str, name: str) -> None:
        """Set limits that a whole simulated org fits in: the default ones would stop the story after a few seats."""
        known = "/lifecycle/api/brakes"
        self.wait_for(
            "the connection to be known to the lifecycle",
            lambda: connection in {one["id"] for one in self.client.get(known)["connections"]},
        )
        self.client.call("PUT", f"{known}/limits/{connection}", json=WIDE_LIMITS)
        self._note(f"Set wide limits for {name}, and no first small batch: the default brakes stop after a few seats.")

    def make_rule(self, connection: str) -> str:
        """Make a rule, preview it, and activate it; return its id."""
        rule = self.client.post(
            "/scanner/api/rules",
            {
                "name": self.rule_name,
                "connection_id": connection,
                "products": ["SFDC"],
                "inactive_days": INACTIVE_DAYS,
                "route": "email",
                "decision_days": DECISION_DAYS,
                "on_timeout": "freeze",
                "grace_days": GRACE_DAYS,
                "hand_over": True,
                "dry_run": self.dry_run,
                **self.terms,
            },
        )
        preview = self.client.get(f"/scanner/api/rules/{rule['id']}/preview")
        self._note(f"Rule {rule['name']!r}: today it would flag {preview['flagged']} of {preview['seen']} seats.")
        self.client.post(f"/scanner/api/rules/{rule['id']}/activate")
        return str(rule["id"])

    def ask_for_scan(self, rule: str) -> str:
        """Queue a scan; return its id."""
        return str(self.client.post("/scanner/api/scans", {"rule_id": rule, "dry_run": False})["id"])

    def finish_scan(self, scan_id: str) -> dict[str, Any]:
        """Wait for a scan's end and return it.

        Raises:
            StoryStuck: the scan did not finish.
        """
        scan = waiting.for_scan(
            self.client, scan_id, on_change=lambda now: self._progress(now["seen"], now["expected"])
        )
        if scan["status"] != "finished":
            raise StoryStuck(f"the scan ended as {scan['status']}: {scan['reason']}")
        alone = sum(scan["skipped_by_check"].values())
        self._note(f"Scanned {scan['seen']} seats: {scan['flagged']} flagged, {alone} left alone by a safety check.")
        return scan

    def wait_until_asked(self, flagged: int) -> list[dict[str, Any]]:
        """Wait until every case's approver was asked, or a person called; return the cases that wait for an answer."""
        self.wait_for(
            "the managers to be asked",
            lambda: self._count("awaiting_decision") + self._count("attention") == flagged,
            of=flagged,
            done=lambda: self._count("awaiting_decision") + self._count("attention"),
        )
        asked = self.cases("awaiting_decision")
        self._note(f"Asked {len(asked)} managers by mail; {self._count('attention')} cases need a person first.")
        return asked

    def share_out(self, asked: Sequence[dict[str, Any]]) -> tuple[list[Any], list[Any], list[Any]]:
        """Return who is kept (2 of 10), who is revoked (5 of 10), and for whom nobody answers."""
        by_turn: dict[str, list[Any]] = {"keep": [], "revoke": [], "silent": []}
        for turn, case in enumerate(asked):
            answer = "keep" if turn % 10 < 2 else "revoke" if turn % 10 < 7 else "silent"
            by_turn[answer].append(case)
        return by_turn["keep"], by_turn["revoke"], by_turn["silent"]

    def come_back(self, cases: Sequence[dict[str, Any]]) -> None:
        """Let holders sign in to the org, before anybody decided."""
        for case in cases:
            action = {"action": "log_in", "user_id": case["seat"]["holder"]["id"], "channel": "ui"}
            self._sandbox.post("/sandbox/api/people", json=action).raise_for_status()

    def decide(self, cases: Sequence[dict[str, Any]], choice: str, reason: str) -> None:
        """Let each case's manager open the mail, follow the link and send the form."""
        links = self._links("ask", cases, holds=f"choice={choice}")
        for number, case in enumerate(cases, 1):
            answer = self._reader.answer(links[case["id"], "manager"], choice=choice, justification=reason)
            if answer.is_error and not (self._stubborn and answer.status_code in ANSWERED):
                raise StoryStuck(f"the decision on case {case['id']} was answered with {answer.status_code}")
            self._progress(number, len(cases))
        self._note(f"{len(cases)} managers decided to {choice}.")

    def appeal(self, cases: Sequence[dict[str, Any]]) -> None:
        """Let holders, and where a holder has no address managers, ask for the account back."""
        ids = {case["id"] for case in cases}
        self.wait_for(
            "the appeal links to be mailed", lambda: {mail["case_id"] for mail in self._mails("frozen", cases)} == ids
        )
        links = self._links("frozen", cases)
        for case in cases:
            link = links.get((case["id"], "holder")) or links[case["id"], "manager"]
            answer = self._reader.answer(link, justification="I need it for the quarter's close.")
            if answer.is_error and not (self._stubborn and answer.status_code in ANSWERED):
                raise StoryStuck(f"the appeal in case {case['id']} was answered with {answer.status_code}")
        self._note(f"{len(cases)} holders appealed with one click.")

    def reactivate(self, cases: Sequence[dict[str, Any]]) -> None:
        """Let an operator give seats back."""
        for case in cases:
            self.client.post(f"/lifecycle/api/cases/{case['id']}/reactivate", {"reason": "Returned to the team."})

    def let_time_pass(self, days: int, why: str) -> None:
        """Move everybody's clock."""
        self.clock.advance(timedelta(days=days))
        self._note(f"{days} days pass: {why}.")

    def wait_until_booked(self) -> None:
        """Wait until savings has heard of every reclaimed and reactivated seat."""
        life = self.client.get("/lifecycle/api/summary")
        expected = 0 if self.dry_run else life["reclaimed"] - life["reactivated"]

        def booked() -> bool:
            report = self.client.get("/savings/api/report")
            freed = (
                sum(figures["seats_freed"] for figures in report["figures"]) + report["without_price"]["seats_freed"]
            )
            return bool(freed == expected)

        self.wait_for("the savings to be booked", booked)

    # What came of it.

    def outcome(self) -> Outcome:
        """Return the services' figures, and how they differ from the org's own write log."""
        scan = self.client.get("/scanner/api/summary")
        life = self.client.get("/lifecycle/api/summary")
        report = self.client.get("/savings/api/report")
        audit = self.client.get("/lifecycle/api/audit/verify")
        figures = {
            "flagged": scan["flagged"],
            "skipped_by_check": scan["skipped_by_check"],
            "decided": life["decided"],
            "frozen": life["frozen"],
            "appealed": life["appealed"],
            "reclaimed": life["reclaimed"],
            "records_transferred": life["records_transferred"],
            "reactivated": life["reactivated"],
            "savings": _savings(report),
            "audit": {"entries": audit["entries"], "verified": audit["verified"]},
            "cases": life["cases"],
        }
        return Outcome(figures, self._differences(figures))

    def _differences(self, figures: Mapping[str, Any]) -> list[str]:
        written = self.writes()
        freezes = [each for each in written if each["field"] == "IsFrozen" and each["after"] is True]
        ends = [each for each in written if each["field"] == "IsActive" and each["after"] is False]
        returns = [each for each in written if each["field"] == "IsActive" and each["after"] is True]
        moved = [each for each in written if each["field"] == "OwnerId" and each["before"] != each["after"]]
        live = not self.dry_run
        pairs = {
            "frozen": (figures["frozen"] if live else 0, len(freezes)),
            "reclaimed": (figures["reclaimed"] if live else 0, len(ends)),
            "reactivated": (figures["reactivated"] if live else 0, len(returns)),
            "records_transferred": (figures["records_transferred"] if live else 0, len(moved)),
        }
        return [
            f"{name}: the services say {ours}, the org's write log {theirs}"
            for name, (ours, theirs) in pairs.items()
            if ours != theirs
        ]

    def writes(self) -> list[dict[str, Any]]:
        """Return the org's own log of what was written over its API."""
        found: list[dict[str, Any]] = self._sandbox.get("/sandbox/api/write-log").raise_for_status().json()
        return found

    def cases(self, *states: str) -> list[dict[str, Any]]:
        """Return the cases in these states, ordered by the holder's id."""
        found: list[dict[str, Any]] = []
        after = None
        while True:
            page = self.client.get("/lifecycle/api/cases", state=list(states), limit=1000, after=after)
            found.extend(page["cases"])
            after = page["next"]
            if after is None:
                return sorted(found, key=lambda case: str(case["seat"]["holder"]["id"]))

    def _count(self, *states: str) -> int:
        counts = self.client.get("/lifecycle/api/summary")["cases"]
        return sum(counts.get(state, 0) for state in states)

    def wait_for(
        self,
        what: str,
        arrived: Callable[[], bool],
        *,
        of: int = 0,
        done: Callable[[], int] = lambda: 0,
    ) -> None:
        """Wait until a condition holds.

        Raises:
            StoryStuck: it did not, in time.
        """
        deadline = time.monotonic() + self._patience
        while not arrived():
            if time.monotonic() > deadline:
                counts = self.client.get("/lifecycle/api/summary")["cases"]
                raise StoryStuck(f"waited {self._patience:.0f} s for {what}; the cases stand at {counts}")
            if of:
                self._progress(done(), of)
            time.sleep(0.1)

    def _mails(self, kind: str, cases: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the mails of a kind that approvals has sent in these cases, each with its case's id."""
        return [
            {**mail, "case_id": case["id"]}
            for case in cases
            for mail in self.client.get(f"/approvals/api/requests/{case['id']}")["mails"]
            if mail["kind"] == kind and mail["status"] == "sent"
        ]

    def _links(self, kind: str, cases: Sequence[dict[str, Any]], *, holds: str = "") -> dict[tuple[str, str], str]:
        """Return (case, audience) → the link in that mail which holds a text."""
        by_id = {str(message["message_id"]).strip("<>").split("@")[0]: message for message in self._mailbox.messages()}
        links: dict[tuple[str, str], str] = {}
        for mail in self._mails(kind, cases):
            for link in by_id[mail["id"]]["links"]:
                if "/approvals/d/" in link and holds in link:
                    links.setdefault((mail["case_id"], mail["audience"]), link)
        return links


def _savings(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the report's figures in the one currency of the story."""
    if not report["figures"]:
        return {"annualized_run_rate": "0.00", "year_to_date": "0.00", "currency": None}
    (figures,) = report["figures"]
    return {name: figures[name] for name in ("annualized_run_rate", "year_to_date", "currency")}
