"""The scanner's pages: connections, rules with their preview, and scans. They work without scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Annotated, Any, Final
from urllib.parse import urlencode

from fastapi import Depends, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from starlette.datastructures import FormData

from reclaim.common.contracts import Money
from reclaim.common.errors import Invalid, NotFound, ReclaimError
from reclaim.common.routing import Router
from reclaim.connectors.checks import CHECKS
from reclaim.connectors.ports import Licence, TestResult
from reclaim.connectors.registry import capabilities, has_log
from reclaim.scanner import actions, desk_store, profile_store, profiles, seat_pages, store, sync_store, usage_store
from reclaim.scanner import desks as service_desks
from reclaim.scanner.domain import (
    APPLIES_TO,
    FILTER,
    INSTALLED,
    KINDS,
    USAGE,
    Change,
    Rejected,
    diff,
    kind_of,
    price_of,
    read_price,
)
from reclaim.scanner.filters.fields import Kind as Software
from reclaim.scanner.filters_pages import BOTH_EDITED, FilterForm, edited, filter_form, template_values, to_keep
from reclaim.scanner.ports import Deps
from reclaim.scanner.scan import Preview, preview
from reclaim.scanner.store import Connection, Rule
from reclaim.web.auth import require
from reclaim.web.charts import Bar
from reclaim.web.operators import Operator
from reclaim.web.pages import Pages

Viewer = Annotated[Operator, Depends(require("viewer"))]
Editor = Annotated[Operator, Depends(require("operator"))]
Admin = Annotated[Operator, Depends(require("admin"))]

KIND: Final = "salesforce"
SETTING: Final = "setting-"
CREDENTIAL: Final = "credential-"
WARN_REASON: Final = "warn-reason-"
VersionNumber = Annotated[int, Query(ge=1, le=1_000_000_000)]
SEATS_SHOWN: Final = 50
PREVIEW_ROWS: Final = 20

ROUTES: Final = (
    ("email", "By e-mail", "The manager gets signed links."),
    ("itsm", "By service desk", "A ticket is opened for the approval group."),
    ("both", "By both", "Whoever answers first decides."),
)
TIMEOUTS: Final = (
    ("freeze", "Freeze the seat", "Silence counts as consent; the grace period still allows an appeal."),
    ("keep", "Keep the seat", "Silence protects the holder."),
    ("escalate", "Ask a person here", "The case stands in attention until somebody decides."),
)
CHANNEL_LABELS: Final = (
    ("ui", "At its own pages or window"),
    ("mobile", "On a phone or tablet"),
    ("api", "By programs, through its API"),
    ("sso", "Sign-ins through single sign-on"),
)
LABELS: Final = {
    "name": "Name",
    "products": "Licences",
    "filter": "Filter",
    "applies_to": "Applies to",
    "condition": "Condition",
    "inactive_days": "Unused for (days)",
    "product_filters": "Filters of products",
    "minimum_hours": "Hours that keep a seat",
    "window_count": "Window",
    "window_unit": "The window counts",
    "include_no_activity": "Include no activity",
    "channels": "Use that counts",
    "preferred_sources": "Whose hours count first",
    "route": "How the approver is asked",
    "desk": "Service desk",
    "decision_days": "Time to decide (days)",
    "ask_first": "Who is asked first",
    "holder_days": "Time for the holder to answer (days)",
    "remind_days": "Reminders (days after the question)",
    "on_timeout": "If nobody answers in time",
    "grace_days": "Grace period (days)",
    "hand_over": "Hand open records over",
    "hand_over_to": "Who takes them over",
    "dry_run": "Dry run",
    "warn_only": "Checks that only warn",
    "warn_reasons": "Why they only warn",
    "cooldown_days": "Pause after a keep (days)",
    "young_days": "Leave new accounts alone for (days)",
    "schedule": "Schedule",
    "time_zone": "Time zone",
    "grace_calendar": "Grace counts",
    "no_reclaim_before_days_off": "Free no seat before days off",
    "days_off": "Days off",
    "reclaim_by": "How the seat is freed",
    "downgrade_product": "Cheaper licence (key)",
    "downgrade_name": "Cheaper licence",
    "downgrade_profile": "Cheaper licence's profile",
    "fallback_approver": "Who is asked without a manager",
    "fallback_name": "Their name",
    "act_from": "Act from",
    "act_until": "Act until",
    "most_flagged": "Most seats that one scan flags",
    "most_flagged_share": "And at most (per cent)",
    "most_a_day": "Most seats frozen or freed in a day",
    "most_a_month": "Most seats frozen or freed in 30 days",
}
"""What the parts of a rule are called where two versions are compared."""

CHECK_LABELS: Final = {
    FILTER: "Not chosen by the filter",
    USAGE: "Use, by what sources report",
    "new_account": "New account",
    "active_elsewhere": "Active through another channel",
    "integration_user": "Integration user",
    "administrator": "Administrator",
    "exempt": "Exempt",
    "already_frozen": "Frozen, open case or recent keep",
    "scheduled_jobs": "Runs scheduled jobs",
    "pending_approvals": "Pending approvals",
    "queue_member": "Takes work from queues",
    "no_successor": "Open business, no successor",
}


def routes(deps: Deps) -> Router:
    """Return the routes of the scanner's pages."""
    pages = Pages("reclaim.scanner")
    pages.environment.globals.update(check_labels=CHECK_LABELS, checks=CHECKS)
    router = Router(include_in_schema=False, default_response_class=HTMLResponse)
    router.include_router(_connection_pages(deps, pages))
    router.include_router(_rule_pages(deps, pages))
    router.include_router(_scan_pages(deps, pages))
    router.include_router(seat_pages.routes(deps, pages))
    return router


# ------------------------------------------------------------------------------------------------ connections


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a form was not accepted: a text, which field it is about, and the tries of a connection's test."""

    message: str
    by_field: Mapping[str, str]
    results: tuple[TestResult, ...] = ()

    @classmethod
    def of(cls, error: ReclaimError) -> Refused:
        """Read what an error says about the parts of a form."""
        by_field: dict[str, str] = {}
        if isinstance(error, Rejected):
            by_field = error.by_field
        elif isinstance(error, Invalid) and error.field is not None:
            by_field = {error.field: str(error)}
        return cls(str(error), by_field, error.results if isinstance(error, actions.DoesNotWork) else ())


def _connection_pages(deps: Deps, pages: Pages) -> Router:
    router = Router(prefix="/connections")

    async def list_page(
        request: Request,
        *,
        kind: str = KIND,
        values: Mapping[str, str] | None = None,
        refused: Refused | None = None,
        status_code: int = 200,
    ) -> HTMLResponse:
        async with deps.database.reading() as db:
            found = await store.connections(db)
        return pages.render(
            request,
            "connections.html",
            status_code=status_code,
            connections=found,
            kinds=KINDS,
            kind=kind_of(kind),
            chosen=kind,
            address_of=_address,
            values=values or {},
            refused=refused,
        )

    @router.get("")
    async def connections(request: Request, _operator: Viewer, kind: str = KIND) -> HTMLResponse:
        return await list_page(request, kind=kind)

    @router.post("")
    async def add(request: Request, _operator: Admin) -> Response:
        form = await request.form()
        kind = _text(form, "kind") or KIND
        settings, credentials = _profile_of(form, kind)
        try:
            added = await actions.add_connection(
                deps,
                name=_text(form, "name"),
                kind=kind,
                settings=settings,
                credentials=credentials,
                force="force" in form,
            )
        except ReclaimError as error:
            return await list_page(
                request, kind=kind, values=_shown(form), refused=Refused.of(error), status_code=error.status
            )
        return _go(f"/scanner/connections/{added.id}")

    async def connection_page(
        request: Request,
        connection_id: str,
        *,
        values: Mapping[str, str] | None = None,
        refused: Refused | None = None,
        status_code: int = 200,
    ) -> HTMLResponse:
        async with deps.database.reading() as db:
            connection = await store.connection(db, connection_id)
            prices = await store.prices(db, connection_id)
            everywhere = {rule.id: rule for rule in await store.rules(db)}
            syncs = await sync_store.syncs(db, connection_id)
            there = await profile_store.profiles(db, connection_id)
        able = capabilities(connection.kind, connection.settings)
        licences, unread = await _licences(deps, connection_id) if "seats" in able else ([], None)
        stored = {f"{SETTING}{name}": value for name, value in connection.settings.items()}
        return pages.render(
            request,
            "connection.html",
            status_code=status_code,
            connection=connection,
            kind=KINDS[connection.kind],
            address_of=_address,
            able=sorted(able),
            rules=[rule for rule in everywhere.values() if rule.connection_id == connection_id],
            rule_names=everywhere,
            syncs=syncs,
            profiles=there,
            has_log=has_log(connection.kind),
            offers=has_log(connection.kind) or profiles.is_direct(connection),
            price_rows=_price_rows(licences, prices),
            unread=unread,
            values=values or {"name": connection.name, **stored},
            refused=refused,
        )

    @router.get("/{connection_id}")
    async def connection(request: Request, connection_id: str, _operator: Viewer) -> HTMLResponse:
        return await connection_page(request, connection_id)

    @router.post("/{connection_id}")
    async def change(request: Request, connection_id: str, _operator: Admin) -> Response:
        form = await request.form()
        async with deps.database.reading() as db:
            kind = (await store.connection(db, connection_id)).kind
        settings, credentials = _profile_of(form, kind)
        try:
            await actions.change_connection(
                deps,
                connection_id,
                name=_text(form, "name"),
                settings=settings,
                credentials=credentials,
                force="force" in form,
            )
        except NotFound:
            raise
        except ReclaimError as error:
            return await connection_page(
                request, connection_id, values=_shown(form), refused=Refused.of(error), status_code=error.status
            )
        return _go(f"/scanner/connections/{connection_id}")

    @router.post("/{connection_id}/prices")
    async def set_prices(request: Request, connection_id: str, _operator: Admin) -> Response:
        form = await request.form()
        book = {
            product: read_price(product, amount, currency)
            for product, amount, currency in zip(
                _texts(form, "product"), _texts(form, "amount"), _texts(form, "currency"), strict=False
            )
            if product and amount
        }
        await actions.change_connection(deps, connection_id, prices=book)
        return _go(f"/scanner/connections/{connection_id}#prices")

    @router.post("/{connection_id}/test")
    async def test(connection_id: str, _operator: Editor) -> Response:
        await actions.test_connection(deps, connection_id)
        return _go(f"/scanner/connections/{connection_id}")

    @router.post("/{connection_id}/sync")
    async def sync(connection_id: str, operator: Editor) -> Response:
        await profiles.sync_now(deps, connection_id, by=operator.name)
        return _go(f"/scanner/connections/{connection_id}")

    @router.post("/{connection_id}/remove")
    async def remove(connection_id: str, operator: Admin) -> Response:
        await actions.remove_connection(deps, connection_id, by=operator.name)
        return _go("/scanner/connections")

    return router


async def _licences(deps: Deps, connection_id: str) -> tuple[list[Licence], str | None]:
    """Return a connected system's licences, or none and why they could not be read: the page is useful without."""
    try:
        return await actions.licences(deps, connection_id), None
    except ReclaimError as error:
        return [], str(error)


@dataclass(frozen=True, slots=True)
class PriceRow:
    """One line of a price book as it is edited. `licence` is None for one that the org does not have."""

    product: str
    licence: Licence | None
    price: Money | None

    @property
    def amount(self) -> str:
        """The price as it is entered: two decimals, or all four where it has them."""
        if self.price is None:
            return ""
        short = self.price.amount.quantize(Decimal("0.01"))
        return str(short if short == self.price.amount else self.price.amount)


def _price_rows(licences: Sequence[Licence], prices: Mapping[str, Money]) -> list[PriceRow]:
    rows = []
    left = dict(prices)
    for licence in licences:
        # A price that was entered under the licence's name moves to its key with the next change of the book.
        price = price_of(prices, licence.product, licence.name)
        left.pop(licence.product, None)
        left.pop(licence.name, None)
        rows.append(PriceRow(licence.product, licence, price))
    return rows + [PriceRow(product, None, price) for product, price in left.items()]


def _address(connection: Connection) -> str:
    """Return where a connection leads: its kind's first destination."""
    first = next((part.name for part in KINDS[connection.kind].settings if part.destination), "")
    return connection.settings.get(first, "")


def _profile_of(form: FormData, kind: str) -> tuple[dict[str, str], dict[str, str]]:
    known = kind_of(kind)
    settings = {part.name: _text(form, SETTING + part.name) for part in known.settings}
    return settings, {part.name: _text(form, CREDENTIAL + part.name) for part in known.credentials}


def _shown(form: FormData) -> dict[str, str]:
    """Return what was entered, for the form to show it again; never a credential."""
    return {name: value for name, value in form.items() if isinstance(value, str) and not name.startswith(CREDENTIAL)}


# ------------------------------------------------------------------------------------------------ rules


@dataclass(frozen=True, slots=True)
class Previewed:
    """What stands beside a rule's form: a preview, or why there is none, and what the form would change of the rule.

    `changes` are (part, now, then); None if there is nothing to compare with, or the form cannot be read.
    """

    preview: Preview | None = None
    chart: tuple[Bar, ...] = ()
    problem: str | None = None
    by_field: Mapping[str, str] | None = None
    changes: Sequence[tuple[str, str, str]] | None = None


def _rule_pages(deps: Deps, pages: Pages) -> Router:
    router = Router(prefix="/rules")

    async def form_page(
        request: Request,
        connection: Connection | None,
        rule: Rule | None,
        *,
        values: Mapping[str, Any],
        chosen: FilterForm | None = None,
        refused: Refused | None = None,
        previewed: Previewed | None = None,
        status_code: int = 200,
    ) -> HTMLResponse:
        """Return the page of a rule with a form of these values; `chosen` is its filter, as put together so far."""
        applies_to = _applies_to(values, connection)
        if chosen is None:
            written = values.get("filter") or ""
            chosen = replace(filter_form(applies_to, written, inside=True), text=written)
        async with deps.database.reading() as db:
            connections = await store.connections(db)
            sources = sorted({each.source for each in await usage_store.sources(db, deps.clock.now())})
            versions = await store.rule_versions(db, rule.id) if rule else []
            runs = await store.runs(db, rule_id=rule.id, limit=5) if rule else []
            heard = await desk_store.desks(db)
        licences, unread = await _licences(deps, connection.id) if connection else ([], None)
        return pages.render(
            request,
            "rule.html",
            status_code=status_code,
            connections=connections,
            connection=connection,
            rule=rule,
            versions=versions,
            runs=runs,
            licences=_with_chosen(licences, values.get("products", ())),
            unread=unread,
            values=values,
            errors=refused.by_field if refused else {},
            refused=refused,
            previewed=previewed,
            ways=ROUTES,
            timeouts=TIMEOUTS,
            channels=CHANNEL_LABELS,
            choices=[(one.id, one.name) for one in connections],
            preview_rows=PREVIEW_ROWS,
            installed=applies_to == INSTALLED,
            sources=sources,
            desks=service_desks.choices(heard, values.get("desk") or ""),
            doubt=service_desks.doubt(heard, rule.terms) if rule else None,
            filter=chosen,
            **template_values(applies_to),
        )

    async def connection_of(connection_id: str) -> Connection:
        async with deps.database.reading() as db:
            return await store.connection(db, connection_id)

    async def opened(rule_id: str) -> tuple[Rule, Connection | None]:
        """Return a rule and its connection; None if that was removed."""
        async with deps.database.reading() as db:
            rule = await store.rule(db, rule_id)
            there = {connection.id: connection for connection in await store.connections(db)}
        return rule, there.get(rule.connection_id)

    @router.get("")
    async def rules(request: Request, _operator: Viewer) -> HTMLResponse:
        async with deps.database.reading() as db:
            found = await store.rules(db)
            last = {run.rule_id: run for run in await store.last_finished(db)}
            connected = bool(await store.connections(db))
        return pages.render(request, "rules.html", rules=found, last=last, connected=connected)

    @router.get("/new")
    async def new(
        request: Request, _operator: Editor, connection: Annotated[str, Query(max_length=100)] = ""
    ) -> HTMLResponse:
        async with deps.database.reading() as db:
            there = await store.connections(db)
        chosen = await connection_of(connection) if connection else there[0] if len(there) == 1 else None
        return await form_page(
            request,
            chosen,
            None,
            values={
                "dry_run": True,
                "hand_over": True,
                "cooldown_days": 90,
                "young_days": 30,
                "most_flagged_share": 50,
                "holder_days": 3,
            },
        )

    @router.post("/new")
    async def add(request: Request, operator: Editor) -> Response:
        form = await request.form()
        chosen = _filter_of(form)
        values = _terms_of(form, chosen)
        connection = await connection_of(_text(form, "connection_id"))
        try:
            _must_say_one(chosen)
            rule = await actions.add_rule(deps, connection.id, values, author=operator.name)
        except ReclaimError as error:
            return await form_page(
                request,
                connection,
                None,
                values=values,
                chosen=chosen,
                refused=Refused.of(error),
                status_code=error.status,
            )
        return _go(f"/scanner/rules/{rule.id}?preview=true")

    @router.post("/preview")
    async def preview_form(request: Request, _operator: Viewer) -> HTMLResponse:
        """Preview a form as it stands; nothing is changed."""
        form = await request.form()
        chosen = _filter_of(form)
        values = _terms_of(form, chosen)
        rule, connection = await meant(form)
        previewed = await _previewed(deps, connection, values, rule, chosen)
        if request.headers.get("hx-request") == "true":
            return pages.render(
                request,
                "preview.html",
                previewed=previewed,
                preview_rows=PREVIEW_ROWS,
                connection=connection,
                rule=rule,
            )
        return await form_page(
            request,
            connection,
            rule,
            values=values,
            chosen=chosen,
            refused=Refused("", previewed.by_field) if previewed.by_field else None,
            previewed=previewed,
        )

    @router.post("/filter")
    async def put_together(request: Request, _operator: Viewer) -> HTMLResponse:
        """Do what a button of the filter's builder says to the form as it stands; nothing is kept."""
        form = await request.form()
        chosen = replace(await edited(deps, form), inside=True, touched=True)
        rule, connection = await meant(form)
        return await form_page(request, connection, rule, values=_terms_of(form, chosen), chosen=chosen)

    async def meant(form: FormData) -> tuple[Rule | None, Connection | None]:
        """Return which rule a form is about, None for a new one, and its connection."""
        if rule_id := _text(form, "rule_id"):
            return await opened(rule_id)
        return None, await connection_of(_text(form, "connection_id"))

    @router.get("/{rule_id}")
    async def show(request: Request, rule_id: str, _operator: Viewer, preview: bool = False) -> HTMLResponse:
        rule, connection = await opened(rule_id)
        values = actions.shown_terms(rule.terms)
        previewed = await _previewed(deps, connection, values, rule) if preview else None
        return await form_page(request, connection, rule, values=values, previewed=previewed)

    @router.post("/{rule_id}")
    async def change(request: Request, rule_id: str, operator: Editor) -> Response:
        form = await request.form()
        chosen = _filter_of(form)
        values = _terms_of(form, chosen)
        rule, connection = await opened(rule_id)
        version = _text(form, "version")
        try:
            _must_say_one(chosen)
            await actions.change_rule(
                deps,
                rule_id,
                values,
                author=operator.name,
                version=int(version) if version.isdecimal() and len(version) < 10 else None,
            )
        except ReclaimError as error:
            return await form_page(
                request,
                connection,
                rule,
                values=values,
                chosen=chosen,
                refused=Refused.of(error),
                status_code=error.status,
            )
        return _go(f"/scanner/rules/{rule_id}?preview=true")

    @router.get("/{rule_id}/diff")
    async def compare(
        request: Request,
        rule_id: str,
        _operator: Viewer,
        before: VersionNumber | None = None,
        after: VersionNumber | None = None,
    ) -> HTMLResponse:
        """Show what two versions say differently."""
        rule, _connection = await opened(rule_id)
        compared = await actions.compare_versions(deps, rule_id, before=before, after=after)
        async with deps.database.reading() as db:
            versions = await store.rule_versions(db, rule_id)
        return pages.render(
            request,
            "diff.html",
            rule=rule,
            compared=compared,
            changes=_shown_changes(compared.changes),
            versions=[(str(one.version), f"Version {one.version}, by {one.author}") for one in versions],
        )

    @router.post("/{rule_id}/submit")
    async def submit(rule_id: str, operator: Editor) -> Response:
        await actions.submit_rule(deps, rule_id, by=operator.name)
        return _go(f"/scanner/rules/{rule_id}")

    @router.post("/{rule_id}/withdraw-cases")
    async def withdraw_cases(request: Request, rule_id: str, operator: Editor) -> Response:
        form = await request.form()
        await actions.withdraw_cases(deps, rule_id, _text(form, "reason"), by=operator.name)
        return _go(f"/scanner/rules/{rule_id}")

    @router.post("/{rule_id}/activate")
    async def activate(request: Request, rule_id: str, operator: Editor) -> Response:
        rule, connection = await opened(rule_id)
        try:
            await actions.activate_rule(deps, rule_id, by=operator.name)
        except ReclaimError as error:
            return await form_page(
                request,
                connection,
                rule,
                values=actions.shown_terms(rule.terms),
                refused=Refused.of(error),
                status_code=error.status,
            )
        return _go(f"/scanner/rules/{rule_id}")

    @router.post("/{rule_id}/pause")
    async def pause(rule_id: str, operator: Editor) -> Response:
        await actions.pause_rule(deps, rule_id, by=operator.name)
        return _go(f"/scanner/rules/{rule_id}")

    @router.post("/{rule_id}/scan")
    async def scan(request: Request, rule_id: str, operator: Editor) -> Response:
        form = await request.form()
        run = await actions.start_scan(
            deps,
            rule_id,
            dry_run=_text(form, "dry_run") == "true",
            accept_population=_text(form, "accept_population") == "true",
            asked_by=operator.name,
        )
        return _go(f"/scanner/scans/{run.id}")

    return router


async def _previewed(
    deps: Deps,
    connection: Connection | None,
    values: Mapping[str, Any],
    rule: Rule | None,
    chosen: FilterForm | None = None,
) -> Previewed:
    """Preview what a form says, or tell what is missing, or why the org could not be asked."""
    if connection is None:
        return Previewed(problem="The connection of this rule was removed: there is nothing to scan.")
    changes = None
    try:
        if chosen is not None:
            _must_say_one(chosen)
        # The filters of products are set where the rule's products are: the form says nothing about them.
        given = {**values, "product_filters": rule.terms.product_filters} if rule else values
        terms = actions.terms_to_preview(given, connection.kind)
        changes = _shown_changes(diff(rule.terms, terms)) if rule else None
        found = await preview(deps, connection, terms, rule.id if rule else None)
    except Rejected as error:
        return Previewed(by_field=error.by_field)
    except ReclaimError as error:
        return Previewed(problem=str(error), changes=changes)
    return Previewed(preview=found, chart=_chart(found.tally.left_alone), changes=changes)


def _shown_changes(changes: Sequence[Change]) -> list[tuple[str, str, str]]:
    """Return what differs between two versions, or between a version and a form, as people read it."""
    return [(LABELS.get(one.field, one.field), _said(one.before), _said(one.after)) for one in changes]


def _applies_to(values: Mapping[str, Any], connection: Connection | None) -> Software:
    """Return what kind of software a form is about: its connection's, or what it says where that is gone."""
    kind = connection.kind if connection else values.get("applies_to")
    return "installed" if INSTALLED in (kind, values.get("applies_to")) else APPLIES_TO


def _filter_of(form: FormData) -> FilterForm:
    """Return the filter that a rule's form has, by its text or by its rows, whichever was edited.

    A text that means the same stays as it was written, so that saving a form that nobody touched changes nothing.
    """
    kind: Software = "installed" if _text(form, "applies_to") == INSTALLED else APPLIES_TO
    kept, written = to_keep(form, kind), _text(form, "filter").strip()
    same = kept.text == filter_form(kind, written).text
    return replace(kept, text=written if same else kept.text, inside=True)


def _must_say_one(chosen: FilterForm) -> None:
    """Refuse a filter whose rows say nothing, or something else than its text; what the text says is read later.

    Raises:
        Rejected: saying what to do.
    """
    wrong = [*(chosen.row_problems or {}).values()]
    if BOTH_EDITED in chosen.problems:
        wrong.append(BOTH_EDITED)
    if wrong:
        raise Rejected({"filter": " ".join(wrong)})


def _chart(left_alone: Mapping[str, int]) -> tuple[Bar, ...]:
    """Return a bar for each check that left somebody alone, in the order the checks are made."""
    return tuple(
        Bar(label, left_alone[name], f"{left_alone[name]:,}")
        for name, label in CHECK_LABELS.items()
        if left_alone.get(name)
    )


def _said(value: Any) -> str:
    """Return a part of a rule as the comparison of two versions shows it."""
    match value:
        case None | "" | [] | {}:
            return "none"
        case bool():
            return "yes" if value else "no"
        case list():
            return ", ".join(map(str, value))
        case dict():
            return "; ".join(f"{name.replace('_', ' ')}: {text}" for name, text in value.items())
        case _:
            return str(value)


def _with_chosen(licences: Sequence[Licence], products: Sequence[str]) -> list[Licence]:
    """Return the licences to choose from; one that was chosen and is gone stays, so that it can be taken out."""
    there = {licence.product for licence in licences}
    return [*licences, *(Licence(product, product, 0, 0) for product in products if product not in there)]


def _terms_of(form: FormData, chosen: FilterForm) -> dict[str, Any]:
    """Return a rule's terms as the form has them, with this filter; a box that is not ticked is not sent."""
    names = (
        "name",
        "inactive_days",
        "route",
        "decision_days",
        "on_timeout",
        "grace_days",
        "cooldown_days",
        "young_days",
        "schedule",
        "time_zone",
        "grace_calendar",
        "days_off",
        "reclaim_by",
        "downgrade_product",
        "downgrade_name",
        "downgrade_profile",
        "fallback_approver",
        "fallback_name",
        "hand_over_to",
        "act_from",
        "act_until",
        "most_flagged",
        "most_flagged_share",
        "remind_days",
        "ask_first",
        "holder_days",
        "preferred_sources",
        "desk",
        "most_a_day",
        "most_a_month",
        "applies_to",
        "condition",
        "minimum_hours",
        "window_unit",
        "window_count",
    )
    return {
        **{name: _text(form, name) for name in names},
        "filter": chosen.text,
        "products": _texts(form, "products"),
        "channels": _texts(form, "channels"),
        "include_no_activity": "include_no_activity" in form,
        "warn_only": _texts(form, "warn_only"),
        "warn_reasons": {check: _text(form, WARN_REASON + check) for check in _texts(form, "warn_only")},
        "dry_run": "dry_run" in form,
        "hand_over": "hand_over" in form,
        "no_reclaim_before_days_off": "no_reclaim_before_days_off" in form,
    }


# ------------------------------------------------------------------------------------------------ scans


def _scan_pages(deps: Deps, pages: Pages) -> Router:
    router = Router(prefix="/scans")

    @router.get("")
    async def scans(request: Request, _operator: Viewer) -> HTMLResponse:
        async with deps.database.reading() as db:
            runs = await store.runs(db, limit=100)
            rules = [rule for rule in await store.rules(db) if rule.status == "active"]
        return pages.render(request, "scans.html", runs=runs, rules=rules)

    @router.get("/{run_id}")
    async def scan(
        request: Request, run_id: str, _operator: Viewer, after: Annotated[str | None, Query(max_length=100)] = None
    ) -> HTMLResponse:
        async with deps.database.reading() as db:
            run = await store.run(db, run_id)
            found = await store.candidates(db, run_id=run_id, after=after, limit=SEATS_SHOWN + 1)
            yearly = await store.yearly_of(db, run_id)
        shown = found[:SEATS_SHOWN]
        more = len(found) > SEATS_SHOWN
        base = f"/scanner/scans/{run_id}"
        return pages.render(
            request,
            "scan.html",
            run=run,
            candidates=shown,
            yearly=yearly,
            chart=_chart(run.left_alone),
            first=base if after else None,
            older=f"{base}?{urlencode({'after': shown[-1].case_id})}" if more else None,
        )

    return router


def _text(form: FormData, name: str) -> str:
    value = form.get(name)
    return value if isinstance(value, str) else ""


def _texts(form: FormData, name: str) -> list[str]:
    return [value.strip() for value in form.getlist(name) if isinstance(value, str)]


def _go(path: str) -> RedirectResponse:
    return RedirectResponse(path, status_code=303)
