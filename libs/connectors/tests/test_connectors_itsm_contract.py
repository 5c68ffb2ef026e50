"""One contract, held to by every adapter against its simulated desk over real HTTP, and by the desk in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import count
from typing import Any, Protocol

import httpx
import pytest
import pytest_asyncio

from reclaim.common.clock import FixedClock
from reclaim.common.errors import Invalid
from reclaim.common.http_client import usual_trust
from reclaim.connectors.itsm.decisions import DecisionRules
from reclaim.connectors.itsm.fake import FakeDesk, Trouble
from reclaim.connectors.itsm.generic import Generic
from reclaim.connectors.itsm.ports import (
    NotThere,
    Passing,
    ServiceDesk,
    SignInRefused,
    TicketDraft,
    TicketRef,
    UnknownOutcome,
)
from reclaim.connectors.itsm.profile import DeskProfile, Tuning
from reclaim.connectors.itsm.registry import open_desk
from reclaim.sandbox.app import Sandbox
from reclaim.sandbox.desks import freshservice, generic, jira, serval, servicenow
from reclaim.sandbox.desks.core import Desk, Ticket
from reclaim.sandbox.desks.pages import person_acts

pytestmark = pytest.mark.asyncio(loop_scope="module")

NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
QUICK = Tuning(connect_timeout=2, read_timeout=2, look_again=(0.0, 0.0, 0.0, 0.0), unknown_for=5)
PERSON = "Ann Agent"


class World(Protocol):
    """A desk that a test can look into from outside, and in which people act."""

    desk: ServiceDesk
    decision_field: str
    decision_values: dict[str, str]
    """What stands in the field for keep and for revoke, as a person chooses it."""

    def tickets(self) -> list[dict[str, Any]]:
        """Return subject, tags, closed and comments of each ticket."""

    def act(self, ref: TicketRef, action: str, value: str = "") -> None: ...

    def trouble(self, kind: str, *, times: int | None = 1, after: int = 0, **params: Any) -> None:
        """Let calls fail: `lost` after the work, `down` before it, `busy`, `locked_out`."""

    def lose_the_next_create(self) -> None: ...

    def fail_the_next_create(self) -> None: ...

    def recover(self) -> None: ...

    def calls(self) -> int: ...

    def reopened_with(self, rules: DecisionRules) -> ServiceDesk: ...


class Fake:
    decision_field = "u_decision"

    def __init__(self) -> None:
        self.decision_values = {"keep": "keep", "revoke": "revoke"}
        self.clock = FixedClock(NOW)
        self.fake = FakeDesk(self.clock)
        self.desk: ServiceDesk = self.fake

    def tickets(self) -> list[dict[str, Any]]:
        return [
            {"subject": each.subject, "tags": each.tags, "closed": each.closed, "comments": each.comments}
            for each in self.fake.tickets.values()
        ]

    def act(self, ref: TicketRef, action: str, value: str = "") -> None:
        ticket = self.fake.tickets[ref.key]
        ticket.changed_by, ticket.changed_at = PERSON, NOW
        match action:
            case "tag":
                ticket.tags.append(value)
            case "untag":
                ticket.tags.remove(value)
            case "close" | "reopen":
                ticket.closed = action == "close"
            case "set":
                name, _, text = value.partition("=")
                ticket.fields[name] = text

    def trouble(self, kind: str, *, times: int | None = 1, after: int = 0, **params: Any) -> None:
        self.fake.down = {
            "busy": Passing("busy", retry_after=float(params.get("retry_after", 0))),
            "locked_out": SignInRefused("The desk does not accept the credentials.", "Enter them again."),
            "down": Passing("down"),
        }[kind]

    def lose_the_next_create(self) -> None:
        self._once("after")

    def fail_the_next_create(self) -> None:
        self._once("before")

    def _once(self, trouble: Trouble) -> None:
        left = [trouble]
        self.fake.trouble = lambda operation: left.pop() if operation == "create" and left else "none"

    def recover(self) -> None:
        self.fake.down = None

    def calls(self) -> int:
        return self.fake.calls

    def reopened_with(self, rules: DecisionRules) -> ServiceDesk:
        self.fake.decisions = rules
        return self.fake


class Simulated:
    """An adapter, and the simulated desk that it speaks to."""

    def __init__(
        self,
        sandbox: Sandbox,
        client: httpx.AsyncClient,
        desk: Desk,
        create: tuple[str, str],
        settings: dict[str, str],
        credentials: dict[str, str],
        decision: tuple[str, dict[str, str]],
    ) -> None:
        self.sandbox, self.client, self.simulated, self.create_call = sandbox, client, desk, create
        self.settings = {"base_url": f"{sandbox.url}/desks/{desk.name}", **settings}
        self.credentials = credentials
        self.decision_field, self.decision_values = decision
        self.desk = self.reopened_with(DecisionRules())

    def reopened_with(self, rules: DecisionRules) -> ServiceDesk:
        profile = DeskProfile(self.simulated.name, self.settings, self.credentials, rules)
        return open_desk(profile, self.client, QUICK)

    def _tickets(self) -> list[Ticket]:
        return list(self.simulated.tickets.values())

    def tickets(self) -> list[dict[str, Any]]:
        return [
            {
                "subject": each.subject,
                "tags": each.tags,
                "closed": self.simulated.is_closed(each),
                "comments": [comment.text for comment in each.comments],
            }
            for each in self._tickets()
        ]

    def act(self, ref: TicketRef, action: str, value: str = "") -> None:
        (ticket,) = [each for each in self._tickets() if each.key in (ref.number, ref.number.removeprefix("#"))]
        if action == "set":
            value = value.replace("custom_fields.", "")
            if value.startswith("status="):
                self.simulated.change(ticket, by=PERSON, status=value.removeprefix("status="))
                return
        person_acts(self.simulated, ticket, action, value, PERSON)

    def trouble(self, kind: str, *, times: int | None = 1, after: int = 0, **params: Any) -> None:
        kinds = {"busy": "too_many_requests", "locked_out": "session_expired", "down": "server_unavailable"}
        self._fault(kinds[kind], f"^/desks/{self.simulated.name}", times=times, after=after, params=params)

    def lose_the_next_create(self) -> None:
        self._fault("timeout_after_commit", *self._create_path())

    def fail_the_next_create(self) -> None:
        self._fault("server_unavailable", *self._create_path())

    def _create_path(self) -> tuple[str, str]:
        method, path = self.create_call
        return f"^/desks/{self.simulated.name}{path}$", method

    def _fault(self, kind: str, path: str, method: str | None = None, **more: Any) -> None:
        # The generic desk has one address for everything: the question before the create is the look for a ticket.
        if method is not None and self.simulated.name == "generic":
            more["after"] = 1
        self.sandbox.world.faults.add(kind, path_regex=path, method=method, **more)

    def recover(self) -> None:
        self.sandbox.world.faults.clear()

    def calls(self) -> int:
        return len(self.simulated.called)


ADAPTERS: dict[str, Callable[[Sandbox, httpx.AsyncClient], Simulated]] = {
    "servicenow": lambda sandbox, client: Simulated(
        sandbox,
        client,
        sandbox.world.desks.servicenow,
        ("POST", "/api/now/table/incident"),
        {"username": servicenow.USER},
        {"password": servicenow.PASSWORD},
        ("u_decision", {"keep": "keep", "revoke": "revoke"}),
    ),
    "servicenow_oauth": lambda sandbox, client: Simulated(
        sandbox,
        client,
        sandbox.world.desks.servicenow,
        ("POST", "/api/now/table/incident"),
        {"client_id": servicenow.CLIENT_ID},
        {"client_secret": servicenow.CLIENT_SECRET},
        ("close_code", {"keep": "Keep seat", "revoke": "Revoke seat"}),
    ),
    "jira": lambda sandbox, client: Simulated(
        sandbox,
        client,
        sandbox.world.desks.jira,
        ("POST", "/rest/servicedeskapi/request"),
        {"email": jira.EMAIL, "service_desk_id": jira.SERVICE_DESK, "request_type_id": jira.REQUEST_TYPE},
        {"api_token": jira.TOKEN},
        (jira.DECISION_FIELD, {"keep": "Keep", "revoke": "Revoke"}),
    ),
    "freshservice": lambda sandbox, client: Simulated(
        sandbox,
        client,
        sandbox.world.desks.freshservice,
        ("POST", "/api/v2/tickets"),
        {"requester_email": "reclaim@example.com"},
        {"api_key": freshservice.API_KEY},
        ("custom_fields.decision", {"keep": "Keep", "revoke": "Revoke"}),
    ),
    "serval": lambda sandbox, client: Simulated(
        sandbox,
        client,
        sandbox.world.desks.serval,
        ("POST", "/v2/tickets"),
        {"client_id": serval.CLIENT_ID, "team_id": serval.TEAM, "user_id": serval.USER},
        {"client_secret": serval.CLIENT_SECRET},
        ("status", {"keep": "Dropped", "revoke": "Solved"}),
    ),
    "generic": lambda sandbox, client: Simulated(
        sandbox,
        client,
        sandbox.world.desks.generic,
        ("POST", "/?"),
        {},
        {"secret": generic.SECRET},
        ("answer", {"keep": "keep", "revoke": "revoke"}),
    ),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(clock=FixedClock(NOW), users=0) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(verify=usual_trust()) as made:
        yield made


@pytest.fixture(params=["fake", *ADAPTERS])
def world(request: pytest.FixtureRequest, sandbox: Sandbox, client: httpx.AsyncClient) -> World:
    sandbox.world.desks.clear()
    sandbox.world.faults.clear()
    for desk in sandbox.world.desks.by_name.values():
        desk.search_lag = 0
    if request.param == "fake":
        return Fake()
    return ADAPTERS[request.param](sandbox, client)


_numbers = count(1)


def draft(**more: Any) -> TicketDraft:
    values = {"case_id": f"case-{next(_numbers):04d}", "title": "Keep or revoke?", "description": "Please answer."}
    return TicketDraft(**{**values, "opened_at": NOW, **more})


async def reading(world: World, ref: TicketRef) -> str:
    return (await world.desk.read_decision(ref)).reading


# Opening -------------------------------------------------------------------------------------------------------------


async def test_a_case_has_one_ticket_however_often_it_is_asked_for(world: World) -> None:
    wanted = draft()
    first = await world.desk.create(wanted)
    assert await world.desk.create(wanted) == first
    assert await world.desk.find_by_case(wanted.case_id, since=NOW) == first
    assert [each["subject"] for each in world.tickets()] == ["Keep or revoke?"]
    assert await reading(world, first) == "open"


async def test_texts_that_are_too_long_are_cut_and_keep_their_last_words_and_marks(world: World) -> None:
    # Markup of every platform, which gets longer as it is written, and signs that count twice.
    text = "{&[code]\U0001f600 " * 6_000
    wanted = draft(title="\U0001f600" * 300, description=f"{text}\nThen close the ticket.", test=True)
    ref = await world.desk.create(wanted)
    assert await world.desk.find_by_case(wanted.case_id, since=NOW) == ref
    for _ in range(2):
        await world.desk.comment(ref, f"{text}\nThe seat was frozen.", mark="lr-note-a", tried=True)
    await world.desk.close(ref, text, mark="lr-note-b")
    await world.desk.reopen(ref, text, mark="lr-note-c")
    (ticket,) = world.tickets()
    assert len(ticket["comments"]) == 3
    assert "The seat was frozen." in ticket["comments"][0]
    assert ticket["subject"].startswith("[DRY-RUN] \U0001f600")


async def test_each_case_has_its_own_ticket(world: World) -> None:
    one, other = draft(case_id="case-1"), draft(case_id="case-11")
    first = await world.desk.create(other)
    assert await world.desk.find_by_case(one.case_id, since=NOW) is None
    assert await world.desk.create(one) != first


async def test_a_dry_run_says_so_and_its_answer_is_marked(world: World) -> None:
    ref = await world.desk.create(draft(test=True))
    (ticket,) = world.tickets()
    assert ticket["subject"].startswith("[DRY-RUN] ")
    assert "lr_test" in ticket["tags"]
    world.act(ref, "tag", "lr_revoke")
    read = await world.desk.read_decision(ref)
    assert (read.reading, read.test) == ("revoke", True)


async def test_an_answer_that_is_lost_after_create_opens_no_second_ticket(world: World) -> None:
    wanted = draft()
    world.lose_the_next_create()
    try:
        ref = await world.desk.create(wanted)
    except UnknownOutcome:
        ref = await world.desk.create(wanted, tried=True)
    assert len(world.tickets()) == 1
    assert await world.desk.find_by_case(wanted.case_id, since=NOW) == ref


async def test_a_failure_of_create_is_not_known_and_the_next_try_opens_one(world: World) -> None:
    wanted = draft()
    world.fail_the_next_create()
    with pytest.raises(UnknownOutcome):
        await world.desk.create(wanted)
    assert world.tickets() == []
    await world.desk.create(wanted, tried=True)
    assert len(world.tickets()) == 1


async def test_a_case_id_that_would_not_survive_as_a_label_is_refused(world: World) -> None:
    with pytest.raises(Invalid):
        await world.desk.create(draft(case_id="one two"))
    assert world.tickets() == []


async def test_every_field_that_is_reported_with_choices_takes_one_of_them(world: World) -> None:
    specs = await world.desk.discover_fields()
    offered = [spec for spec in specs if spec.choices and spec.name not in {"status", "state"}]
    assert offered
    for spec in offered:
        await world.desk.create(draft(fields={spec.name: spec.value(spec.choices[0].label)}))
    assert len(world.tickets()) == len(offered)


# Reading -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tags", "close", "expected"),
    [
        ([], False, "open"),
        ([], True, "undecided"),
        (["lr_keep"], False, "keep"),
        (["lr_keep"], True, "keep"),
        (["lr_revoke"], True, "revoke"),
        (["lr_downgrade"], True, "downgrade"),
        (["lr_done"], False, "open"),
        (["lr_done"], True, "done"),
        (["lr_keep", "lr_revoke"], False, "open"),
        (["lr_keep", "lr_revoke"], True, "undecided"),
    ],
    ids=lambda value: "-".join(value) or "none" if isinstance(value, list) else str(value),
)
async def test_what_a_ticket_says(world: World, tags: list[str], close: bool, expected: str) -> None:
    ref = await world.desk.create(draft())
    for tag in tags:
        world.act(ref, "tag", tag)
    if close:
        world.act(ref, "close")
    read = await world.desk.read_decision(ref)
    assert (read.reading, read.closed, read.test) == (expected, close, False)
    assert bool(read.reason) is (expected == "undecided")


async def test_a_tag_that_is_taken_back_says_nothing(world: World) -> None:
    ref = await world.desk.create(draft())
    world.act(ref, "tag", "lr_revoke")
    world.act(ref, "untag", "lr_revoke")
    assert await reading(world, ref) == "open"


async def test_a_field_can_decide_and_a_tag_that_disagrees_undoes_it(world: World) -> None:
    values = world.decision_values
    desk = world.reopened_with(
        DecisionRules(decision_field=world.decision_field, values={values["keep"]: "keep", values["revoke"]: "revoke"})
    )
    ref = await desk.create(draft())
    world.act(ref, "set", f"{world.decision_field}={values['revoke']}")
    assert (await desk.read_decision(ref)).reading == "revoke"
    world.act(ref, "tag", "lr_keep")
    if world.decision_field != "status":
        world.act(ref, "close")
    assert (await desk.read_decision(ref)).reading == "undecided"


async def test_where_only_a_closed_ticket_decides_an_open_one_does_not(world: World) -> None:
    desk = world.reopened_with(DecisionRules(needs_close=True))
    ref = await desk.create(draft())
    world.act(ref, "tag", "lr_revoke")
    assert (await desk.read_decision(ref)).reading == "open"
    world.act(ref, "close")
    assert (await desk.read_decision(ref)).reading == "revoke"


async def test_a_ticket_that_is_gone_is_no_decision(world: World) -> None:
    await world.desk.create(draft())
    with pytest.raises(NotThere):
        await world.desk.read_decision(TicketRef("999999", "999999", ""))


# Telling -------------------------------------------------------------------------------------------------------------


async def test_comments_are_there_in_order(world: World) -> None:
    ref = await world.desk.create(draft())
    await world.desk.comment(ref, "The seat was frozen.")
    await world.desk.comment(ref, "The seat was freed.")
    (ticket,) = world.tickets()
    assert ticket["comments"] == ["The seat was frozen.", "The seat was freed."]


async def test_a_word_that_may_have_been_said_is_looked_for_and_another_is_not_taken_for_it(world: World) -> None:
    ref = await world.desk.create(draft())
    for mark, tried in [("lr-note-1", False), ("lr-note-12", True), ("lr-note-12", True), ("lr-note-1", True)]:
        await world.desk.comment(ref, "The seat was frozen.", mark=mark, tried=tried)
    (ticket,) = world.tickets()
    assert len(ticket["comments"]) == 2


async def test_a_ticket_that_its_people_reopened_after_it_was_closed_is_not_closed_again(world: World) -> None:
    ref = await world.desk.create(draft())
    await world.desk.close(ref, "Frozen.", mark="lr-note-1")
    world.act(ref, "reopen")
    await world.desk.close(ref, "Frozen.", mark="lr-note-1", tried=True)
    (ticket,) = world.tickets()
    assert (ticket["closed"], len(ticket["comments"])) == (False, 1)


async def test_a_closing_is_known_by_its_mark_however_the_ticket_stands(world: World) -> None:
    ref = await world.desk.create(draft())
    await world.desk.comment(ref, "The seat is frozen soon.", mark="lr-note-1")
    assert not await world.desk.was_closed(ref, mark="lr-note-2")
    await world.desk.close(ref, "Frozen.", mark="lr-note-2")
    world.act(ref, "reopen")
    # A generic desk has nothing to tell by: it knows the question, and does not close the ticket for it again.
    told = not isinstance(world.desk, Generic)
    assert await world.desk.was_closed(ref, mark="lr-note-2") is told
    assert not await world.desk.was_closed(ref, mark="lr-note-22")


async def test_closing_and_reopening_happen_once(world: World) -> None:
    ref = await world.desk.create(draft())
    for _ in range(2):
        await world.desk.close(ref, "Decided by e-mail.")
    (ticket,) = world.tickets()
    assert (ticket["closed"], ticket["comments"]) == (True, ["Decided by e-mail."])
    for _ in range(2):
        await world.desk.reopen(ref, "Restored.")
    (ticket,) = world.tickets()
    assert (ticket["closed"], ticket["comments"]) == (False, ["Decided by e-mail.", "Restored."])


# Trouble -------------------------------------------------------------------------------------------------------------


async def test_a_desk_that_asks_for_fewer_calls_is_left_alone(world: World) -> None:
    wanted = draft()
    world.trouble("busy", times=None, retry_after=30)
    with pytest.raises(Passing) as first:
        await world.desk.create(wanted)
    assert first.value.retry_after == 30
    if isinstance(world, Fake):
        return
    before = world.calls()
    with pytest.raises(Passing) as second:
        await world.desk.create(wanted)
    assert second.value.retry_after == pytest.approx(30, abs=2)
    assert world.calls() == before
    assert world.tickets() == []


async def test_when_to_come_back_may_be_a_date(world: World) -> None:
    # The desks' dates are the machine's, whatever their clock says: so is the `Date` of their answers.
    until = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    if isinstance(world, Fake):
        world.trouble("busy", retry_after=90)
    else:
        world.trouble("busy", retry_after=until)
    with pytest.raises(Passing) as raised:
        await world.desk.find_by_case("case-1", since=NOW)
    assert raised.value.retry_after == pytest.approx(90, abs=3)


async def test_credentials_that_are_taken_away_stop_everything_and_say_so(world: World) -> None:
    ref = await world.desk.create(draft())
    world.trouble("locked_out", times=None)
    for call in (world.desk.read_decision(ref), world.desk.comment(ref, "Anybody?")):
        with pytest.raises(SignInRefused) as raised:
            await call
        assert raised.value.remedy
    world.recover()
    assert await reading(world, ref) == "open"


async def test_an_outage_is_passing_for_what_only_reads(world: World) -> None:
    ref = await world.desk.create(draft())
    world.trouble("down", times=None)
    with pytest.raises(Passing):
        await world.desk.read_decision(ref)


async def test_the_connection_test_tries_everything_and_names_what_failed(world: World) -> None:
    assert [result for result in await world.desk.test_connection() if not result.ok] == []
    world.trouble("locked_out", times=None)
    results = await world.desk.test_connection()
    assert results
    assert all(not result.ok and result.detail and result.remedy for result in results)
