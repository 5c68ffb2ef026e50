"""Every fault on demand: what the caller sees, when it strikes, and what it leaves done."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from reclaim.common.clock import FixedClock
from reclaim.sandbox.app import Sandbox
from reclaim.sandbox.auth import CLIENT_ID, CLIENT_SECRET
from reclaim.sandbox.faults import KINDS, Faults
from reclaim.sandbox.org import Org
from reclaim.sandbox.world import World

CONTROL = "http://org.example/sandbox/api/faults"
QUERY = "query?q=SELECT+Id+FROM+User"


async def set_fault(client: httpx.AsyncClient, kind: str, **more: Any) -> dict[str, Any]:
    answer = await client.post(CONTROL, json={"kind": kind, **more})
    assert answer.status_code == 201, answer.text
    fault: dict[str, Any] = answer.json()
    return fault


@pytest.mark.parametrize(
    ("kind", "path", "status", "code"),
    [
        ("server_unavailable", "limits", 503, "SERVER_UNAVAILABLE"),
        ("query_timeout", QUERY, 400, "QUERY_TIMEOUT"),
        ("request_limit", "limits", 403, "REQUEST_LIMIT_EXCEEDED"),
        ("too_many_requests", "limits", 429, "REQUEST_LIMIT_EXCEEDED"),
        ("invalid_locator", "query/01gSb000000000100-200", 400, "INVALID_QUERY_LOCATOR"),
    ],
)
async def test_faults_that_answer_instead(
    client: httpx.AsyncClient, world: World, kind: str, path: str, status: int, code: str
) -> None:
    await set_fault(client, kind)
    struck = await client.get(path)
    assert (struck.status_code, struck.json()[0]["errorCode"]) == (status, code)
    assert "api-usage=" in struck.headers["Sforce-Limit-Info"]
    assert world.org.request_log[-1].fault == kind
    after = await client.get(path)
    assert kind == "invalid_locator" or after.status_code == 200
    assert world.org.request_log[-1].fault is None


async def test_a_fault_of_one_kind_leaves_other_paths_alone(client: httpx.AsyncClient) -> None:
    await set_fault(client, "query_timeout", times=None)
    assert (await client.get("limits")).status_code == 200
    assert (await client.get(QUERY)).status_code == 400


async def test_retry_after(client: httpx.AsyncClient) -> None:
    await set_fault(client, "too_many_requests", params={"retry_after": 7})
    assert (await client.get("limits")).headers["Retry-After"] == "7"


async def test_an_expired_session_stays_expired(client: httpx.AsyncClient) -> None:
    await set_fault(client, "session_expired")
    for _ in range(2):
        answer = await client.get("limits")
        assert (answer.status_code, answer.json()[0]["errorCode"]) == (401, "INVALID_SESSION_ID")
    form = {"grant_type": "client_credentials", "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}
    token = (await client.post("http://org.example/services/oauth2/token", data=form)).json()["access_token"]
    assert (await client.get("limits", headers={"Authorization": f"Bearer {token}"})).status_code == 200


async def test_a_refused_login(client: httpx.AsyncClient) -> None:
    await set_fault(client, "login_refused")
    form = {"grant_type": "client_credentials", "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}
    refused = await client.post("http://org.example/services/oauth2/token", data=form)
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_grant")
    assert (await client.post("http://org.example/services/oauth2/token", data=form)).status_code == 200


async def test_after_times_and_match(client: httpx.AsyncClient, people: Any) -> None:
    user = people()
    fault = await set_fault(client, "server_unavailable", match={"method": "patch", "object": "user"}, after=1, times=2)
    statuses = []
    for _ in range(5):
        assert (await client.get(f"sobjects/User/{user}")).status_code == 200
        statuses.append((await client.patch(f"sobjects/User/{user}", json={"Title": "t"})).status_code)
    assert statuses == [204, 503, 503, 204, 204]
    shown = (await client.get(CONTROL)).json()
    assert shown["faults"] == [fault | {"seen": 5, "fired": 2}]
    assert set(shown["kinds"]) == set(KINDS)
    assert (await client.delete(f"{CONTROL}/{fault['id']}")).status_code == 204
    assert (await client.delete(f"{CONTROL}/{fault['id']}")).status_code == 404


async def test_the_object_is_found_in_queries_and_bodies(client: httpx.AsyncClient, people: Any, world: World) -> None:
    case = world.org.insert("Case", OwnerId=people())
    await set_fault(client, "server_unavailable", match={"object": "Case"}, times=None)
    touching = {"records": [{"attributes": {"type": "Case"}, "id": case}]}
    job = {"operation": "query", "query": "SELECT Id FROM Case"}
    sub = {"compositeRequest": [{"method": "GET", "url": f"/services/data/v62.0/sobjects/Case/{case}"}]}
    struck = [
        await client.get("query?q=select+Id+from+case"),
        await client.get("query?q=SELECT+Id+FROM+User+WHERE+Id+IN+(SELECT+OwnerId+FROM+Case)"),
        await client.get(f"sobjects/Case/{case}"),
        await client.patch("composite/sobjects", json=touching),
        await client.post("jobs/query", json=job),
        await client.post("composite", json=sub),
    ]
    assert [each.status_code for each in struck] == [503] * 6
    assert (await client.get(QUERY)).status_code == 200
    await client.delete(CONTROL)
    assert (await client.get("query?q=SELECT+Id+FROM+Case")).status_code == 200


async def test_faults_that_make_no_sense_are_refused(client: httpx.AsyncClient) -> None:
    for body in (
        {"kind": "gremlin"},
        {"kind": "slow", "match": {"path_regex": "("}},
        {"kind": "slow", "times": 0},
        {"kind": "slow", "after": -1},
        {"kind": "slow", "oops": 1},
    ):
        assert (await client.post(CONTROL, json=body)).status_code == 422


def test_the_first_of_several_faults_strikes_and_all_count() -> None:
    faults = Faults()
    one, two = faults.add("server_unavailable"), faults.add("request_limit", times=None)
    struck = [faults.take("GET", "/services/data/v62.0/limits", frozenset()) for _ in range(3)]
    assert [each and each.kind for each in struck] == ["server_unavailable", "request_limit", "request_limit"]
    assert (one.seen, two.seen, two.fired) == (3, 3, 2)


async def test_locked_rows(client: httpx.AsyncClient, people: Any, world: World) -> None:
    owner, taker = people(), people()
    cases = [world.org.insert("Case", OwnerId=owner) for _ in range(4)]
    records = [{"attributes": {"type": "Case"}, "id": each, "OwnerId": taker} for each in cases]

    async def locked() -> list[bool]:
        results = (await client.patch("composite/sobjects", json={"records": records})).json()
        return [bool(each["errors"]) and each["errors"][0]["statusCode"] == "UNABLE_TO_LOCK_ROW" for each in results]

    await set_fault(client, "row_lock", params={"rows": 2})
    assert await locked() == [True, True, False, False]
    assert {each.id for each in world.org.write_log} == set(cases[2:])
    await set_fault(client, "row_lock", params={"ids": [cases[3][:15]]})
    assert await locked() == [False, False, False, True]
    assert await locked() == [False] * 4
    await set_fault(client, "row_lock", match={"object": "Lead"})
    assert await locked() == [False] * 4


async def test_a_locked_record_and_a_locked_call(client: httpx.AsyncClient, people: Any, world: World) -> None:
    user = people()
    for kind in ("row_lock", "call_lock"):
        await set_fault(client, kind)
        answer = await client.patch(f"sobjects/User/{user}", json={"Title": "t"})
        assert (answer.status_code, answer.json()[0]["errorCode"]) == (400, "UNABLE_TO_LOCK_ROW")
    records = {"records": [{"attributes": {"type": "User"}, "id": user, "Title": "t"}]}
    await set_fault(client, "call_lock")
    assert (await client.patch("composite/sobjects", json=records)).status_code == 400
    assert world.org.write_log == []
    assert (await client.patch(f"sobjects/User/{user}", json={"Title": "t"})).status_code == 204


async def test_row_locks_inside_a_composite(client: httpx.AsyncClient, people: Any, world: World) -> None:
    user = people()
    record = {"attributes": {"type": "User"}, "id": user, "Title": "t"}
    part = {
        "method": "PATCH",
        "url": "/services/data/v62.0/composite/sobjects",
        "referenceId": "a",
        "body": {"records": [record, record]},
    }
    await set_fault(client, "row_lock")
    answer = (await client.post("composite", json={"compositeRequest": [part]})).json()["compositeResponse"]
    assert [each["success"] for each in answer[0]["body"]] == [False, True]


async def test_a_truncated_page(client: httpx.AsyncClient, people: Any) -> None:
    for _ in range(9):
        people()
    await set_fault(client, "truncated_page", params={"keep": 3})
    page = (await client.get(QUERY)).json()
    assert (page["totalSize"], page["done"], len(page["records"])) == (10, True, 3)
    await set_fault(client, "truncated_page")
    assert len((await client.get(QUERY)).json()["records"]) == 5
    assert len((await client.get(QUERY)).json()["records"]) == 10


async def test_a_later_page_is_truncated(client: httpx.AsyncClient, people: Any) -> None:
    for _ in range(500):
        people()
    await set_fault(client, "truncated_page", after=1)
    page = (await client.get(QUERY, headers={"Sforce-Query-Options": "batchSize=200"})).json()
    assert not page["done"]
    page = (await client.get("http://org.example" + page["nextRecordsUrl"])).json()
    assert (page["done"], len(page["records"]), page["totalSize"]) == (True, 100, 501)


async def test_an_empty_scan(client: httpx.AsyncClient) -> None:
    await set_fault(client, "empty_scan")
    assert (await client.get(QUERY)).json() == {"totalSize": 0, "done": True, "records": []}
    await set_fault(client, "empty_scan", match={"path_regex": "/composite/sobjects/"})
    read = await client.post("composite/sobjects/User", json={"ids": ["x"], "fields": ["Id"]})
    assert read.json() == [None]


async def test_bulk_faults(client: httpx.AsyncClient, people: Any) -> None:
    for _ in range(9):
        people()

    async def job() -> str:
        made = await client.post("jobs/query", json={"operation": "query", "query": "SELECT Id FROM User"})
        await client.get(f"jobs/query/{made.json()['id']}")
        return str(made.json()["id"])

    one = await job()
    await set_fault(client, "bulk_failed", match={"method": "GET"})
    ended = (await client.get(f"jobs/query/{one}")).json()
    assert (ended["state"], bool(ended["errorMessage"])) == ("Failed", True)
    two = await job()
    await client.get(f"jobs/query/{two}")
    await set_fault(client, "truncated_page", params={"keep": 4})
    page = await client.get(f"jobs/query/{two}/results")
    assert (page.headers["Sforce-NumberOfRecords"], page.headers["Sforce-Locator"]) == ("4", "null")
    await set_fault(client, "empty_scan")
    page = await client.get(f"jobs/query/{two}/results")
    assert page.text == '"Id"\n'


async def test_a_slow_answer(client: httpx.AsyncClient) -> None:
    await set_fault(client, "slow", params={"seconds": 0.2})
    started = time.perf_counter()
    assert (await client.get("limits")).status_code == 200
    assert time.perf_counter() - started >= 0.2


# What ends a connection needs a real one ----------------------------------------------------------------------------


@pytest.fixture
async def sandbox(clock: FixedClock, org: Org, base: Any) -> AsyncIterator[Sandbox]:
    async with Sandbox(clock=clock, org=org) as running:
        yield running


@pytest.fixture
async def wire(sandbox: Sandbox) -> AsyncIterator[httpx.AsyncClient]:
    form = {
        "grant_type": "client_credentials",
        "client_id": sandbox.client_id,
        "client_secret": sandbox.client_secret,
    }
    async with httpx.AsyncClient(base_url=sandbox.url, timeout=10, trust_env=False) as client:
        token = (await client.post("/services/oauth2/token", data=form)).json()["access_token"]
        client.headers["Authorization"] = f"Bearer {token}"
        yield client


@pytest.mark.parametrize("mode", ["close", "hang"])
async def test_no_answer_after_the_commit(sandbox: Sandbox, wire: httpx.AsyncClient, people: Any, mode: str) -> None:
    user = people()
    body = {"kind": "timeout_after_commit", "params": {"mode": mode}, "match": {"method": "PATCH"}}
    assert (await wire.post("/sandbox/api/faults", json=body)).status_code == 201
    gone = httpx.RemoteProtocolError if mode == "close" else httpx.ReadTimeout
    with pytest.raises((gone, httpx.ReadError)):
        await wire.patch(f"/services/data/v62.0/sobjects/User/{user}", json={"Title": "t"}, timeout=0.3)
    assert [(each.field, each.after) for each in sandbox.org.write_log] == [("Title", "t")]
    assert (await wire.get(f"/services/data/v62.0/sobjects/User/{user}")).json()["Title"] == "t"
    assert sandbox.org.request_log[-2].fault == "timeout_after_commit"


async def test_a_connection_lost_before_the_work(sandbox: Sandbox, wire: httpx.AsyncClient, people: Any) -> None:
    user = people()
    sandbox.world.faults.add("connection_lost", method="PATCH")
    with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
        await wire.patch(f"/services/data/v62.0/sobjects/User/{user}", json={"Title": "t"})
    assert sandbox.org.write_log == []
    assert (await wire.patch(f"/services/data/v62.0/sobjects/User/{user}", json={"Title": "t"})).status_code == 204


async def test_neighbours_are_answered_meanwhile(sandbox: Sandbox, wire: httpx.AsyncClient) -> None:
    sandbox.world.faults.add("slow", path_regex="limits", params={"seconds": 1})
    slow = asyncio.create_task(wire.get("/services/data/v62.0/limits"))
    await asyncio.sleep(0.05)
    assert (await wire.get("/services/data/v62.0/query?q=SELECT+Id+FROM+User")).status_code == 200
    assert not slow.done()
    assert (await slow).status_code == 200
