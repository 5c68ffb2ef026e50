"""The simulated desks: how strict they are, what their webhooks are signed with, and how those go astray."""

from __future__ import annotations

import asyncio
import hmac
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request, Response
from standardwebhooks import Webhook

from reclaim.common.clock import FixedClock
from reclaim.sandbox.app import Sandbox, _Server, server_config
from reclaim.sandbox.desks import freshservice, generic, jira, serval, servicenow
from reclaim.sandbox.desks.core import Desk
from reclaim.sandbox.world import World

SECRET = generic.SECRET
DESKS = ("servicenow", "jira", "freshservice", "serval", "generic")
JSON = {"Accept": "application/json", "Content-Type": "application/json"}
REQUEST = {
    "serviceDeskId": jira.SERVICE_DESK,
    "requestTypeId": jira.REQUEST_TYPE,
    "requestFieldValues": {"summary": "Keep?", "description": "Please."},
}
TICKET = {"email": "ann@example.com", "subject": "Keep?", "description": "Please.", "status": 2, "priority": 2}
SERVAL_TICKET = {"teamId": serval.TEAM, "name": "Keep?", "createdByUserId": serval.USER, "aiActive": False}


def sign_in(name: str, world: World) -> dict[str, Any]:
    """Return what lets a call in."""
    if name == "servicenow":
        return {"auth": (servicenow.USER, servicenow.PASSWORD)}
    if name == "jira":
        return {"auth": (jira.EMAIL, jira.TOKEN)}
    if name == "freshservice":
        return {"auth": (freshservice.API_KEY, "X")}
    world.desks.serval._tokens.add("token")
    return {"headers": {**JSON, "Authorization": "Bearer token"}}


async def call(
    client: httpx.AsyncClient, world: World, method: str, name: str, path: str, body: Any = None, **more: Any
) -> httpx.Response:
    given = {"headers": JSON, **sign_in(name, world), **more}
    return await client.request(method, f"/desks/{name}{path}", json=body, **given)


# Strictness ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "path", "body", "changes"),
    [
        ("servicenow", "/api/now/table/incident", {"short_description": "x"}, {"colour": "blue"}),
        ("servicenow", "/api/now/table/incident", {"short_description": "x"}, {"state": 6}),
        ("servicenow", "/api/now/table/incident", {}, {}),
        ("jira", "/rest/servicedeskapi/request", REQUEST, {"serviceDeskId": 10}),
        ("jira", "/rest/servicedeskapi/request", REQUEST, {"labels": ["x"]}),
        ("jira", "/rest/servicedeskapi/request", REQUEST, {"requestFieldValues": {"description": "no summary"}}),
        ("jira", "/rest/servicedeskapi/request", REQUEST, {"requestFieldValues": {"summary": "x", "labels": ["y"]}}),
        ("freshservice", "/api/v2/tickets", TICKET, {"status": "2"}),
        ("freshservice", "/api/v2/tickets", TICKET, {"priority": 5}),
        ("freshservice", "/api/v2/tickets", TICKET, {"colour": "blue"}),
        ("freshservice", "/api/v2/tickets", TICKET, {"custom_fields": {"colour": "blue"}}),
        ("freshservice", "/api/v2/tickets", TICKET, {"email": None}),
        ("freshservice", "/api/v2/tickets", TICKET, {"tags": ["x" * 33]}),
        ("freshservice", "/api/v2/tickets", TICKET, {"subject": "x" * 256}),
        ("serval", "/v2/tickets", SERVAL_TICKET, {"labelIds": ["label-1"]}),
        ("serval", "/v2/tickets", SERVAL_TICKET, {"aiActive": "false"}),
        ("serval", "/v2/tickets", SERVAL_TICKET, {"createdByUserId": "nobody"}),
    ],
    ids=range(17),
)
async def test_what_is_not_documented_is_refused_in_the_platforms_own_shape(
    anonymous: httpx.AsyncClient, world: World, name: str, path: str, body: Any, changes: Any
) -> None:
    if changes:
        answer = await call(anonymous, world, "POST", name, path, body)
        assert answer.status_code in {200, 201}, answer.text
    before = len(world.desks.by_name[name].tickets)
    answer = await call(anonymous, world, "POST", name, path, {**body, **changes})
    assert answer.status_code == 400
    shape = {"servicenow": "error", "jira": "errorMessage", "freshservice": "errors", "serval": "code"}[name]
    assert shape in answer.json()
    assert len(world.desks.by_name[name].tickets) == before


@pytest.mark.parametrize("name", DESKS)
async def test_nobody_is_let_in_without_credentials(anonymous: httpx.AsyncClient, world: World, name: str) -> None:
    path = {
        "servicenow": "/api/now/table/incident",
        "jira": "/rest/servicedeskapi/request",
        "freshservice": "/api/v2/tickets",
        "serval": "/v2/tickets",
        "generic": "",
    }[name]
    answer = await anonymous.post(f"/desks/{name}{path}", json={}, headers=JSON)
    assert answer.status_code == 401


async def test_a_query_that_servicenow_does_not_understand_lets_everything_through(
    anonymous: httpx.AsyncClient, world: World
) -> None:
    for number in range(3):
        world.desks.servicenow.open(subject=f"{number}", fields={"correlation_id": f"c{number}"})
    path = "/api/now/table/incident"
    for query, found in (("correlation_id=c1", 1), ("correlation_ID=c1", 3), ("nonsense", 3)):
        answer = await call(anonymous, world, "GET", "servicenow", path, params={"sysparm_query": query})
        assert len(answer.json()["result"]) == found


async def test_jira_shows_ids_only_unless_fields_are_named(anonymous: httpx.AsyncClient, world: World) -> None:
    world.desks.jira.open(subject="x", tags=["lr-case-1"])
    jql = 'labels = "lr-case-1" OR description ~ "\\"lr-case-1\\"" ORDER BY created ASC'
    for body, shown in (({"jql": jql}, {"id"}), ({"jql": jql, "fields": ["labels"]}, {"id", "key", "self", "fields"})):
        answer = await call(anonymous, world, "POST", "jira", "/rest/api/3/search/jql", body)
        assert set(answer.json()["issues"][0]) == shown


# Webhooks ------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def receiver(statuses: list[int] | None = None) -> AsyncIterator[tuple[str, list[tuple[dict[str, str], bytes]]]]:
    """Listen for webhooks; answer with these statuses, then with 202."""
    taken: list[tuple[dict[str, str], bytes]] = []
    left = list(statuses or [])
    app = FastAPI()

    @app.post("/in")
    async def take(request: Request) -> Response:
        taken.append((dict(request.headers), await request.body()))
        return Response(status_code=left.pop(0) if left else 202)

    listener = socket.create_server(("127.0.0.1", 0))
    server = _Server(server_config(app))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:
        if serving.done():
            await serving
        await asyncio.sleep(0.005)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/in", taken
    finally:
        server.should_exit = server.force_exit = True
        await serving


def ticket_on(desk: Desk) -> Any:
    tags = [] if desk.name == "serval" else ["lr-case-c1"]
    return desk.open(subject="x", description="Reference: lr-case-c1", tags=tags)


async def tag(world: World, desk: Desk, ticket: Any, *names: str) -> None:
    for name in names:
        desk.change(ticket, by="Ann Agent", tags=[*ticket.tags, name])
    await desk.deliver()


@pytest.mark.parametrize("name", ["servicenow", "serval", "generic"])
async def test_standard_webhooks_verify(world: World, name: str) -> None:
    desk = world.desks.by_name[name]
    async with receiver() as (url, taken):
        desk.hooks.url, desk.hooks.secret = url, SECRET
        ticket = ticket_on(desk)
        await tag(world, desk, ticket, "lr_revoke")
        await desk.deliver()
    headers, body = taken[-1]
    Webhook(SECRET).verify(body, headers)
    assert json.loads(body)["case_id"] == "c1"


async def test_jira_signs_the_raw_body_and_sends_what_changed(world: World) -> None:
    desk = world.desks.jira
    async with receiver() as (url, taken):
        desk.hooks.url, desk.hooks.secret = url, "shared"
        await tag(world, desk, ticket_on(desk), "lr_keep")
    ((headers, body),) = taken
    assert headers["x-hub-signature"] == f"sha256={hmac.new(b'shared', body, 'sha256').hexdigest()}"
    said = json.loads(body)
    assert said["issue"]["fields"]["labels"] == ["lr-case-c1", "lr_keep"]
    assert [item["field"] for item in said["changelog"]["items"]] == ["labels"]


async def test_freshservice_sends_a_hint_with_a_static_secret(world: World) -> None:
    desk = world.desks.freshservice
    async with receiver() as (url, taken):
        desk.hooks.url, desk.hooks.secret = url, "shared"
        await tag(world, desk, ticket_on(desk), "lr_keep")
    ((headers, body),) = taken
    assert headers["x-reclaim-secret"] == "shared"
    assert json.loads(body) == {"ticket_id": "301", "tags": "lr-case-c1,lr_keep"}


async def test_webhooks_are_lost_doubled_and_turned_round_on_demand(world: World) -> None:
    desk = world.desks.freshservice
    async with receiver() as (url, taken):
        desk.hooks.url = url
        ticket = ticket_on(desk)
        desk.hooks.drop = 1
        await tag(world, desk, ticket, "one")
        assert taken == []
        desk.hooks.repeat = 1
        await tag(world, desk, ticket, "two")
        assert [json.loads(body)["tags"] for _, body in taken] == ["lr-case-c1,one,two"] * 2
        desk.hooks.hold = True
        await tag(world, desk, ticket, "three", "four")
        assert len(taken) == 2
        await desk.release(reverse=True)
    assert [json.loads(body)["tags"].rpartition(",")[2] for _, body in taken[2:]] == ["four", "three"]


async def test_a_webhook_that_nobody_took_is_sent_again_with_the_same_id(world: World) -> None:
    desk = world.desks.jira
    async with receiver([503, 503, 503]) as (url, taken):
        desk.hooks.url, desk.hooks.secret = url, "shared"
        await tag(world, desk, ticket_on(desk), "lr_keep")
        assert [(hook.attempts, hook.status) for hook in desk.sent] == [(3, 503)]
        await desk.resend()
        assert [(hook.attempts, hook.status) for hook in desk.sent] == [(4, 202)]
    assert len({headers["x-atlassian-webhook-identifier"] for headers, _ in taken}) == 1


async def test_a_webhook_that_is_refused_is_not_tried_again(world: World) -> None:
    desk = world.desks.jira
    async with receiver([401]) as (url, taken):
        desk.hooks.url, desk.hooks.secret = url, "wrong"
        await tag(world, desk, ticket_on(desk), "lr_keep")
    assert len(taken) == 1


# People --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DESKS)
async def test_a_person_answers_on_the_page(anonymous: httpx.AsyncClient, world: World, name: str) -> None:
    desk = world.desks.by_name[name]
    ticket = desk.open(subject="<b>Keep?</b>", description="<script>x</script>")
    page = f"/desk/{name}/{ticket.id}"
    assert f"/desk/{name}" in (await anonymous.get("/desk")).text
    assert "&lt;b&gt;Keep?" in (await anonymous.get(f"/desk/{name}")).text
    shown = (await anonymous.get(page)).text
    assert "<script>" not in shown
    for action, value in (("tag", "lr_keep"), ("tag", "lr_revoke"), ("untag", "lr_keep"), ("close", "")):
        answer = await anonymous.post(page, data={"action": action, "value": value})
        assert answer.status_code == 303
    assert (ticket.tags, desk.is_closed(ticket), ticket.updated_by) == (["lr_revoke"], True, "Ann Agent")


async def test_get_changes_nothing_on_the_page(anonymous: httpx.AsyncClient, world: World) -> None:
    ticket = world.desks.jira.open(subject="x")
    await anonymous.get(f"/desk/jira/{ticket.id}", params={"action": "close"})
    assert not world.desks.jira.is_closed(ticket)


async def test_the_control_api_acts_as_people_and_tells_them_from_the_product(
    anonymous: httpx.AsyncClient, world: World
) -> None:
    await call(anonymous, world, "POST", "freshservice", "/api/v2/tickets", TICKET)
    done = await anonymous.post(
        "/sandbox/api/desks/freshservice/people", json={"ticket": "301", "action": "tag", "value": "lr_keep"}
    )
    assert done.status_code == 200
    logs = {
        caller: (await anonymous.get("/sandbox/api/desks/write-log", params={"caller": caller})).json()
        for caller in ("product", "person", "all")
    }
    assert [each["field"] for each in logs["product"]] == ["ticket"]
    assert [(each["field"], each["after"]) for each in logs["person"]] == [("tags", ["lr_keep"])]
    assert len(logs["all"]) == 2
    listed = {each["name"]: each["tickets"] for each in (await anonymous.get("/sandbox/api/desks")).json()}
    assert listed == {name: int(name == "freshservice") for name in DESKS}


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("remedy/people", {"ticket": "1", "action": "close"}, 404),
        ("jira/people", {"ticket": "1", "action": "close"}, 404),
        ("jira/people", {"ticket": "1", "action": "delete"}, 422),
        ("freshservice/settings", {"labels_on_form": True}, 422),
    ],
    ids=range(4),
)
async def test_the_control_api_says_what_does_not_fit(
    anonymous: httpx.AsyncClient, path: str, body: Any, status: int
) -> None:
    method = "PUT" if path.endswith("settings") else "POST"
    answer = await anonymous.request(method, f"/sandbox/api/desks/{path}", json=body)
    assert answer.status_code == status


async def test_a_lost_answer_leaves_the_work_done(clock: FixedClock) -> None:
    async with Sandbox(clock=clock, users=0) as sandbox, httpx.AsyncClient(base_url=sandbox.url) as client:
        sandbox.world.faults.add("timeout_after_commit", path_regex="^/desks/freshservice")
        with pytest.raises(httpx.TransportError):
            await call(client, sandbox.world, "POST", "freshservice", "/api/v2/tickets", TICKET)
        assert len(sandbox.world.desks.freshservice.tickets) == 1
        sandbox.world.reset(users=50, seed=1)
        assert sandbox.world.desks.freshservice.tickets == {}
