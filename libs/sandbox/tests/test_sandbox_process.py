"""The sandbox as what it is to the product: an address. Met through simple-salesforce, and as a process of its own."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import requests
from fastapi import FastAPI
from requests.adapters import HTTPAdapter
from simple_salesforce import Salesforce, SalesforceMalformedRequest

from reclaim.common.clock import FixedClock
from reclaim.sandbox.app import Sandbox, create_app
from reclaim.sandbox.org import Org


class _Plain(HTTPAdapter):
    """simple-salesforce insists on https; the simulated org speaks http on the loopback."""

    def send(self, request: requests.PreparedRequest, *rest: Any, **more: Any) -> requests.Response:
        request.url = str(request.url).replace("https://", "http://", 1)
        return super().send(request, *rest, **more)


def simple(url: str, token: str) -> Salesforce:
    session = requests.Session()
    session.trust_env = False
    session.mount(f"https://{urlsplit(url).netloc}", _Plain())
    return Salesforce(instance_url=url, session_id=token, session=session, version="62.0")


async def in_thread(work: Callable[[], Any]) -> Any:
    return await asyncio.to_thread(work)


async def test_simple_salesforce_finds_its_way(clock: FixedClock) -> None:
    async with Sandbox(clock=clock, users=2_500) as sandbox:

        def story() -> None:
            form = {
                "grant_type": "client_credentials",
                "client_id": sandbox.client_id,
                "client_secret": sandbox.client_secret,
            }
            answer = requests.post(f"{sandbox.url}/services/oauth2/token", data=form, timeout=5).json()
            org = simple(answer["instance_url"], answer["access_token"])
            users = org.query_all("SELECT Id, Name, Profile.UserLicense.Name FROM User")["records"]
            assert len(users) == len(sandbox.org.tables["User"].rows)
            assert users[0]["Profile"]["UserLicense"]["Name"] == "Salesforce Integration"
            login = org.query(f"SELECT Id FROM UserLogin WHERE UserId = '{users[500]['Id']}'")["records"][0]
            assert org.UserLogin.update(login["Id"], {"IsFrozen": True}) == 204
            assert org.UserLogin.get(login["Id"])["IsFrozen"] is True
            body = {"records": [{"attributes": {"type": "User"}, "id": users[501]["Id"], "Title": "t"}]}
            assert org.restful("composite/sobjects", method="PATCH", json=body)[0]["success"] is True
            assert org.limits()["DailyApiRequests"]["Max"] == 100_000
            assert org.api_usage["api-usage"].used > 5
            assert org.User.describe()["keyPrefix"] == "005"
            with pytest.raises(SalesforceMalformedRequest, match="MALFORMED_QUERY"):
                org.query("SELECT nonsense")
            org.session.close()

        await in_thread(story)
        assert [(each.object, each.field, each.after) for each in sandbox.org.write_log] == [
            ("UserLogin", "IsFrozen", True),
            ("User", "Title", "t"),
        ]


async def test_two_sandboxes_live_side_by_side(clock: FixedClock) -> None:
    async with Sandbox(clock=clock, users=0) as one, Sandbox(clock=clock, users=60) as two:
        assert one.port != two.port
        async with httpx.AsyncClient(trust_env=False) as client:
            counts = [(await client.get(f"{each.url}/sandbox/health")).json()["users"] for each in (one, two)]
        assert counts[0] == 1
        assert counts[1] > 60
    async with httpx.AsyncClient(trust_env=False) as client:
        with pytest.raises(httpx.ConnectError):
            await client.get(f"{one.url}/sandbox/health")


async def test_a_port_that_is_taken_is_an_error(clock: FixedClock) -> None:
    async with Sandbox(clock=clock, users=0) as one:
        for ports in ({"port": one.port}, {"smtp_port": one.smtp_port}):
            with pytest.raises(OSError, match="in use"):
                await Sandbox(clock=clock, users=0, **ports).start()


async def test_an_open_connection_does_not_hold_up_the_end(clock: FixedClock) -> None:
    sandbox = Sandbox(clock=clock, users=0)
    await sandbox.start()
    _, smtp = await asyncio.open_connection(sandbox.host, sandbox.smtp_port)
    _, http = await asyncio.open_connection(sandbox.host, sandbox.port)
    await asyncio.wait_for(sandbox.stop(), 3)
    for writer in (smtp, http):
        writer.close()


async def test_everything_works_below_a_prefix(clock: FixedClock, org: Org, people: Any) -> None:
    for _ in range(300):
        people()
    outer = FastAPI()
    outer.mount("/sandbox-world", create_app(clock=clock, org=org))
    transport = httpx.ASGITransport(outer)
    async with httpx.AsyncClient(transport=transport, base_url="http://demo.example") as client:
        form = {
            "grant_type": "client_credentials",
            "client_id": Sandbox.client_id,
            "client_secret": Sandbox.client_secret,
        }
        answer = (await client.post("/sandbox-world/services/oauth2/token", data=form)).json()
        assert answer["instance_url"] == "http://demo.example/sandbox-world"
        headers = {"Authorization": f"Bearer {answer['access_token']}", "Sforce-Query-Options": "batchSize=200"}
        first = await client.get(
            "/sandbox-world/services/data/v62.0/query", params={"q": "SELECT Id FROM User"}, headers=headers
        )
        onward = first.json()["nextRecordsUrl"]
        assert onward.startswith("/sandbox-world/services/data/")
        assert len((await client.get(onward, headers=headers)).json()["records"]) == 101
        assert (await client.get("/sandbox-world/sandbox/api/summary")).json()["records"]["User"] == 301
    assert {each.path for each in org.request_log if "query" in each.path} == {
        "/services/data/v62.0/query",
        "/" + onward.removeprefix("/sandbox-world/"),
    }


async def test_a_process_of_its_own(tmp_path: Path) -> None:
    offset = tmp_path / "offset"
    offset.write_text("864000")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-W",
        "error",
        "-m",
        "reclaim.sandbox",
        *("--port", "0", "--smtp-port", "0", "--users", "60", "--seed", "3", "--clock", f"file://{offset}"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    lines = [(await asyncio.wait_for(process.stdout.readline(), 10)).decode() for _ in range(3)]
    url = lines[0].split()[1]
    assert "sandbox-secret" in lines[0]
    assert url in lines[1]

    def summary() -> Any:
        with urllib.request.urlopen(f"{url}/sandbox/api/summary", timeout=5) as answer:
            return json.load(answer)

    try:
        found = await in_thread(summary)
    finally:
        process.send_signal(signal.SIGTERM)
        _, errors = await asyncio.wait_for(process.communicate(), 10)
    assert found["licences"][0]["used"] == 60
    assert (process.returncode, errors) == (0, b"")
