"""The org over HTTP: signing in, reading, writing, collections, composite, Bulk, limits, logs."""

from __future__ import annotations

import csv
import io
import time
from datetime import timedelta
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from reclaim.common.clock import FixedClock
from reclaim.sandbox.auth import CLIENT_ID, CLIENT_SECRET, PASSWORD
from reclaim.sandbox.demo_org import RUN_AS, Base
from reclaim.sandbox.ids import make_id
from reclaim.sandbox.world import World

TOKEN = "/services/oauth2/token"
CREDENTIALS = {"grant_type": "client_credentials", "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}


def code(answer: httpx.Response) -> tuple[int, str]:
    """Return an error answer's status and code, and check its shape."""
    body = answer.json()
    assert isinstance(body, list)
    assert set(body[0]) <= {"message", "errorCode", "fields"}
    assert body[0]["message"]
    return answer.status_code, body[0]["errorCode"]


async def query(client: httpx.AsyncClient, text: str, **headers: str) -> dict[str, Any]:
    answer = await client.get("query", params={"q": text}, headers=headers)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


# Signing in -------------------------------------------------------------------------------------------------------


async def test_client_credentials(anonymous: httpx.AsyncClient, world: World) -> None:
    answer = await anonymous.post(TOKEN, data=CREDENTIALS)
    body = answer.json()
    assert answer.status_code == 200
    assert body["instance_url"] == "http://org.example"
    assert body["token_type"] == "Bearer"
    assert body["id"].endswith(f"/{world.org.run_as}")
    assert body["access_token"].startswith("00D")
    who = await anonymous.get("/services/oauth2/userinfo", headers={"Authorization": f"Bearer {body['access_token']}"})
    assert who.json()["user_id"] == world.org.run_as
    assert who.json()["preferred_username"] == RUN_AS
    assert (
        await anonymous.post(TOKEN, data={"grant_type": "client_credentials"}, auth=(CLIENT_ID, CLIENT_SECRET))
    ).is_success


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"client_secret": "wrong"}, "invalid_client"),
        ({"client_secret": ""}, "invalid_client"),
        ({"client_id": "nobody"}, "invalid_client_id"),
        ({"grant_type": "magic"}, "unsupported_grant_type"),
        ({"grant_type": "password", "username": RUN_AS, "password": "wrong"}, "invalid_grant"),
        ({"grant_type": "password", "username": "nobody", "password": PASSWORD}, "invalid_grant"),
        ({"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": "x"}, "invalid_grant"),
    ],
)
async def test_refused_sign_ins(anonymous: httpx.AsyncClient, world: World, change: dict[str, str], error: str) -> None:
    answer = await anonymous.post(TOKEN, data=CREDENTIALS | change)
    assert answer.status_code == 400
    assert answer.json()["error"] == error
    assert answer.json()["error_description"]
    assert "access_token" not in answer.text
    assert world.org.request_log[-1].error == error


async def test_the_password_grant(anonymous: httpx.AsyncClient, world: World) -> None:
    form = CREDENTIALS | {"grant_type": "password", "username": RUN_AS.upper(), "password": PASSWORD + "TOKEN"}
    assert (await anonymous.post(TOKEN, data=form)).status_code == 200


async def test_the_jwt_grant(anonymous: httpx.AsyncClient, world: World, clock: FixedClock) -> None:
    key, other = (rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in range(2))
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    registered = {"client_id": "jwt-app", "client_secret": "s", "public_key": public.decode()}
    assert (await anonymous.post("/sandbox/api/clients", json=registered)).status_code == 201
    good = {
        "iss": "jwt-app",
        "sub": RUN_AS,
        "aud": "https://login.salesforce.com",
        "exp": int((clock.now() + timedelta(minutes=3)).timestamp()),
    }

    async def sign_in(claims: dict[str, Any], signer: rsa.RSAPrivateKey = key) -> dict[str, Any]:
        form = {
            "grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer",
            "assertion": jwt.encode(claims, signer, algorithm="RS256"),
        }
        body: dict[str, Any] = (await anonymous.post(TOKEN, data=form)).json()
        return body

    assert "access_token" in await sign_in(good)
    for audience in ("http://org.example", "http://org.example/services/oauth2/token", "https://test.salesforce.com"):
        assert "access_token" in await sign_in(good | {"aud": audience})
    assert (await sign_in(good, other))["error"] == "invalid_grant"
    assert (await sign_in(good | {"iss": "nobody"}))["error"] == "invalid_client_id"
    assert (await sign_in(good | {"iss": CLIENT_ID}))["error"] == "invalid_client"
    assert (await sign_in(good | {"sub": "nobody"}))["error"] == "invalid_grant"
    assert (await sign_in(good | {"aud": "https://elsewhere.example"}))["error"] == "invalid_grant"
    assert (await sign_in({name: value for name, value in good.items() if name != "exp"}))["error"] == "invalid_grant"
    clock.advance(timedelta(minutes=5))
    assert (await sign_in(good))["error_description"] == "expired assertion"


async def test_a_session_ends(client: httpx.AsyncClient, world: World, clock: FixedClock, people: Any) -> None:
    for _ in range(3):
        clock.advance(timedelta(minutes=90))
        assert (await client.get("limits")).status_code == 200
    clock.advance(timedelta(hours=2))
    answer = await client.get("limits")
    assert code(answer) == (401, "INVALID_SESSION_ID")


async def test_other_ends_of_a_session(client: httpx.AsyncClient, world: World) -> None:
    token = client.headers["Authorization"].removeprefix("Bearer ")
    assert code(await client.get("limits", headers={"Authorization": "Bearer x"})) == (401, "INVALID_SESSION_ID")
    await client.post("http://org.example/services/oauth2/revoke", data={"token": token})
    assert code(await client.get("limits")) == (401, "INVALID_SESSION_ID")


async def test_a_frozen_integration_user_is_out(client: httpx.AsyncClient, world: World) -> None:
    world.org.set_frozen(str(world.org.run_as), frozen=True)
    assert code(await client.get("limits")) == (401, "INVALID_SESSION_ID")
    assert (await client.post("http://org.example" + TOKEN, data=CREDENTIALS)).json()["error"] == "invalid_grant"


# Reading ----------------------------------------------------------------------------------------------------------


async def test_versions_and_resources(anonymous: httpx.AsyncClient, client: httpx.AsyncClient) -> None:
    assert {"version": "62.0", "label": "v62.0", "url": "/services/data/v62.0"} in (
        await client.get("http://org.example/services/data")
    ).json()
    assert (await client.get("")).json()["query"] == "/services/data/v62.0/query"
    assert (await client.get("http://org.example/services/data/v55.0/limits")).status_code == 200
    for path in (
        "nothing",
        "sobjects/Nothing",
        "sobjects/User/describe/more",
        "http://org.example/services/data/vX/limits",
    ):
        assert code(await client.get(path))[0] in {404, 405}
    assert code(await client.put("limits")) == (405, "METHOD_NOT_ALLOWED")


async def test_paging(client: httpx.AsyncClient, people: Any, clock: FixedClock, world: World) -> None:
    for _ in range(449):
        people()
    text = "SELECT Id FROM User ORDER BY Id"
    whole = await query(client, text)
    assert (whole["totalSize"], whole["done"], len(whole["records"])) == (450, True, 450)
    page = await query(client, text, **{"Sforce-Query-Options": "batchSize=200"})
    sizes, seen = [], []
    while True:
        sizes.append(len(page["records"]))
        seen += [each["Id"] for each in page["records"]]
        assert page["totalSize"] == 450
        if page["done"]:
            break
        assert page["nextRecordsUrl"].startswith("/services/data/v62.0/query/01g")
        page = (await client.get("http://org.example" + page["nextRecordsUrl"])).json()
    assert sizes == [200, 200, 50]
    assert seen == [each["Id"] for each in whole["records"]]
    assert "nextRecordsUrl" not in page
    assert [each.records for each in world.org.request_log if "query" in each.path] == [450, 200, 200, 50]


async def test_batch_sizes_and_locators(client: httpx.AsyncClient, people: Any, clock: FixedClock) -> None:
    for _ in range(300):
        people()
    page = await query(client, "SELECT Id FROM User", **{"Sforce-Query-Options": "batchSize=1"})
    assert len(page["records"]) == 200
    onward = "http://org.example" + page["nextRecordsUrl"]
    for bad in ("query/01gNothing-200", "query/x", onward[:-3] + "9999", onward[:-3] + "x"):
        assert code(await client.get(bad)) == (400, "INVALID_QUERY_LOCATOR")
    clock.advance(timedelta(hours=1))
    assert (await client.get(onward)).status_code == 200
    clock.advance(timedelta(minutes=61))
    token = (await client.post("http://org.example" + TOKEN, data=CREDENTIALS)).json()["access_token"]
    client.headers["Authorization"] = f"Bearer {token}"
    assert (await client.get(onward)).status_code == 200
    clock.advance(timedelta(days=2))
    token = (await client.post("http://org.example" + TOKEN, data=CREDENTIALS)).json()["access_token"]
    client.headers["Authorization"] = f"Bearer {token}"
    assert code(await client.get(onward)) == (400, "INVALID_QUERY_LOCATOR")


async def test_refused_queries(client: httpx.AsyncClient) -> None:
    assert code(await client.get("query", params={"q": "SELECT nonsense"})) == (400, "MALFORMED_QUERY")
    assert code(await client.get("query", params={"q": "SELECT Foo FROM User"})) == (400, "INVALID_FIELD")
    assert code(await client.get("query", params={"q": "SELECT Id FROM Foo"})) == (400, "INVALID_TYPE")
    assert code(await client.get("query")) == (400, "MALFORMED_QUERY")
    assert code(await client.get("queryAll", params={"q": "SELECT Id FROM User"})) == (404, "NOT_FOUND")


async def test_a_long_url_is_refused(client: httpx.AsyncClient, world: World) -> None:
    listed = ",".join(f"'{make_id('005', number)}'" for number in range(600))
    assert (await client.get("query", params={"q": f"SELECT Id FROM User WHERE Id IN ({listed})"})).status_code == 200
    listed = ",".join(f"'{make_id('005', number)}'" for number in range(700))
    answer = await client.get("query", params={"q": f"SELECT Id FROM User WHERE Id IN ({listed})"})
    assert answer.status_code == 414
    assert world.org.request_log[-1].status == 414


async def test_aggregates_are_one_page(client: httpx.AsyncClient, people: Any) -> None:
    for _ in range(2_005):
        people(IsActive=False)
    text = "SELECT Username, COUNT(Id) FROM User GROUP BY Username"
    assert code(await client.get("query", params={"q": text})) == (400, "EXCEEDED_ID_LIMIT")
    page = await query(client, text + " LIMIT 2000")
    assert page["done"]
    assert page["records"][0]["attributes"] == {"type": "AggregateResult"}
    assert await query(client, "SELECT COUNT() FROM User") == {"totalSize": 2_006, "done": True, "records": []}


async def test_describe(client: httpx.AsyncClient) -> None:
    everything = (await client.get("sobjects")).json()["sobjects"]
    assert {"User", "UserLogin", "Case"} <= {each["name"] for each in everything}
    described = (await client.get("sobjects/user/describe")).json()
    fields = {each["name"]: each for each in described["fields"]}
    assert described["keyPrefix"] == "005"
    assert fields["ManagerId"]["referenceTo"] == ["User"]
    assert fields["ManagerId"]["relationshipName"] == "Manager"
    assert fields["Backup_Approver__c"]["custom"] is True
    assert fields["LastName"]["nillable"] is False
    assert fields["LastLoginDate"]["updateable"] is False
    history = {each["name"]: each for each in (await client.get("sobjects/LoginHistory/describe")).json()["fields"]}
    assert history["Status"]["filterable"] is False


# One record -------------------------------------------------------------------------------------------------------


async def test_create_read_update_delete(client: httpx.AsyncClient, people: Any, world: World) -> None:
    made = await client.post("sobjects/Case", json={"Subject": "s", "OwnerId": people()})
    assert made.status_code == 201
    record_id = made.json()["id"]
    assert made.json() == {"id": record_id, "success": True, "errors": []}
    read = (await client.get(f"sobjects/Case/{record_id[:15]}")).json()
    assert read["attributes"]["type"] == "Case"
    assert read["Subject"] == "s"
    assert read["Status"] == "New"
    some = (await client.get(f"sobjects/Case/{record_id}", params={"fields": "Subject,isclosed"})).json()
    assert some == {"attributes": read["attributes"], "Subject": "s", "IsClosed": False}
    changed = await client.patch(f"sobjects/Case/{record_id}", json={"Status": "Closed"})
    assert (changed.status_code, changed.content) == (204, b"")
    assert (await client.get(f"sobjects/Case/{record_id}")).json()["IsClosed"] is True
    assert (await client.delete(f"sobjects/Case/{record_id}")).status_code == 204
    assert code(await client.get(f"sobjects/Case/{record_id}")) == (404, "NOT_FOUND")
    assert [(each.api, each.field, each.after, each.caller) for each in world.org.write_log] == [
        ("sobject", "Subject", "s", RUN_AS),
        ("sobject", "OwnerId", world.org.write_log[1].after, RUN_AS),
        ("sobject", "Status", "Closed", RUN_AS),
        ("sobject", "IsDeleted", True, RUN_AS),
    ]


async def test_refused_records(client: httpx.AsyncClient, people: Any, world: World) -> None:
    user = people()
    assert code(await client.patch(f"sobjects/User/{user}", json={"Foo": 1})) == (400, "INVALID_FIELD")
    assert code(await client.patch(f"sobjects/User/{make_id('005', 9999)}", json={})) == (404, "NOT_FOUND")
    assert code(await client.patch(f"sobjects/User/{user}", content=b"{")) == (400, "JSON_PARSER_ERROR")
    assert code(await client.patch(f"sobjects/User/{user}", json=[1])) == (400, "JSON_PARSER_ERROR")
    assert code(await client.post("sobjects/Case", content=b"")) == (400, "JSON_PARSER_ERROR")
    assert code(await client.post("sobjects/Nothing", json={})) == (404, "NOT_FOUND")
    assert code(await client.get(f"sobjects/User/{user}", params={"fields": "Foo"})) == (400, "INVALID_FIELD")
    assert code(await client.patch(f"sobjects/UserLogin/{user}", json={"IsFrozen": True})) == (404, "NOT_FOUND")
    assert world.org.write_log == []


async def test_freezing_goes_through_user_login(client: httpx.AsyncClient, people: Any, world: World) -> None:
    user = people()
    found = (await query(client, f"SELECT Id, UserId, IsFrozen FROM UserLogin WHERE UserId IN ('{user}')"))["records"]
    assert [(each["UserId"], each["IsFrozen"]) for each in found] == [(user, False)]
    assert (await client.patch(f"sobjects/UserLogin/{found[0]['Id']}", json={"IsFrozen": True})).status_code == 204
    assert [(each.object, each.field, each.before, each.after) for each in world.org.write_log] == [
        ("UserLogin", "IsFrozen", False, True)
    ]


# Collections ------------------------------------------------------------------------------------------------------


def row(kind: str, record_id: str | None = None, **values: Any) -> dict[str, Any]:
    return {"attributes": {"type": kind}, **({"id": record_id} if record_id else {}), **values}


async def test_a_collection_reports_each_row(client: httpx.AsyncClient, people: Any, world: World) -> None:
    owner, taker, gone = people(), people(), people(IsActive=False)
    cases = [world.org.insert("Case", OwnerId=owner) for _ in range(3)]
    records = [
        row("Case", cases[0], OwnerId=taker),
        row("Case", cases[1], OwnerId=gone),
        row("Case", make_id("500", 9999), OwnerId=taker),
        row("Case", "nonsense", OwnerId=taker),
        row("Case", OwnerId=taker),
        row("Nothing", cases[2], OwnerId=taker),
        row("Case", cases[2], Foo=1),
        row("case", cases[2][:15], ownerid=taker),
    ]
    answer = await client.patch("composite/sobjects", json={"allOrNone": False, "records": records})
    assert answer.status_code == 200
    results = answer.json()
    codes = [each["errors"][0]["statusCode"] if each["errors"] else None for each in results]
    assert codes == [
        None,
        "INACTIVE_OWNER_OR_USER",
        "INVALID_CROSS_REFERENCE_KEY",
        "MALFORMED_ID",
        "MISSING_ARGUMENT",
        "INVALID_TYPE",
        "INVALID_FIELD",
        None,
    ]
    assert results[0] == {"id": cases[0], "success": True, "errors": []}
    assert results[1]["errors"][0]["fields"] == ["OwnerId"]
    assert results[7]["id"] == cases[2]
    assert [(each.api, each.id) for each in world.org.write_log] == [
        ("collections", cases[0]),
        ("collections", cases[2]),
    ]
    assert world.org.request_log[-1].records == 2


async def test_all_or_none(client: httpx.AsyncClient, people: Any, world: World) -> None:
    one, two = people(), people()
    records = [row("User", one, Title="x"), row("User", two, Title="x" * 500)]
    results = (await client.patch("composite/sobjects", json={"allOrNone": True, "records": records})).json()
    assert [each["success"] for each in results] == [False, False]
    assert results[0]["errors"][0]["statusCode"] == "ALL_OR_NONE_OPERATION_ROLLED_BACK"
    assert results[1]["errors"][0]["statusCode"] == "STRING_TOO_LONG"
    assert world.org.get("User", one, "Title") is None
    assert world.org.write_log == []


async def test_setup_and_business_rows_in_one_call(client: httpx.AsyncClient, people: Any, world: World) -> None:
    user = people()
    case = world.org.insert("Case", OwnerId=user)
    records = [row("Case", case, Subject="s"), row("User", user, Title="t"), row("Case", case, Priority="Low")]
    results = (await client.patch("composite/sobjects", json={"records": records})).json()
    assert [each["success"] for each in results] == [True, False, True]
    assert results[1]["errors"][0]["statusCode"] == "MIXED_DML_OPERATION"


async def test_limits_of_a_collection(client: httpx.AsyncClient, people: Any, world: World) -> None:
    user = people()
    login = people.login_row(user)

    async def send(records: Any) -> httpx.Response:
        return await client.patch("composite/sobjects", json={"records": records})

    assert (await send([row("User", user, Title="t")] * 200)).status_code == 200
    assert code(await send([row("User", user, Title="t")] * 201)) == (400, "EXCEEDED_ID_LIMIT")
    assert code(await send([])) == (400, "REQUIRED_FIELD_MISSING")
    assert code(await send("x")) == (400, "JSON_PARSER_ERROR")
    assert code(await send(["x"])) == (400, "JSON_PARSER_ERROR")
    pair = [row("User", user, Title="t"), row("UserLogin", login, IsFrozen=False)]
    assert (await send(pair * 5)).status_code == 200
    assert code(await send([*pair * 5, pair[0]])) == (400, "LIMIT_EXCEEDED")


async def test_creating_reading_and_deleting_many(client: httpx.AsyncClient, people: Any, world: World) -> None:
    records = [row("Case", Subject="a"), row("Case", Subject="b"), row("Case", make_id("500", 7), Subject="c")]
    made = (await client.post("composite/sobjects", json={"records": records})).json()
    assert [each["success"] for each in made] == [True, True, False]
    ids = [made[0]["id"], make_id("500", 9999), made[1]["id"]]
    read = (await client.post("composite/sobjects/Case", json={"ids": ids, "fields": ["Id", "Subject"]})).json()
    assert [each and each["Subject"] for each in read] == ["a", None, "b"]
    same = (await client.get("composite/sobjects/Case", params={"ids": ",".join(ids), "fields": "Id,Subject"})).json()
    assert same == read
    assert code(await client.post("composite/sobjects/Case", json={"ids": ids})) == (400, "JSON_PARSER_ERROR")
    too_many = {"ids": ids * 700, "fields": ["Id"]}
    assert code(await client.post("composite/sobjects/Case", json=too_many)) == (400, "EXCEEDED_ID_LIMIT")
    gone = (await client.delete("composite/sobjects", params={"ids": ",".join([*ids, "x"])})).json()
    assert [each["success"] for each in gone] == [True, False, True, False]
    assert len(world.org.tables["Case"].rows) == 0


# Composite --------------------------------------------------------------------------------------------------------


def part(reference: str, url: str, body: Any = None, method: str = "PATCH") -> dict[str, Any]:
    return {"method": method, "url": f"/services/data/v62.0/{url}", "referenceId": reference, "body": body}


async def test_five_collections_in_one_call(client: httpx.AsyncClient, people: Any, world: World) -> None:
    users = [people() for _ in range(1_000)]
    logins = [people.login_row(user) for user in users]
    used_before = world.salesforce.usage.now()[0]
    parts = [
        part(f"r{number}", "composite/sobjects", {"records": [row("UserLogin", each, IsFrozen=True) for each in chunk]})
        for number, chunk in enumerate(logins[start::5] for start in range(5))
    ]
    answer = (await client.post("composite", json={"compositeRequest": parts})).json()["compositeResponse"]
    assert [each["httpStatusCode"] for each in answer] == [200] * 5
    assert all(result["success"] for each in answer for result in each["body"])
    assert len(world.org.write_log) == len(users)
    assert {each.api for each in world.org.write_log} == {"composite"}
    assert world.salesforce.usage.now()[0] == used_before + 1
    world.org.settings.composite_counts_each = True
    await client.post("composite", json={"compositeRequest": parts})
    assert world.salesforce.usage.now()[0] == used_before + 6


async def test_subrequests_stand_alone(client: httpx.AsyncClient, people: Any, world: World) -> None:
    user = people()
    case = world.org.insert("Case", OwnerId=user)
    parts = [
        part("a", f"sobjects/User/{user}", {"Title": "t"}),
        part("b", f"sobjects/User/{user}", {"Foo": 1}),
        # Each subrequest is a transaction of its own, so the kinds may differ.
        part("c", f"sobjects/Case/{case}", {"Subject": "s"}),
        part("d", f"query?q=SELECT+Id+FROM+Case+WHERE+Id='{case}'", method="GET"),
        part("e", "sobjects/Case/@{d.records[0].Id}", {"Subject": "by reference"}),
        part("f", "sobjects/Case/@{b.id}", {"Subject": "no such reference"}),
        {"method": "GET", "url": "/elsewhere", "referenceId": "g"},
    ]
    answer = (await client.post("composite", json={"compositeRequest": parts})).json()["compositeResponse"]
    assert [each["httpStatusCode"] for each in answer] == [204, 400, 204, 200, 204, 400, 404]
    assert [each["referenceId"] for each in answer] == list("abcdefg")
    assert world.org.get("Case", case, "Subject") == "by reference"


async def test_a_composite_that_is_all_or_none(client: httpx.AsyncClient, people: Any, world: World) -> None:
    user = people()
    case = world.org.insert("Case", OwnerId=user)
    collection = {"allOrNone": False, "records": [row("Case", case, Subject="s"), row("Case", case, Foo=1)]}

    async def send(*parts: dict[str, Any]) -> list[Any]:
        body = {"allOrNone": True, "compositeRequest": list(parts)}
        answer = (await client.post("composite", json=body)).json()["compositeResponse"]
        return [(each["httpStatusCode"], str(each["body"])) for each in answer]

    first = part("a", f"sobjects/Case/{case}", {"Priority": "Low"})
    halted = await send(first, part("b", "composite/sobjects", collection), part("c", f"sobjects/Case/{case}", {}))
    assert [status for status, _ in halted] == [400, 200, 400]
    assert "PROCESSING_HALTED" in halted[0][1]
    assert "PROCESSING_HALTED" in halted[2][1]
    assert "ALL_OR_NONE" in halted[1][1]
    mixed = await send(first, part("b", f"sobjects/User/{user}", {"Title": "t"}))
    assert "MIXED_DML_OPERATION" in mixed[1][1]
    assert world.org.write_log == []
    assert [status for status, _ in await send(first)] == [204]
    assert len(world.org.write_log) == 1


async def test_limits_of_a_composite(client: httpx.AsyncClient) -> None:
    async def send(parts: Any) -> httpx.Response:
        return await client.post("composite", json={"compositeRequest": parts})

    light = [part(f"r{number}", "limits", method="GET") for number in range(26)]
    heavy = [part(f"r{number}", "query?q=SELECT+Id+FROM+Case", method="GET") for number in range(6)]
    assert (await send(light[:25])).status_code == 200
    assert code(await send(light)) == (400, "LIMIT_EXCEEDED")
    assert (await send(heavy[:5])).status_code == 200
    assert code(await send(heavy)) == (400, "LIMIT_EXCEEDED")
    assert code(await send([light[0], light[0]])) == (400, "JSON_PARSER_ERROR")
    assert code(await send([])) == (400, "JSON_PARSER_ERROR")
    nested = await send([part("a", "composite", {"compositeRequest": light[:1]}, method="POST")])
    assert nested.json()["compositeResponse"][0]["httpStatusCode"] == 400


# Bulk -------------------------------------------------------------------------------------------------------------


async def bulk_job(client: httpx.AsyncClient, text: str, **more: Any) -> str:
    answer = await client.post("jobs/query", json={"operation": "query", "query": text, **more})
    assert answer.status_code == 200, answer.text
    assert answer.json()["state"] == "UploadComplete"
    job_id: str = answer.json()["id"]
    return job_id


async def test_a_bulk_query(client: httpx.AsyncClient, people: Any, world: World) -> None:
    for _ in range(24):
        people(Title='a "b", c')
    job = await bulk_job(client, "SELECT Id, Title, IsActive, LastLoginDate, Manager.Name FROM User ORDER BY Id")
    assert code(await client.get(f"jobs/query/{job}/results")) == (400, "INVALIDJOBSTATE")
    states = [(await client.get(f"jobs/query/{job}")).json() for _ in range(3)]
    assert [each["state"] for each in states] == ["InProgress", "JobComplete", "JobComplete"]
    assert states[1]["numberRecordsProcessed"] == 25
    found: list[dict[str, str]] = []
    sizes, locator = [], None
    while locator != "null":
        params = {"maxRecords": "10"} | ({"locator": locator} if locator else {})
        page = await client.get(f"jobs/query/{job}/results", params=params)
        assert page.headers["content-type"].startswith("text/csv")
        sizes.append(page.headers["Sforce-NumberOfRecords"])
        locator = page.headers["Sforce-Locator"]
        found += csv.DictReader(io.StringIO(page.text))
    assert sizes == ["10", "10", "5"]
    assert len({each["Id"] for each in found}) == 25
    assert found[1]["Title"] == 'a "b", c'
    assert found[1] | {"Id": ""} == {
        "Id": "",
        "Title": 'a "b", c',
        "IsActive": "true",
        "LastLoginDate": "",
        "Manager.Name": "",
    }
    other = await client.get(f"http://org.example/services/data/v55.0/jobs/query/{job}/results")
    assert code(other) == (400, "API_ERROR")
    assert (await client.delete(f"jobs/query/{job}")).status_code == 204
    assert code(await client.get(f"jobs/query/{job}")) == (404, "NOT_FOUND")


async def test_bulk_formats_and_refusals(client: httpx.AsyncClient) -> None:
    job = await bulk_job(client, "SELECT Id, Name FROM User", columnDelimiter="PIPE", lineEnding="CRLF")
    for _ in range(2):
        await client.get(f"jobs/query/{job}")
    assert (await client.get(f"jobs/query/{job}/results")).text.startswith('"Id"|"Name"\r\n')
    assert code(await client.get(f"jobs/query/{job}/results", params={"maxRecords": "0"})) == (400, "API_ERROR")
    assert code(await client.get(f"jobs/query/{job}/results", params={"locator": "99"}))[1] == "INVALID_QUERY_LOCATOR"
    for body in ({"operation": "insert", "query": "x"}, {"operation": "query"}, {}):
        assert code(await client.post("jobs/query", json=body)) == (400, "API_ERROR")
    wrong = {"operation": "query", "query": "SELECT Id FROM User", "columnDelimiter": "DOT"}
    assert code(await client.post("jobs/query", json=wrong)) == (400, "API_ERROR")
    assert len((await client.get("jobs/query")).json()["records"]) == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [("SELECT nonsense", "MALFORMED_QUERY"), ("SELECT COUNT() FROM User", "FEATURENOTENABLED")],
)
async def test_a_bulk_query_that_fails(client: httpx.AsyncClient, text: str, words: str) -> None:
    job = await bulk_job(client, text)
    await client.get(f"jobs/query/{job}")
    ended = (await client.get(f"jobs/query/{job}")).json()
    assert ended["state"] == "Failed"
    assert words in ended["errorMessage"]
    assert code(await client.get(f"jobs/query/{job}/results")) == (400, "INVALIDJOBSTATE")


async def test_aborting_a_bulk_query(client: httpx.AsyncClient) -> None:
    job = await bulk_job(client, "SELECT Id FROM User")
    assert code(await client.delete(f"jobs/query/{job}")) == (400, "API_ERROR")
    assert code(await client.patch(f"jobs/query/{job}", json={"state": "Done"})) == (400, "API_ERROR")
    assert (await client.patch(f"jobs/query/{job}", json={"state": "Aborted"})).json()["state"] == "Aborted"
    assert (await client.get(f"jobs/query/{job}")).json()["state"] == "Aborted"


# Limits and logs --------------------------------------------------------------------------------------------------


async def test_the_daily_limit(client: httpx.AsyncClient, world: World, clock: FixedClock) -> None:
    world.org.settings.daily_api_limit = 3
    answers = [await client.get("limits") for _ in range(4)]
    assert [each.status_code for each in answers] == [200, 200, 200, 403]
    assert [each.headers["Sforce-Limit-Info"] for each in answers] == [
        "api-usage=1/3",
        "api-usage=2/3",
        "api-usage=3/3",
        "api-usage=3/3",
    ]
    assert answers[1].json()["DailyApiRequests"] == {"Max": 3, "Remaining": 1}
    assert code(answers[3]) == (403, "REQUEST_LIMIT_EXCEEDED")
    clock.advance(timedelta(hours=25))
    token = (await client.post("http://org.example" + TOKEN, data=CREDENTIALS)).json()["access_token"]
    assert (await client.get("limits", headers={"Authorization": f"Bearer {token}"})).status_code == 200


async def test_the_request_log(client: httpx.AsyncClient, world: World) -> None:
    await client.get("query", params={"q": "SELECT Id FROM User"})
    await client.get("query", params={"q": "SELECT x"})
    await client.get("limits")
    log = [
        (each.method, each.path, each.query, each.status, each.records, each.error) for each in world.org.request_log
    ]
    assert log[0][:4] == ("POST", TOKEN, None, 200)
    assert log[1:] == [
        ("GET", "/services/data/v62.0/query", "SELECT Id FROM User", 200, 1, None),
        ("GET", "/services/data/v62.0/query", "SELECT x", 400, 0, "MALFORMED_QUERY"),
        ("GET", "/services/data/v62.0/limits", None, 200, 0, None),
    ]
    assert CLIENT_SECRET not in str(log)


# Control ----------------------------------------------------------------------------------------------------------


async def test_the_logs_over_the_control_api(client: httpx.AsyncClient, people: Any, world: World) -> None:
    user = people()
    await client.patch(f"sobjects/User/{user}", json={"Title": "t"})
    control = "http://org.example/sandbox/api"
    acted = await client.post(f"{control}/people", json={"action": "deactivate", "user_id": user})
    assert acted.json() == {"ok": True}
    product = (await client.get(f"{control}/write-log")).json()
    assert [(each["field"], each["before"], each["after"], each["caller"]) for each in product] == [
        ("Title", None, "t", RUN_AS)
    ]
    person = (await client.get(f"{control}/write-log", params={"caller": "person"})).json()
    assert [(each["field"], each["after"], each["caller"]) for each in person] == [("IsActive", False, "person")]
    both = (await client.get(f"{control}/write-log", params={"caller": "all"})).json()
    assert [each["seq"] for each in both] == sorted(each["seq"] for each in product + person)
    assert (await client.get(f"{control}/write-log", params={"since": product[0]["seq"]})).json() == []
    assert (await client.get(f"{control}/write-log", params={"api": "composite"})).json() == []
    assert len((await client.get(f"{control}/write-log", params={"object_name": "User"})).json()) == 1
    calls = (await client.get(f"{control}/request-log", params={"path": "/sobjects/"})).json()
    assert [(each["method"], each["status"]) for each in calls] == [("PATCH", 204)]


async def test_people_over_the_control_api(client: httpx.AsyncClient, people: Any, world: World) -> None:
    user = people()
    control = "http://org.example/sandbox/api"

    async def act(action: str, **more: Any) -> httpx.Response:
        return await client.post(f"{control}/people", json={"action": action, "user_id": user, **more})

    assert (await act("log_in")).json() == {"ok": True}
    assert (await act("log_in", channel="sso")).json() == {"ok": True}
    assert (await act("freeze")).json() == {"ok": True}
    assert (await client.get(f"{control}/users/{user}")).json()["frozen"] is True
    assert (await act("log_in", channel="api")).json() == {"ok": False}
    assert (await act("unfreeze")).json() == {"ok": True}
    assert (await act("deactivate")).json() == {"ok": True}
    assert (await act("reactivate")).json() == {"ok": True}
    assert (await act("update", values={"Title": "t"})).json() == {"ok": True}
    for name in ("Forecasting", "SalesConsoleUser"):
        assert (await act("assign", values={"name": name})).json() == {"ok": True}
    has = (await client.get(f"{control}/users/{user}")).json()
    assert (has["permission_sets"], has["permission_set_licences"]) == (["Forecasting"], ["SalesConsoleUser"])
    assert (await act("assign", values={"name": "Forecasting"})).status_code == 409
    assert "is named Nothing" in (await act("assign", values={"name": "Nothing"})).json()["detail"]["message"]
    assert (await act("update", values={"Foo": "t"})).status_code == 409
    assert (await act("dance")).status_code == 422
    assert (await act("log_in", channel="smoke")).status_code == 422
    assert (await client.get(f"{control}/users/{make_id('005', 9999)}")).status_code == 404
    assert world.org.write_log == []


async def test_settings_over_the_control_api(client: httpx.AsyncClient, people: Any, world: World) -> None:
    user = people()
    control = "http://org.example/sandbox/api/settings"
    assert (await client.put(control, json={"default_case_owner": user, "approvers": [user]})).json() == {"ok": True}
    assert code(await client.patch(f"sobjects/User/{user}", json={"IsActive": False}))[1] == "FIELD_INTEGRITY_EXCEPTION"
    await client.put(control, json={"default_case_owner": "", "approvers": []})
    assert (await client.patch(f"sobjects/User/{user}", json={"IsActive": False})).status_code == 204
    assert (await client.put(control, json={"nonsense": 1})).status_code == 422


async def test_a_reset_begins_anew(client: httpx.AsyncClient, world: World) -> None:
    control = "http://org.example/sandbox/api"
    await client.post(f"{control}/clients", json={"client_id": "mine", "client_secret": "s"})
    await client.post(f"{control}/faults", json={"kind": "server_unavailable", "times": None})
    assert (await client.post(f"{control}/reset", json={"users": 60, "seed": 5})).json() == {"users": 60, "seed": 5}
    summary = (await client.get(f"{control}/summary")).json()
    assert sum(each["used"] for each in summary["licences"] if each["name"] == "Salesforce") == 60
    assert summary["writes"] == {}
    assert (await client.get(f"{control}/faults")).json()["faults"] == []
    assert code(await client.get("limits")) == (401, "INVALID_SESSION_ID")
    form = {"grant_type": "client_credentials", "client_id": "mine", "client_secret": "s"}
    assert (await client.post("http://org.example" + TOKEN, data=form)).status_code == 200
    assert (await client.post(f"{control}/reset", json={"users": 5})).status_code == 422
    reclaimable = (await client.get(f"{control}/users", params={"expect": "reclaimable"})).json()
    assert len(reclaimable) == summary["expectations"]["reclaimable"]
    assert (await client.post(f"{control}/sessions/expire")).status_code == 204


async def test_health(anonymous: httpx.AsyncClient, base: Base) -> None:
    for path in ("/sandbox/health", "/health/live", "/health/ready"):
        assert (await anonymous.get(path)).json() == {"status": "ok", "users": 1}


async def test_answers_stay_fast(client: httpx.AsyncClient, people: Any) -> None:
    users = [people() for _ in range(5_000)]
    listed = ",".join(f"'{each}'" for each in users[:600])
    started = time.process_time()
    for _ in range(5):
        await query(client, f"SELECT Id, UserId, IsFrozen FROM UserLogin WHERE UserId IN ({listed})")
    assert (time.process_time() - started) / 5 < 0.25
