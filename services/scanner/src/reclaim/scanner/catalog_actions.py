"""What operators do with the catalogue and with a rule's products, for the API and the pages alike.

Every change is one transaction: the catalogue, the rows that it gives each rule, a new version of each rule that it
reaches, and the cases that are withdrawn because of it. A scan that reads meanwhile stops, as after any edit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from reclaim.common.db import Unit
from reclaim.common.errors import Conflict, Invalid, NotFound
from reclaim.scanner import catalog_store, choosing, merging, store
from reclaim.scanner.catalog import (
    Catalog,
    Changes,
    Product,
    Rows,
    carried,
    changes,
    component_refused,
    coverage,
    exchanged,
    filtered,
    followed,
    place,
    read_key,
    read_product,
    renewed,
    with_product,
    without,
    without_product,
)
from reclaim.scanner.catalog_csv import BadLine, read_csv, take_in
from reclaim.scanner.catalog_store import StoredRow
from reclaim.scanner.merging import REVIEW
from reclaim.scanner.ports import Deps
from reclaim.scanner.store import Rule

# ------------------------------------------------------------------------------------------------ the catalogue


async def add_product(deps: Deps, raw: Mapping[str, object], *, author: str) -> Product:
    """Add a product. A rule that names it already gets its components and processes now.

    Raises:
        Rejected, Invalid: parts that do not fit, each with what to enter instead.
        Conflict: there is one with that key.
    """
    product = read_product(raw)
    async with deps.database.unit() as unit:
        await catalog_store.lock(unit.db)
        before = await catalog_store.catalog(unit.db)
        if twin := next((key for key in before if key.casefold() == product.key.casefold()), None):
            raise Conflict(f"The catalogue has a product {twin} already: change that one, or choose another key.")
        place(product, before)
        await _update(unit, [product], {**before, product.key: product}, author=author)
    return product


async def change_product(deps: Deps, key: str, raw: Mapping[str, object], *, author: str) -> Product:
    """Change what is given of a product and keep the rest; every rule that it is in follows.

    Raises:
        Rejected, Invalid: parts that do not fit, each with what to enter instead.
        NotFound: there is none of that key.
    """
    async with deps.database.unit() as unit:
        await catalog_store.lock(unit.db)
        before = await catalog_store.catalog(unit.db)
        if key not in before:
            raise NotFound(f"There is no product {key} in the catalogue.")
        product = read_product({**shown_product(before[key]), **raw})
        if product.key != key:
            raise Invalid("A product's key never changes: add another product, then remove this one.", field="key")
        if product == before[key]:
            return product
        after = {**before, key: product}
        place(product, after)
        await _update(unit, [product], after, author=author)
    return product


async def remove_product(deps: Deps, key: str, *, author: str) -> None:
    """Take a product out of the catalogue; suites lose it as a component.

    Raises:
        Conflict: rules are about it.
        NotFound: there is none of that key.
    """
    async with deps.database.unit() as unit:
        await catalog_store.lock(unit.db)
        before = await catalog_store.catalog(unit.db)
        if key not in before:
            raise NotFound(f"There is no product {key} in the catalogue.")
        if rule_ids := await catalog_store.rules_choosing(unit.db, key):
            names = [(await store.rule(unit.db, rule_id)).terms.name for rule_id in rule_ids[:5]]
            raise Conflict(f"{key} is a product of the rules {', '.join(names)}: take it out of them first.")
        await catalog_store.remove_product(unit.db, key)
        await _carry(unit, {key}, without(key, before), author=author)


@dataclass(frozen=True, slots=True)
class Imported:
    """What a file did: counts of products, and the lines that were left out."""

    added: int
    changed: int
    unchanged: int
    bad: tuple[BadLine, ...]


async def import_products(deps: Deps, data: bytes, *, author: str, first_line: int = 2) -> Imported:
    """Add and change products from CSV: its good lines, in one transaction. Nothing is removed.

    Raises:
        Invalid: it has no header that says what the columns are.
    """
    async with deps.database.unit() as unit:
        await catalog_store.lock(unit.db)
        before = await catalog_store.catalog(unit.db)
        taken = take_in(*read_csv(data, before, first_line=first_line), before)
        if taken.changed:
            await _update(unit, taken.changed, taken.catalog, author=author)
    return Imported(taken.added, len(taken.changed) - taken.added, taken.unchanged, taken.bad)


def shown_product(product: Product) -> dict[str, Any]:
    """Return a product as a form or an answer shows it."""
    return {
        "key": product.key,
        "name": product.name,
        "publisher": product.publisher,
        "components": list(product.components),
        "processes": [str(process) for process in product.processes],
    }


async def _update(unit: Unit, products: Sequence[Product], after: Catalog, *, author: str) -> None:
    await catalog_store.save_products(unit.db, products, author=author, now=unit.now)
    await _carry(unit, {product.key for product in products}, after, author=author)


async def _carry(unit: Unit, keys: set[str], after: Catalog, *, author: str) -> None:
    """Carry a catalogue update into the rows of every rule; each rule that it reaches gets a new version.

    Open cases about what changed are looked at again. What a person edits on a rule leaves open cases alone: each
    keeps the version that it was opened under.
    """
    rules = await catalog_store.rules_with(unit.db, keys)
    for rule_id, change in carried(rules, after).items():
        rule = await store.lock_rule(unit.db, rule_id)
        await store.change_rule(unit.db, rule, terms=rule.terms, author=f"{author}, by the catalogue", now=unit.now)
        await _apply(unit, rule, rules[rule_id], change, after, author=author)
        about = change.touched(rules[rule_id])
        if about and await catalog_store.open_cases(unit.db, rule_id, about):
            await catalog_store.ask_review(unit.db, rule_id, about, unit.now)
            unit.wake(REVIEW)


# ------------------------------------------------------------------------------------------------ a rule's products


async def add_to_rule(
    deps: Deps,
    rule_id: str,
    product: str,
    *,
    author: str,
    filter: str = "",  # noqa: A002
) -> Rule:
    """Choose a product for a rule: a suite brings its components and all their processes.

    Raises:
        Conflict: the rule has it already.
        Invalid: the key can be none, or the filter does not fit.
    """
    product = read_key(product)
    async with deps.database.unit() as unit:
        rule, rows, known = await _opened(unit, rule_id, product)
        text = await _checked(unit, rule, filter)
        return await _change(unit, rule, rows, with_product(rows, product, known, filter=text), known, author=author)


async def change_in_rule(
    deps: Deps,
    rule_id: str,
    row_id: str,
    *,
    author: str,
    product: str | None = None,
    filter: str | None = None,  # noqa: A002
) -> Rule:
    """Put another product in a row's place, or set its filter; what is None stays.

    Raises:
        Conflict: it is a component's row, or the rule has the other product already.
        Invalid: the key can be none, or the filter does not fit.
        NotFound: the rule has no such row.
    """
    by = None if product is None else read_key(product)
    async with deps.database.unit() as unit:
        rule, rows, known = await _opened(unit, rule_id, by or "")
        present = await _changeable(unit, rule_id, row_id)
        text = None if filter is None else await _checked(unit, rule, filter)
        after = rows
        if by is not None and by != present:
            after = exchanged(after, present, by, known)
            present = by
        if text is not None:
            after = filtered(after, present, text)
        return await _change(unit, rule, rows, after, known, author=author)


async def _checked(unit: Unit, rule: Rule, text: str) -> str:
    """Return a filter as it is kept; who takes one away needs no connection for it."""
    if not text.strip():
        return ""
    connection = await store.connection(unit.db, rule.connection_id)
    return choosing.checked(text, rule.terms.applies_to, connection)


async def remove_from_rule(deps: Deps, rule_id: str, row_id: str, *, author: str) -> Rule:
    """Take a product out of a rule with its components; open cases keep the version that they were opened under.

    Raises:
        Conflict: it is a component's row, or the only product.
        NotFound: the rule has no such row.
    """
    async with deps.database.unit() as unit:
        rule, rows, known = await _opened(unit, rule_id)
        after = without_product(rows, await _changeable(unit, rule_id, row_id), known)
        if not after:
            raise Conflict("This is the rule's only product: add another one first, or pause the rule.")
        return await _change(unit, rule, rows, after, known, author=author)


async def renew_in_rule(deps: Deps, rule_id: str, row_id: str, *, author: str) -> Rule:
    """Take a product out of a rule and put it back in, in one step.

    What makes a legacy row a bulk one: the suite's components come with it, and the open cases of a holder become one.

    Raises:
        Conflict: it is a component's row.
        NotFound: the rule has no such row.
    """
    async with deps.database.unit() as unit:
        rule, rows, known = await _opened(unit, rule_id)
        after = renewed(rows, await _changeable(unit, rule_id, row_id), known)
        return await _change(unit, rule, rows, after, known, author=author)


async def follow(unit: Unit, rule: Rule, *, author: str) -> None:
    """Give a rule that was just written the rows of the products that its terms name; `catalog_store.lock` is held."""
    rows = tuple(stored.row for stored in await catalog_store.rows(unit.db, rule.id))
    known = await catalog_store.catalog(unit.db, rule.terms.products)
    after = followed(rows, rule.terms.products, known)
    await _apply(unit, rule, rows, changes(rows, after), known, author=author)


async def review_again(deps: Deps, rule_id: str) -> None:
    """Have the reviews of a rule that could not be made tried again now; NotFound if there is no such rule."""
    async with deps.database.unit() as unit:
        await store.rule(unit.db, rule_id)
        await catalog_store.review_now(unit.db, rule_id)
        unit.wake(REVIEW)


async def _opened(unit: Unit, rule_id: str, product: str = "") -> tuple[Rule, Rows, Catalog]:
    """Return a rule, locked, its rows, and what the catalogue knows of them and of one more product."""
    await catalog_store.lock(unit.db)
    rule = await store.lock_rule(unit.db, rule_id)
    rows = tuple(stored.row for stored in await catalog_store.rows(unit.db, rule_id))
    return rule, rows, await catalog_store.catalog(unit.db, {row.product for row in rows} | {product})


async def _changeable(unit: Unit, rule_id: str, row_id: str) -> str:
    """Return the product of a row that may be changed; Conflict for a component's, NotFound if there is none."""
    stored = find_row(await catalog_store.rows(unit.db, rule_id), row_id)
    if stored.row.is_component:
        raise component_refused(stored.row.product, [stored.row.parent])
    return stored.row.product


def find_row(rows: Sequence[StoredRow], row_id: str) -> StoredRow:
    """Return the row of that id; NotFound if the rule has none."""
    for stored in rows:
        if stored.id == row_id:
            return stored
    raise NotFound("This rule has no such row; it may have been taken out, or brought anew by the catalogue.")


async def _change(unit: Unit, rule: Rule, rows: Rows, after: Rows, known: Catalog, *, author: str) -> Rule:
    change = changes(rows, after)
    if not change:
        return rule
    chosen = [row for row in after if not row.is_component]
    terms = replace(
        rule.terms,
        products=tuple(sorted(row.product for row in chosen)),
        product_filters={row.product: row.filter for row in chosen if row.filter},
    )
    changed = await store.change_rule(unit.db, rule, terms=terms, author=author, now=unit.now)
    await _apply(unit, changed, rows, change, known, author=author)
    return changed


async def _apply(unit: Unit, rule: Rule, rows: Rows, change: Changes, known: Catalog, *, author: str) -> None:
    """Write a rule's rows, and merge the open cases of the suites that came or grew."""
    await catalog_store.write(unit.db, rule.id, change, author=author, now=unit.now)
    after = change.applied_to(rows)
    grown = {row.parent for row in change.added if row.is_component}
    suites = [suite for suite in coverage(after, known).suites if suite.product in grown]
    await merging.begin(unit, rule, suites, actor=author)
