"""The ledger is tried itself: each thing that must never happen is put into an org's log, and has to be found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from tests.rig.history import CHEAPER
from tests.rig.ledger import Ledger

ENDS = {"ann": "reclaimed", "bob": "kept", "eve": "restored", "joe": "reactivated"}


def write(row: str, field: str, before: Any, after: Any, kind: str = "") -> dict[str, Any]:
    return {"id": row, "field": field, "before": before, "after": after, "object": kind}


def sound() -> list[dict[str, Any]]:
    """Return what an org has logged when everything went as people decided."""
    return [
        *(write(f"login-{name}", "IsFrozen", False, True) for name in ("ann", "eve", "joe")),
        write("login-eve", "IsFrozen", True, False),
        write("case-1", "OwnerId", "ann", "max"),
        write("ann", "IsActive", True, False),
        write("joe", "IsActive", True, False),
        write("joe", "IsActive", False, True),
        write("login-joe", "IsFrozen", True, False),
    ]


def downgraded() -> list[dict[str, Any]]:
    """Return the same of an org in which the rule moves holders to a cheaper licence."""
    return [
        *(write(f"login-{name}", "IsFrozen", False, True) for name in ("ann", "eve", "joe")),
        write("login-eve", "IsFrozen", True, False),
        write("case-1", "OwnerId", "ann", "max"),
        write("assignment-1", "IsDeleted", False, True, "PermissionSetAssignment"),
        *(write(name, "ProfileId", "sales", "platform") for name in ("ann", "joe")),
        *(write(f"login-{name}", "IsFrozen", True, False) for name in ("ann", "joe")),
        write("joe", "ProfileId", "platform", "sales"),
    ]


class LogOnly(Ledger):
    """A ledger of an org that is only a log."""

    left: dict[str, str]

    def _open_records(self) -> dict[str, str]:
        return self.left


def user(name: str, has: Sequence[str], profile: str = "sales") -> dict[str, Any]:
    names = {"sales": "Sales User", "platform": "Standard Platform User"}
    return {
        "id": name,
        "login_id": f"login-{name}",
        "manager_id": "max",
        "profile_id": profile,
        "profile": names[profile],
        "permission_sets": list(has),
        "permission_set_licences": [],
    }


def judge(
    log: list[dict[str, Any]],
    *,
    left: dict[str, str] | None = None,
    counted: int = 1,
    cheaper: bool = False,
    has: Sequence[str] = (),
) -> list[str]:
    """Return what a ledger finds in a log; `has` are the permission sets that Ann has in the end."""
    before = [user(name, ["Forecasting", "Newsletter"] if name == "ann" else []) for name in (*ENDS, "max")]
    after = [
        user(name, has or ["Forecasting", "Newsletter"], "platform" if cheaper else "sales") if name == "ann" else one
        for name, one in zip((*ENDS, "max"), before, strict=True)
    ]
    ledger = LogOnly(SimpleNamespace(sandbox=lambda *_: after), owners={"case-1": "ann", "case-2": "bob"})  # type: ignore[arg-type]
    ledger.left = left or {"case-1": "max", "case-2": "bob"}
    history = SimpleNamespace(
        ends=ENDS,
        writes=lambda: log,
        terms=CHEAPER if cheaper else {},
        users_before={each["id"]: each for each in before},
    )
    cases = {name: {"records_transferred": counted if name == "ann" else 0} for name in ENDS}
    return ledger._writes(history, cases)  # type: ignore[arg-type]


def test_what_was_decided_and_done_is_in_order() -> None:
    assert judge(sound()) == []
    again = write("login-ann", "IsFrozen", True, True)
    assert judge([*sound(), again]) == [], "a write that changes nothing is no second effect"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda log: [*log, write("login-bob", "IsFrozen", False, True)], "bob is kept: IsFrozen was written [True]"),
        (lambda log: [*log, write("login-ann", "IsFrozen", False, True)], "IsFrozen was written [True, True]"),
        (lambda log: [each for each in log if each["id"] != "ann"], "ann is reclaimed: IsActive was written []"),
        (lambda log: [*log, write("max", "IsActive", True, False)], "max is never flagged: IsActive was written"),
        (lambda log: log[:-1], "joe is reactivated: IsFrozen was written [True], and must be [True, False]"),
        (lambda log: [*log, write("case-2", "OwnerId", "bob", "max")], "record case-2 went"),
        (lambda log: [*log, write("case-1", "OwnerId", "max", "bob")], "record case-1 went"),
        (lambda log: [each for each in log if each["id"] != "case-1"], "record case-1 went []"),
    ],
)
def test_what_must_never_happen_is_found(change: Callable[[list[Any]], list[Any]], said: str) -> None:
    assert any(said in wrong for wrong in judge(change(sound())))


def test_a_record_that_is_left_and_one_that_is_miscounted_are_found() -> None:
    assert judge(sound(), left={"case-1": "ann"}) == ["ann still owns 1 open records"]
    assert judge(sound(), counted=2) == ["ann: we count 2 records, the org 1"]


def test_a_downgrade_that_took_what_it_must_is_in_order() -> None:
    assert judge(downgraded(), cheaper=True, has=["Newsletter"]) == []


@pytest.mark.parametrize(
    ("change", "has", "said"),
    [
        (lambda log: log, ["Forecasting", "Newsletter"], "must have ['Newsletter']"),
        (lambda log: log, ["Nothing"], "must have ['Newsletter']"),
        (lambda log: log[:-1], ["Newsletter"], "joe is reactivated: Profile was written ['Standard Platform User']"),
        (lambda log: [*log, write("bob", "ProfileId", "sales", "platform")], ["Newsletter"], "bob is kept: Profile"),
        (lambda log: [*log, write("ann", "IsActive", True, False)], ["Newsletter"], "ann is reclaimed: IsActive"),
    ],
)
def test_what_a_downgrade_must_not_do_is_found(
    change: Callable[[list[Any]], list[Any]], has: list[str], said: str
) -> None:
    assert any(said in wrong for wrong in judge(change(downgraded()), cheaper=True, has=has))
