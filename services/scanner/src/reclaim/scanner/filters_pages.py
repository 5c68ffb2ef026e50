"""The page on which a filter is put together: rows on one side, the text on the other, and what it chooses.

It keeps nothing: every button posts the form and gets it back. `filter-builder.html` is the part of it that another
form may include (`FilterForm.inside`); with scripts it replaces itself alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, Final

from fastapi import Depends, Request
from fastapi.responses import HTMLResponse
from starlette.datastructures import FormData

from reclaim.common.routing import Router
from reclaim.scanner import known_seats
from reclaim.scanner.filters.builder import (
    OPERATORS,
    Builder,
    BuilderGroup,
    BuilderRow,
    Join,
    build,
    unbuild,
)
from reclaim.scanner.filters.fields import FIELDS, HOLDER, KINDS, Kind
from reclaim.scanner.filters.text import read, show
from reclaim.scanner.known_seats import Matched
from reclaim.scanner.ports import Deps
from reclaim.web.auth import require
from reclaim.web.operators import Operator
from reclaim.web.pages import Pages

Viewer = Annotated[Operator, Depends(require("viewer"))]

MOST_ROWS: Final = 100
EMPTY: Final = Builder("all", (BuilderGroup("all", (BuilderRow(),)),))

SAVE: Final = "save"
"""What the button sends that keeps a filter, on the pages of what has one."""

BOTH_EDITED: Final = (
    "The rows and the text were both edited and say different things: check the text, or write it from the rows, then "
    "save."
)

LABELS: Final[dict[Kind, str]] = {"subscription": "Subscription software", "installed": "Installed software"}


@dataclass(frozen=True, slots=True)
class FilterForm:
    """What the template shows. `form` is None for a filter that only fits as text; `problems` are about the text.

    `inside` tells that it is a part of a rule's form, `touched` that one of its buttons was pressed there.
    """

    kind: Kind
    text: str = ""
    form: Builder | None = EMPTY
    problems: tuple[str, ...] = ()
    row_problems: dict[tuple[int, int], str] | None = None
    matched: Matched | None = None
    inside: bool = False
    touched: bool = False


def filter_form(kind: Kind, text: str, *, inside: bool = False) -> FilterForm:
    """Return the form of a filter that is kept as text, or of one that was typed."""
    if not text.strip():
        return FilterForm(kind, inside=inside)
    found = read(text, kind)
    if found.tree is None:
        problems = tuple(problem.of(text) for problem in found.problems)
        return FilterForm(kind, text, problems=problems, inside=inside)
    return FilterForm(kind, show(found.tree), unbuild(found.tree), inside=inside)


def template_values(kind: Kind) -> dict[str, Any]:
    """Return what `filter-builder.html` needs besides its form."""
    fields = [(one.path, one.label) for one in FIELDS[kind].values()]
    return {
        "filter_fields": [*fields, (HOLDER, "Holder: groups and reporting lines")],
        "filter_operators": list(OPERATORS.items()),
        "filter_kinds": [(LABELS[one], f"/scanner/filters?kind={one}", one == kind) for one in KINDS],
    }


def routes(deps: Deps) -> Router:
    """Return the routes of the page."""
    pages = Pages("reclaim.scanner")
    router = Router(prefix="/filters", include_in_schema=False, default_response_class=HTMLResponse)

    def shown(request: Request, form: FilterForm) -> HTMLResponse:
        alone = request.headers.get("hx-request") == "true"
        template = "filter-builder.html" if alone else "filter.html"
        return pages.render(request, template, filter=form, **template_values(form.kind))

    @router.get("")
    async def new(request: Request, _operator: Viewer, kind: Kind = "subscription") -> HTMLResponse:
        return shown(request, FilterForm(kind))

    @router.post("")
    async def edit(request: Request, _operator: Viewer) -> HTMLResponse:
        """Do what the pressed button says to the form that came with it. Nothing is kept."""
        return shown(request, await edited(deps, await request.form()))

    return router


async def edited(deps: Deps, sent: FormData) -> FilterForm:
    """Return a posted form as the pressed button leaves it."""
    kind: Kind = "installed" if _text(sent, "filter_kind") == "installed" else "subscription"
    what, _, place = _text(sent, "filter_do").partition(":")
    text = _text(sent, "filter")
    if what in ("", "text", "count"):
        form = filter_form(kind, text)
    else:
        form = _by_rows(kind, text, _changed(_sent_rows(sent), what, place))
    if what == "count":
        form = await _counted(deps, form)
    return replace(form, inside="filter_inside" in sent)


def to_keep(sent: FormData, kind: Kind) -> FilterForm:
    """Return the posted form with the text to keep: what was edited since it was shown, the rows or the text.

    Its problems say what does not fit, or that both were edited and say different things.
    """
    text, before = _text(sent, "filter").strip(), _text(sent, "filter_shown").strip()
    by_text = filter_form(kind, text)
    rows = _sent_rows(sent)
    built = build(rows, kind)
    if not rows.groups or (not built.problems and built.tree == read(before, kind).tree):
        return by_text
    by_rows = _by_rows(kind, text, rows)
    if text == before or by_rows.text == by_text.text:
        return by_rows
    return replace(by_text, form=rows, problems=(*by_text.problems, BOTH_EDITED))


def _by_rows(kind: Kind, text: str, rows: Builder) -> FilterForm:
    """Return the form with the text that its rows say; while they do not say one, the text stays as it was."""
    built = build(rows, kind)
    if built.problems:
        return FilterForm(kind, text, rows, row_problems=dict(built.problems))
    return FilterForm(kind, show(built.tree) if built.tree else "", rows)


async def _counted(deps: Deps, form: FilterForm) -> FilterForm:
    tree = read(form.text, form.kind).tree
    if tree is None:
        return form
    async with deps.database.reading() as db:
        return replace(form, matched=await known_seats.match(db, tree, form.kind, deps.clock.now()))


def _changed(rows: Builder, what: str, place: str) -> Builder:
    """Return rows with one more or one less: `add:GROUP`, `remove:GROUP-ROW`, `group`; anything else leaves them."""
    groups = list(rows.groups) or list(EMPTY.groups)
    count = sum(len(group.rows) for group in groups)
    if what == "group" and count < MOST_ROWS:
        groups.append(BuilderGroup("any", (BuilderRow(), BuilderRow())))
    at = [int(part) if part.isdecimal() and len(part) < 4 else -1 for part in place.split("-")]
    if what == "add" and 0 <= at[0] < len(groups) and count < MOST_ROWS:
        group = groups[at[0]]
        groups[at[0]] = replace(group, rows=(*group.rows, BuilderRow()))
    if what == "remove" and len(at) == 2 and 0 <= at[0] < len(groups):
        group = groups[at[0]]
        left = tuple(row for number, row in enumerate(group.rows) if number != at[1])
        groups[at[0] : at[0] + 1] = [replace(group, rows=left)] if left else []
    return Builder(rows.join, tuple(groups) or EMPTY.groups)


def _sent_rows(sent: FormData) -> Builder:
    """Return the rows as they were posted: parallel lists, each row with the number of its group."""
    joins = _texts(sent, "filter_group_join")
    by_group: dict[int, list[BuilderRow]] = {}
    columns = (_texts(sent, f"filter_{part}") for part in ("group", "field", "operator", "value"))
    for group, field, operator, value in list(zip(*columns, strict=False))[:MOST_ROWS]:
        number = int(group) if group.isdecimal() and len(group) < 4 else 0
        by_group.setdefault(number, []).append(BuilderRow(field, operator, value))
    groups = tuple(
        BuilderGroup(_join(joins[number] if number < len(joins) else ""), tuple(rows))
        for number, rows in sorted(by_group.items())
    )
    return Builder(_join(_text(sent, "filter_join")), groups)


def _join(text: str) -> Join:
    return "any" if text == "any" else "all"


def _text(sent: FormData, name: str) -> str:
    value = sent.get(name)
    return value if isinstance(value, str) else ""


def _texts(sent: FormData, name: str) -> list[str]:
    return [value for value in sent.getlist(name) if isinstance(value, str)]
