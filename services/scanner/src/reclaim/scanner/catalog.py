"""The product catalogue, and what a rule's list of products comes to: pure decisions, no clock and no I/O.

A rule *chooses* products. What it is about follows from the catalogue: a chosen suite brings a row for each of its
components, and every row carries the processes by which its product's use is seen. Nobody edits those rows one by
one; `rows_of` makes them anew from what was chosen, and the difference to what is stored is what has to be written.
So no order of edits and catalogue updates can leave a row behind, or one out.

A row that is `legacy` was there before suites were: it stands for its product alone, whatever the catalogue says,
until the product is taken out of the rule and put back in.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, TypeVar, get_args

import msgspec
from msgspec.structs import replace

from reclaim.common.errors import Conflict, Invalid, NotFound
from reclaim.scanner.domain import Rejected, clean_name
from reclaim.web.spreadsheets import cell

T = TypeVar("T")

Platform = Literal["windows", "macos", "linux"]
PLATFORMS: Final[tuple[Platform, ...]] = get_args(Platform)

SEPARATOR: Final = "|"
"""What keeps the parts of one CSV cell apart; no key and no file name has it."""

MOST_PARTS: Final = 500
"""Components of one suite, and processes of one product."""


class Process(msgspec.Struct, frozen=True, order=True):
    """A program by which a product's use is seen. Where the platform ignores case, the name is in lower case."""

    file_name: str
    platform: Platform

    def __str__(self) -> str:
        return f"{self.platform}:{self.file_name}"


class Product(msgspec.Struct, frozen=True, kw_only=True):
    """A software product. `key` is what seats, price books and usage records call it by; it never changes.

    A product with `components` (their keys) is a suite. A suite is never a component itself. Both parts are in order.
    """

    key: str
    name: str
    publisher: str = ""
    components: tuple[str, ...] = ()
    processes: tuple[Process, ...] = ()

    @property
    def is_suite(self) -> bool:
        return bool(self.components)


Catalog = Mapping[str, Product]
"""Products by key."""

Mode = Literal["bulk", "legacy"]


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One product of a rule: chosen (`parent` is empty), or there because the suite `parent` was chosen.

    `filter` is text in the filter language; only a chosen row has one, and it holds for its components as well.
    """

    product: str
    parent: str = ""
    mode: Mode = "bulk"
    filter: str = ""
    processes: tuple[Process, ...] = ()

    @property
    def is_component(self) -> bool:
        return bool(self.parent)

    @property
    def key(self) -> tuple[str, str]:
        """What tells two rows of one rule apart: a component that two chosen suites share has a row under each."""
        return self.parent or self.product, self.product if self.parent else ""


Rows = tuple[Row, ...]
"""The rows of one rule, each chosen one followed by its components."""


# ------------------------------------------------------------------------------------------------ products


def read_product(raw: Mapping[str, object]) -> Product:
    """Return a product from JSON, from a form or from a line of CSV.

    `components` is a sequence of keys; `processes` is one of texts such as `windows:winword.exe`, or of mappings
    with `file_name` and `platform`.

    Raises:
        Rejected: parts that do not fit, all of them, each with what to enter instead.
    """
    problems: dict[str, str] = {}
    key = _read(problems, "key", lambda: read_key(raw.get("key"))) or ""
    name = _read(problems, "name", lambda: _plain(clean_name(raw.get("name"), what="product"))) or ""
    publisher = " ".join(str(raw.get("publisher") or "").split())
    if len(publisher) > 100 or not publisher.isprintable() or runs(publisher):
        problems["publisher"] = "A publisher is at most 100 characters on one line, and does not begin with = + - or @."
    components = _read(problems, "components", lambda: tuple(sorted(map(read_key, _many(raw, "components"))))) or ()
    processes = _read(problems, "processes", lambda: tuple(sorted(map(read_process, _many(raw, "processes"))))) or ()
    components, processes = tuple(dict.fromkeys(components)), tuple(dict.fromkeys(processes))
    for part, given in (("components", components), ("processes", processes)):
        if len(given) > MOST_PARTS:
            problems[part] = f"A product has at most {MOST_PARTS} {part}, not {len(given)}."
    if problems:
        raise Rejected(problems)
    return Product(key=key, name=name, publisher=publisher, components=components, processes=processes)


def read_key(given: object) -> str:
    """Return the key of a product; Invalid if it can be none."""
    text = str(given or "").strip()
    if not 1 <= len(text) <= 100 or not text.isprintable() or SEPARATOR in text or runs(text):
        shown = f", not {text[:40]!r}" if text else ""
        raise Invalid(
            f"A product's key is 1 to 100 characters without {SEPARATOR}, and does not begin with = + - or @{shown}.",
            field="key",
        )
    return text


def read_process(given: object) -> Process:
    """Return a process, from text such as `windows:winword.exe` or from its two parts; Invalid if it is none."""
    if isinstance(given, Mapping):
        platform, name = str(given.get("platform") or ""), str(given.get("file_name") or "")
    else:
        platform, _, name = str(given).partition(":")
    platform, name = platform.strip().lower(), name.strip()
    found = next((known for known in PLATFORMS if known == platform), None)
    if found is None:
        raise Invalid(
            f"{platform[:40]!r} is no platform: write a process as one of {', '.join(PLATFORMS)}, a colon and the "
            "file's name, such as windows:winword.exe.",
            field="processes",
        )
    if not 1 <= len(name) <= 255 or not name.isprintable() or any(mark in name for mark in f"/\\{SEPARATOR}"):
        raise Invalid(
            f"{name[:40]!r} is no file name: 1 to 255 characters, without a folder and without {SEPARATOR}.",
            field="processes",
        )
    return Process(name if found == "linux" else name.lower(), found)


def _read(problems: dict[str, str], name: str, read: Callable[[], T]) -> T | None:
    try:
        return read()
    except Invalid as error:
        problems[name] = str(error)
        return None


def _plain(text: str) -> str:
    if runs(text):
        raise Invalid("A name does not begin with = + - or @: a spreadsheet would run it.", field="name")
    return text


def _many(raw: Mapping[str, object], name: str) -> Sequence[object]:
    given = raw.get(name)
    if given is None:
        return ()
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise Invalid(f"{name} must be a list.", field=name)
    return given


def runs(text: str) -> bool:
    """Tell whether a spreadsheet would take a text for a formula; nothing here may be one, so that it goes to CSV."""
    return cell(text) != text


def place(product: Product, catalog: Catalog) -> None:
    """Refuse a product that does not fit among the others: suites have one level, and their components exist.

    Raises:
        Invalid: naming the product that does not fit.
    """
    if product.key in product.components:
        raise Invalid(f"{product.key} cannot be a component of itself.", field="components")
    if unknown := [key for key in product.components if key not in catalog]:
        raise Invalid(
            f"There is no product {', '.join(unknown[:5])} in the catalogue: add it first, then the suite.",
            field="components",
        )
    if nested := [key for key in product.components if catalog[key].is_suite]:
        raise Invalid(f"{', '.join(nested[:5])} is a suite itself: name its components instead.", field="components")
    if product.is_suite and (above := suites_with(product.key, catalog)):
        raise Invalid(
            f"{product.key} is a component of {', '.join(above[:5])}: a component has no components of its own.",
            field="components",
        )


def suites_with(key: str, catalog: Catalog) -> list[str]:
    """Return the suites that a product is a component of."""
    return sorted(other.key for other in catalog.values() if key in other.components)


def without(key: str, catalog: Catalog) -> dict[str, Product]:
    """Return the catalogue without a product: suites lose it as a component."""
    return {
        other.key: replace(other, components=tuple(part for part in other.components if part != key))
        for other in catalog.values()
        if other.key != key
    }


# ------------------------------------------------------------------------------------------------ a rule's rows


def rows_of(chosen: Iterable[Row], catalog: Catalog) -> Rows:
    """Return all rows that the chosen ones among some rows come to, by the catalogue as it is.

    A legacy row stays as it is. A product that the catalogue does not know has no components and no processes yet.
    """
    rows: list[Row] = []
    for row in sorted((row for row in chosen if not row.is_component), key=lambda row: row.key):
        product = catalog.get(row.product)
        if row.mode == "legacy" or product is None:
            rows.append(row)
            continue
        rows.append(replace(row, processes=product.processes))
        rows.extend(
            Row(product=part, parent=row.product, processes=catalog[part].processes) for part in product.components
        )
    return tuple(rows)


def with_product(rows: Rows, product: str, catalog: Catalog, *, filter: str = "") -> Rows:  # noqa: A002
    """Choose a product: a suite brings its components and all their processes. Conflict if it is chosen already."""
    if any(row.product == product and not row.is_component for row in rows):
        raise Conflict(f"{product} is a product of this rule already. Take it out first to add it anew.")
    return rows_of([*rows, Row(product=product, filter=filter)], catalog)


def without_product(rows: Rows, product: str, catalog: Catalog) -> Rows:
    """Take a product out: its components go with it, except those that are there for another chosen suite, too."""
    gone = chosen_row(rows, product)
    return rows_of([row for row in rows if row is not gone], catalog)


def exchanged(rows: Rows, product: str, by: str, catalog: Catalog) -> Rows:
    """Put another product in the place of a chosen one: what the old one brought goes, its filter stays."""
    old = chosen_row(rows, product)
    return with_product(without_product(rows, product, catalog), by, catalog, filter=old.filter)


def renewed(rows: Rows, product: str, catalog: Catalog) -> Rows:
    """Take a product out and put it back in: what makes a legacy row a bulk one."""
    old = chosen_row(rows, product)
    return with_product(without_product(rows, product, catalog), product, catalog, filter=old.filter)


def filtered(rows: Rows, product: str, text: str) -> Rows:
    """Set the filter of a chosen product; it holds for its components, which have none of their own."""
    old = chosen_row(rows, product)
    return tuple(replace(row, filter=text) if row is old else row for row in rows)


def followed(rows: Rows, products: Collection[str], catalog: Catalog) -> Rows:
    """Return rows that choose exactly these products: what is chosen already stays as it is, the rest is added."""
    kept = [row for row in rows if not row.is_component and row.product in products]
    there = {row.product for row in kept}
    return rows_of([*kept, *(Row(product=key) for key in products if key not in there)], catalog)


def chosen_row(rows: Rows, product: str) -> Row:
    """Return the chosen row of a product.

    Raises:
        Conflict: the product is there only as a component of suites: nothing is changed on it alone.
        NotFound: the rule has no such product.
    """
    for row in rows:
        if row.product == product and not row.is_component:
            return row
    if parents := sorted(row.parent for row in rows if row.product == product):
        raise component_refused(product, parents)
    raise NotFound(f"This rule has no product {product}.")


def component_refused(product: str, parents: Sequence[str]) -> Conflict:
    """Return the answer to whoever wants to change one component's row."""
    suites = " and ".join(parents)
    return Conflict(
        f"{product} is in this rule as a component of {suites}: it cannot be changed, filtered or taken out by "
        f"itself. Change the row of {suites}, or choose other products for the rule."
    )


def filter_on(rows: Rows, row: Row) -> str:
    """Return the filter that holds for a row: its own, or for a component the one of its suite."""
    return chosen_row(rows, row.parent).filter if row.is_component else row.filter


# ------------------------------------------------------------------------------------------------ changes


@dataclass(frozen=True, slots=True)
class Changes:
    """What has to be written to make one rule's rows others. `altered` rows keep their place."""

    added: Rows = ()
    removed: Rows = ()
    altered: Rows = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.altered)

    def applied_to(self, rows: Rows) -> Rows:
        """Return a rule's rows as they are once this is written."""
        gone = {row.key for row in self.removed}
        altered = {row.key: row for row in self.altered}
        kept = (altered.get(row.key, row) for row in rows if row.key not in gone)
        return tuple(sorted((*kept, *self.added), key=lambda row: row.key))

    def touched(self, before: Rows) -> frozenset[str]:
        """Return the products among those rows whose open cases stand on something that changes."""
        about = {row.parent or row.product for row in (*self.added, *self.removed, *self.altered)}
        return frozenset(row.product for row in before if (row.parent or row.product) in about)


def changes(before: Rows, after: Rows) -> Changes:
    """Return the difference between a rule's rows and what they shall be."""
    old = {row.key: row for row in before}
    new = {row.key: row for row in after}
    return Changes(
        added=tuple(row for key, row in new.items() if key not in old),
        removed=tuple(row for key, row in old.items() if key not in new),
        altered=tuple(row for key, row in new.items() if key in old and old[key] != row),
    )


def carried(rules: Mapping[str, Rows], catalog: Catalog) -> dict[str, Changes]:
    """Return what a catalogue update changes, rule by rule; a rule that it does not touch is left out."""
    found = {rule_id: changes(rows, rows_of(rows, catalog)) for rule_id, rows in rules.items()}
    return {rule_id: change for rule_id, change in sorted(found.items()) if change}


# ------------------------------------------------------------------------------------------------ what a rule covers


@dataclass(frozen=True, slots=True)
class Suite:
    """A suite as one rule reclaims it: whole. `name` is what people call it."""

    product: str
    name: str
    components: frozenset[str]

    @property
    def products(self) -> frozenset[str]:
        return self.components | {self.product}


@dataclass(frozen=True, slots=True)
class Coverage:
    """What a rule's rows come to when seats are read: every product to read, and the suites that are one case each.

    `filters` has the filter of each chosen product that has one: it holds for the seats that count as that product.
    """

    products: tuple[str, ...]
    suites: tuple[Suite, ...] = ()
    filters: Mapping[str, str] = field(default_factory=dict)

    @property
    def tree(self) -> dict[str, tuple[str, ...]]:
        """Product → the products whose use counts as its own, besides itself; for the roll-up of usage."""
        parts = {suite.product: tuple(sorted(suite.components)) for suite in self.suites}
        inside = {part for suite in self.suites for part in suite.components}
        return parts | {product: () for product in self.products if product not in parts and product not in inside}


def coverage(rows: Rows, catalog: Catalog) -> Coverage:
    """Return what a rule's rows cover. A legacy row covers its product and nothing else."""
    parts: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        if row.is_component:
            parts[row.parent].add(row.product)
    return Coverage(
        products=tuple(sorted({row.product for row in rows})),
        suites=tuple(
            Suite(suite, catalog[suite].name if suite in catalog else suite, frozenset(components))
            for suite, components in sorted(parts.items())
        ),
        filters={row.product: row.filter for row in rows if row.filter},
    )


def related(catalog: Catalog) -> dict[str, frozenset[str]]:
    """Return for each product its suites and components: whoever is asked about one is asked about them."""
    found: dict[str, set[str]] = defaultdict(set)
    for product in catalog.values():
        for part in product.components:
            found[product.key].add(part)
            found[part].add(product.key)
    return {key: frozenset(others) for key, others in found.items()}
