"""A small history: one org from the scan to the saving, with people who answer their mail, or do not.

It remembers what its people did, and so how each case must end; that is what the ledger goes by.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final

from reclaim.cli.story import BUSY, DECISION_DAYS, GRACE_DAYS, Story, StoryStuck
from reclaim.common.contracts import SERVICES
from tests.rig.rig import Rig

CHEAPER: Final = {
    "reclaim_by": "downgrade",
    "downgrade_product": "AUL",
    "downgrade_name": "Salesforce Platform",
    "downgrade_profile": "Standard Platform User",
}
"""Terms of a rule that moves holders to a cheaper licence of the simulated org."""

NEED_THE_FULL_LICENCE: Final = ("Forecasting", "SalesConsoleUser")
"""What a user of the simulated org may have that the cheaper licence does not carry."""

PATIENCE: Final = 300.0
"""Seconds for which people and operators try again, and that a step may take."""


class History(Story):
    """A story of its own org, connection and rule, in a world that has had others before.

    `terms` are those of the rule that differ from a story's.
    """

    def __init__(self, rig: Rig, number: int, *, users: int, terms: Mapping[str, Any]) -> None:
        rig.sandbox("POST", "/reset", json={"users": users, "seed": number})
        if terms:
            idle = [user["id"] for user in rig.sandbox("GET", "/users", params={"expect": "reclaimable"})]
            # The org has a licence of the add-on for one user in twenty.
            for name, holders in zip(NEED_THE_FULL_LICENCE, (idle, idle[:3]), strict=True):
                for holder in holders:
                    given = {"action": "assign", "user_id": holder, "values": {"name": name}}
                    rig.sandbox("POST", "/people", json=given)
        self.users_before = {user["id"]: user for user in rig.sandbox("GET", "/users")}
        self.number = number
        self.ends: dict[str, str] = {}
        self.connection_id = ""
        connection = {**rig.connection(), "name": f"Org {number}"}
        super().__init__(
            rig.client(patience=PATIENCE),
            rig.sandbox_url,
            rig.clock,
            connection=connection,
            rule_name=f"Idle seats {number}",
            terms=terms,
            stubborn=PATIENCE,
            patience=PATIENCE,
        )

    def live(self, lay_out: Callable[[], None], *, owners: Collection[str], answered: bool = True) -> None:
        """Live through it; `lay_out` is called when it has begun. Without `answered` nobody answers any mail.

        The seats of `owners`, who have open records, are revoked and nobody appeals: there is something to hand over.

        Raises:
            StoryStuck: a step did not end in time.
        """
        self.connection_id = self.connect()
        rule = self.make_rule(self.connection_id)
        lay_out()
        scan = self.finish_scan(self.ask_for_scan(rule))
        if len(self.client.get("/scanner/api/scans", rule_id=rule)) > 1:
            raise StoryStuck("one scan was asked for, and there is another")
        asked = self.wait_until_asked(scan["flagged"])
        self._must_end("attention", self.cases("attention"))
        owning = [case for case in asked if case["seat"]["holder"]["id"] in owners]
        others = [case for case in asked if case not in owning]
        kept, revoked, silent = self.share_out(others) if answered else ([], [], others)
        (revoked if answered else silent).extend(owning)
        silent.sort(key=lambda case: case in owning, reverse=True)
        self.come_back(silent[-1:])
        self.decide(kept, "keep", "Comes back from leave next week.")
        self.decide(revoked, "revoke", "")
        self._must_end("kept", kept)
        self._must_end("reclaimed", [*revoked, *silent[:-1]])
        self._must_end("cancelled", silent[-1:])
        self.wait_for("the revoked accounts to be frozen", lambda: self._count("frozen") == len(revoked))
        self.let_time_pass(DECISION_DAYS + 1, "nobody answers for the others")
        self.wait_for("the time-outs", lambda: not self._count("awaiting_decision", *BUSY))
        appealing = [case for case in self.cases("frozen") if case["seat"]["holder"]["id"] not in owners][2::8]
        self.appeal(appealing)
        self._must_end("restored", appealing)
        self.wait_for("the appeals to be granted", lambda: self._count("restored") == len(appealing))
        self.let_time_pass(GRACE_DAYS + 1, "grace ends without another appeal")
        self.wait_for("the seats to be reclaimed", lambda: not self._count("frozen", *BUSY))
        returning = self.cases("reclaimed")[:1]
        self.reactivate(returning)
        self._must_end("reactivated", returning)
        self.wait_for("the reactivation", lambda: self._count("reactivated") == len(returning))

    def _must_end(self, end: str, cases: Sequence[dict[str, Any]]) -> None:
        self.ends |= {case["seat"]["holder"]["id"]: end for case in cases}

    def cases(self, *states: str) -> list[dict[str, Any]]:
        """Return the cases of this history, ordered by the holder's id."""
        return [case for case in super().cases(*states) if case["seat"]["connection_id"] == self.connection_id]

    def _count(self, *states: str) -> int:
        return len(self.cases(*states))

    def close(self) -> None:
        """Give back sockets."""
        super().close()
        self.client.close()

    def parked(self) -> list[dict[str, Any]]:
        """Return what any service has given up on."""
        return [message for service in SERVICES for message in self.client.get(f"/{service}/api/parked")["parked"]]
