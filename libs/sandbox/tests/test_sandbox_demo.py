"""The demo org: each user has the one reason that was promised, judged by queries of this test alone."""

from __future__ import annotations

import time
import tracemalloc
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from reclaim.common.clock import FixedClock
from reclaim.sandbox.demo_org import EXEMPT_SET, SHARES, build_demo_org
from reclaim.sandbox.org import Org
from reclaim.sandbox.query import run_query


@pytest.fixture(scope="module")
def demo() -> Org:
    org = Org(FixedClock(datetime(2026, 3, 18, 12, 30, tzinfo=UTC)))
    build_demo_org(org, users=1_000)
    return org


def rows(org: Org, text: str) -> list[dict[str, Any]]:
    result = run_query(org, text)
    return [result.project(row, "62.0") for row in result.rows]


def ids(org: Org, field: str, rest: str) -> set[str]:
    return {row[field] for row in rows(org, f"SELECT {field} FROM {rest}")}


def judged(org: Org) -> dict[str, set[str]]:
    """Return the reasons that protect each idle full licence, found by asking the org."""
    standard = "IsActive = true AND UserType = 'Standard' AND Profile.UserLicense.Name = 'Salesforce'"
    base = ids(org, "Id", f"User WHERE {standard}")
    idle = ids(org, "Id", f"User WHERE {standard} AND (LastLoginDate < LAST_N_DAYS:90 OR LastLoginDate = null)")
    reasons: dict[str, set[str]] = {user: set() for user in base}

    def mark(found: set[str], reason: str) -> None:
        for user in found & base:
            reasons[user].add(reason)

    mark(base - idle, "active")
    mark(ids(org, "Id", "User WHERE CreatedDate = LAST_N_DAYS:30"), "new_account")
    mark(ids(org, "UserId", "UserLogin WHERE IsFrozen = false AND LastModifiedDate = LAST_N_DAYS:30"), "new_account")
    elsewhere = {
        row["UserId"]
        for row in rows(
            org,
            "SELECT UserId, Status FROM LoginHistory WHERE LoginType != 'Application' AND LoginTime = LAST_N_DAYS:90",
        )
        if row["Status"] == "Success"
    }
    mark((elsewhere | ids(org, "UserId", "OauthToken WHERE LastUsedDate = LAST_N_DAYS:90")) & idle, "active_elsewhere")
    sets = "PermissionSetAssignment WHERE PermissionSet"
    mark(ids(org, "AssigneeId", f"{sets}.PermissionsApiUserOnly = true"), "integration_user")
    admins = ids(org, "AssigneeId", f"{sets}.PermissionsManageUsers = true") | ids(
        org, "AssigneeId", f"{sets}.PermissionsModifyAllData = true"
    )
    mark(admins & idle, "administrator")
    mark(ids(org, "AssigneeId", f"{sets}.Name = '{EXEMPT_SET}'"), "exempt")
    mark(ids(org, "UserId", "UserLogin WHERE IsFrozen = true"), "already_frozen")
    jobs = (
        ids(org, "OwnerId", "CronTrigger")
        | ids(org, "CreatedById", "AsyncApexJob")
        | ids(org, "RunningUserId", "Dashboard")
    )
    mark(jobs, "scheduled_jobs")
    waiting = ids(org, "ActorId", "ProcessInstanceWorkitem") | ids(
        org, "DelegatedApproverId", "User WHERE DelegatedApproverId != null AND IsActive = true"
    )
    mark(waiting, "pending_approvals")
    mark(ids(org, "UserOrGroupId", "GroupMember WHERE Group.Type = 'Queue'"), "queue_member")
    open_business = (
        ids(org, "OwnerId", "Opportunity WHERE IsClosed = false")
        | ids(org, "OwnerId", "Case WHERE IsClosed = false")
        | ids(org, "OwnerId", "Lead WHERE IsConverted = false")
    )
    frozen = ids(org, "UserId", "UserLogin WHERE IsFrozen = true")
    for row in rows(org, "SELECT Id, ManagerId, Manager.IsActive FROM User WHERE IsActive = true"):
        fit = row["ManagerId"] and row["Manager"]["IsActive"] and row["ManagerId"] not in frozen
        if not fit and row["Id"] in open_business & idle:
            mark({row["Id"]}, "no_successor")
    return reasons


def test_every_user_has_the_one_reason_that_was_promised(demo: Org) -> None:
    found = judged(demo)
    assert len(found) == 1_000
    for user, reasons in found.items():
        expected = demo.expectations[user]
        assert reasons == (set() if expected == "reclaimable" else {expected}), (user, demo.traits.get(user))
    others = {user for user, expectation in demo.expectations.items() if expectation in {"other_licence", "inactive"}}
    assert others.isdisjoint(found)
    assert len(others) + len(found) == len(demo.tables["User"].rows)


def test_the_mix(demo: Org) -> None:
    counts = Counter(demo.expectations.values())
    assert counts["reclaimable"] == 130
    assert set(SHARES) | {"active", "other_licence", "inactive"} == set(counts)
    traits = Counter(trait for user in demo.traits for trait in demo.traits[user])
    for trait in (
        "no_manager",
        "manager_without_mail",
        "never_logged_in",
        "open_business",
        "closed_business",
        "failed_login",
        "manager_inactive",
        "manager_frozen",
        "delegated_approver",
        "approver",
        "dashboard",
        "cron",
        "batch",
        "default_case_owner",
        "default_lead_owner",
        "hierarchy_field",
        "api",
        "sso",
        "mobile",
        "token",
        "partner",
        "created",
        "thawed",
    ):
        assert traits[trait] >= 1, trait


def test_whom_to_ask(demo: Org) -> None:
    without, mailless = [], []
    for user, expectation in demo.expectations.items():
        if expectation != "reclaimable":
            continue
        manager = demo.get("User", user, "ManagerId")
        if manager is None:
            without.append(user)
        elif demo.get("User", manager, "Email") is None:
            mailless.append(user)
        else:
            assert demo.expectations[manager] == "active"
            assert demo.get("User", manager, "IsActive")
    assert [demo.traits[user] for user in without + mailless] == [{"no_manager"}, {"manager_without_mail"}]


def test_the_same_seed_gives_the_same_org(clock: FixedClock) -> None:
    def snapshot(seed: int) -> Any:
        org = Org(clock)
        build_demo_org(org, users=60, seed=seed)
        return {name: list(table.rows.values()) for name, table in org.tables.items()}, org.expectations

    assert snapshot(7) == snapshot(7)
    assert snapshot(7) != snapshot(8)


@pytest.mark.parametrize("users", [50, 75, 213])
def test_small_orgs_show_every_reason_too(clock: FixedClock, users: int) -> None:
    org = Org(clock)
    build_demo_org(org, users=users)
    found = judged(org)
    assert len(found) == users
    assert set(SHARES) <= set(org.expectations.values())
    for user, reasons in found.items():
        expected = org.expectations[user]
        assert reasons == (set() if expected == "reclaimable" else {expected})


def test_too_small_an_org_is_refused(clock: FixedClock) -> None:
    with pytest.raises(ValueError, match="at least 50"):
        build_demo_org(Org(clock), users=49)


def test_seeding_is_not_in_the_logs(demo: Org) -> None:
    assert demo.write_log == []
    assert demo.person_log == []


def test_the_reasons_outlast_a_grace_period(clock: FixedClock) -> None:
    """Four weeks later nobody has become idle who was not, so that a demo may turn the clock."""
    org = Org(clock)
    build_demo_org(org, users=300)
    clock.advance(timedelta(days=28))
    idle = ids(
        org,
        "Id",
        "User WHERE IsActive = true AND Profile.UserLicense.Name = 'Salesforce' "
        "AND (LastLoginDate < LAST_N_DAYS:90 OR LastLoginDate = null)",
    )
    assert not {user for user in idle if org.expectations[user] == "active"}


def test_everybody_reclaimable_can_be_deactivated(clock: FixedClock) -> None:
    org = Org(clock)
    build_demo_org(org, users=300)
    reclaimable = [user for user, expectation in org.expectations.items() if expectation == "reclaimable"]
    with org.transaction(caller="a", api="collections") as transaction:
        for user in reclaimable:
            transaction.update("User", user, {"IsActive": False})
    assert len(org.write_log) == len(reclaimable)


def test_a_large_org_is_built_fast_and_small(clock: FixedClock) -> None:
    org = Org(clock)
    started = time.process_time()
    build_demo_org(org, users=5_000)
    assert time.process_time() - started < 3
    org = Org(clock)
    tracemalloc.start()
    build_demo_org(org, users=2_000)
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert size / 2_000 < 5_000  # bytes a user, all records of it included
