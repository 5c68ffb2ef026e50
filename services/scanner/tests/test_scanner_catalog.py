"""The catalogue by itself: what a product may be, what a rule's rows come to, and files that come in and go out."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reclaim.common.errors import Conflict, Invalid, NotFound
from reclaim.scanner import catalog
from reclaim.scanner.catalog import Changes, Process, Product, Row
from reclaim.scanner.catalog_csv import read_csv, take_in, write_csv
from reclaim.scanner.domain import Rejected

WINWORD = Process("winword.exe", "windows")
EXCEL = Process("excel.exe", "windows")
VISIO = Process("visio.exe", "windows")
KNOWN = {
    product.key: product
    for product in (
        Product(key="WORD", name="Word", publisher="Microsoft", processes=(WINWORD,)),
        Product(key="EXCEL", name="Excel", publisher="Microsoft", processes=(EXCEL,)),
        Product(key="VISIO", name="Visio", publisher="Microsoft", processes=(VISIO,)),
        Product(key="OFFICE", name="Office", publisher="Microsoft", components=("EXCEL", "WORD")),
        Product(key="DIAGRAMS", name="Diagrams", publisher="Microsoft", components=("VISIO", "WORD")),
    )
}


def brief(rows: catalog.Rows) -> list[tuple[str, str]]:
    return [(row.parent, row.product) for row in rows]


# ------------------------------------------------------------------------------------------------ a rule's rows


def test_adding_a_suite_adds_its_components_and_all_their_processes() -> None:
    rows = catalog.with_product((), "OFFICE", KNOWN)
    assert brief(rows) == [("", "OFFICE"), ("OFFICE", "EXCEL"), ("OFFICE", "WORD")]
    assert [row.processes for row in rows] == [(), (EXCEL,), (WINWORD,)]
    assert {row.mode for row in rows} == {"bulk"}


def test_editing_a_suite_to_word_removes_the_old_components() -> None:
    rows = catalog.with_product((), "OFFICE", KNOWN, filter="department eq 'Sales'")
    rows = catalog.exchanged(rows, "OFFICE", "WORD", KNOWN)
    assert brief(rows) == [("", "WORD")]
    assert rows[0].processes == (WINWORD,)
    assert rows[0].filter == "department eq 'Sales'"


def test_deleting_the_parent_cascades_and_a_component_of_another_parent_stays() -> None:
    rows = catalog.with_product(catalog.with_product((), "OFFICE", KNOWN), "DIAGRAMS", KNOWN)
    assert ("OFFICE", "WORD") in brief(rows)
    left = catalog.without_product(rows, "OFFICE", KNOWN)
    assert brief(left) == [("", "DIAGRAMS"), ("DIAGRAMS", "VISIO"), ("DIAGRAMS", "WORD")]


def test_a_product_that_was_chosen_itself_stays_when_its_suite_goes() -> None:
    rows = catalog.with_product(catalog.with_product((), "OFFICE", KNOWN), "WORD", KNOWN)
    assert brief(catalog.without_product(rows, "OFFICE", KNOWN)) == [("", "WORD")]


@pytest.mark.parametrize("change", ["remove", "exchange", "filter", "renew"])
def test_a_component_is_not_changed_by_itself_and_the_answer_says_what_to_do(change: str) -> None:
    rows = catalog.with_product((), "OFFICE", KNOWN)
    steps = {
        "remove": lambda: catalog.without_product(rows, "WORD", KNOWN),
        "exchange": lambda: catalog.exchanged(rows, "WORD", "VISIO", KNOWN),
        "filter": lambda: catalog.filtered(rows, "WORD", "x"),
        "renew": lambda: catalog.renewed(rows, "WORD", KNOWN),
    }
    with pytest.raises(Conflict, match="Change the row of OFFICE") as refused:
        steps[change]()
    assert refused.value.status == 409


def test_the_parents_filter_shows_on_its_components_and_nowhere_else() -> None:
    rows = catalog.with_product(catalog.with_product((), "OFFICE", KNOWN, filter="a"), "DIAGRAMS", KNOWN)
    shown = {row.key: catalog.filter_on(rows, row) for row in rows}
    assert shown["OFFICE", "WORD"] == shown["OFFICE", ""] == "a"
    assert shown["DIAGRAMS", "WORD"] == shown["DIAGRAMS", ""] == ""
    assert all(row.filter == "" for row in rows if row.is_component)


def test_a_product_is_chosen_once() -> None:
    rows = catalog.with_product((), "OFFICE", KNOWN)
    with pytest.raises(Conflict, match="already"):
        catalog.with_product(rows, "OFFICE", KNOWN)
    with pytest.raises(Conflict, match="already"):
        catalog.exchanged(catalog.with_product(rows, "VISIO", KNOWN), "VISIO", "OFFICE", KNOWN)
    with pytest.raises(NotFound):
        catalog.without_product(rows, "VISIO", KNOWN)


def test_a_catalogue_update_is_carried_into_every_rule_that_it_reaches() -> None:
    rules = {
        "office": catalog.with_product((), "OFFICE", KNOWN),
        "both": catalog.with_product(catalog.with_product((), "OFFICE", KNOWN), "DIAGRAMS", KNOWN),
        "excel": catalog.with_product((), "EXCEL", KNOWN),
    }
    after = {
        **KNOWN,
        "OFFICE": Product(key="OFFICE", name="Office", components=("EXCEL", "VISIO")),
        "EXCEL": Product(key="EXCEL", name="Excel", processes=(EXCEL, Process("excel", "macos"))),
    }
    found = catalog.carried(rules, after)
    assert brief(found["office"].added) == [("OFFICE", "VISIO")]
    assert brief(found["office"].removed) == [("OFFICE", "WORD")]
    assert brief(found["office"].altered) == [("OFFICE", "EXCEL")]
    assert brief(found["both"].removed) == [("OFFICE", "WORD")], "the other suite's Word stays"
    assert brief(found["excel"].altered) == [("", "EXCEL")]
    for rule_id, change in found.items():
        assert change.applied_to(rules[rule_id]) == catalog.rows_of(rules[rule_id], after)
    assert found["office"].touched(rules["office"]) == {"OFFICE", "EXCEL", "WORD"}
    assert catalog.carried({"excel": rules["excel"]}, KNOWN) == {}


def test_a_legacy_row_ignores_catalogue_updates_until_it_is_renewed() -> None:
    legacy = (Row(product="OFFICE", mode="legacy", filter="f"),)
    assert catalog.rows_of(legacy, KNOWN) == legacy
    assert catalog.carried({"r": legacy}, KNOWN) == {}
    assert catalog.coverage(legacy, KNOWN) == catalog.Coverage(("OFFICE",), (), {"OFFICE": "f"})
    renewed = catalog.renewed(legacy, "OFFICE", KNOWN)
    assert renewed == catalog.with_product((), "OFFICE", KNOWN, filter="f")
    taken_out = catalog.without_product((*legacy, Row(product="VISIO")), "OFFICE", KNOWN)
    assert catalog.with_product(taken_out, "OFFICE", KNOWN)[1].mode == "bulk", "out and in again does the same"


def test_following_a_rules_terms_keeps_what_is_chosen_as_it_is() -> None:
    legacy = (Row(product="OFFICE", mode="legacy"), Row(product="VISIO", filter="v", processes=(VISIO,)))
    followed = catalog.followed(legacy, ["OFFICE", "VISIO", "DIAGRAMS"], KNOWN)
    assert [row for row in followed if not row.is_component] == [
        catalog.with_product((), "DIAGRAMS", KNOWN)[0],
        *legacy,
    ]
    assert brief(catalog.followed(followed, ["VISIO"], KNOWN)) == [("", "VISIO")]


def test_what_a_rule_covers_names_every_product_and_each_suite() -> None:
    rows = catalog.with_product(catalog.with_product((), "OFFICE", KNOWN), "UNHEARD OF", KNOWN)
    covered = catalog.coverage(rows, KNOWN)
    assert covered.products == ("EXCEL", "OFFICE", "UNHEARD OF", "WORD")
    assert covered.suites == (catalog.Suite("OFFICE", "Office", frozenset({"EXCEL", "WORD"})),)
    assert covered.tree == {"OFFICE": ("EXCEL", "WORD"), "UNHEARD OF": ()}


def test_products_are_related_to_their_suites_and_components() -> None:
    assert catalog.related(KNOWN) == {
        "WORD": {"OFFICE", "DIAGRAMS"},
        "EXCEL": {"OFFICE"},
        "VISIO": {"DIAGRAMS"},
        "OFFICE": {"WORD", "EXCEL"},
        "DIAGRAMS": {"VISIO", "WORD"},
    }


# ------------------------------------------------------------------------------------------------ products


@pytest.mark.parametrize(
    ("raw", "field", "says"),
    [
        ({"key": ""}, "key", "1 to 100 characters"),
        ({"key": "a|b"}, "key", "without |"),
        ({"key": "=cmd()"}, "key", "does not begin with ="),
        ({"name": "@SUM(A1)"}, "name", "spreadsheet"),
        ({"name": "two\nlines" + "x" * 100}, "name", "1 to 100"),
        ({"publisher": "-1"}, "publisher", "does not begin"),
        ({"components": "WORD"}, "components", "must be a list"),
        ({"components": ["x" * 101]}, "components", "1 to 100 characters"),
        ({"processes": ["winword.exe"]}, "processes", "is no platform"),
        ({"processes": ["os2:word.exe"]}, "processes", "windows, macos, linux"),
        ({"processes": ["windows:c:\\word.exe"]}, "processes", "no file name"),
        ({"processes": [f"linux:{n}" for n in range(501)]}, "processes", "at most 500"),
    ],
)
def test_what_is_no_product_is_refused_with_what_to_enter(raw: dict[str, Any], field: str, says: str) -> None:
    with pytest.raises(Rejected) as refused:
        catalog.read_product({"key": "K", "name": "N", **raw})
    assert says in refused.value.by_field[field]


def test_file_names_are_one_where_the_platform_ignores_case() -> None:
    product = catalog.read_product(
        {"key": "K", "name": "N", "processes": ["windows:WinWord.EXE", " Windows : winword.exe", "linux:Word"]}
    )
    assert product.processes == (Process("Word", "linux"), WINWORD)
    assert catalog.read_process({"platform": "macos", "file_name": "Word"}) == Process("word", "macos")


@pytest.mark.parametrize(
    ("product", "says"),
    [
        (Product(key="X", name="X", components=("X",)), "component of itself"),
        (Product(key="X", name="X", components=("NONE", "WORD")), "no product NONE"),
        (Product(key="X", name="X", components=("OFFICE",)), "is a suite itself"),
        (Product(key="WORD", name="Word", components=("VISIO",)), "a component of DIAGRAMS, OFFICE"),
    ],
    ids=["itself", "unknown", "nested", "already a component"],
)
def test_suites_have_one_level(product: Product, says: str) -> None:
    with pytest.raises(Invalid, match=says):
        catalog.place(product, KNOWN)


def test_a_product_that_goes_leaves_its_suites() -> None:
    left = catalog.without("WORD", KNOWN)
    assert left["OFFICE"].components == ("EXCEL",)
    assert left["DIAGRAMS"].components == ("VISIO",)
    assert "WORD" not in left


# ------------------------------------------------------------------------------------------------ CSV


HEADER = b"key,name,publisher,components,processes\n"


def test_a_file_is_read_with_suites_before_their_components() -> None:
    data = HEADER + b"SUITE,The suite,,A|B,\r\nA,Part A,Acme,,windows:a.exe|linux:a\r\n\r\nB,Part B,Acme,,\r\n"
    taken = take_in(*read_csv(data, {}), {})
    assert taken.bad == ()
    assert (taken.added, taken.unchanged) == (3, 0)
    assert taken.catalog["SUITE"].components == ("A", "B")
    assert taken.catalog["A"].processes == (Process("a", "linux"), Process("a.exe", "windows"))
    again = take_in(*read_csv(data, taken.catalog), taken.catalog)
    assert (again.added, again.changed, again.unchanged) == (0, (), 3)


def test_bad_lines_are_listed_with_their_reasons_and_good_ones_kept() -> None:
    data = HEADER + (
        b"GOOD,Good,,,\n"
        b"=cmd(),Formula,,,\n"
        b"BAD,\xe9t\xe9,,,\n"
        b'OPEN,"no end,,,\n'
        b"SHORT,Short\n"
        b"GOOD,Twice,,,\n"
        b"SUITE,Suite,,NOWHERE,\n"
        b"good,Twin,,,\n"
        b"PROC,Process,,,word.exe\n"
        b"LONG," + b"x" * 70_000 + b",,,\n"
        b"NUL,a\0b,,,\n"
        b"FINE,Fine,,,\n"
    )
    taken = take_in(*read_csv(data, {}), {})
    assert sorted(taken.catalog) == ["FINE", "GOOD"]
    reasons = {bad.line: bad.reason for bad in taken.bad}
    assert [bad.line for bad in taken.bad] == [3, 4, 5, 6, 7, 8, 9, 10, 11, 12]
    for line, says in {
        3: "like a formula",
        4: "not UTF-8",
        5: "no line of CSV",
        6: "2 cells, and the header 5",
        7: "stands on line 2 already",
        8: "no product NOWHERE",
        9: "as GOOD: keys that differ in case",
        10: "no platform",
        11: "70,",
        12: "1 to 100 characters",
    }.items():
        assert says in reasons[line], (line, reasons[line])


@pytest.mark.parametrize(
    ("head", "says"),
    [
        (b"", "a column is missing"),
        (b"key,title\n", "'title' is no column"),
        (b"key,publisher\n", "a column is missing"),
        (b"key,name,name\n", "there twice"),
        (b"\xff\xfek\0e\0y\0", "UTF-16"),
        (b"key,name,\xff\n", "not UTF-8"),
        (b'"key,name\n', "no line of CSV"),
    ],
)
def test_a_wrong_header_is_told_with_the_columns(head: bytes, says: str) -> None:
    with pytest.raises(Invalid, match=says) as refused:
        read_csv(head, {})
    assert str(refused.value).startswith("Line 1:")


def test_a_semicolon_file_and_one_with_fewer_columns_are_read() -> None:
    data = b"\xef\xbb\xbfName;Key\nThe Word;WORD\n"
    (line,), bad = read_csv(data, KNOWN)
    assert bad == []
    assert line.product == Product(key="WORD", name="The Word", publisher="Microsoft", processes=(WINWORD,))


def test_a_part_of_a_file_counts_its_lines_from_where_it_begins() -> None:
    _good, bad = read_csv(HEADER + b"A,A,,,\nB\n", {}, first_line=1000)
    assert [line.line for line in bad] == [1001]


PLAIN = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S", "Zs"]), min_size=1, max_size=12)
KEYS = PLAIN.filter(lambda text: _readable(text))


def _readable(text: str) -> bool:
    try:
        return catalog.read_key(text) == text
    except Invalid:
        return False


@st.composite
def catalogues(draw: st.DrawFn) -> dict[str, Product]:
    keys = draw(st.lists(KEYS, min_size=1, max_size=6, unique_by=lambda key: key.casefold()))
    names = draw(st.lists(KEYS.map(lambda text: " ".join(text.split())), min_size=len(keys), max_size=len(keys)))
    cut = draw(st.integers(1, len(keys)))
    processes = st.frozensets(st.sampled_from([WINWORD, EXCEL, VISIO]), max_size=3).map(lambda found: sorted(found))
    parts = {
        key: Product(
            key=key, name=name, publisher=draw(st.sampled_from(["", "Acme; Ltd"])), processes=tuple(draw(processes))
        )
        for key, name in zip(keys[:cut], names, strict=False)
    }
    suites = {
        key: Product(key=key, name=name, components=tuple(sorted(draw(st.sets(st.sampled_from(keys[:cut]))))))
        for key, name in zip(keys[cut:], names[cut:], strict=True)
    }
    return parts | suites


@settings(deadline=None)
@given(catalogues())
def test_what_is_exported_is_imported_as_it_was(known: dict[str, Product]) -> None:
    data = "".join(write_csv(known)).encode()
    taken = take_in(*read_csv(data, {}), {})
    assert taken.bad == ()
    assert taken.catalog == known


@settings(deadline=None)
@given(st.binary(max_size=400))
def test_no_bytes_make_the_reader_fail_otherwise_than_by_line(data: bytes) -> None:
    good, bad = read_csv(HEADER + data, KNOWN)
    taken = take_in(good, bad, KNOWN)
    lines = [number for number, line in enumerate(data.split(b"\n"), 2) if line.strip()]
    assert sorted([*(line.line for line in taken.bad), *_taken_lines(good, taken.bad)]) == lines


def _taken_lines(good: list[Any], bad: tuple[Any, ...]) -> list[int]:
    left_out = {line.line for line in bad}
    return [line.line for line in good if line.line not in left_out]


# ------------------------------------------------------------------------------------------------ any order of edits


@st.composite
def rows_and_catalogues(draw: st.DrawFn) -> tuple[catalog.Rows, dict[str, Product], dict[str, Product]]:
    before, after = draw(catalogues()), draw(catalogues())
    keys = st.sampled_from(sorted({*before, *after}))
    chosen = draw(st.lists(keys, max_size=4, unique=True))
    rows = [Row(product=key, mode=draw(st.sampled_from(["bulk", "legacy"]))) for key in chosen]
    return catalog.rows_of(rows, before), before, after


@settings(deadline=None)
@given(rows_and_catalogues())
def test_changes_make_the_one_set_of_rows_the_other(
    given_rows: tuple[catalog.Rows, dict[str, Product], dict[str, Product]],
) -> None:
    rows, _before, after = given_rows
    target = catalog.rows_of(rows, after)
    change = catalog.changes(rows, target)
    assert change.applied_to(rows) == target
    assert bool(change) == (rows != target)
    assert not catalog.changes(target, target)
    assert catalog.rows_of(target, after) == target, "carrying the same catalogue twice changes nothing"
    legacy = {row.product for row in rows if row.mode == "legacy"}
    assert not any((row.parent or row.product) in legacy for row in (*change.added, *change.removed, *change.altered))


def test_no_change_is_no_change() -> None:
    assert not Changes()
