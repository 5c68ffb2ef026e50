"""The scanner over a simulated Salesforce org, through the real connector: who is flagged, at what price in calls."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from reclaim.common import migrate
from reclaim.common.bus.inproc import InprocBus
from reclaim.common.clock import FixedClock
from reclaim.common.service import Running
from reclaim.connectors.checks import CHECK_NAMES
from reclaim.connectors.registry import Registry
from reclaim.sandbox.app import Sandbox
from reclaim.scanner import actions, store
from reclaim.scanner.ports import Deps
from reclaim.scanner.service import build
from reclaim.scanner.store import Rule, Run
from services.scanner.tests.scanner_world import FAST, NOON, TERMS, sealer_of, settings_for


@dataclass
class Real:
    """A scanner with the connectors of a running service, beside a simulated org."""

    running: Running
    sandbox: Sandbox
    deps: Deps

    async def scan(self, rule: Rule) -> Run:
        run = await actions.start_scan(self.deps, rule.id, dry_run=False, accept_population=False, asked_by="otto")
        job = next(job for job in self.running.service.jobs if job.name == "scan")
        while await job.run():
            pass
        async with self.deps.database.reading() as db:
            return await store.run(db, run.id)

    async def connect(self, **more: Any) -> Any:
        given = {
            "settings": {"instance_url": self.sandbox.url, "client_id": self.sandbox.client_id},
            "credentials": {"client_secret": self.sandbox.client_secret},
            **more,
        }
        return await actions.add_connection(self.deps, name="Simulated", kind="salesforce", **given)

    async def ready(self, **terms: Any) -> Rule:
        connection = await self.connect()
        rule = await actions.add_rule(self.deps, connection.id, {**TERMS, **terms}, author="otto")
        return await actions.activate_rule(self.deps, rule.id)

    async def flagged(self) -> set[str]:
        async with self.deps.database.reading() as db:
            return {candidate.holder.id for candidate in await store.candidates(db, limit=10_000)}


@pytest.fixture
async def real(tmp_path: Path) -> AsyncIterator[Real]:
    clock = FixedClock(NOON)
    settings = settings_for(tmp_path, None, outgoing_allowed_hosts=["127.0.0.1"])
    running = Running.start(partial(build, settings=FAST), "scanner", settings, clock, InprocBus())
    await migrate.upgrade(running.database.engine, running.service.migrations)
    deps = Deps(running.database, clock, sealer_of(running), Registry(clock, settings.outgoing()), FAST)
    async with Sandbox(clock=clock, users=300) as sandbox:
        yield Real(running, sandbox, deps)
    await running.close()
    await running.bus.close()


async def test_exactly_the_seats_that_nobody_needs_are_flagged(real: Real) -> None:
    run = await real.scan(await real.ready())
    expected = Counter(real.sandbox.org.expectations.values())
    reclaimable = {user for user, what in real.sandbox.org.expectations.items() if what == "reclaimable"}
    assert (run.status, run.missing) == ("finished", {})
    assert await real.flagged() == reclaimable
    assert run.flagged == len(reclaimable) > 0
    assert set(run.left_alone) <= set(CHECK_NAMES)
    for check in set(CHECK_NAMES) & set(expected) - {"new_account"}:
        assert run.left_alone[check] == expected[check], check
    assert real.sandbox.org.write_log == []


async def test_a_holder_without_a_manager_is_flagged_without_an_approver(real: Real) -> None:
    await real.scan(await real.ready())
    async with real.deps.database.reading() as db:
        found = {candidate.holder.id: candidate.approver for candidate in await store.candidates(db, limit=1000)}
    lonely = {user for user, traits in real.sandbox.org.traits.items() if "no_manager" in traits and user in found}
    unmailed = {user for user, traits in real.sandbox.org.traits.items() if "manager_without_mail" in traits}
    assert lonely
    assert unmailed
    assert all(found[user] is None for user in lonely)
    assert all(found[user] is not None and found[user].email is None for user in unmailed)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"credentials": {"client_secret": "wrong"}}, "secret"),
        ({"settings": {"instance_url": "http://127.0.0.1:9", "client_id": "x"}}, "127.0.0.1 cannot be reached"),
    ],
    ids=["wrong secret", "unreachable"],
)
async def test_a_connection_that_cannot_work_says_what_to_do(real: Real, given: dict[str, Any], says: str) -> None:
    with pytest.raises(actions.DoesNotWork) as caught:
        await real.connect(**given)
    assert says in str(caught.value).lower()


@pytest.mark.parametrize("fault", ["truncated_page", "empty_scan"])
async def test_a_list_of_users_that_ends_early_opens_nothing(real: Real, fault: str) -> None:
    rule = await real.ready()
    real.sandbox.world.faults.add(fault, object_name="User", times=None)
    run = await real.scan(rule)
    assert run.status in ("stopped", "failed", "waiting"), run
    assert run.reason
    assert run.remedy
    assert await real.flagged() == set()


async def test_a_bad_minute_of_the_org_is_survived(real: Real) -> None:
    rule = await real.ready()
    real.sandbox.world.faults.add("server_unavailable", object_name="User", times=1)
    real.sandbox.world.faults.add("session_expired", after=4, times=1)
    run = await real.scan(rule)
    assert run.status == "finished"
    assert run.flagged == Counter(real.sandbox.org.expectations.values())["reclaimable"]


async def test_a_scan_costs_a_few_calls_and_none_for_each_user(real: Real) -> None:
    rule = await real.ready()
    before = len(real.sandbox.org.request_log)
    await real.scan(rule)
    calls = len(real.sandbox.org.request_log) - before
    assert 0 < calls < 40, calls


async def test_a_group_that_a_filter_names_is_read_with_a_few_calls_more(real: Real) -> None:
    org = real.sandbox.org
    reclaimable = sorted(user for user, what in org.expectations.items() if what == "reclaimable")
    vip = org.insert("Group", Name="VIP", Type="Regular")
    for user in reclaimable[::2]:
        org.insert("GroupMember", GroupId=vip, UserOrGroupId=user)
    rule = await real.ready(filter="not (in_group(user, 'VIP'))")
    before = len(org.request_log)
    await real.scan(rule)
    assert await real.flagged() == set(reclaimable[1::2])
    assert len(org.request_log) - before < 43
