"""What is particular to one platform: a search that lags, tags, sessions that end, text that is markup."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from reclaim.common.clock import FixedClock
from reclaim.common.http_client import usual_trust
from reclaim.connectors.itsm.base import moment
from reclaim.connectors.itsm.decisions import DecisionRules
from reclaim.connectors.itsm.freshservice import LONGEST_TAG
from reclaim.connectors.itsm.ports import (
    Passing,
    Refused,
    ServiceDesk,
    TicketDraft,
    TicketRef,
    UnknownOutcome,
    marked_case,
)
from reclaim.connectors.itsm.profile import DeskProfile, Tuning
from reclaim.connectors.itsm.registry import open_desk
from reclaim.sandbox.app import Sandbox
from reclaim.sandbox.desks import freshservice, generic, jira, serval, servicenow
from reclaim.sandbox.desks.core import Desk

NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
QUICK = Tuning(connect_timeout=2, read_timeout=2, look_again=(0.0, 0.0, 0.0), unknown_for=5)
SETTINGS: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "servicenow": ({"username": servicenow.USER}, {"password": servicenow.PASSWORD}),
    "jira": (
        {"email": jira.EMAIL, "service_desk_id": jira.SERVICE_DESK, "request_type_id": jira.REQUEST_TYPE},
        {"api_token": jira.TOKEN},
    ),
    "freshservice": ({"requester_email": "reclaim@example.com"}, {"api_key": freshservice.API_KEY}),
    "serval": (
        {"client_id": serval.CLIENT_ID, "team_id": serval.TEAM, "user_id": serval.USER},
        {"client_secret": serval.CLIENT_SECRET},
    ),
    "generic": ({}, {"secret": generic.SECRET}),
}


class Site:
    """A sandbox with its desks, and adapters to them."""

    def __init__(self, sandbox: Sandbox, client: httpx.AsyncClient, clock: FixedClock) -> None:
        self.sandbox, self.client, self.clock = sandbox, client, clock
        self.desks = sandbox.world.desks

    def open(self, platform: str, tuning: Tuning = QUICK, **settings: str) -> ServiceDesk:
        given, credentials = SETTINGS[platform]
        address = {"base_url": f"{self.sandbox.url}/desks/{platform}"}
        return open_desk(DeskProfile(platform, {**address, **given, **settings}, credentials), self.client, tuning)

    def fault(self, kind: str, method: str, path: str, **more: Any) -> None:
        self.sandbox.world.faults.add(kind, method=method, path_regex=f"^/desks/{path}$", **more)


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    clock = FixedClock(NOW)
    async with Sandbox(clock=clock, users=0) as sandbox, httpx.AsyncClient(verify=usual_trust()) as client:
        yield Site(sandbox, client, clock)


def draft(**more: Any) -> TicketDraft:
    values: dict[str, Any] = {
        "case_id": "case-1",
        "title": "Keep or revoke?",
        "description": "Please.",
        "opened_at": NOW,
    }
    return TicketDraft(**{**values, **more})


def bodies(desk: Desk, method: str, ending: str) -> list[Any]:
    return [call.body for call in desk.called if call.method == method and call.path.endswith(ending)]


@pytest.mark.parametrize("platform", SETTINGS)
async def test_a_ticket_that_stays_open_is_not_taken_for_closed(site: Site, platform: str) -> None:
    desk, simulated = site.open(platform), site.desks.by_name[platform]
    ref = await desk.create(draft())
    simulated.keeps_open = True
    # Where comments cannot be read, one that was tried before may have been closed, and reopened since.
    for tried in (False, platform != "generic"):
        with pytest.raises(Refused, match=r"still open.*Let the connection's user close tickets"):
            await desk.close(ref, "It is over.", mark="lr-note-1", tried=tried)
    assert not (await desk.read_decision(ref)).closed
    simulated.keeps_open = False
    await desk.close(ref, "It is over.", mark="lr-note-2", tried=True)
    assert (await desk.read_decision(ref)).closed


async def test_an_answer_of_boxes_in_boxes_is_no_answer() -> None:
    deep = httpx.MockTransport(lambda _: httpx.Response(200, content=b"[" * 20_000 + b"]" * 20_000))
    given, credentials = SETTINGS["freshservice"]
    async with httpx.AsyncClient(transport=deep) as client:
        profile = DeskProfile("freshservice", {"base_url": "https://desk.example.com", **given}, credentials)
        with pytest.raises(Passing):
            await open_desk(profile, client, QUICK).read_decision(TicketRef("1", "#1", ""))


# Jira ----------------------------------------------------------------------------------------------------------------


async def test_jira_finds_what_it_opened_itself_before_the_search_does(site: Site) -> None:
    site.desks.jira.search_lag = 5
    desk = site.open("jira")
    ref = await desk.create(draft())
    assert await desk.find_by_case("case-1", since=NOW) == ref
    assert await desk.create(draft()) == ref
    assert bodies(site.desks.jira, "POST", "/search/jql")[-1]["reconcileIssues"] == [int(ref.key)]


@pytest.mark.parametrize("lag", [0, 1, 3])
async def test_jira_looks_again_until_the_search_has_caught_up(site: Site, lag: int) -> None:
    site.desks.jira.search_lag = lag
    site.fault("timeout_after_commit", "POST", "jira/rest/servicedeskapi/request")
    ref = await site.open("jira").create(draft())
    assert [ticket.key for ticket in site.desks.jira.tickets.values()] == [ref.number]


async def test_jira_does_not_open_a_second_one_while_the_search_is_behind(site: Site) -> None:
    site.desks.jira.search_lag = 5
    site.fault("timeout_after_commit", "POST", "jira/rest/servicedeskapi/request")
    with pytest.raises(UnknownOutcome) as raised:
        await site.open("jira").create(draft())
    assert raised.value.look_after == 5
    # Another process takes it up: the search catches up while it looks.
    await site.open("jira").create(draft(), tried=True)
    assert len(site.desks.jira.tickets) == 1


async def test_jira_labels_an_issue_whose_labelling_failed_before(site: Site) -> None:
    desk = site.open("jira")
    site.fault("server_unavailable", "PUT", "jira/rest/api/3/issue/[0-9]+")
    with pytest.raises(UnknownOutcome):
        await desk.create(draft(test=True))
    (ticket,) = site.desks.jira.tickets.values()
    assert ticket.tags == []
    await desk.create(draft(test=True))
    assert ticket.tags == ["lr-case-case-1", "lr_test"]


async def test_jira_sends_labels_with_the_request_where_its_form_has_them(site: Site) -> None:
    site.desks.jira.labels_on_form = True
    await site.open("jira").create(draft())
    (body,) = bodies(site.desks.jira, "POST", "/request")
    assert body["requestFieldValues"]["labels"] == ["lr-case-case-1"]
    assert bodies(site.desks.jira, "PUT", "") == []


async def test_jira_ids_are_texts_and_the_requester_is_an_account(site: Site) -> None:
    await site.open("jira").create(draft(requester_email="Ann@example.com"))
    (body,) = bodies(site.desks.jira, "POST", "/request")
    assert (body["serviceDeskId"], body["requestTypeId"]) == ("10", "25")
    assert body["raiseOnBehalfOf"] == jira.PEOPLE["ann@example.com"]


async def test_jira_shows_text_as_text(site: Site) -> None:
    desk = site.open("jira")
    ref = await desk.create(draft(description="[click|http://x.example] {color:red}! !pic.png!"))
    (ticket,) = site.desks.jira.tickets.values()
    assert ticket.description.startswith(r"\[click\|http://x.example] \{color:red}\! \!pic.png\!")
    await desk.comment(ref, "{panel}")
    assert ticket.comments[0].text == r"\{panel}"
    assert not ticket.comments[0].public


async def test_jira_names_who_answered_last(site: Site) -> None:
    desk = site.open("jira")
    ref = await desk.create(draft())
    (ticket,) = site.desks.jira.tickets.values()
    site.clock.advance(timedelta(minutes=5))
    site.desks.jira.change(ticket, by="Ann Agent", tags=[*ticket.tags, "lr_keep"])
    site.clock.advance(timedelta(minutes=5))
    site.desks.jira.change(ticket, by="Bob Busy", subject="Renamed")
    read = await desk.read_decision(ref)
    assert (read.reading, read.actor, read.at) == ("keep", "Ann Agent", NOW + timedelta(minutes=5))


async def test_jira_says_which_transition_is_missing(site: Site) -> None:
    desk = site.open("jira", close_transition="Archive")
    ref = await desk.create(draft())
    with pytest.raises(Refused, match="Archive"):
        await desk.close(ref, "Done.")


async def test_jira_refuses_a_mapped_field_that_the_form_has_not(site: Site) -> None:
    with pytest.raises(Refused, match="customfield_1"):
        await site.open("jira").create(draft(fields={"customfield_1": "x"}))
    assert site.desks.jira.tickets == {}


# Freshservice --------------------------------------------------------------------------------------------------------


async def test_freshservice_finds_a_lost_ticket_among_the_newest_before_the_search_does(site: Site) -> None:
    site.desks.freshservice.search_lag = 50
    site.fault("timeout_after_commit", "POST", "freshservice/api/v2/tickets")
    ref = await site.open("freshservice").create(draft())
    assert [ticket.key for ticket in site.desks.freshservice.tickets.values()] == [ref.key]


async def test_freshservice_finds_it_behind_many_others(site: Site) -> None:
    site.desks.freshservice.search_lag = 50
    desk = site.open("freshservice")
    ref = await desk.create(draft())
    for number in range(120):
        site.desks.freshservice.open(subject=f"Other {number}")
    assert await desk.create(draft(), tried=True) == ref


async def test_freshservice_keeps_the_tags_that_others_set(site: Site) -> None:
    desk = site.open("freshservice")
    ref = await desk.create(draft())
    (ticket,) = site.desks.freshservice.tickets.values()
    site.desks.freshservice.change(ticket, by="Ann Agent", tags=["vip"])
    # A ticket that is found by its description has lost its tag.
    assert await desk.create(draft(test=True), tried=True) == ref
    assert ticket.tags == ["lr-case-case-1", "lr_test", "vip"]


async def test_freshservice_asks_for_tags_by_name_where_they_are_not_shown(site: Site) -> None:
    site.desks.freshservice.tags_by_name_only = True
    desk = site.open("freshservice")
    ref = await desk.create(draft())
    (ticket,) = site.desks.freshservice.tickets.values()
    site.desks.freshservice.change(ticket, by="Ann Agent", tags=[*ticket.tags, "lr_revoke"])
    assert (await desk.read_decision(ref)).reading == "revoke"


async def test_freshservice_is_sent_text_not_html(site: Site) -> None:
    await site.open("freshservice").create(draft(description="<img src=x>\nsecond"))
    (ticket,) = site.desks.freshservice.tickets.values()
    assert ticket.description.startswith("&lt;img src=x&gt;<br>second")


async def test_freshservice_puts_custom_fields_where_they_belong(site: Site) -> None:
    await site.open("freshservice").create(draft(fields={"custom_fields.cost": 12.5, "priority": 3}))
    (body,) = bodies(site.desks.freshservice, "POST", "/tickets")
    assert (body["custom_fields"], body["priority"]) == ({"cost": 12.5}, 3)


@pytest.mark.parametrize("task", ["", "-task"], ids=["question", "task"])
async def test_freshservice_tags_have_room_and_name_their_case(site: Site, task: str) -> None:
    case_id = f"0198c5e2-7b1a-7c3d-9e4f-0123456789ab{task}"
    desk = site.open("freshservice")
    ref = await desk.create(draft(case_id=case_id))
    (ticket,) = site.desks.freshservice.tickets.values()
    (tag,) = ticket.tags
    assert len(tag) <= LONGEST_TAG
    assert marked_case(tag) == case_id
    assert await desk.find_by_case(case_id, since=NOW) == ref
    assert await desk.find_by_case("0198c5e2-7b1a-7c3d-9e4f-0123456789ac", since=NOW) is None


async def test_freshservice_finds_an_id_that_no_tag_has_room_for(site: Site) -> None:
    desk = site.open("freshservice")
    ref = await desk.create(draft(case_id="x" * 80))
    (ticket,) = site.desks.freshservice.tickets.values()
    assert [len(tag) <= LONGEST_TAG for tag in ticket.tags] == [True]
    assert await desk.find_by_case("x" * 80, since=NOW) == ref


async def test_freshservice_finds_a_ticket_whose_tag_is_the_long_marker(site: Site) -> None:
    """Releases before this one have tagged tickets so."""
    case_id = "0198c5e2-7b1a-7c3d-9e4f-0123456789ab"
    simulated = site.desks.freshservice
    simulated.open(subject="Keep?", description="It was rewritten.", requester="a@b", tags=[f"lr-case-{case_id}"])
    desk = site.open("freshservice")
    found = await desk.find_by_case(case_id, since=NOW)
    assert found is not None
    assert await desk.create(draft(case_id=case_id), tried=True) == found
    assert len(simulated.tickets) == 1


async def test_freshservice_calls_the_fields_of_its_form_as_its_tickets_do(site: Site) -> None:
    desk = site.open("freshservice")
    names = {spec.name: spec for spec in await desk.discover_fields()}
    given = {"type": "Incident", "department_id": "Sales", "group_id": "12"}
    await desk.create(draft(fields={name: names[name].value(text) for name, text in given.items()}))
    (body,) = bodies(site.desks.freshservice, "POST", "/tickets")
    assert {name: body[name] for name in given} == {"type": "Incident", "department_id": 4100, "group_id": 12}


async def test_freshservice_takes_no_tag_away_that_it_does_not_show(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk, simulated = site.open("freshservice"), site.desks.freshservice
    ref = await desk.create(draft())
    shown = type(simulated)._shown
    monkeypatch.setattr(simulated, "_shown", lambda ticket, **_: shown(simulated, ticket, tags=False))
    await desk.close(ref, "Frozen.", mark="lr-note-1")
    (ticket,) = simulated.tickets.values()
    assert ticket.tags == ["lr-case-case-1"]


# ServiceNow ----------------------------------------------------------------------------------------------------------


async def test_servicenow_does_not_trust_an_answer_to_a_query_that_was_ignored(site: Site) -> None:
    site.desks.servicenow.open(subject="Somebody else's")
    desk = site.open("servicenow")

    def ignore(request: httpx.Request) -> httpx.Response:
        rows = [{"sys_id": "1", "number": "INC1", "correlation_id": ""}]
        return httpx.Response(200, json={"result": rows})

    async with httpx.AsyncClient(transport=httpx.MockTransport(ignore)) as deaf:
        desk = open_desk(
            DeskProfile("servicenow", {"base_url": "https://x.example", "username": "u"}, {"password": "p"}),
            deaf,
            QUICK,
        )
        with pytest.raises(Refused, match="ignored"):
            await desk.create(draft())


@pytest.mark.parametrize("test_ticket", [False, True])
async def test_servicenow_names_who_set_the_tag_and_not_who_changed_the_record(site: Site, test_ticket: bool) -> None:
    desk = site.open("servicenow")
    ref = await desk.create(draft(test=test_ticket))
    (ticket,) = site.desks.servicenow.tickets.values()
    said = await desk.read_decision(ref)
    assert (said.actor, said.moved_by, said.ours) == (None, None, servicenow.USER), "our own account answers nothing"
    for by, tag in (("Ann Agent", "lr_keep"), ("Bob Broker", "other")):
        site.clock.advance(timedelta(minutes=5))
        site.desks.servicenow.change(ticket, by=by, tags=[*ticket.tags, tag])
    site.clock.advance(timedelta(minutes=5))
    site.desks.servicenow.change(ticket, by="Carl Clerk", urgency="1")
    said = await desk.read_decision(ref)
    assert (said.reading, said.actor, said.at) == ("keep", "Ann Agent", NOW + timedelta(minutes=5))
    assert (said.moved_by, said.moved_at) == ("Carl Clerk", NOW + timedelta(minutes=15))


async def test_servicenow_names_who_changed_the_record_for_what_stands_in_it(site: Site) -> None:
    given, credentials = SETTINGS["servicenow"]
    rules = DecisionRules(decision_field="u_decision", values={"keep": "keep"})
    address = {"base_url": f"{site.sandbox.url}/desks/servicenow"}
    desk = open_desk(DeskProfile("servicenow", {**address, **given}, credentials, rules), site.client, QUICK)
    ref = await desk.create(draft())
    (ticket,) = site.desks.servicenow.tickets.values()
    site.desks.servicenow.change(ticket, by="Ann Agent", u_decision="keep")
    assert ((await desk.read_decision(ref)).reading, (await desk.read_decision(ref)).actor) == ("keep", "Ann Agent")


async def test_servicenow_sends_a_new_token_when_the_old_one_ended(site: Site) -> None:
    given = {"base_url": f"{site.sandbox.url}/desks/servicenow", "client_id": servicenow.CLIENT_ID}
    secret = {"client_secret": servicenow.CLIENT_SECRET}
    desk = open_desk(DeskProfile("servicenow", given, secret), site.client, QUICK)
    ref = await desk.create(draft())
    site.desks.servicenow.end_sessions()
    await desk.comment(ref, "Still here.")
    (ticket,) = site.desks.servicenow.tickets.values()
    assert [comment.text for comment in ticket.comments] == ["Still here."]


async def test_servicenow_finds_the_caller_and_a_caret_asks_nobody(site: Site) -> None:
    await site.open("servicenow").create(draft(requester_email="ann@example.com"))
    await site.open("servicenow").create(draft(case_id="case-2", requester_email="a^active=true@example.com"))
    first, second = site.desks.servicenow.tickets.values()
    assert first.fields["caller_id"] == servicenow.CALLER[0]
    assert "caller_id" not in second.fields


async def test_servicenow_journal_takes_no_html(site: Site) -> None:
    desk = site.open("servicenow")
    ref = await desk.create(draft())
    await desk.comment(ref, "[code]<script>x</script>[/code]")
    (ticket,) = site.desks.servicenow.tickets.values()
    assert "[code]" not in ticket.comments[0].text


async def test_servicenow_says_which_tag_is_missing_before_it_opens_a_test_ticket(site: Site) -> None:
    site.desks.servicenow._labels = {}
    with pytest.raises(Refused, match="lr_test"):
        await site.open("servicenow").create(draft(test=True))
    assert site.desks.servicenow.tickets == {}
    failed = [result for result in await site.open("servicenow").test_connection() if not result.ok]
    assert [result.what for result in failed] == ["read tags"]


# Serval --------------------------------------------------------------------------------------------------------------


async def test_serval_keeps_its_assistant_out(site: Site) -> None:
    desk = site.open("serval")
    ref = await desk.create(draft(test=True, fields={"priorityId": "priority-3"}))
    await desk.comment(ref, "Hello.")
    (body,) = bodies(site.desks.serval, "POST", "/tickets")
    assert body["aiActive"] is False
    assert not {"labelIds", "priorityId"} & set(body)
    (update,) = bodies(site.desks.serval, "PUT", "")
    assert set(update) == {"priorityId", "labelIds"}
    (message,) = bodies(site.desks.serval, "POST", "/messages")
    assert message["triggerHelpAgent"] is False


async def test_serval_reads_every_page(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reclaim.connectors.itsm.serval.PAGE", 10)
    for number in range(35):
        site.desks.serval.open(subject=f"Other {number}")
    desk = site.open("serval")
    ref = await desk.create(draft())
    assert await desk.find_by_case("case-1", since=NOW) == ref


async def test_serval_reads_messages_and_tickets_without_a_text(site: Site) -> None:
    desk, simulated = site.open("serval"), site.desks.serval
    ref = await desk.create(draft())
    simulated.open(subject="By a form", description=None)  # type: ignore[arg-type]  # as nobody wrote anything
    simulated.say(next(iter(simulated.tickets.values())), None, public=True, by="Pat")  # type: ignore[arg-type]
    await desk.comment(ref, "Frozen.", mark="lr-note-1")
    await desk.comment(ref, "Frozen.", mark="lr-note-1", tried=True)
    assert len(bodies(simulated, "POST", "/messages")) == 1
    assert await desk.find_by_case("case-1", since=NOW) == ref


async def test_serval_signs_in_again_when_its_session_ended(site: Site) -> None:
    desk = site.open("serval")
    ref = await desk.create(draft())
    site.desks.serval.end_sessions()
    assert (await desk.read_decision(ref)).reading == "open"


# Generic -------------------------------------------------------------------------------------------------------------


async def test_a_generic_desk_is_asked_with_both_secrets_while_they_change(site: Site) -> None:
    given, _ = SETTINGS["generic"]
    address = {"base_url": f"{site.sandbox.url}/desks/generic"}
    newer = {"secret": "whsec_" + "QUJD" * 10, "previous_secret": generic.SECRET}
    desk = open_desk(DeskProfile("generic", {**address, **given}, newer), site.client, QUICK)
    await desk.create(draft())
    assert len(site.desks.generic.tickets) == 1


async def test_a_generic_desk_opens_one_ticket_for_one_message(site: Site) -> None:
    desk = site.open("generic")
    site.fault("timeout_after_commit", "POST", "generic/?", after=1)
    await desk.create(draft())
    assert len(site.desks.generic.tickets) == 1


@pytest.mark.parametrize(
    ("url", "kept"),
    [("https://desk.example/1", True), ("javascript:alert(1)", False), (" javascript:alert(1)", False)],
    ids=["web", "script", "script-after-a-space"],
)
async def test_a_generic_desk_gives_no_link_but_to_the_web(url: str, kept: bool) -> None:
    def found(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"ticket": {"key": "1", "url": url}})

    profile = DeskProfile("generic", {"base_url": "https://desk.example"}, {"secret": generic.SECRET}, DecisionRules())
    async with httpx.AsyncClient(transport=httpx.MockTransport(found)) as client:
        ref = await open_desk(profile, client, QUICK).find_by_case("case-1", since=NOW)
    assert ref == TicketRef("1", "1", url if kept else "")


# Any -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("platform", SETTINGS)
async def test_a_redirect_is_not_followed(platform: str) -> None:
    calls: list[str] = []

    def away(request: httpx.Request) -> httpx.Response:
        calls.append(str(request.url))
        return httpx.Response(302, headers={"Location": "http://169.254.169.254/latest/meta-data"})

    given, credentials = SETTINGS[platform]
    async with httpx.AsyncClient(transport=httpx.MockTransport(away), follow_redirects=True) as client:
        desk = open_desk(
            DeskProfile(platform, {**given, "base_url": "https://desk.example"}, credentials), client, QUICK
        )
        with pytest.raises(Refused):
            await desk.find_by_case("case-1", since=NOW)
    assert all(url.startswith("https://desk.example") for url in calls)
    assert len(calls) == 1


@pytest.mark.parametrize("platform", SETTINGS)
@pytest.mark.parametrize(
    "content",
    [b"<html>Sign in</html>", b"[]", b"null", b'{"result": 1}', b"\xff"],
    ids=["page", "list", "null", "odd", "raw"],
)
async def test_an_answer_that_is_none_is_passing_for_a_read(platform: str, content: bytes) -> None:
    given, credentials = SETTINGS[platform]
    transport = httpx.MockTransport(lambda _request: httpx.Response(200, content=content))
    async with httpx.AsyncClient(transport=transport) as client:
        desk = open_desk(
            DeskProfile(platform, {**given, "base_url": "https://desk.example"}, credentials), client, QUICK
        )
        with pytest.raises(Passing):
            await desk.read_decision(TicketRef("1", "1", ""))


@pytest.mark.parametrize("at", ["0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-01:00", "lately", "", None])
def test_what_is_no_instant_in_utc_is_none(at: str | None) -> None:
    assert moment(at) is None


async def test_an_answer_without_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reclaim.connectors.itsm.base.LARGEST_ANSWER", 1000)
    given, credentials = SETTINGS["freshservice"]
    transport = httpx.MockTransport(lambda _request: httpx.Response(200, content=b" " * 2000))
    async with httpx.AsyncClient(transport=transport) as client:
        profile = DeskProfile("freshservice", {**given, "base_url": "https://desk.example"}, credentials)
        with pytest.raises(Passing, match="without end"):
            await open_desk(profile, client, QUICK).find_by_case("case-1", since=NOW)


@pytest.mark.parametrize("platform", [name for name in SETTINGS if name != "generic"])
async def test_an_error_quotes_the_platform_and_no_secret(site: Site, platform: str) -> None:
    desk = site.open(platform)
    await desk.create(draft())
    site.sandbox.world.faults.add("request_limit", path_regex=f"^/desks/{platform}", times=None)
    with pytest.raises(Refused, match="You have no permission for this") as raised:
        await desk.find_by_case("case-1", since=NOW)
    for secret in SETTINGS[platform][1].values():
        assert secret not in str(raised.value)


async def test_a_lost_comment_is_not_known(site: Site) -> None:
    desk = site.open("freshservice", replace(QUICK, unknown_for=7))
    ref = await desk.create(draft())
    site.fault("timeout_after_commit", "POST", "freshservice/api/v2/tickets/[0-9]+/notes")
    with pytest.raises(UnknownOutcome) as raised:
        await desk.comment(ref, "Hello.")
    assert raised.value.look_after == 7


async def test_a_look_that_fails_after_a_lost_answer_leaves_it_unknown(site: Site) -> None:
    site.fault("timeout_after_commit", "POST", "freshservice/api/v2/tickets")
    site.fault("too_many_requests", "GET", "freshservice/api/v2/tickets/filter", after=1, params={"retry_after": 40})
    with pytest.raises(UnknownOutcome) as raised:
        await site.open("freshservice").create(draft())
    assert raised.value.look_after == 40
    assert len(site.desks.freshservice.tickets) == 1


async def test_a_ticket_that_is_open_but_not_complete_is_not_taken_for_none(site: Site) -> None:
    site.sandbox.world.faults.add(
        "too_many_requests", method="GET", path_regex="^/desks/serval/v2/tickets/.", params={"retry_after": 40}
    )
    with pytest.raises(UnknownOutcome, match="not yet complete"):
        await site.open("serval").create(draft(test=True))
    await site.open("serval").create(draft(test=True), tried=True)
    (ticket,) = site.desks.serval.tickets.values()
    assert ticket.tags == ["lr_test"]


def test_rules_default_to_the_documented_tags() -> None:
    assert DecisionRules().tags == {
        "lr_keep": "keep",
        "lr_revoke": "revoke",
        "lr_downgrade": "downgrade",
        "lr_done": "done",
    }


async def test_a_client_that_was_closed_meanwhile_is_passing_trouble() -> None:
    settings = {"base_url": "http://127.0.0.1:9", "requester_email": "reclaim@example.com"}
    profile = DeskProfile("freshservice", settings, {"api_key": "key"}, DecisionRules())
    client = httpx.AsyncClient(verify=usual_trust())
    await client.aclose()
    with pytest.raises(Passing, match="changed just now"):
        await open_desk(profile, client, Tuning()).comment(TicketRef("1", "#1", ""), "Words.")
