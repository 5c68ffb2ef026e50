"""Filters as text, as JSON and as rows of a form: what is understood, what is refused and where, what comes back."""

from __future__ import annotations

import random
from collections.abc import Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reclaim.common.errors import Invalid
from reclaim.scanner.filters import (
    FilterRefused,
    Kind,
    Row,
    Superiors,
    combined,
    compile_memory,
    dump,
    load,
    parse,
    read,
    require_applicable,
    show,
)
from reclaim.scanner.filters.builder import (
    Builder,
    BuilderGroup,
    BuilderRow,
    build,
    join_values,
    split_values,
    unbuild,
)
from reclaim.scanner.filters.checks import MOST_CHARACTERS, MOST_LEVELS, MOST_VALUES, check
from reclaim.scanner.filters.fields import FIELDS, KINDS, MOST_HOPS
from reclaim.scanner.filters.tree import (
    Among,
    And,
    Compare,
    Condition,
    Day,
    Flag,
    Instant,
    IsNull,
    Matches,
    Not,
    Number,
    Or,
    Related,
    Text,
    Within,
    depth,
)
from reclaim.scanner.known_seats import PATHS
from services.scanner.tests.scanner_filters import NOW, random_tree


def problems(text: str, kind: Kind = "subscription") -> list[tuple[int, str]]:
    return [(problem.at, problem.message) for problem in read(text, kind).problems]


# ------------------------------------------------------------------------------------------------ text


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("user/department eq 'Sales'", Compare("user/department", "eq", Text("Sales"))),
        ("user/name ne 'O''Brien'", Compare("user/name", "ne", Text("O'Brien"))),
        ("price ge 12.50", Compare("price", "ge", Number(Decimal("12.5")))),
        ("price lt -1", Compare("price", "lt", Number(Decimal(-1)))),
        ("user/active eq true", Compare("user/active", "eq", Flag(True))),
        ("last_used_at lt 2026-11-20", Compare("last_used_at", "lt", Day(date(2026, 11, 20)))),
        (
            "last_used_at gt 2026-11-20T10:00+02:00",
            Compare("last_used_at", "gt", Instant(datetime(2026, 11, 20, 8, tzinfo=UTC))),
        ),
        ("last_used_at eq null", IsNull("last_used_at")),
        ("last_used_at ne null", IsNull("last_used_at", null=False)),
        ("currency in ('USD', 'EUR')", Among("currency", (Text("USD"), Text("EUR")))),
        ("startswith(user/name,'%_')", Matches("startswith", "user/name", "%_")),
        ("within_days(first_seen_at, 30)", Within("first_seen_at", 30)),
        ("in_group(user, 'VIP')", Related("in_group", "VIP")),
        ("reports_to(user, 'bea@acme.example')", Related("reports_to", "bea@acme.example")),
        (
            "price eq 1 or price eq 2 and not price eq 3",
            Or(
                (
                    Compare("price", "eq", Number(Decimal(1))),
                    And(
                        (
                            Compare("price", "eq", Number(Decimal(2))),
                            Not(Compare("price", "eq", Number(Decimal(3)))),
                        )
                    ),
                )
            ),
        ),
        ("((price\n eq\t\u00a01))", Compare("price", "eq", Number(Decimal(1)))),
    ],
)
def test_a_text_is_read_as_the_tree_it_means(text: str, tree: Condition) -> None:
    assert parse(text, "subscription") == tree
    assert parse(show(tree), "subscription") == tree


@given(st.integers(min_value=0), st.sampled_from(KINDS))
@settings(max_examples=500, deadline=None)
def test_every_tree_survives_text_and_json(seed: int, kind: Kind) -> None:
    tree = random_tree(random.Random(seed), kind)
    check(tree, kind)
    again = msgspec.json.decode(msgspec.json.encode(dump(tree)))
    assert load(again) == tree
    text = show(tree)
    if len(text) <= MOST_CHARACTERS:
        assert parse(text, kind) == tree
        assert show(parse(text, kind)) == text


@given(st.text(max_size=60))
@settings(max_examples=500, deadline=None)
def test_any_text_is_either_understood_or_answered_with_places_in_it(text: str) -> None:
    found = read(text, "subscription")
    assert (found.tree is None) == bool(found.problems)
    for problem in found.problems:
        assert 0 <= problem.at <= problem.at + problem.length <= max(len(text), 1)
        assert problem.message


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=50))
def test_any_text_can_be_compared_with(text: str) -> None:
    tree = Compare("user/name", "eq", Text(text))
    assert parse(show(tree), "subscription") == tree
    assert compile_memory(tree, NOW)(Row({"user/name": text})) is True


@pytest.mark.parametrize(
    ("text", "at", "parts"),
    [
        ("", 0, ("ends where", "a field")),
        ("price gt", 8, ("ends where", "a number")),
        ("price eq 1)", 10, ("found )", "and, or or the end")),
        ("(price eq 1", 11, ("ends where", ")")),
        ("price == 1", 6, ("found ==", "eq, ne, lt, le, gt, ge or in")),
        ("price eq 1 price eq 2", 11, ("found price", "and, or or the end")),
        ("price eq 1;drop table x", 10, ("found ;",)),
        ("user/name eq 'Ann", 13, ("not closed", "doubled")),
        ("price eq 1e5", 9, ("found 1e5", "a number")),
        ("__class__ eq 1", 0, ("no field '__class__'", "there are user/id")),
        ("user/__class__/__init__ eq 'x'", 0, ("no field 'user/__class__/__init__'",)),
        ("user/manager/manager/email eq 'x'", 0, ("no field", "nearest is user/email")),
        ("user.email eq 'x'", 0, ("no field 'user.email'", "nearest is user/email")),
        ("user/departement eq 'x'", 0, ("nearest is user/department",)),
        ("version eq '1'", 0, ("installed software",)),
        ("startwith(user/name, 'x')", 0, ("no function 'startwith'", "nearest is startswith")),
        ("matches(user/name, '.*')", 0, ("no function 'matches'",)),
        ("price eq 'x'", 9, ("compared with a number",)),
        ("price eq 0.00001", 9, ("4 after",)),
        ("price eq 100000000000000", 9, ("14 digits",)),
        ("currency gt null", 9, ("eq or ne",)),
        ("user/active gt true", 12, ("eq or ne",)),
        ("contains(price, 'x')", 9, ("needs a field of text",)),
        ("contains(user/name, '')", 20, ("not empty",)),
        ("in_group(user, '')", 15, ("not empty",)),
        ("in_group(boss, 'x')", 9, ("about user",)),
        ("in_group(user, 5)", 15, ("text in single quotes",)),
        ("within_days(price, 3)", 12, ("needs an instant",)),
        ("within_days(last_used_at, 0)", 26, ("1 to 3650",)),
        ("within_days(last_used_at, 1.5)", 26, ("whole number",)),
        ("last_used_at lt 2026-02-30", 16, ("no day",)),
        ("last_used_at lt 2026-02-03T25:00Z", 16, ("no day or time",)),
        ("last_used_at lt 1066-10-14", 16, ("years 1900",)),
        ("last_used_at in (2026-11-20)", 0, ("texts and numbers",)),
        ("price in (1, 'x', 2)", 13, ("a number",)),
        ("price in (1, null)", 13, ("no null",)),
        ("user/name eq 'a\x00b'", 13, ("control character",)),
    ],
)
def test_what_does_not_fit_is_named_with_its_place(text: str, at: int, parts: tuple[str, ...]) -> None:
    ((place, message),) = problems(text)
    assert place == at, message
    assert all(part in message for part in parts), message


def test_every_problem_of_a_text_is_named_at_once() -> None:
    found = problems("nope eq 1 and (price eq 'x' or within_days(currency, 3))")
    assert [at for at, _ in found] == [0, 24, 43]


def test_an_error_says_line_and_character() -> None:
    with pytest.raises(FilterRefused, match="In line 2 at character 5: there is no field 'nope'") as refused:
        parse("price eq 1\nand nope eq 2", "subscription")
    assert (refused.value.status, refused.value.field) == (422, "filter")


def test_a_text_that_is_too_long_is_refused_unread() -> None:
    fits = "user/name eq '" + "x" * (MOST_CHARACTERS - 15) + "'"
    assert len(fits) == MOST_CHARACTERS
    assert read(fits, "subscription").tree is not None
    assert "2,000 characters" in problems(fits + " ")[0][1]


def test_a_text_that_its_own_form_would_make_too_long_is_refused() -> None:
    text = " and ".join(["not price eq 1"] * 105)
    assert len(text) <= MOST_CHARACTERS < len(text) + 2 * 105
    assert "2,000 characters" in problems(text)[0][1]


@pytest.mark.parametrize("how", ["not ", "not("])
def test_a_tree_that_is_too_deep_is_refused(how: str) -> None:
    def nested(levels: int) -> str:
        return how * (levels - 1) + "price eq 1" + ")" * (levels - 1 if how == "not(" else 0)

    deepest = read(nested(MOST_LEVELS), "subscription").tree
    assert deepest is not None
    assert depth(deepest) == MOST_LEVELS
    assert "20 levels" in problems(nested(MOST_LEVELS + 1))[0][1]
    assert "20 levels" in problems(nested(390))[0][1]


def test_parentheses_that_mean_nothing_are_no_levels() -> None:
    assert parse("(" * 900 + "price eq 1" + ")" * 900, "subscription") == Compare("price", "eq", Number(Decimal(1)))


def test_a_list_has_at_most_five_hundred_values() -> None:
    assert read(f"price in ({','.join(['1'] * MOST_VALUES)})", "subscription").tree is not None
    assert "this one has 501" in problems(f"price in ({','.join(['1'] * (MOST_VALUES + 1))})")[0][1]


# ------------------------------------------------------------------------------------------------ fields


@pytest.mark.parametrize("kind", KINDS)
def test_fields_are_few_and_near_and_found_in_both_worlds(kind: Kind) -> None:
    assert all(path.count("/") <= MOST_HOPS for path in FIELDS[kind])
    assert set(PATHS[kind]) == set(FIELDS[kind])


def test_a_stored_tree_is_checked_like_a_text() -> None:
    for tree in (
        Compare("__class__", "eq", Text("x")),
        Compare("price", "eq", Number(Decimal("NaN"))),
        Compare("price", "eq", Text("x")),
        And((Compare("price", "eq", Number(Decimal(1))),)),
        Or(()),
        Among("price", ()),
        Matches("contains", "user/name", "a\nb"),
        Within("last_used_at", 0),
    ):
        with pytest.raises(FilterRefused):
            check(tree, "subscription")
    with pytest.raises(msgspec.ValidationError):
        load({"is": "compare", "field": "price", "operator": "like", "value": {"is": "text", "value": "x"}})
    with pytest.raises(msgspec.ValidationError):
        load({"is": "call", "field": "price"})


# ------------------------------------------------------------------------------------------------ three values


DEPARTMENT = Compare("user/department", "eq", Text("Sales"))


@pytest.mark.parametrize(
    ("text", "values", "answer"),
    [
        ("user/department eq 'Sales'", {"user/department": "Sales"}, True),
        ("user/department eq 'Sales'", {"user/department": "sales"}, False),
        ("user/department eq 'Sales'", {}, None),
        ("user/department ne 'Sales'", {}, None),
        ("not (user/department eq 'Sales')", {}, None),
        ("user/department eq null", {}, True),
        ("user/department ne null", {}, False),
        ("user/department eq 'Sales' and price gt 1", {"price": Decimal(1)}, False),
        ("user/department eq 'Sales' or price gt 1", {"price": Decimal(2)}, True),
        ("user/department eq 'Sales' or price gt 1", {"price": Decimal(1)}, None),
        ("user/department in ('Sales', 'HR')", {}, None),
        ("contains(user/name, '_')", {"user/name": "axb"}, False),
        ("contains(user/name, '%')", {"user/name": "100%"}, True),
        ("last_used_at eq 2026-11-20", {"last_used_at": datetime(2026, 11, 20, 23, 59, tzinfo=UTC)}, True),
        ("last_used_at gt 2026-11-20", {"last_used_at": datetime(2026, 11, 20, 23, 59, tzinfo=UTC)}, False),
        ("last_used_at le 2026-11-20", {"last_used_at": datetime(2026, 11, 20, 23, 59, tzinfo=UTC)}, True),
        ("in_group(user, 'VIP')", {}, None),
        ("not (in_group(user, 'VIP'))", {}, None),
        ("reports_to(user, 'bea')", {}, None),
    ],
)
def test_memory_answers_true_false_or_unknown(text: str, values: Mapping[str, Any], answer: bool | None) -> None:
    assert compile_memory(parse(text, "subscription"), NOW)(Row(values)) is answer


def test_who_may_be_above_a_line_that_breaks_off_is_unknown() -> None:
    asked = compile_memory(Related("reports_to", "ceo"), NOW)
    assert asked(Row({}, superiors=Superiors(frozenset({"bea"}), complete=True))) is False
    assert asked(Row({}, superiors=Superiors(frozenset({"bea"}), complete=False))) is None
    assert asked(Row({}, superiors=Superiors(frozenset({"ceo"}), complete=False))) is True


# ------------------------------------------------------------------------------------------------ rules


def test_rule_filter_where_it_does_not_apply_is_refused_with_422() -> None:
    for applies_to in ("engineering", "named user", ""):
        with pytest.raises(Invalid, match="subscription or installed software") as refused:
            require_applicable(applies_to, None, DEPARTMENT)
        assert refused.value.status == 422
        assert require_applicable(applies_to, None, None) is None
    assert require_applicable("installed", DEPARTMENT) == "installed"
    assert require_applicable("subscription") is None


def test_a_rules_filter_and_its_parents_must_both_be_met() -> None:
    price = Compare("price", "gt", Number(Decimal(1)))
    both = combined(DEPARTMENT, price)
    assert both == And((DEPARTMENT, price))
    assert combined(None, price) == price
    assert combined(DEPARTMENT, None) == DEPARTMENT
    assert combined(None, None) is None


# ------------------------------------------------------------------------------------------------ the form


@given(st.integers(min_value=0), st.sampled_from(KINDS))
@settings(max_examples=500, deadline=None)
def test_a_tree_that_fits_into_rows_comes_back_the_same(seed: int, kind: Kind) -> None:
    tree = random_tree(random.Random(seed), kind, levels=3)
    form = unbuild(tree)
    if form is None:
        assert depth(tree) >= 2
    elif len(show(tree)) <= MOST_CHARACTERS:
        assert build(form, kind).tree == tree
        assert not build(form, kind).problems


@pytest.mark.parametrize(
    "text",
    [
        "price eq 1 and (price eq 2 or (price eq 3 and price eq 4))",
        "not (price eq 1 and price eq 2)",
        "not (not (in_group(user, 'VIP')))",
    ],
)
def test_a_text_beyond_the_form_is_said_to_be(text: str) -> None:
    assert unbuild(parse(text, "subscription")) is None


def test_a_form_says_which_line_is_wrong() -> None:
    rows = (
        BuilderRow("price", "eq", "cheap"),
        BuilderRow(),
        BuilderRow("user", "in_group", ""),
        BuilderRow("price", "in_group", "VIP"),
        BuilderRow("__class__", "eq", "1"),
        BuilderRow("price", "between", "1"),
        BuilderRow("last_used_at", "lt", "2026-11-20T08:00:00"),
        BuilderRow("last_used_at", "within_days", "²"),
        BuilderRow("user/name", "in", '"Ann'),
        BuilderRow("user/name", "eq", "x" * 3000),
    )
    built = build(Builder("all", (BuilderGroup("any", rows),)), "subscription")
    assert built.tree is None
    assert sorted(built.problems) == [(0, number) for number in range(len(rows)) if number != 1]


def test_an_empty_form_is_no_filter() -> None:
    assert build(Builder("all", (BuilderGroup("all", (BuilderRow(),)),)), "subscription").tree is None
    assert unbuild(None) == Builder()


@given(st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"])), min_size=1, max_size=5))
def test_values_of_a_list_may_hold_what_separates_them(values: list[str]) -> None:
    assert split_values(join_values(values)) == values
