"""The outside ledger: what people did, against what the org and its mailbox say was done.

It reads the simulated org's own write log, its records and its mailbox. Our services are asked only for what they
claim, to find where their claims differ from it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

import httpx

from tests.rig.history import CHEAPER, NEED_THE_FULL_LICENCE, History
from tests.rig.rig import Rig


@dataclass(frozen=True, slots=True)
class Written:
    """What must have been written of one user, in order; `profile` has the names of profiles, None for the own one."""

    frozen: Sequence[bool] = ()
    active: Sequence[bool] = ()
    profile: Sequence[str | None] = ()


NOTHING: Final = Written()
EXPECTED: Final[Mapping[str, Written]] = {
    "restored": Written(frozen=[True, False]),
    "reclaimed": Written(frozen=[True], active=[False]),
    "reactivated": Written(frozen=[True, False], active=[False, True]),
}
"""What each end of a case takes; any other takes nothing."""

DOWNGRADED: Final = {
    **EXPECTED,
    "reclaimed": Written(frozen=[True, False], profile=[CHEAPER["downgrade_profile"]]),
    "reactivated": Written(frozen=[True, False], profile=[CHEAPER["downgrade_profile"], None]),
}
"""The same where the rule moves holders to a cheaper licence."""

FREED: Final = ("reclaimed", "reactivated")

_ASSIGNMENTS: Final = ("PermissionSetAssignment", "PermissionSetLicenseAssign")

_OPEN: Final = {
    "Opportunity": "IsClosed = false",
    "Case": "IsClosed = false",
    "Lead": "IsConverted = false",
}


@dataclass(slots=True)
class Ledger:
    """The accounts of all histories of one rig; `owners` are those of the open records before the present one."""

    rig: Rig
    seats: int = 0
    a_year: Decimal = Decimal(0)
    idle_writes: int = 0
    mails_again: int = 0
    owners: dict[str, str] = field(default_factory=dict)

    def begin(self) -> None:
        """Note who owns which open record, before a history begins."""
        self.owners = self._open_records()

    def judge(self, history: History) -> list[str]:
        """Return everything that is not as people decided; empty is as it must be."""
        unrest = self.rig.come_to_rest()
        wrong = [f"stuck: {what} still holds {number}" for what, number in unrest.items()]
        wrong += [f"parked: {message}" for message in history.parked()]
        cases = {case["seat"]["holder"]["id"]: case for case in history.cases()}
        wrong += self._ends(history, cases)
        wrong += self._writes(history, cases)
        wrong += self._mails(history, cases)
        wrong += self._savings(history, cases)
        audit = history.client.get("/lifecycle/api/audit/verify")
        if not audit["verified"]:
            wrong.append(f"audit: {audit['fault']}")
        return wrong

    def _ends(self, history: History, cases: Mapping[str, Any]) -> list[str]:
        wrong = []
        for holder in sorted({*history.ends, *cases}):
            must, state = history.ends.get(holder), cases.get(holder, {}).get("state")
            if must != state:
                wrong.append(f"lost: {holder} is {state}, and by what people did must be {must}")
        return wrong

    def _writes(self, history: History, cases: Mapping[str, Any]) -> list[str]:
        users = {each["id"]: each for each in self.rig.sandbox("GET", "/users")}
        holder_of = {each["login_id"]: each["id"] for each in users.values()} | {each: each for each in users}
        changes: dict[tuple[str, str], list[Any]] = defaultdict(list)
        moves: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for each in history.writes():
            if each["before"] == each["after"]:
                self.idle_writes += 1
            elif each["object"] in _ASSIGNMENTS:
                continue  # judged by what their users have in the end
            elif each["field"] == "OwnerId":
                moves[each["id"]].append((each["before"], each["after"]))
            else:
                changes[holder_of[each["id"]], each["field"]].append(each["after"])
        everybody = [*history.users_before.values(), *users.values()]
        names = {each["profile_id"]: each["profile"] for each in everybody}
        wrong = []
        for holder in sorted({*history.ends, *(user for user, _ in changes)}):
            end = history.ends.get(holder, "never flagged")
            must = (DOWNGRADED if history.terms else EXPECTED).get(end, NOTHING)
            before, after = history.users_before[holder], users[holder]
            profiles = [names.get(each, each) for each in changes.get((holder, "ProfileId"), [])]
            for name, written, expected in (
                ("IsFrozen", changes.get((holder, "IsFrozen"), []), [*must.frozen]),
                ("IsActive", changes.get((holder, "IsActive"), []), [*must.active]),
                ("Profile", profiles, [name or before["profile"] for name in must.profile]),
            ):
                if written != expected:
                    wrong.append(f"{holder} is {end}: {name} was written {written}, and must be {expected}")
            gone = NEED_THE_FULL_LICENCE if history.terms and end == "reclaimed" else ()
            for what in ("permission_sets", "permission_set_licences"):
                left = [name for name in before[what] if name not in gone]
                if after[what] != left:
                    wrong.append(f"{holder} is {end}: has {after[what]} of its {what}, and must have {left}")
        return wrong + self._records(history, cases, users, moves)

    def _records(
        self,
        history: History,
        cases: Mapping[str, Any],
        users: Mapping[str, Any],
        moves: Mapping[str, list[tuple[str, str]]],
    ) -> list[str]:
        wrong = []
        moved_from: Counter[str] = Counter()
        for record in sorted({*self.owners, *moves}):
            owner = self.owners.get(record, "")
            expected = []
            if history.ends.get(owner) in FREED:
                expected = [(owner, users[owner]["manager_id"])]
                moved_from[owner] += 1
            if moves.get(record, []) != expected:
                wrong.append(f"record {record} went {moves.get(record, [])}, and must go {expected}")
        for holder, case in cases.items():
            if history.ends.get(holder) in FREED and case["records_transferred"] != moved_from[holder]:
                wrong.append(f"{holder}: we count {case['records_transferred']} records, the org {moved_from[holder]}")
        left = Counter(self._open_records().values())
        wrong += [f"{holder} still owns {left[holder]} open records" for holder in moved_from if left[holder]]
        return wrong

    def _mails(self, history: History, cases: Mapping[str, Any]) -> list[str]:
        messages = self.rig.sandbox("GET", "/mailbox/messages", params={"limit": 100_000})
        arrived = Counter(str(each["message_id"]).strip("<>").split("@")[0] for each in messages)
        self.mails_again += sum(arrived.values()) - len(arrived)
        wrong = []
        for holder, case in cases.items():
            mails = history.client.get(f"/approvals/api/requests/{case['id']}")["mails"]
            lost = [mail["kind"] for mail in mails if mail["status"] == "sent" and mail["id"] not in arrived]
            wrong += [f"{holder}: the {kind} mail is said to be sent, and is in no mailbox" for kind in lost]
            kinds = Counter((mail["kind"], mail["audience"]) for mail in mails)
            wrong += [f"{holder}: {number} mails of {kind}" for kind, number in kinds.items() if number > 1]
            if history.ends.get(holder) != "attention" and ("ask", "manager") not in kinds:
                wrong.append(f"{holder}: nobody was asked")
        return wrong

    def _savings(self, history: History, cases: Mapping[str, Any]) -> list[str]:
        freed = [case for holder, case in cases.items() if history.ends.get(holder) == "reclaimed"]
        self.seats += len(freed)
        prices = history.client.get(f"/scanner/api/connections/{history.connection_id}")["prices"]
        instead = Decimal(prices[CHEAPER["downgrade_product"]]["amount"]) if history.terms else Decimal(0)
        self.a_year += sum((12 * (Decimal(case["seat"]["price"]["amount"]) - instead) for case in freed), Decimal(0))
        report = history.client.get("/savings/api/report")
        seats = sum(each["seats_freed"] for each in report["figures"])
        money = sum((Decimal(each["annualized_run_rate"]) for each in report["figures"]), Decimal(0))
        wrong = []
        if (seats, money) != (self.seats, self.a_year):
            wrong.append(f"savings: {seats} seats and {money} a year, and must be {self.seats} and {self.a_year}")
        if not history.client.get("/savings/api/verify")["ok"]:
            wrong.append("savings: the tables are not what the log gives")
        return wrong

    def _open_records(self) -> dict[str, str]:
        """Return the owner of every open record, asked of the org itself."""
        with httpx.Client(base_url=self.rig.sandbox_url, timeout=60) as http:
            app = {"client_id": "reclaim-sandbox", "client_secret": "sandbox-secret"}
            answer = http.post("/services/oauth2/token", data={"grant_type": "client_credentials", **app})
            http.headers["Authorization"] = f"Bearer {answer.raise_for_status().json()['access_token']}"
            owners = {}
            for kind, condition in _OPEN.items():
                path, asked = "/services/data/v62.0/query", {"q": f"SELECT Id, OwnerId FROM {kind} WHERE {condition}"}
                while path:
                    page = http.get(path, params=asked).raise_for_status().json()
                    owners |= {row["Id"]: row["OwnerId"] for row in page["records"]}
                    path, asked = page.get("nextRecordsUrl", ""), {}
        return owners
