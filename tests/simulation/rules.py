"""What the rule of a history says, and what its org has to have for it.

Most rules are plain. The others free a seat by a cheaper licence or by a task for a person, count working days, know
holidays and hours, ask the holder first, or put a question again: in the place of what is plain, and not on top of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from random import Random
from typing import Any

from reclaim.connectors.fake import FakeUser
from tests.simulation.org import CHEAPER, INACTIVE_DAYS, PRODUCT, SimOrg

STANDARD, PLATFORM = "Standard User", "Standard Platform User"
"""The profile that assigns each licence."""
NEEDS_THE_SEAT = "sales-console"
"""A permission set that the cheaper licence cannot hold."""
ZONES = ("UTC", "America/New_York", "Europe/Berlin")
"""Both zones change their clocks in the month in which histories begin, on different days."""


def drawn(chance: Random, now: datetime, *, dry_run: bool) -> dict[str, Any]:
    """Return a rule as an operator enters it."""
    decision_days = chance.choice((2, 7))
    terms: dict[str, Any] = {
        "name": "Idle",
        "products": [PRODUCT],
        "inactive_days": INACTIVE_DAYS,
        "route": "email",
        "decision_days": decision_days,
        "on_timeout": chance.choice(("freeze", "freeze", "keep", "escalate")),
        "grace_days": chance.choice((3, 7)),
        "hand_over": chance.random() < 0.7,
        "dry_run": dry_run,
        "cooldown_days": chance.choice((0, 30)),
        "most_flagged_share": 100,
    }
    way = terms["reclaim_by"] = chance.choices(("deactivate", "downgrade", "task"), (13, 4, 3))[0]
    if way == "downgrade" or chance.random() < 0.1:
        terms |= {"downgrade_product": CHEAPER, "downgrade_profile": chance.choice((PLATFORM, ""))}
    if chance.random() < 0.35:
        terms |= _calendar(chance, now)
    match chance.randrange(12):
        case 0:
            terms |= {"ask_first": "holder", "holder_days": chance.choice((1, 3))}
        case 1:
            terms["remind_days"] = [1, 4] if decision_days > 4 else [1]
        case 2:
            terms["hand_over_to"] = "u-boss"
    return terms


def ask_on_a_desk(terms: dict[str, Any], chance: Random) -> None:
    """Let a rule ask by a ticket, alone or beside mail; then there is nobody to be asked first."""
    terms["route"] = chance.choice(("itsm", "itsm", "both"))
    for name in ("ask_first", "holder_days"):
        terms.pop(name, None)


def _calendar(chance: Random, now: datetime) -> dict[str, Any]:
    off = sorted({(now + timedelta(days=chance.randint(1, 25))).date() for _ in range(chance.randint(0, 3))})
    terms: dict[str, Any] = {
        "time_zone": chance.choice(ZONES),
        "days_off": [day.isoformat() for day in off],
        "grace_calendar": chance.choice(("business", "business", "calendar")),
        "no_reclaim_before_days_off": chance.random() < 0.5,
    }
    if chance.random() < 0.25:
        terms |= {"act_from": "08:00", "act_until": "18:00"}
    return terms


def told(terms: Mapping[str, Any]) -> list[str]:
    """Return what is not plain about a rule."""
    said = {
        "downgrade": terms["reclaim_by"] == "downgrade",
        "task": terms["reclaim_by"] == "task",
        "dry run": terms["dry_run"],
        "working days": terms.get("grace_calendar") == "business",
        "no reclaim before days off": terms.get("no_reclaim_before_days_off", False),
        "hours": "act_from" in terms,
        "holder first": "ask_first" in terms,
        "reminders": "remind_days" in terms,
        "named successor": "hand_over_to" in terms,
        "asks on a desk": terms["route"] != "email",
    }
    return [what for what, is_so in said.items() if is_so]


def equip(org: SimOrg, chance: Random) -> None:
    """Give an org the cheaper licence, and its users what their present one rests on."""
    org.licences[CHEAPER] = chance.choice((1, 20, 20))
    org.profiles = {STANDARD: PRODUCT, PLATFORM: CHEAPER}
    org.needs = {NEEDS_THE_SEAT: PRODUCT}
    for user in org.users.values():
        _dress(user, chance)


def _dress(user: FakeUser, chance: Random) -> None:
    user.profile = STANDARD
    user.permission_sets = chance.choice(([], ["mobile"], ["mobile", NEEDS_THE_SEAT], [NEEDS_THE_SEAT]))
    user.permission_set_licences = chance.choice(([], ["console"]))
