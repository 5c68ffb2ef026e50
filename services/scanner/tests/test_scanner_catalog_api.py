"""The API of the catalogue and of a rule's products: what it takes, what it refuses and says, and for whom."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from reclaim.scanner import catalog_store
from reclaim.scanner.catalog import Process
from services.scanner.tests.scanner_world import SECRET, SETTINGS, TERMS, Api, Served
from services.scanner.tests.suite_world import PRODUCTS

CONNECTION = {"name": "Acme", "settings": SETTINGS, "credentials": {"client_secret": SECRET}}


async def stocked(api: Api) -> None:
    for product in PRODUCTS:
        await api("POST", "/products", 201, json=product)


async def ruled(api: Api, *products: str, **terms: Any) -> str:
    if not await api("GET", "/connections"):
        await api("POST", "/connections", 201, json=CONNECTION)
    (connection,) = await api("GET", "/connections")
    body = {**TERMS, "connection_id": connection["id"], "products": list(products), **terms}
    made: dict[str, Any] = await api("POST", "/rules", 201, json=body)
    return str(made["id"])


async def row_id(api: Api, rule: str, product: str, parent: str | None = None) -> str:
    rows = (await api("GET", f"/rules/{rule}/products"))["products"]
    return next(str(row["id"]) for row in rows if (row["product"], row["parent"]) == (product, parent))


def brief(answer: dict[str, Any]) -> list[tuple[str | None, str]]:
    return [(row["parent"], row["product"]) for row in answer["products"]]


# ------------------------------------------------------------------------------------------------ a rule's products


async def test_a_rule_that_names_a_suite_shows_all_components_and_processes(served: Served) -> None:
    api = served.api("operator")
    await stocked(api)
    rule = await ruled(served.api(), "OFFICE")
    shown = await api("GET", f"/rules/{rule}/products")
    assert brief(shown) == [(None, "OFFICE"), ("OFFICE", "EXCEL"), ("OFFICE", "WORD")]
    assert [row["processes"] for row in shown["products"]] == [
        [],
        ["windows:excel.exe"],
        ["windows:winword.exe", "macos:word"],
    ]
    assert [row["editable"] for row in shown["products"]] == [True, False, False]
    assert [row["name"] for row in shown["products"]] == ["Office", "Excel", "Word"]


async def test_adding_a_suite_by_the_api_writes_a_new_version_of_the_rule(served: Served) -> None:
    api = served.api("operator")
    await stocked(api)
    rule = await ruled(served.api(), "SFDC")
    added = await api("POST", f"/rules/{rule}/products", 201, json={"product": "OFFICE"})
    assert brief(added) == [(None, "OFFICE"), ("OFFICE", "EXCEL"), ("OFFICE", "WORD"), (None, "SFDC")]
    assert added["version"] == 2
    terms = await api("GET", f"/rules/{rule}")
    assert (terms["products"], terms["author"]) == (["OFFICE", "SFDC"], "the-operator")
    await api("POST", f"/rules/{rule}/products", 409, json={"product": "OFFICE"})


async def test_editing_the_suite_to_word_removes_the_old_ones(served: Served) -> None:
    api = served.api("operator")
    await stocked(api)
    rule = await ruled(served.api(), "OFFICE")
    row = await row_id(api, rule, "OFFICE")
    edited = await api("PATCH", f"/rules/{rule}/products/{row}", json={"product": "WORD"})
    assert brief(edited) == [(None, "WORD")]
    assert (await api("GET", f"/rules/{rule}"))["products"] == ["WORD"]


async def test_deleting_the_parent_cascades_and_a_component_of_another_parent_stays(served: Served) -> None:
    api = served.api("operator")
    await stocked(api)
    await api("POST", "/products", 201, json={"key": "DIAGRAMS", "name": "Diagrams", "components": ["VISIO", "WORD"]})
    rule = await ruled(served.api(), "OFFICE", "DIAGRAMS")
    row = await row_id(api, rule, "OFFICE")
    left = await api("DELETE", f"/rules/{rule}/products/{row}")
    assert brief(left) == [(None, "DIAGRAMS"), ("DIAGRAMS", "VISIO"), ("DIAGRAMS", "WORD")]
    last = await row_id(api, rule, "DIAGRAMS")
    problem = await api("DELETE", f"/rules/{rule}/products/{last}", 409)
    assert "add another one first" in problem["detail"]


@pytest.mark.parametrize(
    ("method", "body"), [("DELETE", None), ("PATCH", {"product": "VISIO"}), ("PATCH", {"filter": ""}), ("POST", None)]
)
async def test_a_component_by_itself_is_refused_with_409_and_what_to_do(
    served: Served, method: str, body: dict[str, str] | None
) -> None:
    api = served.api("operator")
    await stocked(api)
    rule = await ruled(served.api(), "OFFICE")
    row = await row_id(api, rule, "WORD", "OFFICE")
    path = f"/rules/{rule}/products/{row}" + ("/renew" if method == "POST" else "")
    client = served.client_as("operator")
    answer = await client.request(method, f"/scanner/api{path}", json=body)
    assert answer.status_code == 409
    assert answer.headers["content-type"] == "application/problem+json"
    assert "WORD is in this rule as a component of OFFICE" in answer.json()["detail"]
    assert "Change the row of OFFICE" in answer.json()["detail"]
    assert (await api("GET", f"/rules/{rule}"))["version"] == 1


async def test_a_parents_filter_is_set_and_cleared_and_shows_read_only_on_components(served: Served) -> None:
    api = served.api("operator")
    await stocked(api)
    rule = await ruled(served.api(), "OFFICE")
    row = await row_id(api, rule, "OFFICE")
    answer = await api("PATCH", f"/rules/{rule}/products/{row}", json={"filter": " user/department   eq 'Sales' "})
    assert [(each["filter"], each["editable"]) for each in answer["products"]] == [
        ("user/department eq 'Sales'", True),
        ("user/department eq 'Sales'", False),
        ("user/department eq 'Sales'", False),
    ]
    assert answer["version"] == 2
    changes = (await api("GET", f"/rules/{rule}/diff"))["changes"]
    filters = {"OFFICE": "user/department eq 'Sales'"}
    assert changes == [{"field": "product_filters", "before": {}, "after": filters}]
    renamed = await api("PATCH", f"/rules/{rule}", json={"name": "Renamed"})
    assert renamed["product_filters"] == filters, "an edit of the rule's terms keeps them"
    component = await row_id(api, rule, "WORD", "OFFICE")
    for text in ("user/department eq 'Sales'", "", "no filter at all"):
        await api("PATCH", f"/rules/{rule}/products/{component}", 409, json={"filter": text})
    cleared = await api("PATCH", f"/rules/{rule}/products/{row}", json={"filter": ""})
    assert {each["filter"] for each in cleared["products"]} == {""}
    both = {"product": "VISIO", "filter": "price ge 25"}
    changed = await api("PATCH", f"/rules/{rule}/products/{row}", json=both)
    assert [(each["product"], each["filter"]) for each in changed["products"]] == [("VISIO", "price ge 25")]
    left = await api("PATCH", f"/rules/{rule}", json={"products": ["WORD"]})
    assert left["product_filters"] == {}, "a product that goes takes its filter along"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("device/platform eq 'windows'", "a field of installed software"),
        ("user/__class__ eq 'x'", "there is no field"),
        ("price ge", "At character"),
        ("not " * 30 + "price ge 1", "nested more than 20 levels"),
        ("price ge 1 or " * 200 + "price ge 1", "at most 2,000 characters"),
    ],
    ids=["where it does not apply", "an inner name", "half", "too deep", "too long"],
)
async def test_a_filter_where_it_does_not_apply_is_refused_with_422(served: Served, text: str, says: str) -> None:
    api = served.api("operator")
    await stocked(api)
    rule = await ruled(served.api(), "OFFICE")
    row = await row_id(api, rule, "OFFICE")
    problem = await api("PATCH", f"/rules/{rule}/products/{row}", 422, json={"filter": text})
    assert problem["errors"][0]["field"] == "filter"
    assert says in problem["detail"]
    problem = await api("POST", f"/rules/{rule}/products", 422, json={"product": "VISIO", "filter": text})
    assert says in problem["detail"]
    assert (await api("GET", f"/rules/{rule}"))["version"] == 1


async def test_editing_a_rules_terms_carries_its_rows_along(served: Served) -> None:
    api = served.api("operator")
    await stocked(api)
    rule = await ruled(served.api(), "OFFICE")
    await api("PATCH", f"/rules/{rule}", json={"products": ["VISIO", "SFDC"]})
    assert brief(await api("GET", f"/rules/{rule}/products")) == [(None, "SFDC"), (None, "VISIO")]


async def test_catalogue_updates_are_carried_into_every_rule(served: Served) -> None:
    api = served.api("operator")
    await stocked(api)
    first, second = await ruled(served.api(), "OFFICE"), await ruled(served.api(), "VISIO", name="Other")
    await api("PATCH", "/products/OFFICE", json={"components": ["WORD", "VISIO"]})
    assert brief(await api("GET", f"/rules/{first}/products")) == [
        (None, "OFFICE"),
        ("OFFICE", "VISIO"),
        ("OFFICE", "WORD"),
    ]
    await api("PATCH", "/products/VISIO", json={"processes": ["windows:visio.exe", "windows:viewer.exe"]})
    for rule, row in ((first, 1), (second, 0)):
        shown = (await api("GET", f"/rules/{rule}/products"))["products"][row]
        assert sorted(shown["processes"]) == ["windows:viewer.exe", "windows:visio.exe"]
    assert [(await api("GET", f"/rules/{rule}"))["version"] for rule in (first, second)] == [3, 2]
    assert (await api("GET", f"/rules/{first}"))["author"] == "the-operator, by the catalogue"


async def test_a_product_named_before_it_was_in_the_catalogue_gets_its_components_then(served: Served) -> None:
    api = served.api("operator")
    rule = await ruled(served.api(), "OFFICE")
    assert brief(await api("GET", f"/rules/{rule}/products")) == [(None, "OFFICE")]
    await stocked(api)
    assert brief(await api("GET", f"/rules/{rule}/products")) == [
        (None, "OFFICE"),
        ("OFFICE", "EXCEL"),
        ("OFFICE", "WORD"),
    ]


# ------------------------------------------------------------------------------------------------ the catalogue


async def test_a_product_is_added_found_changed_and_removed(served: Served) -> None:
    api = served.api("operator")
    await stocked(api)
    assert [one["key"] for one in await api("GET", "/products?q=wo")] == ["WORD"]
    assert len(await api("GET", "/products?q=ACME")) == 4
    shown = await api("GET", "/products/WORD")
    assert (shown["suites"], shown["name"]) == (["OFFICE"], "Word")
    await api("PATCH", "/products/WORD", json={"name": "Word 2"})
    kept = await api("GET", "/products/WORD")
    assert (kept["name"], sorted(kept["processes"])) == ("Word 2", ["macos:word", "windows:winword.exe"])
    await api("DELETE", "/products/WORD", 204)
    await api("GET", "/products/WORD", 404)
    assert (await api("GET", "/products/OFFICE"))["components"] == ["EXCEL"]
    rule = await ruled(served.api(), "OFFICE")
    problem = await api("DELETE", "/products/OFFICE", 409)
    assert TERMS["name"] in problem["detail"]
    assert brief(await api("GET", f"/rules/{rule}/products")) == [(None, "OFFICE"), ("OFFICE", "EXCEL")]


async def test_a_key_may_have_any_character_that_a_licences_key_has(served: Served) -> None:
    api = served.api("operator")
    key = "Salesforce Integration/50% ä?"
    await api("POST", "/products", 201, json={"key": key, "name": "Odd"})
    assert (await api("GET", f"/products/{quote(key)}"))["key"] == key


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"key": "WORD", "name": "Again"}, 409, "already"),
        ({"key": "word", "name": "Twin"}, 409, "already"),
        ({"key": "NEW", "name": "New", "components": ["NONE"]}, 422, "no product NONE"),
        ({"key": "NEW", "name": "New", "components": ["OFFICE"]}, 422, "suite itself"),
        ({"key": "NEW", "name": "New", "processes": ["word.exe"]}, 422, "platform"),
        ({"key": "NEW", "name": "New", "colour": "red"}, 422, "Correct what is listed"),
        ({"key": "NEW"}, 422, "name"),
    ],
    ids=["twice", "twin", "unknown component", "nested", "process", "misspelt", "no name"],
)
async def test_what_does_not_fit_is_refused_with_what_to_do(
    served: Served, body: dict[str, Any], status: int, says: str
) -> None:
    api = served.api("operator")
    await stocked(api)
    problem = await api("POST", "/products", status, json=body)
    assert says in problem["detail"]
    assert len(await api("GET", "/products")) == 4


async def test_csv_goes_out_and_comes_in_with_bad_lines_listed(served: Served) -> None:
    api = served.api("operator")
    await stocked(api)
    client = served.client_as("operator")
    exported = await client.get("/scanner/api/products.csv")
    assert exported.headers["content-type"].startswith("text/csv")
    again = await client.post("/scanner/api/products.csv", content=exported.content)
    assert again.json() == {"added": 0, "changed": 0, "unchanged": 4, "bad": 0, "bad_lines": []}
    data = b"key,name\nNEW,New\n=1+1,Formula\nWORD,Word 3\n"
    answer = (await client.post("/scanner/api/products.csv?first_line=100", content=data)).json()
    assert (answer["added"], answer["changed"], answer["bad"]) == (1, 1, 1)
    assert answer["bad_lines"][0]["line"] == 101
    assert "formula" in answer["bad_lines"][0]["reason"]
    kept = await api("GET", "/products/WORD")
    assert (kept["name"], len(kept["processes"])) == ("Word 3", 2)
    wrong = await client.post("/scanner/api/products.csv", content=b"id;title\n1;2\n")
    assert wrong.status_code == 422
    assert "Line 1" in wrong.json()["detail"]
    large = await client.post("/scanner/api/products.csv", content=b"key,name\n" + b"x,y\n" * 300_000)
    assert large.status_code == 413


async def test_an_import_is_carried_into_rules_as_well(served: Served) -> None:
    api = served.api("operator")
    await stocked(api)
    rule = await ruled(served.api(), "OFFICE")
    data = b"key,name,components\nOFFICE,Office,WORD\n"
    await served.client_as("operator").post("/scanner/api/products.csv", content=data)
    assert brief(await api("GET", f"/rules/{rule}/products")) == [(None, "OFFICE"), ("OFFICE", "WORD")]


async def test_viewers_look_and_do_not_change(served: Served) -> None:
    api, viewer = served.api("operator"), served.api("viewer")
    await stocked(api)
    rule = await ruled(served.api(), "OFFICE")
    row = await row_id(viewer, rule, "OFFICE")
    await viewer("GET", "/products")
    await viewer("GET", "/products/WORD")
    for method, path in (
        ("POST", "/products"),
        ("PATCH", "/products/WORD"),
        ("DELETE", "/products/WORD"),
        ("POST", "/products.csv"),
        ("POST", f"/rules/{rule}/products"),
        ("PATCH", f"/rules/{rule}/products/{row}"),
        ("DELETE", f"/rules/{rule}/products/{row}"),
        ("POST", f"/rules/{rule}/products/{row}/renew"),
        ("POST", f"/rules/{rule}/products/review"),
    ):
        await viewer(method, path, 403, json={"key": "K", "name": "N", "product": "K"} if method == "POST" else {})
    assert len(await viewer("GET", "/products")) == 4


async def test_a_process_tells_whose_use_it_shows(served: Served) -> None:
    api = served.api("operator")
    await stocked(api)
    await api("POST", "/products", 201, json={"key": "READER", "name": "Reader", "processes": ["windows:winword.exe"]})
    word, excel = Process("winword.exe", "windows"), Process("excel.exe", "windows")
    other = Process("excel.exe", "macos")
    async with served.scanner.running.database.reading() as db:
        found = await catalog_store.products_seen_by(db, [word, excel, other])
    assert found == {word: ("READER", "WORD"), excel: ("EXCEL",)}
