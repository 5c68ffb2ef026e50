"""A suite is one seat and one case: folding, holds, merges, and looking again. All of it pure."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reclaim.common.contracts import CheckFinding, Person, Seat
from reclaim.connectors.checks import is_unused
from reclaim.connectors.ports import Licence, Manager, SeatRecord
from reclaim.scanner.catalog import Coverage, Suite
from reclaim.scanner.domain import Baseline, Found, Held, Stopped, read_terms
from reclaim.scanner.suites import (
    Folding,
    Merge,
    OpenCase,
    comparable,
    fold,
    folded,
    outlived,
    plan_merges,
    pooled,
    readable,
    spread,
    unlike,
)
from services.scanner.tests.scanner_world import NOON, TERMS

OFFICE = Suite("OFFICE", "Office", frozenset({"WORD", "EXCEL", "OUTLOOK"}))
DIAGRAMS = Suite("DIAGRAMS", "Diagrams", frozenset({"VISIO", "WORD"}))
BOTH = (DIAGRAMS, OFFICE)
EVERY = sorted(OFFICE.products | DIAGRAMS.products)
BOSS = Manager(Person(id="boss", name="Boss"), able=True)


def seat(holder: str, product: str, *, days: int | None = 120, **more: object) -> SeatRecord:
    record = SeatRecord(
        holder=Person(id=holder, name=holder.title()),
        product=product,
        product_name=product.title(),
        department="Sales",
        active=True,
        usage_type="Standard",
        created_at=NOON - timedelta(days=900),
        last_used_at=None if days is None else NOON - timedelta(days=days),
        manager=BOSS,
    )
    return replace(record, **more)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------ folding


def test_seats_of_a_suite_become_one_and_others_stay() -> None:
    seats = [seat("ann", "WORD", days=200), seat("ann", "EXCEL", days=150), seat("ann", "CRM")]
    whole, other = fold(seats, [OFFICE])
    assert (whole.product, whole.product_name, whole.last_used_at) == ("OFFICE", "Office", NOON - timedelta(days=150))
    assert other is seats[2]


def test_word_used_and_the_suite_otherwise_idle_is_kept() -> None:
    seats = [seat("ann", "OFFICE", days=None), seat("ann", "EXCEL", days=400), seat("ann", "WORD", days=2)]
    (whole,) = fold(seats, [OFFICE])
    assert not is_unused(whole, inactive_days=90, now=NOON)
    (idle,) = fold(seats[:2], [OFFICE])
    assert is_unused(idle, inactive_days=90, now=NOON)


def test_whatever_protects_one_part_protects_the_whole() -> None:
    base = seat("ann", "WORD")
    (young,) = fold([base, seat("ann", "EXCEL", created_at=NOON - timedelta(days=3))], [OFFICE])
    assert young.created_at == NOON - timedelta(days=3)
    (kind,) = fold([base, seat("ann", "EXCEL", usage_type="Guest")], [OFFICE])
    assert kind.usage_type == "Guest"
    (inactive,) = fold([base, seat("ann", "EXCEL", active=False)], [OFFICE])
    assert not is_unused(inactive, inactive_days=90, now=NOON)
    gone = Manager(Person(id="old", name="Old"), able=False)
    (managed,) = fold([seat("ann", "EXCEL", manager=gone), base], [OFFICE])
    assert managed.manager == BOSS
    (named,) = fold([seat("ann", "OFFICE", product_name="Office 2024"), base], [OFFICE])
    assert named.product_name == "Office 2024"


@pytest.mark.parametrize(
    ("products", "expected"),
    [
        (["WORD"], ["DIAGRAMS"]),
        (["OFFICE", "WORD"], ["OFFICE"]),
        (["DIAGRAMS", "OFFICE", "WORD"], ["DIAGRAMS", "OFFICE"]),
        (["WORD", "EXCEL"], ["OFFICE"]),
        (["WORD", "EXCEL", "VISIO"], ["DIAGRAMS", "OFFICE"]),
        (["WORD", "EXCEL", "OUTLOOK", "VISIO"], ["OFFICE", "DIAGRAMS"]),
        (["OFFICE", "VISIO", "WORD"], ["OFFICE", "DIAGRAMS"]),
        (["CRM"], ["CRM"]),
        ([], []),
    ],
    ids=str,
)
def test_a_shared_component_goes_with_the_suite_that_the_holder_has(products: list[str], expected: list[str]) -> None:
    assert [each.product for each in fold([seat("ann", product) for product in products], BOTH)] == expected


def test_a_shared_component_in_use_keeps_both_suites() -> None:
    seats = [seat("ann", "OFFICE"), seat("ann", "DIAGRAMS"), seat("ann", "WORD", days=1)]
    assert [is_unused(each, inactive_days=90, now=NOON) for each in fold(seats, BOTH)] == [False, False]


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([*EVERY, "CRM"]), st.integers(0, 300)), max_size=8),
    st.permutations(BOTH),
    st.randoms(use_true_random=False),
)
def test_folding_is_one_seat_a_suite_in_any_order_and_never_makes_a_used_seat_idle(
    owned: list[tuple[str, int]], suites: list[Suite], random: object
) -> None:
    seats = [seat("ann", product, days=days) for product, days in owned]
    whole = fold(seats, suites)
    inside = Counter(each.product for each in whole if each.product != "CRM")
    assert set(inside) <= {"OFFICE", "DIAGRAMS"}
    assert set(inside.values()) <= {1}
    assert sum(each.product == "CRM" for each in whole) == sum(product == "CRM" for product, _ in owned)
    random.shuffle(seats)  # type: ignore[attr-defined]
    assert Counter(map(repr, fold(seats, suites))) == Counter(map(repr, whole))
    for each in whole:
        parts = {"OFFICE": OFFICE, "DIAGRAMS": DIAGRAMS}.get(each.product)
        if parts:
            used = [days for product, days in owned if product in parts.products]
            assert each.last_used_at == NOON - timedelta(days=min(used))


async def test_pages_are_folded_across_their_borders() -> None:
    rows = [
        *(seat("ann", product) for product in ("EXCEL", "OFFICE", "WORD")),
        seat("bob", "CRM"),
        *(seat("cid", product) for product in ("EXCEL", "WORD")),
    ]
    for size in range(1, 7):

        async def pages(size: int = size) -> AsyncIterator[Sequence[SeatRecord]]:
            for start in range(0, len(rows), size):
                yield rows[start : start + size]

        found = [each async for page in folded(pages(), [OFFICE]) for each in page]
        assert sorted((each.holder.id, each.product) for each in found) == [
            ("ann", "OFFICE"),
            ("bob", "CRM"),
            ("cid", "OFFICE"),
        ], size


def test_a_list_that_is_not_by_holder_is_not_believed() -> None:
    folding = Folding([OFFICE])
    folding.page([seat("ann", "WORD"), seat("bob", "WORD")])
    with pytest.raises(Stopped, match="one after the other"):
        folding.page([seat("ann", "EXCEL")])
    mixed = [seat("ann", "WORD"), seat("bob", "CRM"), seat("ann", "EXCEL")]
    folding = Folding([OFFICE])
    assert len([*folding.page(mixed), *folding.end()]) == 2, "a seat outside suites may stand between"


def test_without_suites_pages_pass_as_they_are() -> None:
    rows = [seat("ann", "WORD"), seat("bob", "WORD"), seat("ann", "EXCEL")]
    folding = Folding([])
    assert folding.page(rows) == rows
    assert folding.end() == []


def test_licences_of_a_suite_are_one_pool() -> None:
    licences = [Licence(name, name, 10, used) for name, used in (("WORD", 3), ("EXCEL", 2), ("CRM", 5), ("VISIO", 1))]
    pools = {pool.product: (pool.total, pool.used) for pool in pooled(licences, BOTH)}
    empty = dict.fromkeys(("WORD", "EXCEL", "VISIO"), (0, 0))
    assert pools == {"CRM": (10, 5), "DIAGRAMS": (20, 4), "OFFICE": (10, 2), **empty}
    assert pooled(licences, []) == licences
    covered = Coverage(("CRM", "EXCEL", "GONE", "OFFICE", "OUTLOOK", "WORD"), (OFFICE,))
    assert readable(covered, licences) == ["CRM", "EXCEL", "GONE", "WORD"], "what is no suite's must be there"


def test_a_suite_that_was_another_one_has_nothing_to_compare_with() -> None:
    terms = read_terms({**TERMS, "products": ["OFFICE"]})
    covered = Coverage(("EXCEL", "OFFICE", "WORD"), (OFFICE,))
    same = Baseline(covered.products, 9, 8, 1, 2, suites=("OFFICE",))
    other = Baseline(("OFFICE",), 9, 8, suites=("OFFICE",))
    apart = Baseline(covered.products, 9, 8)
    assert comparable(same, terms, covered) == Baseline(("OFFICE",), 9, 8, 1, 2, suites=("OFFICE",))
    assert comparable(apart, terms, covered) is None, "its components were counted apart then"
    assert comparable(other, terms, covered) is None
    assert comparable(None, terms, covered) is None
    plain = Baseline(("OFFICE",), 9, 8)
    assert comparable(plain, terms, Coverage(("OFFICE",))) is plain
    unknown = Baseline(("OFFICE",), 9, 8, suites=None)
    assert comparable(unknown, terms, covered) is None
    assert "did not record which suites" in (unlike(unknown, terms, covered) or "")
    assert comparable(unknown, terms, Coverage(("OFFICE",))) is unknown, "no suite is folded now, nor was one then"


def test_who_is_asked_about_a_part_is_not_asked_about_the_whole_and_the_other_way_round() -> None:
    held = Held({("ann", "WORD"): "a case is open", ("bob", "OFFICE"): "kept"}, {("cid", "WORD")})
    found = spread(held, {"WORD": frozenset({"OFFICE"}), "OFFICE": frozenset({"WORD", "EXCEL"})})
    assert found.back == {
        ("ann", "WORD"): "a case is open",
        ("ann", "OFFICE"): "WORD: a case is open",
        ("bob", "OFFICE"): "kept",
        ("bob", "WORD"): "OFFICE: kept",
        ("bob", "EXCEL"): "OFFICE: kept",
    }
    assert found.flagged == held.flagged


# ------------------------------------------------------------------------------------------------ merging


def case(number: int, product: str, holder: str = "ann") -> OpenCase:
    return OpenCase(f"c{number}", holder, product, NOON + timedelta(minutes=number))


@pytest.mark.parametrize(
    ("cases", "merges"),
    [
        ([], []),
        ([case(1, "CRM")], []),
        ([case(1, "OFFICE")], []),
        ([case(1, "WORD")], [("DIAGRAMS", ("c1",), None)]),
        ([case(1, "EXCEL"), case(2, "OUTLOOK")], [("OFFICE", ("c1", "c2"), None)]),
        ([case(2, "OUTLOOK"), case(1, "EXCEL")], [("OFFICE", ("c1", "c2"), None)]),
        ([case(1, "OFFICE"), case(2, "WORD")], [("OFFICE", ("c2",), "c1")]),
        (
            [case(1, "WORD"), case(2, "VISIO"), case(3, "EXCEL")],
            [("DIAGRAMS", ("c1", "c2"), None), ("OFFICE", ("c3",), None)],
        ),
        ([case(1, "OFFICE"), case(2, "DIAGRAMS"), case(3, "WORD")], [("DIAGRAMS", ("c3",), "c2")]),
    ],
    ids=["none", "another product", "the whole already", "one part", "parts", "oldest first", "into the whole",
         "two suites", "both wholes"],
)  # fmt: skip
def test_open_cases_become_one_per_holder_and_suite(
    cases: list[OpenCase], merges: list[tuple[str, tuple[str, ...], str | None]]
) -> None:
    assert [(merge.suite, merge.withdrawn, merge.into) for merge in plan_merges(cases, BOTH)] == merges


def test_holders_are_merged_apart() -> None:
    cases = [case(1, "WORD", "ann"), case(2, "WORD", "bob"), case(3, "EXCEL", "bob")]
    assert plan_merges(cases, [OFFICE]) == (
        Merge("OFFICE", "ann", ("c1",), None),
        Merge("OFFICE", "bob", ("c2", "c3"), None),
    )


CASES = st.lists(
    st.tuples(st.sampled_from([*EVERY, "CRM"]), st.sampled_from(["ann", "bob"])), max_size=10, unique=True
).map(lambda pairs: [case(number, product, holder) for number, (product, holder) in enumerate(pairs)])


@settings(deadline=None)
@given(CASES, st.sampled_from([(), (OFFICE,), BOTH, (OFFICE, DIAGRAMS)]))
def test_merging_leaves_one_case_per_holder_and_suite(cases: list[OpenCase], suites: tuple[Suite, ...]) -> None:
    merges = plan_merges(cases, suites)
    by_id = {each.case_id: each for each in cases}
    withdrawn = [case_id for merge in merges for case_id in merge.withdrawn]
    assert len(withdrawn) == len(set(withdrawn)), "no case is withdrawn twice"
    parts = {part for suite in suites for part in suite.components}
    assert {by_id[case_id].product for case_id in withdrawn} <= parts, "a whole is never withdrawn, nor anything else"
    assert all(by_id[case_id].holder_id == merge.holder_id for merge in merges for case_id in merge.withdrawn)
    opened = [
        OpenCase(f"new{n}", merge.holder_id, merge.suite, NOON) for n, merge in enumerate(merges) if merge.into is None
    ]
    after = [*(each for each in cases if each.case_id not in withdrawn), *opened]
    kept = Counter((each.holder_id, each.product) for each in after)
    assert not [pair for pair, count in kept.items() if count > 1]
    assert not [each for each in after if each.product in parts], "no part is asked about by itself any more"
    assert plan_merges(after, suites) == (), "merging again changes nothing"
    for merge in merges:
        if merge.into is not None:
            assert (by_id[merge.into].holder_id, by_id[merge.into].product) == (merge.holder_id, merge.suite)


def test_planning_does_not_depend_on_the_order_of_cases_or_suites() -> None:
    cases = [case(1, "WORD"), case(2, "EXCEL"), case(3, "VISIO"), case(4, "OFFICE", "bob"), case(5, "WORD", "bob")]
    plans = {
        plan_merges(order, suites) for order in itertools.permutations(cases) for suites in itertools.permutations(BOTH)
    }
    assert len(plans) == 1


def found(product: str, *, days: int | None, outcome: str, approver: str | None = "boss") -> Found:
    return Found(
        seat=Seat(connection_id="c", product=product, product_name=product, holder=Person(id="ann", name="Ann")),
        approver=None if approver is None else Person(id=approver, name=approver),
        findings=(CheckFinding(check="queue_member", outcome=outcome, evidence=product),),  # type: ignore[arg-type]
        last_used_at=None if days is None else NOON - timedelta(days=days),
    )


# ------------------------------------------------------------------------------------------------ looking again


@pytest.mark.parametrize(
    ("product", "seen", "kind", "says"),
    [
        ("OFFICE", {("ann", "OFFICE"): False}, None, ""),
        ("OFFICE", {("ann", "OFFICE"): True}, "rule_withdrawn", "in use"),
        ("OFFICE", {}, "vanished", "Nothing that the holder has counts as OFFICE"),
        ("VISIO", {("ann", "VISIO"): False}, "rule_withdrawn", "no longer among the products"),
        ("WORD", {("ann", "OFFICE"): False}, None, ""),
        ("WORD", {("ann", "OFFICE"): True}, "rule_withdrawn", "OFFICE is in use"),
        ("CRM", {("ann", "CRM"): False}, None, ""),
        ("CRM", {("bob", "CRM"): False}, "vanished", "counts as CRM"),
    ],
)
def test_a_case_that_lost_its_ground_is_taken_back(
    product: str, seen: dict[tuple[str, str], bool], kind: str | None, says: str
) -> None:
    covered = Coverage(("CRM", "EXCEL", "OFFICE", "OUTLOOK", "WORD"), (OFFICE,))
    gone = outlived([case(1, product)], seen, covered)
    if kind is None:
        assert gone == {}
    else:
        assert gone["c1"].kind == kind
        assert says in gone["c1"].reason
