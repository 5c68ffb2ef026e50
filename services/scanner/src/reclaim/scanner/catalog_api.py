"""The API of the product catalogue and of a rule's products, beside the scanner's other routes."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import Depends, Query, Request, Response
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, ConfigDict, Field

from reclaim.common.routing import Router
from reclaim.scanner import catalog_actions, catalog_store, store
from reclaim.scanner.catalog import Product, filter_on, suites_with
from reclaim.scanner.catalog_csv import write_csv
from reclaim.scanner.catalog_store import StoredRow
from reclaim.scanner.ports import Deps
from reclaim.web.auth import require
from reclaim.web.operators import Operator

Viewer = Depends(require("viewer"))
Editor = Annotated[Operator, Depends(require("operator"))]

MOST_BAD_LINES = 1000
"""Bad lines that an answer lists one by one; their number is of all."""


class _In(BaseModel):
    """Something that is sent. What it does not know it refuses: a misspelt name would otherwise be a default."""

    model_config = ConfigDict(extra="forbid")


class ProductPatch(_In):
    name: str | None = None
    publisher: str | None = None
    components: list[str] | None = Field(None, description="Keys of the products that make it a suite; replaces all")
    processes: list[str] | None = Field(None, description="Such as windows:winword.exe; replaces all")


class ProductIn(ProductPatch):
    key: str = Field(description="What seats, price books and usage records call it by; never changes")


class ProductOut(BaseModel):
    key: str
    name: str
    publisher: str
    components: list[str]
    processes: list[str]


class ProductWithSuites(ProductOut):
    suites: list[str] = Field(description="The suites that it is a component of")


class BadLineOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    line: int
    reason: str


class ImportOut(BaseModel):
    added: int
    changed: int
    unchanged: int
    bad: int = Field(description="Lines that were left out; the good ones are in the catalogue")
    bad_lines: list[BadLineOut] = Field(description=f"The first {MOST_BAD_LINES:,} of them")


class RowIn(_In):
    product: str
    filter: str = Field("", description="Holds for the product and, if it is a suite, for its components")


class RowPatch(_In):
    product: str | None = Field(None, description="Put this product in the place of the row's")
    filter: str | None = None


class RowOut(BaseModel):
    id: str
    product: str
    name: str
    parent: str | None = Field(description="The suite that brought a component; null for a product that was chosen")
    mode: str = Field(description="bulk, or legacy: it stands for its product alone until it is renewed")
    filter: str = Field(description="For a component the one of its suite, read only")
    processes: list[str]
    editable: bool = Field(description="False for a component: change the row of its suite")
    added_by: str
    added_at: datetime


class RuleProductsOut(BaseModel):
    rule_id: str
    version: int
    products: list[RowOut]
    review_problem: str | None = Field(description="Why open cases could not be looked at again after a change")


def routes(deps: Deps) -> Router:
    """Return the routes."""
    router = Router(prefix="/api", tags=["products"])
    router.include_router(_products(deps))
    router.include_router(_rule_products(deps))
    return router


def _products(deps: Deps) -> Router:
    router = Router()

    @router.get("/products.csv", dependencies=[Viewer])
    async def export_products() -> PlainTextResponse:
        """Return the catalogue as a file that can be imported."""
        async with deps.database.reading() as db:
            known = await catalog_store.catalog(db)
        return csv_of(known)

    @router.post("/products.csv")
    async def import_products(
        request: Request,
        operator: Editor,
        first_line: Annotated[int, Query(ge=2, description="Number of the line after the header, in a part")] = 2,
    ) -> ImportOut:
        """Add and change products from CSV; the good lines are taken, the bad ones are listed with their reasons."""
        done = await catalog_actions.import_products(
            deps, await request.body(), author=operator.name, first_line=first_line
        )
        return ImportOut(
            added=done.added,
            changed=done.changed,
            unchanged=done.unchanged,
            bad=len(done.bad),
            bad_lines=[BadLineOut.model_validate(line) for line in done.bad[:MOST_BAD_LINES]],
        )

    @router.get("/products", dependencies=[Viewer])
    async def list_products(
        q: Annotated[str, Query(max_length=100, description="Part of a key, name or publisher")] = "",
    ) -> list[ProductOut]:
        async with deps.database.reading() as db:
            known = await catalog_store.catalog(db)
        return [_shown(product) for product in found_by(q, list(known.values()))]

    @router.post("/products", status_code=201)
    async def add_product(body: ProductIn, operator: Editor) -> ProductOut:
        raw = body.model_dump(exclude_none=True)
        return _shown(await catalog_actions.add_product(deps, raw, author=operator.name))

    @router.get("/products/{key:path}", dependencies=[Viewer])
    async def get_product(key: str) -> ProductWithSuites:
        async with deps.database.reading() as db:
            found = await catalog_store.product(db, key)
            known = await catalog_store.catalog(db)
        return ProductWithSuites(**catalog_actions.shown_product(found), suites=suites_with(key, known))

    @router.patch("/products/{key:path}")
    async def change_product(key: str, body: ProductPatch, operator: Editor) -> ProductOut:
        raw = body.model_dump(exclude_none=True)
        return _shown(await catalog_actions.change_product(deps, key, raw, author=operator.name))

    @router.delete("/products/{key:path}", status_code=204)
    async def remove_product(key: str, operator: Editor) -> Response:
        await catalog_actions.remove_product(deps, key, author=operator.name)
        return Response(status_code=204)

    return router


def _rule_products(deps: Deps) -> Router:
    router = Router(prefix="/rules/{rule_id}/products")

    @router.get("", dependencies=[Viewer])
    async def list_rule_products(rule_id: str) -> RuleProductsOut:
        return await _shown_rule(deps, rule_id)

    @router.post("", status_code=201)
    async def add_rule_product(rule_id: str, body: RowIn, operator: Editor) -> RuleProductsOut:
        """Choose a product for a rule: a suite brings its components and all their processes."""
        await catalog_actions.add_to_rule(deps, rule_id, body.product, filter=body.filter, author=operator.name)
        return await _shown_rule(deps, rule_id)

    @router.patch("/{row_id}")
    async def change_rule_product(rule_id: str, row_id: str, body: RowPatch, operator: Editor) -> RuleProductsOut:
        """Exchange the product of a row, or set its filter (empty: none). A component's row is refused with 409."""
        await catalog_actions.change_in_rule(
            deps, rule_id, row_id, product=body.product, filter=body.filter, author=operator.name
        )
        return await _shown_rule(deps, rule_id)

    @router.delete("/{row_id}")
    async def remove_rule_product(rule_id: str, row_id: str, operator: Editor) -> RuleProductsOut:
        """Take a product out of a rule, with its components. The row of a component is refused with 409."""
        await catalog_actions.remove_from_rule(deps, rule_id, row_id, author=operator.name)
        return await _shown_rule(deps, rule_id)

    @router.post("/{row_id}/renew")
    async def renew_rule_product(rule_id: str, row_id: str, operator: Editor) -> RuleProductsOut:
        """Take a product out and put it back in: a legacy row becomes a bulk one, and open cases are merged."""
        await catalog_actions.renew_in_rule(deps, rule_id, row_id, author=operator.name)
        return await _shown_rule(deps, rule_id)

    @router.post("/review", status_code=202, dependencies=[Depends(require("operator"))])
    async def review_again(rule_id: str) -> RuleProductsOut:
        """Try again now to look at open cases that a change of the catalogue is about."""
        await catalog_actions.review_again(deps, rule_id)
        return await _shown_rule(deps, rule_id)

    return router


def csv_of(known: dict[str, Product]) -> PlainTextResponse:
    """Return a catalogue as a file to download."""
    return PlainTextResponse(
        "".join(write_csv(known)),
        media_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": 'attachment; filename="products.csv"'},
    )


def found_by(text: str, products: list[Product]) -> list[Product]:
    """Return the products that have a text in their key, name or publisher."""
    wanted = text.strip().casefold()
    return [
        product
        for product in products
        if any(wanted in part.casefold() for part in (product.key, product.name, product.publisher))
    ]


def _shown(product: Product) -> ProductOut:
    return ProductOut(**catalog_actions.shown_product(product))


async def _shown_rule(deps: Deps, rule_id: str) -> RuleProductsOut:
    async with deps.database.reading() as db:
        rule = await store.rule(db, rule_id)
        rows = await catalog_store.rows(db, rule_id)
        known = await catalog_store.catalog(db, {stored.row.product for stored in rows})
        problem = await catalog_store.review_problem(db, rule_id)
    return RuleProductsOut(
        rule_id=rule.id,
        version=rule.version,
        products=[_shown_row(stored, rows, known) for stored in rows],
        review_problem=problem,
    )


def _shown_row(stored: StoredRow, rows: list[StoredRow], known: dict[str, Product]) -> RowOut:
    row = stored.row
    return RowOut(
        id=stored.id,
        product=row.product,
        name=known[row.product].name if row.product in known else row.product,
        parent=row.parent or None,
        mode=row.mode,
        filter=filter_on(tuple(each.row for each in rows), row),
        processes=[str(process) for process in row.processes],
        editable=not row.is_component,
        added_by=stored.added_by,
        added_at=stored.added_at,
    )
