"""The Salesforce connector on the org's bad days, over real HTTP; judged by the org's own logs."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote_plus

import pytest
import pytest_asyncio
import requests
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from libs.connectors.tests.connectors_worlds import ENGAGED, Letting
from reclaim.common.clock import FixedClock
from reclaim.common.errors import Invalid, Transient
from reclaim.common.outgoing import Outgoing
from reclaim.connectors.checks import CHECK_NAMES, evaluate, is_unused, left_alone_by
from reclaim.connectors.errors import Busy, SignInRefused, Unreachable, WriteForbidden
from reclaim.connectors.ports import (
    FROZEN_BY_ANOTHER,
    ConnectionProfile,
    Done,
    Downgrade,
    HandedOver,
    Incomplete,
    Known,
    Refused,
    SeatRecord,
    Transfer,
    TryLater,
    Unknown,
)
from reclaim.connectors.salesforce import SalesforceActor, SalesforceReader, Tuning, open_actor, open_reader, soql
from reclaim.connectors.salesforce.errors import ApiLimit, NotReadable
from reclaim.connectors.salesforce.profile import read_profile
from reclaim.connectors.salesforce.refusals import UNKNOWN
from reclaim.connectors.salesforce.session import ReadSession, WriteSession, _Client
from reclaim.connectors.salesforce.soql import Query
from reclaim.sandbox.app import Sandbox
from reclaim.sandbox.demo_org import Base, build_base, build_demo_org
from reclaim.sandbox.faults import REFUSALS
from reclaim.sandbox.org import Org

pytestmark = pytest.mark.asyncio(loop_scope="module")

NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
HERE = Outgoing(["127.0.0.1"])
SINCE = NOW - timedelta(days=90)
QUICK = Tuning(
    attempts=4, wait_initial=0.001, wait_max=0.01, wait_jitter=0.001, connect_timeout=2, read_timeout=1, patience=20
)
PATIENT = replace(QUICK, connect_timeout=60, read_timeout=60, patience=100)


@dataclass
class Site:
    """A simulated org, and ways to open it."""

    clock: FixedClock
    org: Org
    base: Base
    sandbox: Sandbox
    opened: list[Any]

    def profile(self, credentials: dict[str, str] | None = None, **settings: str) -> ConnectionProfile:
        return ConnectionProfile(
            "c1",
            "Org",
            "salesforce",
            {"instance_url": self.sandbox.url, "client_id": self.sandbox.client_id, **settings},
            credentials or {"client_secret": self.sandbox.client_secret},
        )

    def reader(self, tuning: Tuning = QUICK, **settings: str) -> SalesforceReader:
        return self._keep(open_reader(self.profile(**settings), self.clock, tuning, outgoing=HERE))

    def actor(self, **settings: str) -> SalesforceActor:
        return self._keep(open_actor(self.profile(**settings), self.clock, QUICK, outgoing=HERE))

    def session(self, kind: type[Any] = ReadSession, tuning: Tuning = QUICK, **settings: str) -> Any:
        profile = self.profile(**settings)
        return self._keep(kind(read_profile(profile.settings, profile.credentials), self.clock, tuning, HERE))

    def _keep(self, opened: Any) -> Any:
        self.opened.append(opened)
        return opened

    def users(self, number: int, **values: Any) -> list[str]:
        made = len(self.org.tables["User"].rows)
        return [
            self.org.insert(
                "User",
                Username=f"user{each}@example.com",
                LastName=f"User {each}",
                Email=f"user{each}@example.com",
                ProfileId=self.base.profiles["Standard User"],
                CreatedDate=NOW - timedelta(days=400),
                LastLoginDate=NOW - timedelta(days=200),
                **values,
            )
            for each in range(made, made + number)
        ]

    def cases(self, owner: str, number: int) -> list[str]:
        return [self.org.insert("Case", Subject="Help", Status="New", OwnerId=owner) for _ in range(number)]

    def fault(self, kind: str, **more: Any) -> Any:
        return self.sandbox.world.faults.add(kind, **more)

    def calls(self, method: str | None = None, text: str = "") -> int:
        return sum(method in (None, each.method) and text in (each.query or each.path) for each in self.org.request_log)

    def writes(self) -> Counter[tuple[str, Any]]:
        return Counter((each.field, each.after) for each in self.org.write_log)

    def frozen(self, holder: str) -> bool:
        row = self.org.tables["UserLogin"].where("UserId", holder)[0]
        return bool(self.org.get("UserLogin", row[0], "IsFrozen"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox() -> AsyncIterator[Sandbox]:
    """One server for the module; each test gives it an org of its own."""
    async with Sandbox(clock=FixedClock(NOW), users=0) as sandbox:
        yield sandbox


@pytest_asyncio.fixture(loop_scope="module")
async def site(sandbox: Sandbox) -> AsyncIterator[Site]:
    clock = FixedClock(NOW)
    org = Org(clock)
    site = Site(clock, org, build_base(org, seats=10_000), sandbox, [])
    sandbox.world.salesforce.attach(org)
    sandbox.world.faults.clear()
    yield site
    for each in site.opened:
        await each.close()


async def seats(reader: SalesforceReader) -> list[SeatRecord]:
    return [seat async for page in reader.seats(["SFDC"]) for seat in page]


# Signing in.


async def test_a_wrong_secret_says_what_to_do(site: Site) -> None:
    reader = site._keep(open_reader(site.profile({"client_secret": "wrong"}), site.clock, QUICK, outgoing=HERE))
    with pytest.raises(SignInRefused, match="consumer key and secret"):
        await reader.licences()
    result, *rest = await reader.test()
    assert not result.ok
    assert "invalid_client" in result.detail
    assert "wrong" not in result.detail
    assert rest == []
    # A refusal is not repeated: that could lock the client out.
    assert site.calls("POST") == 2


async def test_a_wrong_secret_stops_an_action_for_a_person(site: Site) -> None:
    [holder] = site.users(1)
    actor = site._keep(open_actor(site.profile({"client_secret": "wrong"}), site.clock, QUICK, outgoing=HERE))
    result = (await actor.freeze([holder]))[holder]
    assert isinstance(result, Refused)
    assert result.code == "SIGN_IN_REFUSED"
    assert "credentials" in result.remedy


async def test_jwt_bearer(site: Site) -> None:
    key = rsa.generate_private_key(public_exponent=65_537, key_size=2048)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    site.sandbox.world.add_client("jwt-app", "unused", public)
    username = site.org.get("User", str(site.org.run_as), "Username")
    credentials = {"private_key": private}
    session = site._keep(
        open_reader(site.profile(credentials, client_id="jwt-app", username=username), site.clock, outgoing=HERE)
    )
    assert (await session.test())[0].ok
    stranger = site._keep(
        open_reader(
            site.profile(credentials, client_id="jwt-app", username="nobody@example.com"), site.clock, outgoing=HERE
        )
    )
    with pytest.raises(SignInRefused, match="pre-authorised"):
        await stranger.licences()


async def test_an_unreachable_org(site: Site) -> None:
    [holder] = site.users(1)
    profile = site.profile(instance_url="http://127.0.0.1:9")
    reader = site._keep(open_reader(profile, site.clock, QUICK, outgoing=HERE))
    with pytest.raises(Unreachable, match=r"127.0.0.1 cannot be reached: check instance_url") as caught:
        await reader.licences()
    assert isinstance(caught.value, Transient)
    assert not caught.value.unsure
    assert not (await reader.test())[0].ok
    actor = site._keep(open_actor(profile, site.clock, QUICK, outgoing=HERE))
    assert isinstance((await actor.deactivate([holder]))[holder], TryLater)


async def test_an_address_without_a_token_endpoint(site: Site) -> None:
    reader = site.reader(token_url=f"{site.sandbox.url}/mailbox/nothing")
    with pytest.raises(SignInRefused, match="no token endpoint"):
        await reader.licences()


async def test_an_expired_session_is_renewed_once_in_mid_page(site: Site) -> None:
    site.users(4_100)
    reader = site.reader()
    site.fault("session_expired", path_regex=r"/query/[^/]+$")
    found = await seats(reader)
    assert len(found) == len({seat.holder.id for seat in found}) == 4_100
    assert site.calls("POST") == 2


async def test_a_session_that_is_refused_again_is_an_error_not_a_loop(site: Site) -> None:
    site.fault("session_expired", times=None)
    with pytest.raises(SignInRefused, match="refuses the session it has just given"):
        await site.reader().licences()
    assert site.calls("GET") == 2
    assert site.calls("POST") == 2


async def test_many_calls_share_one_renewal(site: Site) -> None:
    reader = site.reader()
    await reader.licences()
    site.sandbox.world.salesforce.authority.end_all()
    await asyncio.gather(*(reader.licences() for _ in range(12)))
    assert site.calls("POST") == 2


async def test_a_write_survives_an_expired_session(site: Site) -> None:
    [holder] = site.users(1)
    actor = site.actor()
    site.fault("session_expired", method="PATCH")
    assert (await actor.freeze([holder]))[holder] == Done(changed=True, before={"IsFrozen": False})
    assert site.writes() == {("IsFrozen", True): 1}


# Reading.


@pytest.mark.parametrize("kind", ["server_unavailable", "query_timeout", "too_many_requests", "connection_lost"])
async def test_a_scan_outlives_what_passes(site: Site, kind: str) -> None:
    site.users(2_100)
    fault = site.fault(kind, object_name="User", times=2)
    more = site.fault(kind, path_regex=r"/query/[^/]+$", times=1)
    assert len(await seats(site.reader())) == 2_100
    assert (fault.fired, more.fired) == (2, 1)


async def test_what_does_not_pass_is_transient_and_says_so(site: Site) -> None:
    site.fault("server_unavailable", times=None)
    with pytest.raises(Busy, match=r"503 SERVER_UNAVAILABLE.*try again later"):
        await site.reader().licences()
    assert site.calls("GET") == QUICK.attempts


async def test_retry_after_is_waited_for_unless_it_is_too_long(site: Site) -> None:
    site.fault("too_many_requests", params={"retry_after": 1})
    started = asyncio.get_running_loop().time()
    await site.reader().licences()
    assert asyncio.get_running_loop().time() - started >= 1
    site.fault("too_many_requests", params={"retry_after": 3_600})
    with pytest.raises(Busy, match="in 3600 s"):
        await site.reader().licences()


async def test_an_answer_that_never_comes_ends_by_time_out(site: Site) -> None:
    site.fault("slow", params={"seconds": 3}, times=None)
    session = site.session(tuning=Tuning(attempts=1, read_timeout=0.2))
    with pytest.raises(Busy, match=r"did not answer in 0.2 s") as caught:
        await session.rows(Query("Id", "User", limit=1))
    assert caught.value.unsure


async def test_a_lost_place_goes_on_behind_the_last_seat(site: Site) -> None:
    expected = site.users(6_200)
    fault = site.fault("invalid_locator", after=1, times=2)
    pages = [page async for page in site.reader().seats(["SFDC"])]
    found = [seat.holder.id for page in pages for seat in page]
    assert fault.fired == 2
    assert found == expected


async def test_a_lost_place_in_a_reading_starts_it_again(site: Site) -> None:
    holders = site.users(2_500)
    for holder in holders:
        site.org.insert("OauthToken", UserId=holder, AppName="App", LastUsedDate=NOW, UseCount=1)
    site.fault("invalid_locator", object_name=None, times=1)
    survey = await site.reader().survey(None, since=SINCE)
    assert survey.last_seen_elsewhere == Known(dict.fromkeys(holders, NOW))


async def test_of_everybody_only_freezes_and_thaws_of_the_time_asked_for_are_read(site: Site) -> None:
    idle, frozen, thawed = site.users(3)
    for holder, changes in (
        (idle, {"LastModifiedDate": SINCE - timedelta(days=1)}),
        (frozen, {"IsFrozen": True, "LastModifiedDate": SINCE - timedelta(days=1)}),
        (thawed, {"LastModifiedDate": SINCE + timedelta(days=1)}),
    ):
        login = site.org.tables["UserLogin"].where("UserId", holder)[0]
        site.org.amend("UserLogin", login[0], **changes)
    survey = await site.reader().survey(None, since=SINCE)
    assert survey.frozen == Known(frozenset({frozen}))
    assert isinstance(survey.thawed_at, Known)
    assert thawed in survey.thawed_at.value
    assert idle not in survey.thawed_at.value


async def test_of_everybody_only_business_that_no_manager_can_take_over_is_counted(site: Site) -> None:
    boss, gone, frozen, led, orphan, left, stuck = site.users(7)
    site.org.amend("User", gone, IsActive=False)
    login = site.org.tables["UserLogin"].where("UserId", frozen)[0]
    site.org.amend("UserLogin", login[0], IsFrozen=True)
    for holder, manager in ((led, boss), (left, gone), (stuck, frozen)):
        site.org.amend("User", holder, ManagerId=manager)
    for holder in (led, orphan, left, stuck):
        site.cases(holder, 2)
    everybody = await site.reader().survey(None, since=SINCE)
    assert everybody.open_business == Known({orphan: 2, left: 2, stuck: 2})
    asked = await site.reader().survey([led, stuck], since=SINCE)
    assert asked.open_business == Known({led: 2, stuck: 2}), "of single holders it is always known"


async def test_a_place_that_is_always_lost_is_transient(site: Site) -> None:
    site.users(2_500)
    site.fault("invalid_locator", times=None)
    session = site.session()
    with pytest.raises(Transient, match="INVALID_QUERY_LOCATOR"):
        await session.rows(Query("Id", "User"))
    # By id it needs no place to go on from, so it gets through all the same.
    found = [row["Id"] async for page in session.by_id(Query("Id", "User")) for row in page]
    assert found == sorted(site.org.tables["User"].rows)


@pytest.mark.parametrize(("after", "keep"), [(0, 10), (0, 0), (1, 1)])
async def test_a_listing_that_ends_early_is_not_everything(site: Site, after: int, keep: int) -> None:
    site.users(2_500)
    site.fault("truncated_page", path_regex=r"/query", object_name="User" if not after else None, params={"keep": keep})
    if after:
        site.sandbox.world.faults.clear()
        site.fault("truncated_page", path_regex=r"/query/[^/]+$", params={"keep": keep})
    with pytest.raises(Incomplete, match="announced 2500 rows and gave"):
        await seats(site.reader())


async def test_a_truncated_source_is_unknown(site: Site) -> None:
    for holder in site.users(20):
        site.org.insert("OauthToken", UserId=holder, AppName="App", LastUsedDate=NOW, UseCount=1)
    site.fault("truncated_page", object_name="OauthToken", params={"keep": 3})
    survey = await site.reader().survey(None, since=SINCE)
    assert isinstance(survey.last_seen_elsewhere, Unknown)
    assert "announced 20 rows and gave 3" in survey.last_seen_elsewhere.reason


async def test_more_groups_than_one_page_are_all_read(site: Site) -> None:
    holders = site.users(4_300)
    for number, holder in enumerate(holders):
        site.org.insert(
            "LoginHistory",
            UserId=holder,
            LoginTime=NOW - timedelta(days=1),
            LoginType="Remote Access 2.0",
            Status="Success" if number % 2 else "Invalid Password",
        )
        site.org.insert(
            "LoginHistory",
            UserId=holder,
            LoginTime=NOW - timedelta(days=9),
            LoginType="Remote Access 2.0",
            Status="Success" if number % 3 else "Restricted IP",
        )
        site.cases(holder, 1)
    survey = await site.reader().survey(None, since=SINCE)
    assert isinstance(survey.last_seen_elsewhere, Known)
    expected = {
        holder: NOW - timedelta(days=1 if number % 2 else 9)
        for number, holder in enumerate(holders)
        if number % 2 or number % 3
    }
    assert dict(survey.last_seen_elsewhere.value) == expected
    assert survey.open_business == Known(dict.fromkeys(holders, 1))


async def test_signing_in_with_the_browser_alone_is_not_elsewhere(site: Site) -> None:
    [holder] = site.users(1)
    site.org.insert("LoginHistory", UserId=holder, LoginTime=NOW, LoginType="Application", Status="Success")
    survey = await site.reader().survey([holder], since=SINCE)
    assert survey.last_seen_elsewhere == Known({})


@pytest.mark.parametrize("asked", [True, False])
@pytest.mark.parametrize(
    ("source", "unknown"),
    [
        # The first reading of assignments is that of our own rights: with none, nothing is believed.
        ("PermissionSetAssignment", "open_business"),
        ("PermissionSetAssignment", "frozen"),
        ("UserLogin", "frozen"),
    ],
)
async def test_an_answer_without_rows_is_not_believed_where_there_must_be_some(
    site: Site, source: str, unknown: str, asked: bool
) -> None:
    [holder] = site.users(1)
    site.fault("empty_scan", object_name=source, times=None)
    survey = await site.reader().survey([holder] if asked else None, since=SINCE)
    assert isinstance(getattr(survey, unknown), Unknown)


async def test_administrators_are_not_believed_without_ourselves(site: Site) -> None:
    site.fault("empty_scan", object_name="PermissionSetAssignment", after=1, times=None)
    survey = await site.reader().survey(None, since=SINCE)
    assert isinstance(survey.administrators, Unknown)
    assert "the very user that asked" in survey.administrators.reason


SOURCES = {
    "LoginHistory": {"last_seen_elsewhere"},
    "OauthToken": {"last_seen_elsewhere"},
    "UserLogin": {"frozen", "thawed_at"},
    "PermissionSet": {"exempt"},
    "CronTrigger": {"scheduled_work"},
    "AsyncApexJob": {"scheduled_work"},
    "Dashboard": {"scheduled_work"},
    "ProcessInstanceWorkitem": {"pending_approvals"},
    "GroupMember": {"queues"},
    "Opportunity": {"open_business"},
    "Case": {"open_business"},
    "Lead": {"open_business"},
}


@pytest.mark.parametrize("source", SOURCES)
async def test_one_source_that_fails_is_unknown_by_itself(site: Site, source: str) -> None:
    [holder] = site.users(1)
    site.fault("query_timeout", object_name=source, times=None)
    survey = await site.reader().survey([holder], since=SINCE)
    unknown = {
        name
        for name in survey.__dataclass_fields__
        if name != "taken_at" and isinstance(getattr(survey, name), Unknown)
    }
    assert unknown == SOURCES[source]
    [reason] = {getattr(survey, name).reason for name in unknown}
    assert "QUERY_TIMEOUT" in reason


async def test_when_every_source_fails_the_survey_fails(site: Site) -> None:
    [holder] = site.users(1)
    reader = site.reader()
    # The first query tells the rights of our own user; everything after it fails.
    site.fault("server_unavailable", after=1, times=None)
    with pytest.raises(Busy, match="SERVER_UNAVAILABLE"):
        await reader.survey([holder], since=SINCE)


@pytest.mark.parametrize(
    ("lost", "unknown"),
    [
        (
            "PermissionsManageUsers",
            {
                "last_seen_elsewhere", "integration_users", "administrators", "exempt", "frozen", "thawed_at", "queues",
            },
        ),
        ("PermissionsViewAllData", {"scheduled_work", "pending_approvals", "open_business"}),
    ],
)  # fmt: skip
async def test_without_the_right_to_see_others_nothing_is_believed(site: Site, lost: str, unknown: set[str]) -> None:
    [holder] = site.users(1)
    set_id = site.base.permission_sets["Reclaim_Integration"]
    site.org.amend("PermissionSet", set_id, PermissionsModifyAllData=False, **{lost: False})
    reader = site.reader()
    survey = await reader.survey([holder], since=SINCE)
    found = {
        name
        for name in survey.__dataclass_fields__
        if name != "taken_at" and isinstance(getattr(survey, name), Unknown)
    }
    assert found == unknown
    failed = [result for result in await reader.test() if not result.ok]
    assert len(failed) == 1
    assert "Give Reclaim's user the permission" in failed[0].detail
    if lost == "PermissionsViewAllData":
        with pytest.raises(NotReadable, match="View All Data"):
            await reader.open_records([holder])


async def test_exempt_by_a_set_that_somebody_chose_and_nobody_made(site: Site) -> None:
    [holder] = site.users(1)
    reader = site.reader(exempt_permission_set="Leave_Alone")
    survey = await reader.survey([holder], since=SINCE)
    assert isinstance(survey.exempt, Unknown)
    assert "Leave_Alone" in survey.exempt.reason
    assert [result.what for result in await reader.test() if not result.ok] == ["Permission set Leave_Alone"]


async def test_the_default_exemption_may_be_missing(site: Site) -> None:
    [holder] = site.users(1)
    site.org.amend("PermissionSet", site.base.permission_sets["Reclaim_Exempt"], Name="Renamed")
    reader = site.reader()
    assert (await reader.survey([holder], since=SINCE)).exempt == Known({})
    assert all(result.ok for result in await reader.test())


@pytest.mark.parametrize(("days", "held"), [(-1, False), (0, True), (30, True)])
async def test_exempt_until_a_day(site: Site, days: int, held: bool) -> None:
    until = NOW.date() + timedelta(days=days)
    [holder] = site.users(1, Reclaim_Hold_Until__c=until)
    survey = await site.reader(hold_field="Reclaim_Hold_Until__c").survey([holder], since=SINCE)
    assert survey.exempt == Known({holder: f"on hold until {until}"} if held else {})


async def test_delegated_approvers_are_found(site: Site) -> None:
    [approver] = site.users(1)
    site.users(2, DelegatedApproverId=approver)
    site.org.insert("ProcessInstanceWorkitem", ActorId=approver)
    survey = await site.reader().survey([approver], since=SINCE)
    assert survey.pending_approvals == Known({approver: "1 pending approval; delegated approver of 2 users"})


async def test_jobs_and_dashboards_that_run_as_somebody(site: Site) -> None:
    holder, other = site.users(2)
    detail = site.org.insert("CronJobDetail", Name="Nightly export")
    site.org.insert("CronTrigger", OwnerId=holder, CronJobDetailId=detail, State="WAITING")
    site.org.insert("CronTrigger", OwnerId=other, CronJobDetailId=detail, State="DELETED")
    site.org.insert("AsyncApexJob", CreatedById=holder, JobType="BatchApex", Status="Processing")
    site.org.insert("AsyncApexJob", CreatedById=other, JobType="BatchApex", Status="Completed")
    for number in range(3):
        site.org.insert("Dashboard", Title=f"Board {number}", RunningUserId=holder)
    site.org.insert("Dashboard", Title="Own", RunningUserId=other, Type="LoggedInUser")
    survey = await site.reader().survey([holder, other], since=SINCE)
    assert survey.scheduled_work == Known(
        {
            holder: "scheduled job Nightly export; running job of the kind BatchApex; "
            "running user of dashboard Board 0 and 2 more"
        }
    )


async def test_short_ids_are_understood(site: Site) -> None:
    [holder] = site.users(1)
    found = await site.reader().seats_of([holder[:15]])
    assert found[holder[:15]].holder.id == holder
    result = await site.actor().freeze([holder[:15]])
    assert result == {holder[:15]: Done(changed=True, before={"IsFrozen": False})}


async def test_what_is_no_id_is_never_asked_for(site: Site) -> None:
    evil = "x' OR Id != '"
    with pytest.raises(Invalid, match="not a Salesforce id"):
        await site.reader().survey([evil], since=SINCE)
    assert await site.reader().seats_of([evil]) == {}
    result = (await site.actor().deactivate([evil]))[evil]
    assert isinstance(result, Refused)
    assert result.code == "MALFORMED_ID"
    assert site.calls() == 0


async def test_calls_do_not_grow_with_people(site: Site) -> None:
    holders = site.users(560)
    # A call that is given up on a busy machine, and made again, would count twice.
    reader = site.reader(tuning=PATIENT)
    await reader.survey(holders[:1], since=SINCE)
    one = site.calls("GET")
    await reader.survey(holders, since=SINCE)
    assert site.calls("GET") == 2 * one
    await reader.survey(None, since=SINCE)
    assert site.calls("GET") == 3 * one


# The daily allowance.


async def test_the_reserve_is_left_to_others(site: Site) -> None:
    site.org.settings.daily_api_limit = 20
    reader = site.reader(api_reserve_percent="50")
    for _ in range(10):
        await reader.licences()
    with pytest.raises(ApiLimit, match=r"used 10 of its 20 API calls.*leaves 50 % of them to others"):
        await reader.licences()
    assert site.calls("GET") == 10


async def test_the_reserve_is_asked_about_again_after_a_while(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    passed = 0.0
    monkeypatch.setattr("reclaim.connectors.salesforce.session.time", SimpleNamespace(monotonic=lambda: passed))
    site.org.settings.daily_api_limit = 4
    session = site.session(tuning=Tuning(limit_recheck=300), api_reserve_percent="50")
    query = Query("Id", "User", limit=1)
    for _ in range(2):
        await session.rows(query)
    site.org.settings.daily_api_limit = 1_000
    passed = 300
    with pytest.raises(ApiLimit):
        await session.rows(query)
    passed = 300.1
    await session.rows(query)
    await session.rows(query)


async def test_no_reserve_uses_everything_up_and_then_stops(site: Site) -> None:
    site.org.settings.daily_api_limit = 3
    session = site.session(tuning=Tuning(limit_recheck=0), api_reserve_percent="0")
    query = Query("Id", "User", limit=1)
    for _ in range(3):
        await session.rows(query)
    with pytest.raises(ApiLimit, match="daily API calls are used up"):
        await session.rows(query)
    # It is not repeated: every refused call would be one more.
    assert site.calls("GET") == 4


async def test_the_limit_stops_a_survey_instead_of_making_it_unknown(site: Site) -> None:
    [holder] = site.users(1)
    reader = site.reader()
    site.fault("request_limit", after=3, times=None)
    with pytest.raises(ApiLimit):
        await reader.survey([holder], since=SINCE)


async def test_the_limit_in_the_middle_of_a_write_loses_nothing(site: Site) -> None:
    holders = site.users(450)
    site.fault("request_limit", method="PATCH", after=1, times=None)
    results = await site.actor().freeze(holders)
    kinds = Counter(type(result) for result in results.values())
    assert kinds == {Done: 200, TryLater: 250}
    assert site.writes() == {("IsFrozen", True): 200}
    site.sandbox.world.faults.clear()
    again = await site.actor().freeze(holders)
    assert Counter(result.changed for result in again.values() if isinstance(result, Done)) == {False: 200, True: 250}
    assert site.writes() == {("IsFrozen", True): 450}


# Writing.


async def test_a_reader_can_send_nothing_that_writes(site: Site) -> None:
    session = site.session()
    await session.rows(Query("Id", "User", limit=1))
    assert not any(hasattr(session, name) for name in ("update", "patch", "post", "write"))
    client, data = session._client, f"{site.sandbox.url}/services/data/v62.0"
    [holder] = site.users(1)
    login = site.org.tables["UserLogin"].where("UserId", holder)[0][0]
    attempts = [
        lambda: client.restful(f"sobjects/UserLogin/{login}", method="PATCH", data='{"IsFrozen": true}'),
        lambda: client.restful("sobjects/User", method="POST", data='{"LastName": "New"}'),
        lambda: client.restful("sobjects/Case/500000000000000", method="DELETE"),
        lambda: client.restful("composite/sobjects", method="PATCH", data="{}"),
        lambda: session._http.post(f"{data}/composite", json={}),
        lambda: session._http.put(f"{site.sandbox.url}/services/oauth2/token"),
    ]
    for attempt in attempts:
        with pytest.raises(WriteForbidden):
            await asyncio.to_thread(attempt)
    assert site.org.write_log == []
    assert not site.calls("PATCH") + site.calls("PUT") + site.calls("DELETE")


async def test_no_verb_of_the_library_gets_past_a_readers_guard() -> None:
    """simple-salesforce's own writing methods, on a session that has a real org's address."""
    profile = read_profile({"instance_url": "https://org.invalid", "client_id": "id"}, {"client_secret": "s"})
    session = ReadSession(profile, FixedClock(NOW))
    client = _Client(profile, "token", session._http)
    for attempt in (
        lambda: client.User.update("005000000000000", {"IsActive": False}),
        lambda: client.User.create({"LastName": "New"}),
        lambda: client.User.upsert("X__c/1", {"LastName": "New"}),
        lambda: client.Case.delete("500000000000000"),
        lambda: client.set_password("005000000000000", "x"),
        lambda: client.bulk2.User.insert(records=[{"LastName": "New"}]),
        lambda: client.mdapi.deploy(__file__, sandbox=True),
        lambda: client.apexecute("x", method="POST", data={}),
        lambda: client.toolingexecute("x", method="POST", data={}),
    ):
        with pytest.raises(WriteForbidden):
            attempt()
    await session.close()


async def test_only_the_org_itself_is_spoken_to(site: Site) -> None:
    session = site.session()
    for url in ("http://127.0.0.1:9/services/data", "https://example.com/services/"):
        with pytest.raises(requests.exceptions.InvalidSchema):
            session._http.get(url)


@pytest.mark.parametrize(
    ("sobject", "field", "value"),
    [
        ("User", "IsActive", "false"),
        ("User", "IsActive", None),
        ("User", "ProfileId", "005000000000000AAA"),
        ("User", "ProfileId", True),
        ("User", "Email", "me@example.com"),
        ("UserLogin", "IsPasswordLocked", True),
        ("UserLogin", "IsFrozen", 1),
        ("Opportunity", "StageName", "Closed Lost"),
        ("Opportunity", "OwnerId", "00G000000000000AAA"),
        ("Opportunity", "OwnerId", "005' OR"),
        ("Account", "OwnerId", "005000000000000AAA"),
        ("PermissionSetAssignment", "AssigneeId", "005000000000000AAA"),
    ],
)
async def test_nothing_outside_the_list_is_written(site: Site, sobject: str, field: str, value: Any) -> None:
    session = site.session(WriteSession)
    with pytest.raises(WriteForbidden, match=f"may not set {sobject}.{field}"):
        await session.update(sobject, field, {"005000000000000AAA": value})
    assert site.calls() == 0


async def test_a_write_is_one_record_type_by_id_and_200_at_most(site: Site) -> None:
    session = site.session(WriteSession)
    with pytest.raises(WriteForbidden, match="200 records, not 201"):
        await session.update("User", "IsActive", {f"005{number:012d}": False for number in range(201)})
    with pytest.raises(WriteForbidden):
        await session.update("User", "IsActive", {"../../x": False})
    assert site.calls() == 0


async def test_the_writer_can_send_only_collections(site: Site) -> None:
    session = site.session(WriteSession)
    await session.rows(Query("Id", "User", limit=1))
    client = session._client
    for attempt in (
        lambda: client.restful("sobjects/User/005000000000000AAA", method="PATCH", data='{"IsActive": false}'),
        lambda: client.restful("composite/sobjects", method="POST", data="{}"),
        lambda: client.restful("composite/sobjects", params={"ids": "005000000000000AAA"}, method="DELETE"),
        lambda: client.restful("composite/sobjects", {"ids": "0Pa000000000000AAA,006000000000000AAA"}, method="DELETE"),
        lambda: client.restful("composite/sobjects", method="DELETE"),
        lambda: client.restful(
            "composite/sobjects", method="POST", data='{"records": [{"attributes": {"type": "User"}}]}'
        ),
        lambda: client.restful("composite", method="PATCH", data="{}"),
    ):
        with pytest.raises(WriteForbidden):
            await asyncio.to_thread(attempt)


async def test_only_assignments_are_created_or_deleted(site: Site) -> None:
    session = site.session(WriteSession)
    user, pset = "005000000000000AAA", "0PS000000000000AAA"
    with pytest.raises(WriteForbidden, match="may not create"):
        await session.assign("Account", [(user, pset)])
    with pytest.raises(WriteForbidden, match="may not create"):
        await session.assign("PermissionSetAssignment", [(user, "00e000000000000AAA")])
    with pytest.raises(WriteForbidden, match="may not create"):
        await session.assign("PermissionSetAssignment", [("00G000000000000AAA", pset)])
    for ids in (["005000000000000AAA"], ["0Pa000000000000AAA", "006000000000000AAA"], ["0Pa' OR"]):
        with pytest.raises(WriteForbidden, match="may not delete"):
            await session.unassign(ids)
    with pytest.raises(WriteForbidden, match="may not delete these 201"):
        await session.unassign(["0Pa000000000000AAA"] * 201)


async def test_calls_are_counted_by_two_hundred(site: Site) -> None:
    holders = site.users(560)
    actor = site.actor()
    results = await actor.freeze(holders)
    assert all(result == Done(changed=True, before={"IsFrozen": False}) for result in results.values())
    assert site.calls("PATCH") == 3
    assert site.calls("GET") == 2
    boss = site.users(1)[0]
    records = {holder: site.cases(holder, 1) for holder in holders}
    handed = await actor.hand_over([Transfer(holder, boss, {"Case": ids}) for holder, ids in records.items()])
    assert set(map(str, handed.values())) == {str(HandedOver(moved={"Case": 1}, failed={}))}
    assert site.calls("PATCH") == 6
    assert site.calls("GET") == 2 + 2 + 2


@pytest.mark.parametrize("mode", ["close", "hang"])
async def test_an_answer_lost_after_the_write_is_not_written_again(site: Site, mode: str) -> None:
    holders = site.users(3)
    fault = site.fault("timeout_after_commit", method="PATCH", params={"mode": mode})
    results = await site.actor().freeze(holders)
    assert fault.fired == 1
    assert all(result == Done(changed=True, before={"IsFrozen": False}) for result in results.values())
    assert site.calls("PATCH") == 1
    assert site.writes() == {("IsFrozen", True): 3}


async def test_a_hand_over_whose_answer_is_lost_is_not_written_again(site: Site) -> None:
    holder, boss = site.users(2)
    records = {"Case": site.cases(holder, 250)}
    site.fault("timeout_after_commit", method="PATCH", times=2)
    results = await site.actor().hand_over([Transfer(holder, boss, records)])
    assert results == {holder: HandedOver(moved={"Case": 250}, failed={})}
    assert site.calls("PATCH") == 2
    assert site.writes() == {("OwnerId", boss): 250}


@pytest.mark.parametrize("kind", ["connection_lost", "server_unavailable", "call_lock"])
async def test_a_write_that_did_not_happen_is_sent_again_after_a_read(site: Site, kind: str) -> None:
    [holder] = site.users(1)
    site.fault(kind, method="PATCH", times=2)
    assert (await site.actor().deactivate([holder]))[holder] == Done(changed=True, before={"IsActive": True})
    order = [each.method for each in site.org.request_log if "/services/data" in each.path]
    assert order == ["GET", "PATCH", "GET", "PATCH", "GET", "PATCH", "GET"]
    assert site.writes() == {("IsActive", False): 1}


def licensed(site: Site, number: int) -> list[str]:
    """Add users who hold a permission set that needs the full licence, and an add-on."""
    holders = site.users(number)
    (add_on,) = site.org.tables["PermissionSetLicense"].rows
    for holder in holders:
        forecasting = site.base.permission_sets["Forecasting"]
        site.org.insert("PermissionSetAssignment", AssigneeId=holder, PermissionSetId=forecasting)
        site.org.insert("PermissionSetLicenseAssign", AssigneeId=holder, PermissionSetLicenseId=add_on)
    return holders


@pytest.mark.parametrize("kind", ["timeout_after_commit", "connection_lost", "server_unavailable"])
@pytest.mark.parametrize("method", ["DELETE", "PATCH"])
async def test_a_downgrade_whose_answers_are_lost_is_finished_once(site: Site, kind: str, method: str) -> None:
    holders = licensed(site, 3)
    before = await site.reader().grants(holders)
    site.fault(kind, method=method)
    results = await site.actor().downgrade([Downgrade(each, "AUL", "Standard Platform User") for each in holders])
    assert all(isinstance(result, Done) and result.changed for result in results.values()), results
    after = await site.reader().grants(holders)
    assert {(each.product, each.permission_sets, each.permission_set_licences) for each in after.values()} == {
        ("AUL", (), ())
    }
    assert sum(number for (field, _), number in site.writes().items() if field == "ProfileId") == 3

    site.fault(kind, method="POST", object_name=None)
    back = await site.actor().upgrade(before)
    assert all(isinstance(result, Done) for result in back.values()), back
    assert await site.reader().grants(holders) == before


async def test_of_many_downgrades_only_the_refused_one_is_not_done(site: Site) -> None:
    holders = licensed(site, 30)
    site.org.amend("UserLicense", site.base.licences["Salesforce Platform"], TotalLicenses=29)
    results = await site.actor().downgrade([Downgrade(each, "AUL", "Standard Platform User") for each in holders])
    refused = [holder for holder, result in results.items() if isinstance(result, Refused)]
    assert len(refused) == 1
    products = {holder: each.product for holder, each in (await site.reader().grants(holders)).items()}
    assert [holder for holder in holders if products[holder] != "AUL"] == refused
    # Two deletions and one change for all thirty, each read back; the refusal is no reason to send anything again.
    assert (site.calls("DELETE"), site.calls("PATCH")) == (2, 1)


async def test_a_write_that_never_succeeds_is_for_later(site: Site) -> None:
    [holder] = site.users(1)
    site.fault("connection_lost", method="PATCH", times=None)
    result = (await site.actor().freeze([holder]))[holder]
    assert isinstance(result, TryLater)
    assert "broke off" in result.reason
    assert site.calls("PATCH") == QUICK.attempts
    assert not site.frozen(holder)


async def test_an_unknown_outcome_that_cannot_be_read_back_is_for_later(site: Site) -> None:
    [holder] = site.users(1)
    site.fault("timeout_after_commit", method="PATCH")
    site.fault("server_unavailable", object_name="UserLogin", method="GET", after=1, times=None)
    actor = site.actor()
    assert isinstance((await actor.freeze([holder]))[holder], TryLater)
    assert site.calls("PATCH") == 1
    site.sandbox.world.faults.clear()
    assert (await actor.freeze([holder]))[holder] == Done(changed=False, before={"IsFrozen": True})
    assert site.writes() == {("IsFrozen", True): 1}


# Once something may have been written, no outcome says that nothing was, whatever goes wrong after it.

AFTER_IT: dict[str, Callable[[], Exception]] = {
    "incomplete": lambda: Incomplete("the listing ended early"),
    "not readable": lambda: NotReadable("INSUFFICIENT_ACCESS", "no right to read"),
    "signed out": lambda: SignInRefused("the credentials were withdrawn"),
    "busy": lambda: Busy("overloaded"),
}


def unread_after(session: Any, verb: str, error: Callable[[], Exception]) -> Callable[[], None]:
    """Let every reading fail once a call of this verb was answered; return what lets them succeed again."""
    rows, call = session.rows, getattr(session, verb)

    async def failing(_query: Query) -> Any:
        raise error()

    async def called(*args: Any) -> Any:
        answer = await call(*args)
        session.rows = failing
        return answer

    def recover() -> None:
        session.rows = rows
        setattr(session, verb, call)

    setattr(session, verb, called)
    return recover


@pytest.mark.parametrize("error", AFTER_IT)
@pytest.mark.parametrize("operation", ["freeze", "unfreeze", "deactivate", "reactivate"])
async def test_what_was_accepted_and_cannot_be_read_back_is_not_refused(site: Site, operation: str, error: str) -> None:
    [holder] = site.users(1, IsActive=operation != "reactivate")
    session = site.session(WriteSession)
    actor = SalesforceActor(session)
    if operation == "unfreeze":
        await actor.freeze([holder])
    recover = unread_after(session, "update", AFTER_IT[error])
    result = (await getattr(actor, operation)([holder]))[holder]
    assert isinstance(result, TryLater)
    assert str(AFTER_IT[error]()) in result.reason
    writes = len(site.org.write_log)
    recover()
    again = (await getattr(actor, operation)([holder]))[holder]
    assert isinstance(again, Done)
    assert not again.changed
    assert len(site.org.write_log) == writes


async def test_of_200_rows_that_cannot_be_read_back_each_ends_as_the_org_answered_it(site: Site) -> None:
    holders = site.users(200)
    blocked, *locked = holders[17], holders[3], holders[150]
    site.org.settings.default_case_owner = blocked
    site.fault("row_lock", method="PATCH", params={"ids": locked})
    session = site.session(WriteSession)
    actor = SalesforceActor(session)
    recover = unread_after(session, "update", AFTER_IT["not readable"])
    results = await actor.deactivate(holders)
    assert {holder: type(result) for holder, result in results.items()} == {
        **dict.fromkeys(holders, TryLater),
        blocked: Refused,
    }
    refusal = results[blocked]
    assert isinstance(refusal, Refused)
    assert "default owner of cases" in refusal.message
    assert site.calls("PATCH") == 1
    recover()
    again = await actor.deactivate(holders)
    assert {holder for holder, result in again.items() if isinstance(result, Done) and result.changed} == set(locked)
    assert [holder for holder, result in again.items() if not isinstance(result, Done)] == [blocked]
    assert site.writes() == {("IsActive", False): 199}


async def test_what_was_refused_before_anything_was_sent_is_refused(site: Site) -> None:
    """The second call finds the credentials withdrawn: what the first did is not known, what it carried was not."""
    holders = site.users(250)
    session = site.session(WriteSession)
    recover = unread_after(session, "update", AFTER_IT["signed out"])
    first = session.update

    async def once(*args: Any) -> Any:
        session.update = withdrawn
        return await first(*args)

    async def withdrawn(*_: Any) -> Any:
        raise SignInRefused("the credentials were withdrawn")

    session.update = once
    results = await SalesforceActor(session).freeze(holders)
    recover()
    assert Counter(type(result) for result in results.values()) == {TryLater: 200, Refused: 50}
    assert {holder for holder in holders if site.frozen(holder)} == {
        holder for holder, result in results.items() if isinstance(result, TryLater)
    }


async def test_a_refusal_after_an_answer_that_was_lost_is_not_the_last_word(site: Site) -> None:
    [holder] = site.users(1)
    session = site.session(WriteSession)
    update = session.update

    async def lost(*_: Any) -> Any:
        session.update = update
        raise Busy("no answer", unsure=True)

    session.update = lost
    site.fault("row_refused", method="PATCH", params={"refusals": {holder: "permission"}})
    actor = SalesforceActor(session)
    assert isinstance((await actor.deactivate([holder]))[holder], TryLater)
    site.fault("row_refused", method="PATCH", params={"refusals": {holder: "permission"}})
    assert isinstance((await actor.deactivate([holder]))[holder], Refused)


async def test_an_answer_that_is_no_list_of_results_says_nothing_of_what_was_done(site: Site) -> None:
    holders = site.users(2)
    session = site.session(WriteSession)
    restful = _Client.restful

    def garbled(self: _Client, *args: Any, **more: Any) -> Any:
        answer = restful(self, *args, **more)
        return ["OK"] * len(holders) if more.get("method") == "PATCH" else answer

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(_Client, "restful", garbled)
        results = await SalesforceActor(session).freeze(holders)
    assert results == dict.fromkeys(holders, Done(changed=True, before={"IsFrozen": False}))
    assert site.calls("PATCH") == 1


@pytest.mark.parametrize("verb", ["unassign", "update"])
@pytest.mark.parametrize("error", ["incomplete", "signed out"])
async def test_a_downgrade_that_cannot_be_read_back_is_finished_by_the_next(site: Site, verb: str, error: str) -> None:
    holders = licensed(site, 3)
    before = await site.reader().grants(holders)
    session = site.session(WriteSession)
    actor = SalesforceActor(session)
    wanted = [Downgrade(each, "AUL", "Standard Platform User") for each in holders]
    recover = unread_after(session, verb, AFTER_IT[error])
    results = await actor.downgrade(wanted)
    assert {type(result) for result in results.values()} == {TryLater}
    recover()
    assert all(isinstance(result, Done) for result in (await actor.downgrade(wanted)).values())
    recover = unread_after(session, "assign" if verb == "unassign" else "update", AFTER_IT[error])
    results = await actor.upgrade(before)
    assert {type(result) for result in results.values()} == {TryLater}
    recover()
    assert all(isinstance(result, Done) for result in (await actor.upgrade(before)).values())
    assert await site.reader().grants(holders) == before


@pytest.mark.parametrize(
    ("operation", "sobject"),
    [
        ("reactivate", "UserLogin"),
        ("downgrade", "UserLogin"),
        ("upgrade", "UserLogin"),
        ("upgrade", "PermissionSetLicenseAssign"),
    ],
)
async def test_a_later_reading_that_fails_does_not_deny_the_writes_before_it(
    site: Site, operation: str, sobject: str
) -> None:
    [holder] = licensed(site, 1)
    before = await site.reader().grants([holder])
    session = site.session(WriteSession)
    actor = SalesforceActor(session)
    if operation == "upgrade":
        await actor.downgrade([Downgrade(holder, "AUL", "Standard Platform User")])
    if operation == "reactivate":
        await actor.deactivate([holder])
    given: dict[str, Any] = {
        "reactivate": [holder], "downgrade": [Downgrade(holder, "AUL", "Standard Platform User")], "upgrade": before,
    }  # fmt: skip
    rows, writes = session.rows, len(site.org.write_log)

    async def but_one(query: Query) -> Any:
        if query.sobject == sobject and len(site.org.write_log) > writes:
            raise NotReadable("INSUFFICIENT_ACCESS", "no right to read")
        return await rows(query)

    session.rows = but_one
    assert isinstance((await getattr(actor, operation)(given[operation]))[holder], TryLater)
    assert len(site.org.write_log) > writes
    session.rows = rows
    assert isinstance((await getattr(actor, operation)(given[operation]))[holder], Done)


@pytest.mark.parametrize("error", AFTER_IT)
async def test_records_that_moved_and_cannot_be_read_back_did_not_fail(site: Site, error: str) -> None:
    holder, boss = site.users(2)
    transfer = Transfer(holder, boss, {"Case": site.cases(holder, 250)})
    session = site.session(WriteSession)
    actor = SalesforceActor(session)
    recover = unread_after(session, "update", AFTER_IT[error])
    result = (await actor.hand_over([transfer]))[holder]
    assert isinstance(result, TryLater)
    recover()
    assert (await actor.hand_over([transfer]))[holder] == HandedOver(moved={"Case": 250}, failed={})
    assert site.writes() == {("OwnerId", boss): 250}


@pytest.mark.parametrize("kind", ["server_unavailable", "call_lock", "timeout_after_commit"])
async def test_a_guard_is_asked_before_a_write_is_sent_again(site: Site, kind: str) -> None:
    [holder] = site.users(1)
    site.fault(kind, method="PATCH")
    guard = Letting(1)
    result = (await site.actor().guarded(guard).freeze([holder]))[holder]
    assert site.calls("PATCH") == 1
    if kind == "timeout_after_commit":
        # Reading back shows that it was done: there is nothing to ask about.
        assert (result, guard.asked) == (Done(changed=True, before={"IsFrozen": False}), 1)
    else:
        assert (result, guard.asked) == (TryLater(ENGAGED), 2)
        assert not site.frozen(holder)


async def test_a_guard_that_stops_late_leaves_each_row_as_its_call_was_answered(site: Site) -> None:
    """200 are done, of 200 the answer is lost, 50 are never sent."""
    holders = site.users(450)
    site.fault("timeout_after_commit", method="PATCH", after=1)
    results = await site.actor().guarded(Letting(2)).freeze(holders)
    expected = [Done(changed=True, before={"IsFrozen": False})] * 400 + [TryLater(ENGAGED)] * 50
    assert [results[holder] for holder in holders] == expected
    assert site.writes() == {("IsFrozen", True): 400}


async def test_what_a_guard_stopped_and_somebody_else_did_meanwhile_is_not_ours(site: Site) -> None:
    holders = site.users(201)
    session = site.session(WriteSession)
    guard = Letting(1)

    async def somebody() -> None:
        if not guard.left:
            site.org.amend("User", holders[200], IsActive=False)
        await guard()

    results = await SalesforceActor(session).guarded(somebody).deactivate(holders)
    assert results[holders[200]] == Done(changed=False, before={"IsActive": True})
    assert site.calls("PATCH") == 1


async def test_locked_rows_are_sent_again_alone(site: Site) -> None:
    holders = site.users(150)
    site.fault("row_lock", method="PATCH", params={"rows": 7})
    results = await site.actor().deactivate(holders)
    assert all(result == Done(changed=True, before={"IsActive": True}) for result in results.values())
    assert site.calls("PATCH") == 2
    # 143 rows by the first call, 7 by the second: none twice.
    assert site.writes() == {("IsActive", False): 150}


async def test_a_row_that_stays_locked_is_for_later_and_the_others_are_done(site: Site) -> None:
    stuck, fine = site.users(2)
    site.fault("row_lock", method="PATCH", params={"ids": [stuck]}, times=None)
    results = await site.actor().deactivate([stuck, fine])
    assert results[fine] == Done(changed=True, before={"IsActive": True})
    later = results[stuck]
    assert isinstance(later, TryLater)
    assert "UNABLE_TO_LOCK_ROW" in later.reason


async def test_locked_records_make_a_hand_over_wait(site: Site) -> None:
    holder, boss = site.users(2)
    stuck, fine = site.cases(holder, 2)
    site.fault("row_lock", method="PATCH", params={"ids": [stuck]}, times=None)
    transfer = Transfer(holder, boss, {"Case": [stuck, fine]})
    result = (await site.actor().hand_over([transfer]))[holder]
    assert isinstance(result, TryLater)
    assert "UNABLE_TO_LOCK_ROW" in result.reason
    site.sandbox.world.faults.clear()
    assert (await site.actor().hand_over([transfer]))[holder] == HandedOver(moved={"Case": 2}, failed={})
    assert site.writes() == {("OwnerId", boss): 2}


async def test_a_record_that_cannot_move_is_named(site: Site) -> None:
    holder, boss = site.users(2)
    site.org.amend("User", boss, ProfileId=site.base.profiles["Standard Platform User"])
    deal = site.org.insert("Opportunity", Name="Deal", StageName="Prospecting", CloseDate=NOW.date(), OwnerId=holder)
    [case] = site.cases(holder, 1)
    records = {"Opportunity": [deal], "Case": [case], "Invoice__c": ["a00000000000001AAA"], "Lead": ["no id"]}
    result = (await site.actor().hand_over([Transfer(holder, boss, records)]))[holder]
    assert isinstance(result, HandedOver)
    assert result.moved == {"Case": 1}
    assert {record: (why.code, why.message) for record, why in result.failed.items()} == {
        deal: ("OP_WITH_INVALID_USER_TYPE_EXCEPTION", "Operation not valid for this user type"),
        "a00000000000001AAA": ("NO_SUCH_RECORD", "Reclaim hands over no such record"),
        "no id": ("NO_SUCH_RECORD", "Reclaim hands over no such record"),
    }
    assert "another successor" in result.failed[deal].remedy


async def test_what_moved_is_counted_when_the_rest_cannot(site: Site) -> None:
    """The org takes the right to write away in the middle: what had moved by then stays counted."""
    holder, boss = site.users(2)
    deal = site.org.insert("Opportunity", Name="Deal", StageName="Prospecting", CloseDate=NOW.date(), OwnerId=holder)
    [case] = site.cases(holder, 1)
    transfer = Transfer(holder, boss, {"Opportunity": [deal], "Case": [case]})
    session = site.session(WriteSession)
    update = session.update

    async def opportunities_only(sobject: str, *more: Any) -> Any:
        if sobject == "Case":
            raise NotReadable("INSUFFICIENT_ACCESS", "Salesforce answered 403 INSUFFICIENT_ACCESS: no")
        return await update(sobject, *more)

    session.update = opportunities_only
    result = (await SalesforceActor(session).hand_over([transfer]))[holder]
    assert isinstance(result, HandedOver)
    assert result.moved == {"Opportunity": 1}
    assert result.failed[case].code == "INSUFFICIENT_ACCESS"


async def test_what_moved_is_counted_while_the_rest_waits(site: Site) -> None:
    holder, boss = site.users(2)
    stuck, fine = site.cases(holder, 2)
    site.fault("row_lock", method="PATCH", params={"ids": [stuck]}, times=None)
    result = (await site.actor().hand_over([Transfer(holder, boss, {"Case": [stuck, fine]})]))[holder]
    assert isinstance(result, TryLater)
    assert result.moved == 1


async def test_wrong_passwords_of_the_holder_do_not_make_our_freeze_anothers(
    site: Site,
) -> None:
    [holder] = site.users(1)
    actor = site.actor()
    await actor.freeze([holder])
    login = site.org.tables["UserLogin"].where("UserId", holder)[0][0]
    site.org.amend("UserLogin", login, IsPasswordLocked=True, LastModifiedById=holder)
    assert (await actor.unfreeze([holder]))[holder] == Done(changed=True, before={"IsFrozen": True})


async def test_a_freeze_that_somebody_makes_while_our_answer_is_lost_is_not_ours(site: Site) -> None:
    """Our write did not arrive, and a person froze the account before we read it back."""
    [holder] = site.users(1)
    session = site.session(WriteSession)

    async def lost(*_: Any) -> Any:
        site.org.set_frozen(holder, frozen=True)
        raise Busy("the connection broke off", unsure=True)

    session.update = lost
    result = (await SalesforceActor(session).freeze([holder]))[holder]
    assert isinstance(result, Refused)
    assert result.code == FROZEN_BY_ANOTHER
    assert site.writes() == {}


async def test_a_change_that_somebody_undoes_at_once_is_not_forced(site: Site) -> None:
    """A person unfreezes between our write and our read back: we do not write again."""
    [holder] = site.users(1)
    session = site.session(WriteSession)
    update = session.update

    async def undone(*args: Any) -> Any:
        answer = await update(*args)
        site.org.set_frozen(holder, frozen=False)
        return answer

    session.update = undone
    result = (await SalesforceActor(session).freeze([holder]))[holder]
    assert isinstance(result, TryLater)
    assert "somebody may have undone it" in result.reason
    assert site.calls("PATCH") == 1
    assert not site.frozen(holder)


@pytest.mark.parametrize(
    ("setting", "said", "advice"),
    [
        ("default_case_owner", "default owner of cases", "Support Settings"),
        ("automated_case_user", "Automated Case User", "Support Settings"),
        ("default_lead_owner", "default owner of leads", "Lead Settings"),
        ("default_lead_creator", "Web to Lead", "Lead Settings"),
        ("default_workflow_user", "Default Workflow User", "Process Automation"),
        ("approvers", "approver in one or more approval processes", "Approval Processes"),
        ("hierarchy", "value of a hierarchy field: Backup Approver", "Empty the field"),
        ("last_admin", "last active administrator", "another user that role"),
    ],
)
async def test_what_blocks_a_deactivation_is_said_with_its_remedy(
    site: Site, setting: str, said: str, advice: str
) -> None:
    holder, other = site.users(2)
    if setting == "hierarchy":
        site.org.amend("User", other, Backup_Approver__c=holder)
    elif setting == "last_admin":
        site.org.amend("User", holder, ProfileId=site.base.profiles["System Administrator"])
    elif setting == "approvers":
        site.org.settings.approvers = {holder}
    else:
        setattr(site.org.settings, setting, holder)
    results = await site.actor().deactivate([holder, other])
    refusal = results[holder]
    assert isinstance(refusal, Refused)
    assert said in refusal.message
    assert advice in refusal.remedy
    assert results[other] == Done(changed=True, before={"IsActive": True})


async def test_every_refusal_comes_in_the_orgs_words_and_with_a_remedy(site: Site) -> None:
    """One call, a different refusal for each of its rows; the row that nothing is wrong with is done."""
    *holders, fine = site.users(len(REFUSALS) + 1)
    named = dict(zip(holders, REFUSALS, strict=True))
    site.fault("row_refused", method="PATCH", params={"refusals": named})
    results = await site.actor().deactivate([*holders, fine])
    assert results[fine] == Done(changed=True, before={"IsActive": True})
    assert site.calls("PATCH") == 1
    for holder, name in named.items():
        refusal = results[holder]
        assert isinstance(refusal, Refused)
        assert (refusal.code, refusal.message) == REFUSALS[name]
        assert (refusal.remedy == UNKNOWN) is (name == "new")


async def test_setup_and_business_never_share_a_call(site: Site) -> None:
    """Had they, Salesforce would have refused the call as MIXED_DML_OPERATION."""
    holder, boss = site.users(2)
    records = {
        "Case": site.cases(holder, 1),
        "Lead": [site.org.insert("Lead", LastName="L", Company="C", OwnerId=holder)],
    }
    actor = site.actor()
    await actor.freeze([holder])
    assert (await actor.hand_over([Transfer(holder, boss, records)]))[holder] == HandedOver({"Case": 1, "Lead": 1}, {})
    assert isinstance((await actor.deactivate([holder]))[holder], Done)
    assert all(each.error is None for each in site.org.request_log)


async def test_two_actors_at_once_write_each_account_once(site: Site) -> None:
    holders = site.users(30)
    both = await asyncio.gather(site.actor().freeze(holders), site.actor().freeze(holders))
    assert all(isinstance(result, Done) for results in both for result in results.values())
    assert all(site.frozen(holder) for holder in holders)


# A whole scan.


async def test_a_scan_of_the_demo_org_finds_exactly_what_is_in_it(site: Site) -> None:
    org = Org(site.clock)
    build_demo_org(org, users=400)
    site.sandbox.world.salesforce.attach(org)
    reader = site.reader()
    survey = await reader.survey(None, since=SINCE)
    found = {}
    for seat in await seats(reader):
        findings = evaluate(seat, survey, now=NOW, inactive_days=90)
        unused = is_unused(seat, inactive_days=90, now=NOW) or left_alone_by(findings) == "new_account"
        found[seat.holder.id] = (left_alone_by(findings) or "reclaimable") if unused else "active"
    expected = {key: value for key, value in org.expectations.items() if value not in ("other_licence", "inactive")}
    assert found == expected
    assert set(found.values()) == {"active", "reclaimable", *CHECK_NAMES}
    # Asked for by id, the checks say the same.
    some = [holder for holder in found if found[holder] != "active"]
    restricted = await reader.survey(some, since=SINCE)
    records = await reader.seats_of(some)
    for holder in some:
        again = left_alone_by(evaluate(records[holder], restricted, now=NOW, inactive_days=90))
        assert (again or "reclaimable") == found[holder]
    assert org.write_log == []


# Groups.


def public_group(site: Site, name: str, *members: str, kind: str = "Regular") -> str:
    group_id = site.org.insert("Group", Name=name, Type=kind)
    for each in members:
        site.org.insert("GroupMember", GroupId=group_id, UserOrGroupId=each)
    return group_id


async def test_a_role_in_a_group_leaves_everybody_else_in_doubt(site: Site) -> None:
    ann, bob = site.users(2)
    role = public_group(site, "Directors", kind="Role")
    public_group(site, "VIP", ann, public_group(site, "Board", role))
    members = (await site.reader().members(["VIP"]))["VIP"]
    assert [members.has(each) for each in (ann, bob)] == [True, None]
    assert "VIP has a Role in it" in members.doubt


async def test_a_queue_of_that_name_is_no_public_group(site: Site) -> None:
    [ann] = site.users(1)
    public_group(site, "Support", ann, kind="Queue")
    members = (await site.reader().members(["Support"]))["Support"]
    assert members.has(ann) is None
    assert "no public group 'Support'" in members.doubt


async def test_groups_in_a_circle_end_and_namesakes_are_one(site: Site) -> None:
    ann, bob, cid = site.users(3)
    outer = public_group(site, "VIP", ann)
    inner = public_group(site, "Inner", bob, outer)
    site.org.insert("GroupMember", GroupId=outer, UserOrGroupId=inner)
    public_group(site, "VIP", cid)
    members = (await site.reader().members(["VIP"]))["VIP"]
    assert (members.ids, members.doubt) == (frozenset({ann, bob, cid}), "")


async def test_calls_for_a_group_grow_with_pages_and_levels_only(site: Site) -> None:
    public_group(site, "VIP", *site.users(30), public_group(site, "Inner", *site.users(30)))
    reader = site.reader()
    await reader.members(["VIP"])
    before = site.calls("GET")
    await reader.members(["VIP", "Inner", "Third"])
    assert site.calls("GET") - before <= 5, "our rights, the groups, and two queries a level"


async def test_hundreds_of_groups_are_asked_for_in_urls_that_salesforce_takes(site: Site) -> None:
    [ann] = site.users(1)
    names = [f"Région Süd-Ost & Übersee, équipe {number:03}" for number in range(350)]
    for name in names:
        public_group(site, name, ann)
    reader = site.reader()
    before = site.calls("GET")
    found = await reader.members([*names, "x" * 4_000])
    assert {name: members.ids for name, members in found.items() if not members.doubt} == {
        name: frozenset({ann}) for name in names
    }
    assert "no public group" in found["x" * 4_000].doubt
    asked = [each.query for each in site.org.request_log if each.query and " FROM Group WHERE Type" in each.query]
    assert max(len(quote_plus(query)) for query in asked) <= soql.MAX_QUERY_BYTES
    assert len(asked) <= 1 + sum(len(quote_plus(name)) + 9 for name in names) // soql.MAX_QUERY_BYTES
    assert site.calls("GET") - before <= len(asked) + 2, "our rights, and one query for what is in them"


@pytest.mark.parametrize("kind", ["Group", "GroupMember"])
async def test_a_group_that_cannot_be_read_is_in_doubt(site: Site, kind: str) -> None:
    [ann] = site.users(1)
    public_group(site, "VIP", ann)
    site.fault("query_timeout", object_name=kind, times=None)
    members = (await site.reader().members(["VIP"]))["VIP"]
    assert members.has(ann) is None
    assert "QUERY_TIMEOUT" in members.doubt
    assert members.passing
