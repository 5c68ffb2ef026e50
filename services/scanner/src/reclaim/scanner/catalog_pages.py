"""The pages of the product catalogue and of a rule's products. They work without scripts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final
from urllib.parse import quote

from fastapi import Depends, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from starlette.datastructures import FormData, UploadFile

from reclaim.common.errors import Invalid, NotFound, ReclaimError
from reclaim.common.routing import Router
from reclaim.scanner import catalog_actions, catalog_store, store
from reclaim.scanner.catalog import component_refused, filter_on, suites_with
from reclaim.scanner.catalog_actions import Imported
from reclaim.scanner.catalog_api import csv_of, found_by
from reclaim.scanner.filters_pages import SAVE, FilterForm, edited, filter_form, template_values, to_keep
from reclaim.scanner.pages import Refused
from reclaim.scanner.ports import Deps
from reclaim.web.auth import require
from reclaim.web.operators import Operator
from reclaim.web.pages import Pages

Viewer = Annotated[Operator, Depends(require("viewer"))]
Editor = Annotated[Operator, Depends(require("operator"))]

SHOWN: Final = 200
"""Products that the list shows; the search finds the others."""

OFFERED: Final = 500
"""Products that a field offers while one types; any other key can be entered all the same."""

BAD_LINES_SHOWN: Final = 100


def routes(deps: Deps) -> Router:
    """Return the routes of the pages."""
    pages = Pages("reclaim.scanner")
    router = Router(include_in_schema=False, default_response_class=HTMLResponse)
    router.include_router(_product_pages(deps, pages))
    router.include_router(_rule_product_pages(deps, pages))
    return router


# ------------------------------------------------------------------------------------------------ the catalogue


def _product_pages(deps: Deps, pages: Pages) -> Router:
    router = Router()

    async def list_page(
        request: Request,
        *,
        q: str = "",
        values: Mapping[str, Any] | None = None,
        refused: Refused | None = None,
        imported: Imported | None = None,
        status_code: int = 200,
    ) -> HTMLResponse:
        async with deps.database.reading() as db:
            known = await catalog_store.catalog(db)
        found = found_by(q, list(known.values()))
        return pages.render(
            request,
            "products.html",
            status_code=status_code,
            products=found[:SHOWN],
            more=max(0, len(found) - SHOWN),
            total=len(known),
            path=product_path,
            q=q,
            values=values or {},
            errors=refused.by_field if refused else {},
            refused=refused,
            imported=imported,
            bad_shown=BAD_LINES_SHOWN,
        )

    @router.get("/products")
    async def products(
        request: Request, _operator: Viewer, q: Annotated[str, Query(max_length=100)] = ""
    ) -> HTMLResponse:
        return await list_page(request, q=q)

    @router.post("/products")
    async def add(request: Request, operator: Editor) -> Response:
        form = await request.form()
        values = {"key": _text(form, "key"), **_product_of(form)}
        try:
            added = await catalog_actions.add_product(deps, _parts(values), author=operator.name)
        except ReclaimError as error:
            return await list_page(request, values=values, refused=Refused.of(error), status_code=error.status)
        return _go(product_path(added.key))

    @router.get("/products.csv")
    async def export(_operator: Viewer) -> Response:
        async with deps.database.reading() as db:
            return csv_of(await catalog_store.catalog(db))

    @router.post("/products.csv")
    async def take_in(request: Request, operator: Editor) -> Response:
        async with request.form() as form:
            sent = form.get("file")
            data = await sent.read() if isinstance(sent, UploadFile) and sent.filename else None
        try:
            imported = await catalog_actions.import_products(deps, _chosen(data), author=operator.name)
        except ReclaimError as error:
            return await list_page(request, refused=Refused.of(error), status_code=error.status)
        return await list_page(request, imported=imported)

    async def product_page(
        request: Request,
        key: str,
        *,
        values: Mapping[str, Any] | None = None,
        refused: Refused | None = None,
        status_code: int = 200,
    ) -> HTMLResponse:
        async with deps.database.reading() as db:
            known = await catalog_store.catalog(db)
            if key not in known:
                raise NotFound(f"There is no product {key} in the catalogue.")
            rule_ids = await catalog_store.rules_with(db, {key})
            rules = [rule for rule in await store.rules(db) if rule.id in rule_ids]
        product = known[key]
        return pages.render(
            request,
            "product.html",
            status_code=status_code,
            product=product,
            components=[known[part] for part in product.components],
            suites=[known[suite] for suite in suites_with(key, known)],
            rules=rules,
            path=product_path,
            values=values
            or {
                "name": product.name,
                "publisher": product.publisher,
                "components": "\n".join(product.components),
                "processes": "\n".join(map(str, product.processes)),
            },
            errors=refused.by_field if refused else {},
            refused=refused,
        )

    @router.post("/products/remove")
    async def remove(request: Request, operator: Editor) -> Response:
        key = _text(await request.form(), "key")
        try:
            await catalog_actions.remove_product(deps, key, author=operator.name)
        except NotFound:
            raise
        except ReclaimError as error:
            return await product_page(request, key, refused=Refused.of(error), status_code=error.status)
        return _go("/scanner/products")

    @router.get("/products/{key:path}")
    async def product(request: Request, key: str, _operator: Viewer) -> HTMLResponse:
        return await product_page(request, key)

    @router.post("/products/{key:path}")
    async def change(request: Request, key: str, operator: Editor) -> Response:
        values = _product_of(await request.form())
        try:
            await catalog_actions.change_product(deps, key, _parts(values), author=operator.name)
        except NotFound:
            raise
        except ReclaimError as error:
            return await product_page(request, key, values=values, refused=Refused.of(error), status_code=error.status)
        return _go(product_path(key))

    return router


def _chosen(data: bytes | None) -> bytes:
    if data is None:
        raise Invalid("Choose a CSV file.", field="file")
    return data


def product_path(key: str) -> str:
    """Return the address of a product's page."""
    return f"/scanner/products/{quote(key)}"


def _product_of(form: FormData) -> dict[str, str]:
    return {name: _text(form, name) for name in ("name", "publisher", "components", "processes")}


def _parts(values: Mapping[str, str]) -> dict[str, object]:
    """Return what a form has as a product is read: one component, and one process, a line."""
    lists = {name: [line.strip() for line in values[name].splitlines() if line.strip()] for name in _LINES}
    return {**values, **lists}


_LINES: Final = ("components", "processes")


# ------------------------------------------------------------------------------------------------ a rule's products


def _rule_product_pages(deps: Deps, pages: Pages) -> Router:
    router = Router(prefix="/rules/{rule_id}/products")

    async def page(
        request: Request, rule_id: str, *, refused: Refused | None = None, status_code: int = 200
    ) -> HTMLResponse:
        async with deps.database.reading() as db:
            rule = await store.rule(db, rule_id)
            rows = await catalog_store.rows(db, rule_id)
            known = await catalog_store.catalog(db)
            problem = await catalog_store.review_problem(db, rule_id)
        plain = tuple(stored.row for stored in rows)
        chosen = {row.product for row in plain if not row.is_component}
        return pages.render(
            request,
            "rule-products.html",
            status_code=status_code,
            rule=rule,
            chosen=[stored for stored in rows if not stored.row.is_component],
            components={key: [stored for stored in rows if stored.row.parent == key] for key in sorted(chosen)},
            known=known,
            filter_on=lambda row: filter_on(plain, row),
            path=product_path,
            choices=[
                (product.key, f"{product.name}, suite" if product.is_suite else product.name)
                for product in known.values()
                if product.key not in chosen
            ][:OFFERED],
            problem=problem,
            refused=refused,
        )

    @router.get("")
    async def rule_products(request: Request, rule_id: str, _operator: Viewer) -> HTMLResponse:
        return await page(request, rule_id)

    @router.post("")
    async def add(request: Request, rule_id: str, operator: Editor) -> Response:
        form = await request.form()
        try:
            await catalog_actions.add_to_rule(
                deps, rule_id, _text(form, "product"), filter=_text(form, "filter"), author=operator.name
            )
        except NotFound:
            raise
        except ReclaimError as error:
            return await page(request, rule_id, refused=Refused.of(error), status_code=error.status)
        return _go(f"/scanner/rules/{rule_id}/products")

    @router.post("/review")
    async def review(rule_id: str, _operator: Editor) -> Response:
        await catalog_actions.review_again(deps, rule_id)
        return _go(f"/scanner/rules/{rule_id}/products")

    @router.post("/{row_id}")
    async def change(request: Request, rule_id: str, row_id: str, operator: Editor) -> Response:
        form = await request.form()
        try:
            await catalog_actions.change_in_rule(
                deps,
                rule_id,
                row_id,
                product=_text(form, "product") if "product" in form else None,
                filter=_text(form, "filter") if "filter" in form else None,
                author=operator.name,
            )
        except NotFound:
            raise
        except ReclaimError as error:
            return await page(request, rule_id, refused=Refused.of(error), status_code=error.status)
        return _go(f"/scanner/rules/{rule_id}/products")

    async def filter_page(
        request: Request, rule_id: str, row_id: str, form: FilterForm | None = None, *, status_code: int = 200
    ) -> HTMLResponse:
        async with deps.database.reading() as db:
            rule = await store.rule(db, rule_id)
            rows = await catalog_store.rows(db, rule_id)
            row = catalog_actions.find_row(rows, row_id).row
            known = await catalog_store.catalog(db, {row.product})
        if row.is_component:
            raise component_refused(row.product, [row.parent])
        shown = filter_form(rule.terms.applies_to, row.filter) if form is None else form
        return pages.render(
            request,
            "product-filter.html",
            status_code=status_code,
            rule=rule,
            row_id=row_id,
            name=known[row.product].name if row.product in known else row.product,
            components=[known[each.row.product].name for each in rows if each.row.parent == row.product],
            filter=shown,
            **template_values(rule.terms.applies_to),
        )

    @router.get("/{row_id}/filter")
    async def product_filter(request: Request, rule_id: str, row_id: str, _operator: Editor) -> HTMLResponse:
        return await filter_page(request, rule_id, row_id)

    @router.post("/{row_id}/filter")
    async def set_filter(request: Request, rule_id: str, row_id: str, operator: Editor) -> Response:
        """Keep the filter if that is what was pressed; else do to the form what the builder's button says."""
        sent = await request.form()
        if _text(sent, "filter_do") != SAVE:
            return await filter_page(request, rule_id, row_id, await edited(deps, sent))
        async with deps.database.reading() as db:
            rule = await store.rule(db, rule_id)
        form = to_keep(sent, rule.terms.applies_to)
        if form.problems or form.row_problems:
            return await filter_page(request, rule_id, row_id, form, status_code=Invalid.status)
        await catalog_actions.change_in_rule(deps, rule_id, row_id, filter=form.text, author=operator.name)
        return _go(f"/scanner/rules/{rule_id}/products")

    @router.post("/{row_id}/{what}")
    async def remove_or_renew(request: Request, rule_id: str, row_id: str, what: str, operator: Editor) -> Response:
        steps = {"remove": catalog_actions.remove_from_rule, "renew": catalog_actions.renew_in_rule}
        if what not in steps:
            raise NotFound("There is nothing at this address.")
        try:
            await steps[what](deps, rule_id, row_id, author=operator.name)
        except NotFound:
            raise
        except ReclaimError as error:
            return await page(request, rule_id, refused=Refused.of(error), status_code=error.status)
        return _go(f"/scanner/rules/{rule_id}/products")

    return router


def _text(form: FormData, name: str) -> str:
    value = form.get(name)
    return value if isinstance(value, str) else ""


def _go(path: str) -> RedirectResponse:
    return RedirectResponse(path, status_code=303)
