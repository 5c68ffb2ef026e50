"""SOQL: what is understood gives exactly the right rows, what is not is refused as Salesforce refuses it."""

from __future__ import annotations

import random
import time
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from reclaim.sandbox.dates import day_interval
from reclaim.sandbox.errors import SalesforceError
from reclaim.sandbox.ids import make_id, normalise_id
from reclaim.sandbox.org import Org
from reclaim.sandbox.query import run_query
from reclaim.sandbox.soql import like_pattern, parse

NOW = datetime(2026, 3, 18, 12, 30, tzinfo=UTC)
"""When the fixtures' clock stands: a Wednesday."""


def rows(org: Org, text: str) -> list[dict[str, Any]]:
    result = run_query(org, text)
    return [_bare(result.project(row, "62.0")) for row in result.rows]


def _bare(record: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _bare(value) if isinstance(value, dict) else value
        for name, value in record.items()
        if name != "attributes"
    }


def names(org: Org, where: str) -> list[str]:
    return [row["LastName"] for row in rows(org, f"SELECT LastName FROM User WHERE {where} ORDER BY LastName")]


@pytest.fixture
def staff(org: Org, people: Any) -> dict[str, str]:
    boss = people(LastName="Boss", Department="Sales", Title="Lead", LastLoginDate=NOW - timedelta(days=1))
    return {
        "boss": boss,
        "ann": people(LastName="Ann", Department="sales", ManagerId=boss, LastLoginDate=NOW - timedelta(days=89)),
        "bob": people(LastName="Bob", Department="Finance", ManagerId=boss, LastLoginDate=NOW - timedelta(days=91)),
        "cy": people(LastName="Cy", IsActive=False, Title="100% a_b", LastLoginDate=None),
        "dee": people(
            "Standard Platform User", LastName="Dee", Department="O'Neil\\", Reclaim_Hold_Until__c=date(2026, 4, 1)
        ),
    }


OURS = "LastName IN ('Boss', 'Ann', 'Bob', 'Cy', 'Dee')"


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("LastName = 'ann'", ["Ann"]),
        ("LASTNAME = 'ANN'", ["Ann"]),
        ("LastName != 'Ann' AND " + OURS, ["Bob", "Boss", "Cy", "Dee"]),
        ("LastName <> 'Ann' AND " + OURS, ["Bob", "Boss", "Cy", "Dee"]),
        ("Department = 'Sales'", ["Ann", "Boss"]),
        # A row without the field is unequal to everything, and in no list.
        ("Department != 'Sales' AND " + OURS, ["Bob", "Cy", "Dee"]),
        ("Department NOT IN ('Sales', 'Finance') AND " + OURS, ["Cy", "Dee"]),
        ("Department = null AND " + OURS, ["Cy"]),
        ("Department != null AND " + OURS, ["Ann", "Bob", "Boss", "Dee"]),
        ("Department IN ('Finance', null) AND " + OURS, ["Bob", "Cy"]),
        ("LastName < 'bob' AND " + OURS, ["Ann"]),
        ("LastName >= 'Boss' AND " + OURS, ["Boss", "Cy", "Dee"]),
        ("Department > 'A' AND " + OURS, ["Ann", "Bob", "Boss", "Dee"]),
        ("LastName LIKE 'B%'", ["Bob", "Boss"]),
        ("LastName LIKE '_ob'", ["Bob"]),
        ("Title LIKE '100\\% a\\_b'", ["Cy"]),
        ("Title LIKE '100_'", []),
        ("Title LIKE '%'", ["Boss", "Cy"]),
        ("Title LIKE '%0%b'", ["Cy"]),
        ("Title LIKE '%e%d'", ["Boss"]),
        ("Title LIKE '%e%x'", []),
        ("Title LIKE 'l%a%'", ["Boss"]),
        ("Title LIKE 'lead%d'", []),
        ("(NOT LastName LIKE 'B%') AND " + OURS, ["Ann", "Cy", "Dee"]),
        ("Department = 'O\\'Neil\\\\'", ["Dee"]),
        ("Department = '\\u004f\\'Neil\\\\'", ["Dee"]),
        ("IsActive = false AND " + OURS, ["Cy"]),
        ("IsActive != true AND " + OURS, ["Cy"]),
        ("isactive IN (TRUE, FALSE) AND " + OURS, ["Ann", "Bob", "Boss", "Cy", "Dee"]),
        (f"{OURS} AND (LastName = 'Ann' OR LastName = 'Bob')", ["Ann", "Bob"]),
        ("(LastName = 'Ann' AND IsActive = true) OR LastName = 'Cy'", ["Ann", "Cy"]),
        ("((LastName = 'Ann'))", ["Ann"]),
        ("NOT (IsActive = true OR LastName != 'Cy')", ["Cy"]),
        ("Manager.LastName = 'Boss'", ["Ann", "Bob"]),
        ("Manager.Manager.Name = null AND " + OURS, ["Ann", "Bob", "Boss", "Cy", "Dee"]),
        ("Manager.Title = 'lead'", ["Ann", "Bob"]),
        # The boolean of a parent that is not there reads as false.
        ("Manager.IsActive = false AND " + OURS, ["Boss", "Cy", "Dee"]),
        ("Profile.UserLicense.Name = 'Salesforce Platform'", ["Dee"]),
        ("Profile.UserLicense.UsedLicenses > 1 AND " + OURS, ["Ann", "Bob", "Boss", "Cy"]),
        ("LastLoginDate < LAST_N_DAYS:90 AND " + OURS, ["Bob"]),
        ("(LastLoginDate < LAST_N_DAYS:90 OR LastLoginDate = null) AND " + OURS, ["Bob", "Cy", "Dee"]),
        ("LastLoginDate = LAST_N_DAYS:90", ["Ann", "Boss"]),
        ("LastLoginDate = YESTERDAY", ["Boss"]),
        ("LastLoginDate != YESTERDAY AND " + OURS, ["Ann", "Bob", "Cy", "Dee"]),
        ("LastLoginDate IN (YESTERDAY, N_DAYS_AGO:91)", ["Bob", "Boss"]),
        ("LastLoginDate NOT IN (YESTERDAY, N_DAYS_AGO:91) AND " + OURS, ["Ann", "Cy", "Dee"]),
        ("LastLoginDate > 2026-03-17T12:29:59Z", ["Boss"]),
        ("LastLoginDate = 2026-03-17T13:30:00.000+01:00", ["Boss"]),
        ("LastLoginDate >= 2026-03-17T12:30:01Z", []),
        ("Reclaim_Hold_Until__c = 2026-04-01", ["Dee"]),
        ("Reclaim_Hold_Until__c >= TODAY", ["Dee"]),
        ("Reclaim_Hold_Until__c = NEXT_MONTH", ["Dee"]),
        ("Id IN (SELECT ManagerId FROM User)", None),
    ],
)
def test_where(org: Org, staff: dict[str, str], where: str, expected: list[str] | None) -> None:
    if expected is None:
        with pytest.raises(SalesforceError, match="same object type"):
            names(org, where)
    else:
        assert names(org, where) == expected


def test_semi_and_anti_joins(org: Org, people: Any, staff: dict[str, str]) -> None:
    org.amend("UserLogin", people.login_row(staff["ann"]), IsFrozen=True)
    org.insert("Case", OwnerId=staff["bob"], Status="New")
    frozen = "Id IN (SELECT UserId FROM UserLogin WHERE IsFrozen = true)"
    owning = "Id IN (SELECT OwnerId FROM Case WHERE IsClosed = false)"
    assert names(org, frozen) == ["Ann"]
    assert names(org, f"{OURS} AND Id NOT IN (SELECT UserId FROM UserLogin WHERE IsFrozen = true)") == [
        "Bob",
        "Boss",
        "Cy",
        "Dee",
    ]
    assert names(org, f"{owning} AND Id NOT IN (SELECT UserId FROM UserLogin WHERE IsFrozen = true)") == ["Bob"]
    assert [
        row["UserId"] for row in rows(org, "SELECT UserId FROM UserLogin WHERE UserId IN (SELECT OwnerId FROM Case)")
    ] == [staff["bob"]]


def test_ids_are_taken_in_both_forms(org: Org, staff: dict[str, str]) -> None:
    ann = staff["ann"]
    assert names(org, f"Id = '{ann}'") == ["Ann"]
    assert names(org, f"Id = '{ann[:15]}'") == ["Ann"]
    assert names(org, f"ManagerId = '{staff['boss'][:15]}'") == ["Ann", "Bob"]
    assert names(org, f"Id IN ('{ann}', '{ann[:15]}', '{make_id('005', 999_999)}')") == ["Ann"]
    assert names(org, f"Id > '{ann}' AND {OURS}") == ["Bob", "Cy", "Dee"]
    assert names(org, f"Id != '{ann}' AND {OURS}") == ["Bob", "Boss", "Cy", "Dee"]


def test_id_checksum_restores_the_case() -> None:
    for number in (1, 61, 62, 1234567, 238_328_000):
        record_id = make_id("00Q", number)
        assert normalise_id(record_id[:15]) == record_id
        assert normalise_id(record_id.upper()) == record_id
        assert normalise_id(record_id.lower()) == record_id
    assert normalise_id("005") is None
    assert normalise_id("005Sb0000000001AAB") is None
    assert normalise_id("005Sb000000000'") is None


def test_projection_follows_the_selected_paths(org: Org, staff: dict[str, str]) -> None:
    found = run_query(org, f"select id, manager.profile.name, Manager.Email from USER where Id = '{staff['ann']}'")
    record = found.project(found.rows[0], "62.0")
    assert record == {
        "attributes": {"type": "User", "url": f"/services/data/v62.0/sobjects/User/{staff['ann']}"},
        "Id": staff["ann"],
        "Manager": {
            "attributes": {"type": "User", "url": f"/services/data/v62.0/sobjects/User/{staff['boss']}"},
            "Profile": {
                "attributes": {
                    "type": "Profile",
                    "url": f"/services/data/v62.0/sobjects/Profile/{org.get('User', staff['boss'], 'ProfileId')}",
                },
                "Name": "Standard User",
            },
            "Email": org.get("User", staff["boss"], "Email"),
        },
    }
    assert rows(org, f"SELECT Manager.Email FROM User WHERE Id = '{staff['cy']}'") == [{"Manager": None}]


def test_an_owner_may_be_a_user_or_a_queue(org: Org, staff: dict[str, str]) -> None:
    queue = org.insert("Group", Name="Intake", Type="Queue")
    org.insert("Case", OwnerId=queue, Subject="q")
    org.insert("Case", OwnerId=staff["ann"], Subject="u")
    assert rows(org, "SELECT Subject, Owner.Name, Owner.Type FROM Case ORDER BY Subject") == [
        {"Subject": "q", "Owner": {"Name": "Intake", "Type": "Queue"}},
        {"Subject": "u", "Owner": {"Name": "User Ann", "Type": "User"}},
    ]
    assert rows(org, "SELECT Subject FROM Case WHERE Owner.Email = null") == [{"Subject": "q"}]
    for path in ("Owner.Department", "Owner.Manager.Name"):
        with pytest.raises(SalesforceError) as refused:
            run_query(org, f"SELECT {path} FROM Case")
        assert refused.value.code == "INVALID_FIELD"


def test_times_are_written_as_salesforce_does(org: Org, staff: dict[str, str]) -> None:
    at = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    org.amend("User", staff["ann"], LastLoginDate=at)
    text = f"SELECT LastLoginDate, Reclaim_Hold_Until__c, IsActive, Title FROM User WHERE Id = '{staff['ann']}'"
    assert rows(org, text)[0]["LastLoginDate"] == "2026-01-02T03:04:05.678+0000"
    result = run_query(org, text)
    assert result.cells(result.rows[0]) == ["2026-01-02T03:04:05.678Z", "", "true", ""]
    assert result.header == ("LastLoginDate", "Reclaim_Hold_Until__c", "IsActive", "Title")


def test_order_limit_offset(org: Org, staff: dict[str, str]) -> None:
    def ordered(rest: str) -> list[str]:
        return [row["LastName"] for row in rows(org, f"SELECT LastName FROM User WHERE {OURS} {rest}")]

    assert ordered("ORDER BY LastName DESC LIMIT 2") == ["Dee", "Cy"]
    assert ordered("ORDER BY LastName OFFSET 3") == ["Cy", "Dee"]
    assert ordered("ORDER BY LastName LIMIT 1 OFFSET 1") == ["Bob"]
    assert ordered("ORDER BY LastLoginDate, LastName DESC") == ["Dee", "Cy", "Bob", "Ann", "Boss"]
    assert ordered("ORDER BY LastLoginDate ASC NULLS LAST, LastName") == ["Bob", "Ann", "Boss", "Cy", "Dee"]
    assert ordered("ORDER BY LastLoginDate DESC nulls  first, LastName") == ["Cy", "Dee", "Boss", "Ann", "Bob"]
    assert ordered("ORDER BY Manager.LastName NULLS LAST, LastName LIMIT 2") == ["Ann", "Bob"]
    assert ordered("LIMIT 0") == []
    with pytest.raises(SalesforceError) as refused:
        ordered("OFFSET 2001")
    assert refused.value.code == "NUMBER_OUTSIDE_VALID_RANGE"


def test_ids_order_as_they_compare(org: Org, people: Any) -> None:
    for _ in range(100):
        people()
    found = [row["Id"] for row in rows(org, "SELECT Id FROM User ORDER BY Id")]
    assert found == sorted(found)
    assert [row["Id"] for row in rows(org, f"SELECT Id FROM User WHERE Id > '{found[70]}' ORDER BY Id")] == found[71:]


def test_count(org: Org, staff: dict[str, str]) -> None:
    assert run_query(org, f"SELECT COUNT() FROM User WHERE {OURS}").total == 5
    assert run_query(org, f"select count() from User where {OURS} limit 2").total == 2
    assert run_query(org, "SELECT COUNT() FROM Lead").total == 0


def test_aggregates(org: Org, staff: dict[str, str]) -> None:
    for amount, stage in ((100.0, "Prospecting"), (50.0, "Prospecting"), (None, "Closed Won")):
        org.insert("Opportunity", Name="o", OwnerId=staff["ann"], StageName=stage, CloseDate=NOW.date(), Amount=amount)
    assert rows(
        org, "SELECT COUNT(Id) n, SUM(Amount), AVG(Amount) mean, MIN(Amount), MAX(Amount) FROM Opportunity"
    ) == [{"n": 3, "expr0": 150.0, "mean": 75.0, "expr1": 50.0, "expr2": 100.0}]
    assert rows(
        org, "SELECT StageName stage, COUNT(Amount) n FROM Opportunity GROUP BY StageName ORDER BY StageName"
    ) == [
        {"stage": "Closed Won", "n": 0},
        {"stage": "Prospecting", "n": 2},
    ]
    assert rows(org, "SELECT Owner.Name, COUNT(Id) FROM Opportunity GROUP BY Owner.Name") == [
        {"Name": "User Ann", "expr0": 3}
    ]
    by_licence = rows(
        org,
        f"SELECT Profile.UserLicense.Name licence, COUNT_DISTINCT(ManagerId) FROM User WHERE {OURS} "
        "GROUP BY Profile.UserLicense.Name ORDER BY COUNT(Id) DESC LIMIT 1",
    )
    assert by_licence == [{"licence": "Salesforce", "expr0": 1}]
    assert rows(org, "SELECT COUNT(Id) FROM Lead") == [{"expr0": 0}]
    assert rows(org, "SELECT SUM(Amount) total FROM Opportunity WHERE Amount > 1000") == [{"total": None}]
    assert rows(org, "SELECT OwnerId FROM Lead GROUP BY OwnerId") == []


def test_aggregate_of_login_times(org: Org, staff: dict[str, str]) -> None:
    for days in (3, 1, 2):
        org.insert(
            "LoginHistory",
            UserId=staff["ann"],
            LoginTime=NOW - timedelta(days=days),
            LoginType="Application",
            Status="Success",
        )
    assert rows(
        org,
        "SELECT UserId, Status, MAX(LoginTime) latest FROM LoginHistory GROUP BY UserId, Status ORDER BY UserId",
    ) == [{"UserId": staff["ann"], "Status": "Success", "latest": "2026-03-17T12:30:00.000+0000"}]


MALFORMED = [
    "",
    "SELECT",
    "SELECT FROM User",
    "SELECT Id",
    "SELECT Id FROM",
    "SELECT * FROM User",
    "SELECT Id, FROM User",
    "SELECT Id FROM User,",
    "SELECT Id FROM User u",
    "SELECT Id FROM User WHERE",
    "SELECT Id FROM User WHERE IsActive",
    "SELECT Id FROM User WHERE IsActive = ",
    "SELECT Id FROM User WHERE true = IsActive",
    "SELECT Id FROM User WHERE Name = LastName",
    'SELECT Id FROM User WHERE Name = "x"',
    "SELECT Id FROM User WHERE Name = 'x",
    "SELECT Id FROM User WHERE Name = 'x' 'y'",
    "SELECT Id FROM User WHERE Name = 'bad \\q escape'",
    "SELECT Id FROM User WHERE Name = 'only in like \\%'",
    "SELECT Id FROM User WHERE Name == 'x'",
    "SELECT Id FROM User WHERE Name IN ()",
    "SELECT Id FROM User WHERE Name IN 'x'",
    "SELECT Id FROM User WHERE Name IN ('x',)",
    "SELECT Id FROM User WHERE Name NOT LIKE 'x'",
    "SELECT Id FROM User WHERE Name NOT = 'x'",
    "SELECT Id FROM User WHERE Name = :bound",
    "SELECT Id FROM User WHERE (Name = 'x'",
    "SELECT Id FROM User WHERE Name = 'x')",
    "SELECT Id FROM User WHERE Name = 'x' AND",
    "SELECT Id FROM User WHERE Name = 'a' AND Name = 'b' OR Name = 'c'",
    "SELECT Id FROM User WHERE Name = 'a' OR Name = 'b' AND Name = 'c'",
    "SELECT Id FROM User WHERE Name = 'a' AND NOT Name = 'b'",
    "SELECT Id FROM User WHERE NOT NOT Name = 'b'",
    "SELECT Id FROM User WHERE LastLoginDate = LAST_N_DAYS",
    "SELECT Id FROM User WHERE LastLoginDate = LAST_N_DAYS:-1",
    "SELECT Id FROM User WHERE LastLoginDate > 2026-01-01T00:00:00",
    "SELECT Id FROM User WHERE LastLoginDate > 2026-02-30T00:00:00Z",
    "SELECT Id FROM User WHERE Reclaim_Hold_Until__c > 2026-13-01",
    "SELECT Id FROM User WHERE LastLoginDate > SOMEDAY",
    "SELECT Id FROM User WHERE CALENDAR_YEAR(LastLoginDate) = 2026",
    "SELECT Id FROM User WHERE Name INCLUDES ('x')",
    "SELECT Id FROM User ORDER LastName",
    "SELECT Id FROM User ORDER BY",
    "SELECT Id FROM User ORDER BY LastName UP",
    "SELECT Id FROM User ORDER BY COUNT(Id)",
    "SELECT Id FROM User LIMIT",
    "SELECT Id FROM User LIMIT -1",
    "SELECT Id FROM User LIMIT 1.5",
    "SELECT Id FROM User OFFSET 1 LIMIT 1",
    "SELECT Id FROM User LIMIT 1 WHERE Name = 'x'",
    "SELECT Id FROM User FOR UPDATE",
    "SELECT Id FROM User WITH SECURITY_ENFORCED",
    "SELECT Id FROM User USING SCOPE mine",
    "SELECT Id FROM User ALL ROWS",
    "SELECT Id FROM User; DELETE FROM User",
    "SELECT Id FROM User -- comment",
    "SELECT FIELDS(ALL) FROM User LIMIT 200",
    "SELECT toLabel(Status) FROM Case",
    "SELECT Id, (SELECT Id FROM Cases) FROM User",
    "SELECT TYPEOF Owner WHEN User THEN Id END FROM Case",
    "SELECT Id x FROM User",
    "SELECT Id, Id FROM User",
    "SELECT Id, COUNT() FROM User",
    "SELECT COUNT(), Id FROM User",
    "SELECT COUNT() n FROM User",
    "SELECT COUNT() FROM User ORDER BY Id",
    "SELECT COUNT() FROM User GROUP BY Name",
    "SELECT SUM() FROM User",
    "SELECT Id, COUNT(Name) FROM User",
    "SELECT Name, COUNT(Id) FROM User GROUP BY Department",
    "SELECT MEDIAN(Amount) FROM Opportunity",
    "SELECT SUM(Name) FROM Opportunity",
    "SELECT MAX(IsActive) FROM User",
    "SELECT COUNT(Id) a, COUNT(Name) a FROM User",
    "SELECT COUNT(Id) FROM User GROUP BY LastLoginDate",
    "SELECT COUNT(Id) FROM User GROUP BY Name HAVING COUNT(Id) > 1",
    "SELECT Department, COUNT(Id) FROM User GROUP BY Department ORDER BY Name",
    "SELECT COUNT(Id) FROM User GROUP BY ROLLUP(Department)",
    "SELECT Manager.Manager.Manager.Manager.Manager.Manager.Name FROM User",
    # Semi-joins
    "SELECT Id FROM User WHERE Name = 'x' OR Id IN (SELECT OwnerId FROM Case)",
    "SELECT Id FROM User WHERE NOT Id IN (SELECT OwnerId FROM Case)",
    "SELECT Id FROM User WHERE IsActive = true AND (Id IN (SELECT OwnerId FROM Case) OR Name = 'x')",
    "SELECT Id FROM User WHERE Id IN (SELECT OwnerId FROM Case WHERE OwnerId IN (SELECT UserId FROM UserLogin))",
    "SELECT Id FROM User WHERE Id IN (SELECT OwnerId FROM Case) AND Id IN (SELECT OwnerId FROM Lead) "
    "AND Id IN (SELECT OwnerId FROM Opportunity)",
    "SELECT Id FROM User WHERE Id IN (SELECT OwnerId, Id FROM Case)",
    "SELECT Id FROM User WHERE Id IN (SELECT OwnerId FROM Case LIMIT 1)",
    "SELECT Id FROM User WHERE Id IN (SELECT OwnerId FROM Case ORDER BY OwnerId)",
    "SELECT Id FROM User WHERE Id IN (SELECT OwnerId FROM Case GROUP BY OwnerId)",
    "SELECT Id FROM User WHERE Id IN (SELECT COUNT() FROM Case)",
    "SELECT Id FROM User WHERE Id IN (SELECT Subject FROM Case)",
    "SELECT Id FROM User WHERE Name IN (SELECT OwnerId FROM Case)",
    "SELECT Id FROM User WHERE Id IN (SELECT GroupId FROM GroupMember)",
    "SELECT Id FROM User WHERE Id IN (SELECT CronJobDetail.Id FROM CronTrigger)",
]


@pytest.mark.parametrize("text", MALFORMED)
def test_what_is_not_understood_is_malformed(org: Org, text: str) -> None:
    with pytest.raises(SalesforceError) as refused:
        run_query(org, text)
    assert (refused.value.code, refused.value.status) == ("MALFORMED_QUERY", 400)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("SELECT Id FROM Nothing", "INVALID_TYPE"),
        ("SELECT Id FROM User WHERE Id IN (SELECT Id FROM Nothing)", "INVALID_TYPE"),
        ("SELECT Foo FROM User", "INVALID_FIELD"),
        ("SELECT Id FROM User WHERE Foo = 1", "INVALID_FIELD"),
        ("SELECT Id FROM User ORDER BY Foo", "INVALID_FIELD"),
        ("SELECT Foo.Name FROM User", "INVALID_FIELD"),
        ("SELECT Manager.Foo FROM User", "INVALID_FIELD"),
        ("SELECT DelegatedApprover.Name FROM User", "INVALID_FIELD"),
        ("SELECT User.Name FROM UserLogin", "INVALID_FIELD"),
        ("SELECT User.Name FROM LoginHistory", "INVALID_FIELD"),
        ("SELECT Id FROM LoginHistory WHERE Status = 'Success'", "INVALID_FIELD"),
        ("SELECT Id FROM User WHERE IsActive = 'true'", "INVALID_FIELD"),
        ("SELECT Id FROM User WHERE IsActive = 1", "INVALID_FIELD"),
        ("SELECT Id FROM User WHERE IsActive = null", "INVALID_FIELD"),
        ("SELECT Id FROM User WHERE IsActive > true", "INVALID_QUERY_FILTER_OPERATOR"),
        ("SELECT Id FROM User WHERE Name = 5", "INVALID_FIELD"),
        ("SELECT Id FROM User WHERE Name = true", "INVALID_FIELD"),
        ("SELECT Id FROM User WHERE Name = TODAY", "INVALID_FIELD"),
        ("SELECT Id FROM User WHERE Name IN ('x', 5)", "INVALID_FIELD"),
        ("SELECT Id FROM User WHERE Name LIKE 5", "INVALID_FIELD"),
        ("SELECT Id FROM User WHERE Name > null", "INVALID_QUERY_FILTER_OPERATOR"),
        ("SELECT Id FROM User WHERE LastLoginDate > '2026-01-01T00:00:00Z'", "INVALID_FIELD"),
        ("SELECT Id FROM User WHERE LastLoginDate > 2026-01-01", "INVALID_FIELD"),
        ("SELECT Id FROM User WHERE LastLoginDate LIKE '2026%'", "INVALID_QUERY_FILTER_OPERATOR"),
        ("SELECT Id FROM User WHERE LastLoginDate = LAST_N_DAYS:9999999", "INVALID_QUERY_FILTER_OPERATOR"),
        ("SELECT Id FROM User WHERE LastLoginDate = LAST_N_YEARS:5000", "INVALID_QUERY_FILTER_OPERATOR"),
        ("SELECT Id FROM User WHERE Reclaim_Hold_Until__c = 2026-01-01T00:00:00Z", "INVALID_FIELD"),
        ("SELECT Id FROM Opportunity WHERE Amount = '5'", "INVALID_FIELD"),
        ("SELECT Id FROM Opportunity WHERE Amount LIKE '5'", "INVALID_QUERY_FILTER_OPERATOR"),
        ("SELECT Id FROM User WHERE Id = 'abc'", "INVALID_QUERY_FILTER_OPERATOR"),
        ("SELECT Id FROM User WHERE Id = 5", "INVALID_FIELD"),
        ("SELECT Id FROM User WHERE Id LIKE '005%'", "INVALID_QUERY_FILTER_OPERATOR"),
        ("SELECT Id FROM User WHERE ManagerId IN ('005')", "INVALID_QUERY_FILTER_OPERATOR"),
        ("SELECT Id FROM User LIMIT 12345678901", "NUMBER_OUTSIDE_VALID_RANGE"),
    ],
)
def test_refusals_carry_salesforces_codes(org: Org, text: str, code: str) -> None:
    with pytest.raises(SalesforceError) as refused:
        run_query(org, text)
    assert refused.value.code == code


def test_a_refusal_points_at_the_place() -> None:
    with pytest.raises(SalesforceError, match=r"Row:2:Column:21\nunexpected token: 'OR'"):
        parse("SELECT Id FROM User\nWHERE A=1 AND B = 2 OR C = 3")


def test_sizes_are_limited(org: Org) -> None:
    parse("SELECT Id FROM User WHERE Name = '" + "x" * 4_000 + "'")
    with pytest.raises(SalesforceError, match="4000"):
        parse("SELECT Id FROM User WHERE Name = '" + "x" * 4_001 + "'")
    parse("SELECT Id FROM User".ljust(100_000))
    with pytest.raises(SalesforceError) as refused:
        run_query(org, "SELECT Id FROM User".ljust(100_001))
    assert refused.value.code == "MALFORMED_QUERY"


def test_deep_nesting_is_refused_not_fatal(org: Org) -> None:
    deep = "(IsActive = true AND " * 4_000 + "IsActive = true" + ")" * 4_000
    with pytest.raises(SalesforceError) as refused:
        run_query(org, f"SELECT Id FROM User WHERE {deep}")
    assert refused.value.code == "QUERY_TOO_COMPLICATED"


def test_like_cannot_be_made_to_hang() -> None:
    started = time.process_time()
    assert like_pattern("%a" * 12 + "b").fullmatch("a" * 60) is None
    assert like_pattern("%" * 500 + "b").fullmatch("a" * 5_000) is None
    assert time.process_time() - started < 1


@pytest.mark.parametrize(
    ("literal", "first", "after"),
    [
        ("TODAY", "2026-03-18", "2026-03-19"),
        ("TOMORROW", "2026-03-19", "2026-03-20"),
        ("THIS_WEEK", "2026-03-15", "2026-03-22"),
        ("LAST_WEEK", "2026-03-08", "2026-03-15"),
        ("NEXT_WEEK", "2026-03-22", "2026-03-29"),
        ("THIS_MONTH", "2026-03-01", "2026-04-01"),
        ("LAST_MONTH", "2026-02-01", "2026-03-01"),
        ("NEXT_MONTH", "2026-04-01", "2026-05-01"),
        ("THIS_QUARTER", "2026-01-01", "2026-04-01"),
        ("LAST_QUARTER", "2025-10-01", "2026-01-01"),
        ("NEXT_YEAR", "2027-01-01", "2028-01-01"),
        ("LAST_N_DAYS:90", "2025-12-18", "2026-03-19"),
        ("LAST_90_DAYS", "2025-12-18", "2026-03-19"),
        ("LAST_N_DAYS:0", "2026-03-18", "2026-03-19"),
        ("NEXT_N_DAYS:2", "2026-03-19", "2026-03-21"),
        ("NEXT_90_DAYS", "2026-03-19", "2026-06-17"),
        ("N_DAYS_AGO:3", "2026-03-15", "2026-03-16"),
        ("LAST_N_WEEKS:2", "2026-03-01", "2026-03-15"),
        ("LAST_N_MONTHS:3", "2025-12-01", "2026-03-01"),
        ("N_MONTHS_AGO:3", "2025-12-01", "2026-01-01"),
        ("NEXT_N_MONTHS:1", "2026-04-01", "2026-05-01"),
        ("LAST_N_QUARTERS:1", "2025-10-01", "2026-01-01"),
        ("LAST_N_YEARS:2", "2024-01-01", "2026-01-01"),
        ("N_YEARS_AGO:1", "2025-01-01", "2026-01-01"),
    ],
)
def test_date_literals(literal: str, first: str, after: str) -> None:
    assert day_interval(literal, NOW.date()) == (date.fromisoformat(first), date.fromisoformat(after))


def test_an_interval_compares_by_its_ends(org: Org, people: Any) -> None:
    moments = {
        "before": datetime(2026, 3, 17, 23, 59, 59, tzinfo=UTC),
        "start": datetime(2026, 3, 18, tzinfo=UTC),
        "end": datetime(2026, 3, 18, 23, 59, 59, tzinfo=UTC),
        "after": datetime(2026, 3, 19, tzinfo=UTC),
    }
    for name, at in moments.items():
        people(LastName=name, LastLoginDate=at)
    wanted = {
        "<": ["before"],
        "<=": ["before", "end", "start"],
        "=": ["end", "start"],
        "!=": ["after", "before"],
        ">=": ["after", "end", "start"],
        ">": ["after"],
    }
    for operator, expected in wanted.items():
        found = names(org, f"LastLoginDate {operator} TODAY AND LastName IN ('before','start','end','after')")
        assert found == expected, operator


def test_an_index_answers_as_a_scan_would(org: Org, people: Any) -> None:
    random_ = random.Random(5)
    users = [people(IsActive=bool(number % 3)) for number in range(60)]
    for _ in range(400):
        org.insert("Case", OwnerId=random_.choice(users), Status=random_.choice(["New", "Closed"]))
    for _ in range(30):
        wanted = random_.sample(users, random_.randrange(1, 20))
        listed = ", ".join(f"'{each}'" for each in wanted)
        indexed = rows(org, f"SELECT Id FROM Case WHERE OwnerId IN ({listed}) AND IsClosed = false")
        # OR keeps the planner from starting at the index.
        scanned = rows(org, f"SELECT Id FROM Case WHERE (OwnerId IN ({listed}) OR Id = null) AND IsClosed = false")
        assert indexed == scanned
        joined = rows(org, f"SELECT Id FROM User WHERE Id IN (SELECT OwnerId FROM Case) AND Id IN ({listed})")
        assert [row["Id"] for row in joined] == sorted(
            each for each in wanted if org.tables["Case"].where("OwnerId", each)
        )


def test_an_index_follows_changes(org: Org, people: Any) -> None:
    one, two = people(), people()
    case = org.insert("Case", OwnerId=one)
    listed = f"SELECT Id FROM Case WHERE OwnerId = '{one}'"
    assert len(rows(org, listed)) == 1
    with org.transaction(caller="x", api="sobject") as transaction:
        transaction.update("Case", case, {"OwnerId": two})
    assert rows(org, listed) == []
    with org.transaction(caller="x", api="sobject") as transaction:
        before = transaction.savepoint()
        transaction.update("Case", case, {"OwnerId": one})
        transaction.rollback_to(before)
    assert rows(org, listed) == []
    with org.transaction(caller="x", api="sobject") as transaction:
        transaction.delete("Case", case)
    assert rows(org, f"SELECT Id FROM Case WHERE OwnerId = '{two}'") == []


def test_an_in_list_does_not_scan(org: Org, people: Any) -> None:
    org_rows = org.tables["UserLogin"].rows
    users = [people() for _ in range(3_000)]
    listed = ", ".join(f"'{each}'" for each in users[:5])
    text = f"SELECT Id FROM UserLogin WHERE UserId IN ({listed}) AND IsFrozen = false"
    rows(org, text)

    # A dictionary that cannot be walked: reaching rows by their ids still works.
    class Unwalkable(dict[str, list[Any]]):
        def values(self) -> Any:
            return map(self._walked, [None])

        def _walked(self, _row: None) -> None:
            raise AssertionError("the whole table was walked")

    org.tables["UserLogin"].rows = Unwalkable(org_rows)
    assert len(rows(org, text)) == 5
