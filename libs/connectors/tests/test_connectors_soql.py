"""Values in SOQL: nothing that is put in ends its own literal, as the simulated org's own grammar sees it."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from urllib.parse import quote_plus

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from reclaim.common.clock import FixedClock
from reclaim.connectors.salesforce import soql
from reclaim.connectors.salesforce.soql import Query
from reclaim.sandbox.errors import SalesforceError
from reclaim.sandbox.org import Org
from reclaim.sandbox.query import run_query

ORG = Org(FixedClock(datetime(2026, 11, 21, tzinfo=UTC)))
IDS = [f"005Sb{number:010d}AAA" for number in range(2_000)]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (False, "false"),
        (12, "12"),
        ("O'Neil", r"'O\'Neil'"),
        ("' OR Name != '", r"'\' OR Name != \''"),
        ("back\\slash'", r"'back\\slash\''"),
        ('two\nlines\t"quoted"', r"'two\nlines\t\"quoted\"'"),
        (date(2026, 1, 2), "2026-01-02"),
        (datetime(2026, 1, 2, 3, 4, 5, 999, tzinfo=UTC), "2026-01-02T03:04:05Z"),
        (datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=2))), "2026-01-02T01:04:05Z"),
        (["a", "b'c"], r"('a','b\'c')"),
        ((1, 2), "(1,2)"),
    ],
)
def test_literals(value: object, text: str) -> None:
    assert soql.literal(value) == text  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "value",
    [datetime(2026, 1, 2), [], "nul\0", "line\u2028separator", "x" * 4_001, 1.5, b"bytes", object()],  # noqa: DTZ001
)
def test_what_has_no_literal_is_refused(value: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        soql.literal(value)  # type: ignore[arg-type]


@given(st.text(max_size=200))
def test_no_text_escapes_its_literal(text: str) -> None:
    """The org finds the one user whose department is exactly this text, and nobody else."""
    try:
        condition = soql.equal("Department", text)
    except ValueError:
        return
    assume(not text.isspace())
    org = Org(FixedClock(datetime(2026, 11, 21, tzinfo=UTC)))
    wanted = org.insert("User", LastName="A", Department=text or None)
    org.insert("User", LastName="B", Department="somebody else's")
    result = run_query(org, str(Query("Id", "User").where(condition, "Department != null")))
    assert [row[0] for row in result.rows] == ([wanted] if text else [])


@pytest.mark.parametrize("text", ["", "1st", "a b", "a'b", "a;b", "a.b", "a--", "ä"])
def test_names_are_checked_not_escaped(text: str) -> None:
    with pytest.raises(ValueError, match="not an API name"):
        soql.name(text)
    assert soql.name("Reclaim_Hold_Until__c") == "Reclaim_Hold_Until__c"


def test_a_query_reads_in_its_order() -> None:
    query = Query("UserId, MAX(LoginTime) latest", "LoginHistory", group="UserId", order="UserId", limit=5)
    assert str(query.where("LoginType != 'Application'", soql.greater("UserId", IDS[0]))) == (
        "SELECT UserId, MAX(LoginTime) latest FROM LoginHistory WHERE LoginType != 'Application' AND "
        f"UserId > '{IDS[0]}' GROUP BY UserId ORDER BY UserId LIMIT 5"
    )
    assert not query.conditions


@pytest.mark.parametrize("fields", ["Id", ", ".join(["LastModifiedDate"] * 200)])
def test_chunks_hold_every_id_once_and_keep_the_url_short(fields: str) -> None:
    chunks = list(soql.in_chunks(Query(fields, "UserLogin"), "UserId", IDS))
    seen = [each for each in IDS for chunk in chunks if f"'{each}'" in str(chunk)]
    assert seen == IDS
    assert all(len(quote_plus(str(chunk))) <= soql.MAX_QUERY_BYTES for chunk in chunks)
    assert max(str(chunk).count("005Sb") for chunk in chunks) <= soql.MAX_IDS
    assert soql.MAX_QUERY_BYTES + 300 < 16_384


def test_chunks_of_nothing_ask_nothing() -> None:
    assert list(soql.in_chunks(Query("Id", "User"), "Id", [])) == []


@pytest.mark.parametrize("bad", ["", "005", "x' OR Id != '", "005Sb000000000é", "005Sb00000000011"])
def test_only_ids_are_asked_for_by_id(bad: str) -> None:
    with pytest.raises(ValueError, match="not a Salesforce id"):
        list(soql.in_chunks(Query("Id", "User"), "Id", [IDS[0], bad]))


def test_the_org_understands_what_we_write() -> None:
    condition = soql.at_least("LoginTime", datetime(2026, 1, 1, tzinfo=UTC))
    assert run_query(ORG, str(Query("UserId", "LoginHistory").where(condition))).total == 0
    with pytest.raises(SalesforceError):
        run_query(ORG, "SELECT Id FROM User WHERE Name = 'a' OR")
