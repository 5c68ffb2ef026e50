"""What is particular to SCIM: what the server says it can do is heeded, and what nobody stated is not guessed at."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import pytest_asyncio

from libs.connectors.tests.connectors_worlds import DAY, ENGAGED, HERE, NOW, QUICK_SCIM, SINCE, Letting, Scim
from libs.connectors.tests.scim_server import TOKEN, ScimServer
from reclaim.common.clock import FixedClock
from reclaim.common.http_client import AnswerRefused
from reclaim.connectors import scim
from reclaim.connectors.checks import evaluate, left_alone_by
from reclaim.connectors.errors import Busy, NotOffered, SignInRefused
from reclaim.connectors.ports import (
    ConnectionProfile,
    Done,
    Downgrade,
    Incomplete,
    Known,
    Refused,
    Transfer,
    TryLater,
    Unknown,
)
from reclaim.connectors.scim.refusals import KNOWN, UNKNOWN, remedy
from reclaim.connectors.scim.session import WriteSession

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def server() -> Iterator[ScimServer]:
    server = ScimServer()
    yield server
    server.close()


@pytest_asyncio.fixture(loop_scope="module")
async def world(server: ScimServer) -> AsyncIterator[Scim]:
    world = Scim(server)
    yield world
    await world.reader.close()
    await world.actor.close()


async def opened(server: ScimServer, token: str = TOKEN, **settings: str) -> tuple[scim.ScimReader, scim.ScimActor]:
    profile = ConnectionProfile("c1", "Wiki", "scim", {"base_url": server.url, **settings}, {"token": token})
    clock = FixedClock(NOW)
    reader = scim.open_reader(profile, clock, QUICK_SCIM, outgoing=HERE)
    return reader, scim.open_actor(profile, clock, QUICK_SCIM, outgoing=HERE)


async def listed(reader: scim.ScimReader) -> set[str]:
    return {seat.holder.id async for page in reader.seats(["seat"]) for seat in page}


async def test_a_page_is_never_larger_than_the_server_gives(world: Scim) -> None:
    world.server.max_results = 2
    holders = {world.add() for _ in range(5)}
    seats = [seat.holder.id async for page in world.reader.seats(["seat"]) for seat in page]
    assert (set(seats), len(seats)) == (holders, 5)
    asked = [parse_qs(urlsplit(path).query) for _, path, _ in world.server.requests if "startIndex" in path]
    assert [(each["startIndex"], each["count"]) for each in asked] == [
        (["1"], ["2"]),
        (["3"], ["2"]),
        (["5"], ["2"]),
    ]


SAME = [{"id": "same", "userName": "same@acme.example"}]


@pytest.mark.parametrize(
    ("tamper", "words"),
    [
        (lambda body: {**body, "totalResults": 9}, "announced 9 accounts and gave 3"),
        (lambda body: {**body, "totalResults": 9, "Resources": SAME}, "gave 1: what was read"),
        (lambda body: {key: value for key, value in body.items() if key != "totalResults"}, "how many accounts"),
        (lambda body: {**body, "Resources": [{"userName": "x"}]}, "without an id"),
        (lambda body: {**body, "Resources": None}, "announced 3 accounts and gave 0"),
        (lambda body: [], "how many accounts"),
    ],
    ids=["ends early", "repeats itself", "no total", "no id", "no rows", "no object"],
)
async def test_a_listing_that_cannot_be_whole_is_an_error(world: Scim, tamper: Any, words: str) -> None:
    for _ in range(3):
        world.add()
    world.server.tamper = lambda path, body: tamper(body) if path.endswith("/Users") else body
    with pytest.raises(Incomplete, match=words):
        await listed(world.reader)  # type: ignore[arg-type]


async def test_accounts_that_go_while_they_are_listed_end_the_listing(world: Scim) -> None:
    for _ in range(7):
        world.add()
    totals = iter((7, 6, 6))
    world.server.tamper = lambda path, body: {**body, "totalResults": next(totals)} if path.endswith("s") else body
    with pytest.raises(Incomplete, match="had 7 accounts and now has 6"):
        await listed(world.reader)  # type: ignore[arg-type]


async def test_an_answer_about_another_account_is_no_answer(world: Scim) -> None:
    one, other = world.add(), world.add()
    stranger = world.server.user(other)
    world.server.tamper = lambda path, body: stranger if path.endswith(one) else body
    with pytest.raises(Incomplete, match="something else"):
        await world.reader.seats_of([one])
    refusal = (await world.actor.deactivate([one]))[one]
    assert isinstance(refusal, Refused)
    assert world.writes() == 0


async def test_a_server_that_does_not_say_what_it_can_is_taken_at_its_answers(world: Scim) -> None:
    server = world.server
    server.tamper = lambda path, body: "none of your business" if path.endswith("Config") else body
    server.patch = False
    holder = world.add()
    assert (await world.actor.deactivate([holder]))[holder] == Done(changed=True, before={"active": True})
    assert [method for method, _, _ in server.requests if method != "GET"] == ["PATCH", "PUT"]
    other = world.add()
    await world.actor.deactivate([other])
    assert [method for method, _, _ in server.requests if method != "GET"] == ["PATCH", "PUT", "PUT"]


async def test_one_value_is_sent_and_the_rest_stays(world: Scim) -> None:
    holder = world.add(department="Sales")
    before = world.server.user(holder)
    await world.actor.deactivate([holder])
    body = json.loads(next(body for body, call in zip(world.server.bodies, world.server.requests, strict=True) if body))
    assert body["Operations"] == [{"op": "replace", "path": "active", "value": False}]
    after = world.server.user(holder)
    assert {**after, "active": True, "meta": None} == {**before, "meta": None}


async def test_a_put_gives_back_the_account_as_it_was_read(world: Scim) -> None:
    world.server.patch = False
    holder = world.add(department="Sales", manager_id=world.run_as)
    before = world.server.user(holder)
    await world.actor.deactivate([holder])
    after = world.server.user(holder)
    assert after["active"] is False
    assert {**after, "active": True, "meta": None} == {**before, "meta": None}
    (sent,) = (json.loads(body) for body in world.server.bodies if body)
    assert "meta" not in sent


async def test_what_somebody_changes_in_between_is_neither_overwritten_nor_missed(world: Scim) -> None:
    holder = world.add()
    server = world.server

    def somebody(user_id: str) -> None:
        server.before_writes = None
        server.person_sets(user_id, displayName="Renamed")

    server.before_writes = somebody
    assert (await world.actor.deactivate([holder]))[holder] == Done(changed=True, before={"active": True})
    statuses = [status for method, _, status in server.requests if method == "PATCH"]
    assert statuses == [412, 204]
    assert (server.user(holder)["displayName"], server.user(holder)["active"]) == ("Renamed", False)


async def test_a_change_that_is_undone_at_once_is_left_undone(world: Scim) -> None:
    holder = world.add()
    server = world.server
    written = False

    def tamper(path: str, body: Any) -> Any:
        return {**body, "active": True} if written and path.endswith(holder) else body

    def note(_user_id: str) -> None:
        nonlocal written
        written = True

    server.tamper, server.before_writes = tamper, note
    result = (await world.actor.deactivate([holder]))[holder]
    assert isinstance(result, TryLater)
    assert "undone" in result.reason
    assert world.writes() == 1


async def test_an_account_that_is_not_shown_any_more_once_it_is_off_is_off(world: Scim) -> None:
    holder = world.add()
    server = world.server

    def somebody(user_id: str) -> None:
        server.locked.clear()

    server.before_writes = somebody
    server.tamper = lambda path, body: body
    original = server._serve

    def serve(method: str, path: str, query: str, body: bytes, headers: dict[str, str]) -> Any:
        answer = original(method, path, query, body, headers)
        if method == "GET" and path.endswith(holder) and not json.loads(answer[2]).get("active", True):
            return 404, [], b"{}"
        return answer

    server._serve = serve  # type: ignore[method-assign]
    try:
        assert (await world.actor.deactivate([holder]))[holder] == Done(changed=True, before={"active": True})
        again = (await world.actor.deactivate([holder]))[holder]
    finally:
        server._serve = original  # type: ignore[method-assign]
    assert isinstance(again, Refused)
    assert again.code == "NOT_FOUND"


# Once something may have been written, no outcome says that nothing was.


@pytest.mark.parametrize("operation", ["deactivate", "reactivate"])
@pytest.mark.parametrize("answer", [{"id": "somebody else"}, "no account at all"], ids=["another", "none"])
async def test_what_was_written_and_cannot_be_read_back_is_not_refused(
    world: Scim, operation: str, answer: Any
) -> None:
    holder = world.add(active=operation == "deactivate")
    server = world.server
    server.tamper = lambda path, body: answer if server.writes and path.endswith(holder) else body
    assert isinstance((await getattr(world.actor, operation)([holder]))[holder], TryLater)
    server.recover()
    again = (await getattr(world.actor, operation)([holder]))[holder]
    assert again == Done(changed=False, before={"active": operation != "deactivate"})
    assert world.writes() == 1


@pytest.mark.parametrize("done", [True, False])
async def test_a_write_whose_answer_cannot_be_used_is_read_up(
    world: Scim, monkeypatch: pytest.MonkeyPatch, done: bool
) -> None:
    holder = world.add()
    set_active = WriteSession.set_active

    async def answered_badly(self: WriteSession, user: Any, **more: Any) -> None:
        if done:
            await set_active(self, user, **more)
        raise AnswerRefused("127.0.0.1 sent a packed answer")

    monkeypatch.setattr(WriteSession, "set_active", answered_badly)
    expected = Done(changed=True, before={"active": True}) if done else TryLater("127.0.0.1 sent a packed answer")
    assert (await world.actor.deactivate([holder]))[holder] == expected


async def test_a_refusal_after_an_answer_that_was_lost_is_not_the_last_word(
    world: Scim, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder = world.add()
    world.block(holder)

    async def lost(*_: Any, **__: Any) -> None:
        monkeypatch.undo()
        raise Busy("no answer", unsure=True)

    monkeypatch.setattr(WriteSession, "set_active", lost)
    later = (await world.actor.deactivate([holder]))[holder]
    assert isinstance(later, TryLater)
    assert "managed by the directory" in later.reason
    assert isinstance((await world.actor.deactivate([holder]))[holder], Refused)


async def test_credentials_that_are_withdrawn_after_a_write_do_not_deny_it(world: Scim, server: ScimServer) -> None:
    holder = world.add()
    app = server.app

    def withdrawn(environ: Any, start_response: Any) -> Any:
        if server.writes:
            environ["HTTP_AUTHORIZATION"] = "Bearer withdrawn"
        return app(environ, start_response)

    server.app = withdrawn  # type: ignore[assignment]
    assert isinstance((await world.actor.deactivate([holder]))[holder], TryLater)
    refusal = (await world.actor.deactivate([holder]))[holder]
    assert isinstance(refusal, Refused)
    assert refusal.code == "SIGN_IN_REFUSED"
    server.app = app
    assert not world.active(holder)


async def test_a_guard_is_asked_before_a_write_is_sent_again(world: Scim) -> None:
    holder = world.add()
    world.server.busy = 1
    guard = Letting(1)
    assert await world.actor.guarded(guard).deactivate([holder]) == {holder: TryLater(ENGAGED)}
    assert [status for method, _, status in world.server.requests if method == "PATCH"] == [503]
    assert (guard.asked, world.active(holder)) == (2, True)


async def test_a_guard_is_asked_before_the_whole_account_is_sent_instead(world: Scim) -> None:
    server = world.server
    server.tamper = lambda path, body: "none of your business" if path.endswith("Config") else body
    server.patch = False
    holder = world.add()
    assert await world.actor.guarded(Letting(1)).deactivate([holder]) == {holder: TryLater(ENGAGED)}
    assert [method for method, _, _ in server.requests if method != "GET"] == ["PATCH"]
    assert world.active(holder)


async def test_no_write_waits_for_its_turn_after_the_guard_was_asked(world: Scim) -> None:
    holders = [world.add() for _ in range(12)]
    asked, most = 0, 0

    async def guard() -> None:
        nonlocal asked, most
        asked += 1
        most = max(most, asked - world.writes())

    await world.actor.guarded(guard).deactivate(holders)
    assert (asked, world.writes()) == (12, 12)
    assert most <= QUICK_SCIM.calls


async def test_a_write_heeds_when_the_server_wants_to_be_asked_again(world: Scim) -> None:
    holder = world.add()
    world.server.refuse_all = True
    result = (await world.actor.deactivate([holder]))[holder]
    assert isinstance(result, TryLater)
    # An hour is longer than the patience of one call: asked once, and left in peace.
    assert len([call for call in world.server.requests if call[2] == 429]) == 1


async def test_a_token_that_is_not_accepted_is_named(server: ScimServer, world: Scim) -> None:
    holder = world.add()
    reader, actor = await opened(server, token="stale")
    with pytest.raises(SignInRefused, match="does not accept the connection's credentials"):
        await reader.licences()
    (result,) = await reader.test()
    assert (result.what, result.ok) == ("Connection", False)
    refusal = (await actor.deactivate([holder]))[holder]
    assert isinstance(refusal, Refused)
    assert refusal.code == "SIGN_IN_REFUSED"
    await reader.close()
    await actor.close()


# What nobody stated is not guessed at.


async def test_without_statements_nobody_is_flagged_and_the_test_says_what_to_state(server: ScimServer) -> None:
    holder = Scim(server).add()
    reader, actor = await opened(server)
    survey = await reader.survey([holder], since=SINCE)
    missing = {name for name in survey.__dataclass_fields__ if isinstance(getattr(survey, name), Unknown)}
    assert missing == {
        "last_seen_elsewhere",
        "integration_users",
        "administrators",
        "scheduled_work",
        "pending_approvals",
        "queues",
        "open_business",
    }
    results = await reader.test()
    assert all(result.ok for result in results)
    said = " ".join(result.detail for result in results)
    for setting in ("administrator_filter", "integration_filter", "accept_unseen_work", "freeze_by_deactivation"):
        assert setting in said
    await reader.close()
    await actor.close()


async def test_what_was_stated_feeds_the_checks_and_last_use_must_come_from_elsewhere(world: Scim) -> None:
    idle, young, changed = world.add(), world.add(created_at=NOW - 3 * DAY), world.add(changed_at=NOW - 3 * DAY)
    holders = [idle, young, changed, world.run_as]
    survey = await world.reader.survey(holders, since=SINCE)
    seats = await world.reader.seats_of(holders)

    def outcome(holder: str, told: Any) -> str | None:
        findings = evaluate(
            seats[holder],
            replace(survey, last_seen_elsewhere=told),
            now=NOW,
            inactive_days=90,
            young_days=30,
        )
        return left_alone_by(findings)

    assert outcome(idle, survey.last_seen_elsewhere) == "active_elsewhere"
    covered = Known({})
    assert outcome(idle, covered) is None
    assert outcome(idle, Known({idle: NOW - DAY})) == "active_elsewhere"
    assert (outcome(young, covered), outcome(changed, covered)) == ("new_account", "new_account")
    assert outcome(world.run_as, covered) == "administrator"


async def test_a_filter_that_matches_nobody_may_be_misspelt(server: ScimServer) -> None:
    holder = Scim(server).add()
    reader, actor = await opened(server, administrator_filter='userType eq "Admim"', integration_filter="none")
    survey = await reader.survey([holder], since=SINCE)
    assert isinstance(survey.administrators, Unknown)
    assert "may be misspelt" in survey.administrators.reason
    assert survey.integration_users == Known({})
    failed = [result for result in await reader.test() if not result.ok]
    assert [result.what for result in failed] == ["Knows who administers the application"]
    await reader.close()
    await actor.close()


async def test_a_filter_that_the_server_does_not_take_is_unknown(server: ScimServer) -> None:
    holder = Scim(server).add()
    reader, actor = await opened(server, administrator_filter="userType equals 5", integration_filter="none")
    survey = await reader.survey([holder], since=SINCE)
    assert isinstance(survey.administrators, Unknown)
    assert "Correct the filter" in survey.administrators.reason
    await reader.close()
    await actor.close()


async def test_a_server_without_filters_cannot_tell(world: Scim) -> None:
    world.server.tamper = lambda path, body: (
        {**body, "filter": {"supported": False}} if path.endswith("Config") else body
    )
    holder = world.add()
    survey = await world.reader.survey([holder], since=SINCE)
    assert isinstance(survey.administrators, Unknown)
    assert "has no filters" in survey.administrators.reason


async def test_who_matches_the_exempting_filter_is_exempt(server: ScimServer) -> None:
    world = Scim(server, exempt_filter='userName eq "user2@example.com"')
    holder, other = world.add(), world.add()
    survey = await world.reader.survey([holder, other], since=SINCE)
    assert isinstance(survey.exempt, Known)
    assert set(survey.exempt.value) == {holder}
    await world.reader.close()
    await world.actor.close()


async def test_our_own_account_may_be_named_by_its_user_name_and_must_exist(server: ScimServer) -> None:
    world = Scim(server, run_as="User1@example.com")
    survey = await world.reader.survey(None, since=SINCE)
    assert isinstance(survey.administrators, Known)
    assert survey.administrators.value[world.run_as] == "Reclaim signs in as this user"
    refusal = (await world.actor.deactivate([world.run_as]))[world.run_as]
    assert isinstance(refusal, Refused)
    assert refusal.code == "OWN_USER"
    await world.reader.close()
    await world.actor.close()
    gone = Scim(server, run_as="nobody@example.com")
    survey = await gone.reader.survey(None, since=SINCE)
    assert isinstance(survey.administrators, Unknown)
    assert "correct run_as" in survey.administrators.reason
    await gone.reader.close()
    await gone.actor.close()


async def test_without_a_date_of_change_nobody_knows_who_was_given_back(world: Scim) -> None:
    holder = world.add()

    def tamper(path: str, body: Any) -> Any:
        return {**body, "meta": {"resourceType": "User"}} if path.endswith(holder) else body

    world.server.tamper = tamper
    survey = await world.reader.survey([holder], since=SINCE)
    assert isinstance(survey.thawed_at, Unknown)
    # Without a date of its own the account counts as new.
    assert (await world.reader.seats_of([holder]))[holder].created_at == NOW


async def test_names_and_addresses_are_found_where_servers_put_them(world: Scim) -> None:
    holder = world.add()
    emails = [{"value": "home@x.example", "type": "home"}, {"value": "work@x.example", "type": "work"}]
    forms: list[tuple[dict[str, Any], tuple[str, str | None]]] = [
        ({"displayName": "Ada L.", "emails": emails}, ("Ada L.", "work@x.example")),
        (
            {"name": {"formatted": "Dr. Ada"}, "emails": [*emails, {"value": "p@x.example", "primary": True}]},
            ("Dr. Ada", "p@x.example"),
        ),
        ({"name": {"givenName": "Ada"}, "emails": []}, ("Ada", "user2@example.com")),
        ({"name": None, "emails": "odd", "userName": "ada"}, ("ada", None)),
        ({"name": None, "emails": None, "userName": None, "active": "False"}, (holder, None)),
    ]
    for form, expected in forms:
        world.server.tamper = lambda path, body, form=form: {**body, **form} if path.endswith(holder) else body
        seat = (await world.reader.seats_of([holder]))[holder]
        assert (seat.holder.name, seat.holder.email) == expected
        assert seat.active is (form.get("active") != "False")


# Freezing takes a statement; what SCIM has not, it does not do.


async def test_what_scim_does_not_know_is_refused_and_not_done_alike(world: Scim) -> None:
    holder = world.add()
    for act in (world.actor.freeze, world.actor.unfreeze):
        refusal = (await act([holder]))[holder]
        assert isinstance(refusal, Refused)
        assert refusal.code == "NO_FREEZE"
        assert "freeze_by_deactivation" in refusal.remedy
    downgrade = (await world.actor.downgrade([Downgrade(holder, "cheap")]))[holder]
    hand_over = (await world.actor.hand_over([Transfer(holder, world.run_as, {"Case": ["1"]})]))[holder]
    assert isinstance(downgrade, Refused)
    assert isinstance(hand_over, Refused)
    with pytest.raises(NotOffered, match="cannot downgrade"):
        await world.reader.grants([holder])
    assert world.writes() == 0
    assert world.active(holder)


async def test_where_switching_off_does_no_harm_it_is_the_freeze(server: ScimServer) -> None:
    world = Scim(server, freeze_by_deactivation="true")
    holder, other = world.add(), world.add()
    assert (await world.actor.freeze([holder]))[holder] == Done(changed=True, before={"active": True})
    survey = await world.reader.survey([holder, other], since=SINCE)
    assert survey.frozen == Known(frozenset({holder}))
    assert isinstance(survey.thawed_at, Known)
    assert holder not in survey.thawed_at.value
    seat = (await world.reader.seats_of([holder]))[holder]
    assert (seat.one_switch, seat.active) == (True, False)
    assert (await world.actor.deactivate([holder]))[holder] == Done(changed=False, before={"active": False})
    assert (await world.actor.unfreeze([holder]))[holder] == Done(changed=True, before={"active": False})
    assert world.active(holder)
    refusal = (await world.actor.freeze([world.run_as]))[world.run_as]
    assert isinstance(refusal, Refused)
    await world.reader.close()
    await world.actor.close()


@pytest.mark.parametrize(
    ("status", "scim_type", "detail", "words"),
    [
        (400, "mutability", "read only", "keeps this account as it is"),
        (400, "invalidFilter", "bad", "Correct the filter"),
        (400, "", "License limit reached", "No seat is free"),
        (403, "", "forbidden", "right to read and to change users"),
        (409, "uniqueness", "userName taken", "same name"),
        (409, "", "User is the workspace owner", "somebody else the owner"),
        (412, "", "", "in the same moment"),
        (501, "", "", "an administrator of it free the seat"),
        (418, "", "teapot", UNKNOWN),
    ],
)
async def test_each_refusal_says_what_to_do(status: int, scim_type: str, detail: str, words: str) -> None:
    assert words in remedy(status, scim_type, detail)


async def test_no_line_of_the_refusals_is_hidden_by_one_before_it() -> None:
    for known in KNOWN:
        assert remedy(known.status or 400, known.scim_type, known.words) == known.remedy


async def test_a_group_whose_members_are_not_listed_is_in_doubt(world: Scim) -> None:
    ann, bob = world.add(), world.add()
    world.group("VIP", [ann])

    def hide(path: str, body: Any) -> Any:
        for group in [body, *body.get("Resources", [])] if "/Groups" in path else []:
            group.pop("members", None)
        return body

    world.server.tamper = hide
    members = (await world.reader.members(["VIP"]))["VIP"]
    assert [members.has(each) for each in (ann, bob)] == [None, None]
    assert "does not list who is in the group VIP" in members.doubt


async def test_a_service_that_shows_every_group_as_empty_leaves_all_in_doubt(world: Scim) -> None:
    ann, bob = world.add(), world.add()
    inner = world.group("Inner", [bob])
    world.group("VIP", [ann])
    world.group("Leaders", [ann], [inner])

    def emptied(path: str, body: Any) -> Any:
        for group in [body, *body.get("Resources", [])] if "/Groups" in path else []:
            group["members"] = []
        return body

    world.server.tamper = emptied
    found = await world.reader.members(["VIP", "Leaders"])
    assert [found[name].has(each) for name in found for each in (ann, bob)] == [None] * 4
    assert "does not list who is in the group VIP" in found["VIP"].doubt


@pytest.mark.parametrize("asked", [["Empty"], ["Empty", "VIP"]], ids=["alone", "beside another"])
async def test_an_empty_group_is_believed_where_the_service_shows_members_of_another(
    world: Scim, asked: list[str]
) -> None:
    ann = world.add()
    world.group("Empty")
    world.group("VIP", [ann])
    found = await world.reader.members(asked)
    assert (found["Empty"].ids, found["Empty"].doubt) == (frozenset(), "")
    assert found["Empty"].has(ann) is False


def only_up_to(longest: int) -> Callable[[str, Any], Any]:
    """Return what leaves out the members of groups that have more than so many."""

    def shortened(path: str, body: Any) -> Any:
        for group in [body, *body.get("Resources", [])] if "/Groups" in path else []:
            if len(group.get("members", [])) > longest:
                del group["members"]
        return body

    return shortened


async def test_a_large_group_whose_members_a_service_leaves_out_is_in_doubt_and_not_empty(world: Scim) -> None:
    ann, bob, cid = (world.add() for _ in range(3))
    large = world.group("Large", [ann, bob])
    world.group("Small", [cid])
    world.group("Outer", [cid], [large])
    world.group("Empty")
    world.server.tamper = only_up_to(1)
    found = await world.reader.members(["Large", "Small", "Empty"])
    assert [found["Large"].has(each) for each in (ann, bob, cid)] == [None] * 3
    assert "does not list who is in the group Large" in found["Large"].doubt
    assert [found["Small"].has(each) for each in (ann, cid)] == [False, True]
    assert [found["Empty"].has(each) for each in (ann, cid)] == [False, False], "the service says so by its filter"
    world.server.tamper = lambda path, body: only_up_to(0 if path.endswith(large) else 2)(path, body)
    outer = (await world.reader.members(["Outer"]))["Outer"]
    assert [outer.has(each) for each in (ann, cid)] == [None, True]
    assert "does not list who is in the group Large" in outer.doubt


@pytest.mark.parametrize("nested", [False, True], ids=["itself", "within"])
async def test_a_group_that_goes_while_it_is_read_is_in_doubt(world: Scim, nested: bool) -> None:
    ann, bob = world.add(), world.add()
    inner = world.group("Inner")
    world.group("Other", [bob])
    world.group("Outer", [ann], [inner])

    def gone(_path: str, body: Any) -> Any:
        world.server.tamper = None
        world.server.remove_group(inner)
        return body

    await world.reader.members(["Other"])  # so that nothing but the group's own listing comes first
    world.server.tamper = gone
    asked = "Outer" if nested else "Inner"
    members = (await world.reader.members([asked]))[asked]
    assert [members.has(each) for each in (ann, bob)] == [True if nested else None, None]
    assert members.doubt == f"The group {asked}, or one within it, went while it was read."


async def test_a_group_without_a_list_of_members_is_in_doubt_where_nobody_can_ask_for_those_that_have_some(
    world: Scim,
) -> None:
    ann = world.add()
    world.group("VIP", [ann])
    empty = world.group("Empty")
    world.server.no_filter_on = "members pr"
    found = await world.reader.members(["VIP", "Empty"])
    assert found["Empty"].has(ann) is None
    assert "does not list who is in the group Empty" in found["Empty"].doubt
    world.server.tamper = lambda path, body: {**body, "members": []} if path.endswith(empty) else body
    found = await world.reader.members(["VIP", "Empty"])
    assert found["Empty"].has(ann) is False, "a list that is there is believed"


async def test_an_empty_group_is_in_doubt_where_no_group_shows_members(world: Scim) -> None:
    ann = world.add()
    world.group("Empty")
    world.group("Idle")
    members = (await world.reader.members(["Empty"]))["Empty"]
    assert members.has(ann) is None
    assert "does not list who is in the group Empty" in members.doubt


async def test_who_is_in_a_group_that_only_lists_show_as_empty_is_found(world: Scim) -> None:
    ann, bob = world.add(), world.add()
    world.group("VIP", [ann])

    def listed_bare(path: str, body: Any) -> Any:
        for group in body.get("Resources", []) if path.endswith("/Groups") else []:
            group.pop("members", None)
        return body

    world.server.tamper = listed_bare
    members = (await world.reader.members(["VIP"]))["VIP"]
    assert [members.has(each) for each in (ann, bob)] == [True, False]


async def test_a_member_of_which_nobody_says_what_it_is_may_be_a_group(world: Scim) -> None:
    ann, bob = world.add(), world.add()
    inner = world.group("Inner", [bob])
    world.group("VIP", [ann], [inner])

    def untyped(path: str, body: Any) -> Any:
        for group in body.get("Resources", []) if path.endswith("/Groups") else []:
            group["members"] = [
                {"value": each["value"]} if each["value"] == inner else {"value": ann, "$ref": f"../Users/{ann}"}
                for each in group["members"]
            ]
        return body

    world.server.tamper = untyped
    members = (await world.reader.members(["VIP"]))["VIP"]
    assert [members.has(each) for each in (ann, bob)] == [True, None]
    assert "which members of the group VIP are people" in members.doubt


async def test_a_service_without_groups_leaves_all_in_doubt(world: Scim) -> None:
    ann = world.add()
    world.server.tamper = lambda path, body: {"odd": 1} if path.endswith("/Groups") else body
    members = (await world.reader.members(["VIP"]))["VIP"]
    assert members.has(ann) is None
    assert "groups could not be read" in members.doubt
