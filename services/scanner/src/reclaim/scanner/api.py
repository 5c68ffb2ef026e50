"""The scanner's API, under `/scanner/api`: JSON in and out, errors as problem documents that say what to do.

Credentials go in and never come out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from typing import Annotated, Any, Literal

from fastapi import Depends, Header, Query, Response
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from reclaim.common.contracts import Money
from reclaim.common.routing import Router
from reclaim.connectors.registry import capabilities
from reclaim.scanner import actions, desk_store, exclusion_store, finding, store
from reclaim.scanner.desks import Desk, doubt
from reclaim.scanner.domain import Terms, price_of, read_price
from reclaim.scanner.explain import Explained
from reclaim.scanner.ports import Deps
from reclaim.scanner.scan import Preview, preview
from reclaim.scanner.store import Connection, Rule, RuleVersion
from reclaim.web.auth import require
from reclaim.web.operators import Operator

Viewer = Depends(require("viewer"))
Editor = Annotated[Operator, Depends(require("operator"))]
Admin = Depends(require("admin"))
Admins = Annotated[Operator, Admin]


VersionNumber = Annotated[int, Query(ge=1, le=1_000_000_000)]


class _In(BaseModel):
    """Something that is sent. What it does not know it refuses: a misspelt name would otherwise be a default."""

    model_config = ConfigDict(extra="forbid")


class _Out(BaseModel):
    """Something that is answered, read from what the store returns."""

    model_config = ConfigDict(from_attributes=True)


class MoneyIn(_In):
    amount: Decimal | str
    currency: str


class ConnectionIn(_In):
    name: str
    kind: str = "salesforce"
    settings: dict[str, str] = {}
    credentials: dict[str, SecretStr] = {}
    prices: dict[str, MoneyIn] | None = Field(None, description="Product or licence name → price a month")


class ConnectionPatch(_In):
    name: str | None = None
    settings: dict[str, str] | None = None
    credentials: dict[str, SecretStr] | None = None
    prices: dict[str, MoneyIn] | None = None


class TermsIn(_In):
    """What a rule says. All are optional here; what has no default and is left out is answered by what to enter."""

    name: str | None = None
    products: list[str] | None = None
    inactive_days: int | None = Field(None, description="Unused for so many days, 30 to 3650; no default")
    route: str | None = Field(None, description="email, itsm or both; no default")
    decision_days: int | None = Field(None, description="1 to 60; no default")
    on_timeout: str | None = Field(None, description="freeze, keep or escalate; no default")
    grace_days: int | None = Field(None, description="1 to 90; no default")
    hand_over: bool | None = None
    dry_run: bool | None = None
    warn_only: list[str] | None = None
    cooldown_days: int | None = None
    young_days: int | None = None
    schedule: str | None = Field(None, description="Five cron fields in the rule's time zone; empty for none")
    time_zone: str | None = None
    grace_calendar: str | None = Field(None, description="How grace days count: calendar (all) or business")
    no_reclaim_before_days_off: bool | None = Field(
        None, description="Free no seat on a Friday, a weekend, a day off or the day before one"
    )
    days_off: list[str] | None = Field(None, description="Holidays as dates, besides Saturdays and Sundays")
    reclaim_by: str | None = Field(None, description="deactivate, downgrade, or task (a person frees the seat)")
    downgrade_product: str | None = Field(None, description="Key of the cheaper licence; needed to downgrade")
    downgrade_name: str | None = None
    downgrade_profile: str | None = Field(None, description="Its profile; not needed if the licence has just one")
    warn_reasons: dict[str, str] | None = Field(
        None, description="For each check in warn_only, why it may warn instead of skipping; needed"
    )
    fallback_approver: str | None = Field(
        None, description="Address of whoever is asked when the manager is missing, inactive or the holder"
    )
    fallback_name: str | None = None
    hand_over_to: str | None = Field(
        None, description="Id of the user who takes open records over; empty: the holder's manager"
    )
    act_from: str | None = Field(None, description="Something is taken away only from this time of day, such as 09:00")
    act_until: str | None = Field(None, description="And until this one, on working days in the rule's time zone")
    applies_to: str | None = Field(None, description="subscription or installed; what the connection has, if left out")
    condition: str | None = Field(
        None, description="last_used (before inactive_days) or hours (fewer than minimum_hours in the window)"
    )
    minimum_hours: Decimal | str | None = Field(None, description="Hours that keep a seat; less flags it")
    window_unit: str | None = Field(None, description="days, or months: complete calendar months in the time zone")
    window_count: int | None = Field(None, description="30 to 3650 days, or 1 to 24 months")
    include_no_activity: bool | None = Field(
        None, description="Count the absence of any record as no use, where sources prove that they saw everybody"
    )
    channels: list[str] | None = Field(
        None,
        description="ui, mobile, api, sso: only use through these counts, and sources have to prove that there was "
        "none; empty: any use counts, and what the connected system says is proof enough",
    )
    preferred_sources: list[str] | None = Field(
        None, description="Sources in the order in which their hours count; others come after them, by name"
    )
    filter: str | None = Field(None, description="Chooses among the seats, such as user/department eq 'Sales'")
    ask_first: str | None = Field(None, description="manager or holder; the holder by mail only")
    desk: str | None = Field(None, description="Id of the service desk that opens tickets; empty: the one that asks")
    most_a_day: int | None = Field(None, description="At most so many of its seats are frozen, and freed, in 24 hours")
    most_a_month: int | None = Field(None, description="And in 30 days; both within the connection's limits")
    holder_days: int | None = Field(None, description="Days the holder has before the manager is asked; 1 to 30")
    remind_days: list[int] | None = Field(None, description="Days after its delivery that a question is put again")
    most_flagged: int | None = Field(None, description="A scan that would flag more seats opens nothing")
    most_flagged_share: int | None = Field(
        None, description="Nor does one that would flag more of a hundred seats, 50 unless told otherwise"
    )


class RuleIn(TermsIn):
    connection_id: str


class RulePatch(TermsIn):
    version: int | None = Field(None, description="The version that was looked at; another one is refused")


class ScanIn(_In):
    rule_id: str
    dry_run: bool = Field(False, description="Rehearse even a rule that is live")
    accept_population: bool = Field(False, description="Believe a number of seats that is far from the last scan's")


class MoneyOut(_Out):
    amount: Decimal
    currency: str


class PersonOut(_Out):
    id: str
    name: str
    email: str | None


class TestOut(_Out):
    what: str
    ok: bool
    detail: str


class ConnectionOut(_Out):
    id: str
    name: str
    kind: str
    settings: dict[str, str]
    version: int
    created_at: datetime
    works: bool | None
    tested_at: datetime | None
    test_results: list[TestOut]
    prices: dict[str, MoneyOut] = {}
    capabilities: list[str] = Field([], description="seats, usage, freeze, reclaim, downgrade, hand_over: what it can")


class LicenceOut(_Out):
    product: str
    name: str
    total: int | None = Field(description="Seats bought; null if the system does not tell")
    used: int
    price: MoneyOut | None


class RuleOut(_Out):
    id: str
    connection_id: str
    connection_name: str
    status: str
    moved_by: str | None = Field(description="Who gave the rule its status")
    moved_at: datetime | None
    moved_why: str | None = Field(description="What befell the rule, such as the removal of its connection")
    version: int
    author: str
    created_at: datetime
    changed_at: datetime
    words: str = Field(description="What the rule flags, for people: what has, for example, not been used for ...")
    warning: str | None = Field(
        description="That its service desk is not connected, with what to do; it is kept as it is"
    )
    name: str
    products: list[str]
    inactive_days: int
    route: str
    decision_days: int
    on_timeout: str
    grace_days: int
    hand_over: bool
    dry_run: bool
    warn_only: list[str]
    cooldown_days: int
    young_days: int
    schedule: str | None
    time_zone: str
    grace_calendar: str
    no_reclaim_before_days_off: bool
    days_off: list[date]
    reclaim_by: str
    downgrade_product: str
    downgrade_name: str
    downgrade_profile: str
    warn_reasons: dict[str, str]
    fallback_approver: str
    fallback_name: str
    hand_over_to: str
    act_from: time | None
    act_until: time | None
    most_flagged: int | None
    most_flagged_share: int
    remind_days: list[int]
    ask_first: str
    holder_days: int
    filter: str
    product_filters: dict[str, str] = Field(description="Of single products; set where the rule's products are")
    desk: str
    most_a_day: int | None
    most_a_month: int | None
    applies_to: str
    condition: str
    minimum_hours: Decimal | None
    window_unit: str
    window_count: int | None
    include_no_activity: bool
    channels: list[str]
    preferred_sources: list[str]


class VersionOut(_Out):
    version: int
    author: str
    created_at: datetime
    terms: dict[str, Any]


class RuleWithVersions(RuleOut):
    versions: list[VersionOut]


class ChangeOut(_Out):
    field: str
    before: Any
    after: Any


class DiffOut(BaseModel):
    """What two versions of a rule say differently."""

    rule_id: str
    before: VersionOut
    after: VersionOut
    changes: list[ChangeOut]


class WithdrawIn(_In):
    reason: str


class WithdrawnOut(BaseModel):
    """How many open cases were taken back."""

    withdrawn: int


class ExclusionIn(_In):
    kind: Literal["person", "group", "department", "product", "connection"]
    value: str = Field(
        "", description="A holder's id or address, a group of the connection, a department, a licence's key or name"
    )
    connection_id: str | None = Field(None, description="Needed for a connection; else: on that connection only")
    reason: str
    expires_at: str | None = Field(None, description="A date (to its end, UTC) or an instant; without: until ended")


class ExclusionOut(_Out):
    id: str
    kind: str
    value: str
    connection_id: str | None
    connection_name: str | None
    reason: str
    author: str
    created_at: datetime
    expires_at: datetime | None
    last_day: date | None = Field(description="The last day on which it holds, in UTC, if it holds to that day's end")
    ended_at: datetime | None
    ended_by: str | None


class AddedExclusion(ExclusionOut):
    withdrawn: int = Field(description="Open cases that the exclusion took back")
    warning: str | None = Field(description="That nobody known goes by the id or address; it is kept nevertheless")


class RunOut(_Out):
    id: str
    rule_id: str
    rule_name: str
    rule_version: int | None
    connection_id: str
    connection_name: str
    asked_by: str
    due_at: datetime | None
    dry_run: bool = Field(
        validation_alias="rehearsal", description="Whether it is a rehearsal: by the rule, or by who asked for it"
    )
    status: str
    requested_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    expected: int
    percent: int
    pages: int
    seen: int
    used: int
    flagged: int
    skipped_by_check: dict[str, int] = Field(validation_alias="left_alone")
    missing: dict[str, str] = Field(description="Readings that failed, and why; nobody was flagged without them")
    stale: list[str] = Field(description="Sources of use that have fallen silent, each with what to do")
    uncompared: str | None = Field(
        description="Why the population was compared with that of no earlier scan; null if it was"
    )
    reason: str | None
    remedy: str | None
    acceptable: bool = Field(description="Whether scanning again with accept_population can help")
    attempts: int


class FindingOut(_Out):
    check: str
    outcome: str
    evidence: str


class SeatOut(_Out):
    connection_id: str
    product: str
    product_name: str
    holder: PersonOut
    department: str | None
    price: MoneyOut | None
    devices: list[str] = Field(description="Of installed software: where it is to be taken from")


class FoundOut(_Out):
    seat: SeatOut
    approver: PersonOut | None
    findings: list[FindingOut]
    last_used_at: datetime | None


class SparedOut(_Out):
    holder: PersonOut
    department: str | None
    product: str
    product_name: str
    finding: FindingOut


class HolderOut(PersonOut):
    department: str | None
    products: list[str]


class UseOut(_Out):
    """What sources of use say by a rule's condition, with the figures."""

    state: str = Field(description="USED, UNUSED or UNKNOWN; UNKNOWN flags nobody")
    reason: str
    last_used_at: datetime | None


class VerdictOut(BaseModel):
    """What one rule says about a seat."""

    rule_id: str
    rule_name: str
    rule_version: int
    rule_status: str
    result: str = Field(description="flagged, would_be_flagged, left_alone, unknown, used or not_meant")
    summary: str
    approver: PersonOut | None
    findings: list[FindingOut]
    use: UseOut
    device: str = Field(description="Where the seat is installed; empty for a subscription")


class ExplainedOut(BaseModel):
    """A seat as its system reports it now, and what each rule of its connection says about it."""

    connection_id: str
    holder: PersonOut
    product: str
    product_name: str
    department: str | None
    active: bool
    created_at: datetime
    last_used_at: datetime | None
    read_at: datetime
    verdicts: list[VerdictOut]


class StoppedOut(_Out):
    reason: str
    remedy: str


class PreviewOut(_Out):
    expected: int
    seen: int
    used: int
    flagged: int
    skipped_by_check: dict[str, int]
    missing: dict[str, str]
    stale: list[str]
    yearly: list[MoneyOut] = Field(description="What the flagged seats cost a year, one amount per currency")
    unpriced: int = Field(description="Flagged seats that the price book has no price for")
    seats: list[FoundOut] = Field(description="The first of the flagged seats")
    left_alone: list[SparedOut] = Field(description="The first of the unused seats that a check leaves alone")
    stopped: StoppedOut | None = Field(description="Why a scan would stop and open nothing")


class CandidateOut(_Out):
    case_id: str
    run_id: str
    rule_id: str
    rule_version: int
    connection_id: str
    holder: PersonOut
    department: str | None
    product: str
    product_name: str
    price: MoneyOut | None
    approver: PersonOut | None
    findings: list[FindingOut]
    last_used_at: datetime | None
    flagged_at: datetime
    dry_run: bool
    closed_at: datetime | None
    outcome: str | None
    devices: list[str]


class RuleSummary(_Out):
    rule_id: str
    rule_name: str
    run_id: str = Field(validation_alias="id")
    ended_at: datetime
    dry_run: bool = Field(validation_alias="rehearsal")
    seen: int
    used: int
    flagged: int
    skipped_by_check: dict[str, int] = Field(validation_alias="left_alone")


class Summary(BaseModel):
    """The last finished scan of each rule, and the sums over them."""

    seen: int
    used: int
    flagged: int
    skipped_by_check: dict[str, int]
    open: int
    rules: list[RuleSummary]


def routes(deps: Deps) -> Router:
    """Return the scanner's API."""
    router = Router(prefix="/api", tags=["scanner"])
    router.include_router(_connections(deps))
    router.include_router(_rules(deps))
    router.include_router(_scans(deps))
    router.include_router(_exclusions(deps))
    return router


def _connections(deps: Deps) -> Router:
    router = Router(prefix="/connections")

    @router.post("", status_code=201, dependencies=[Admin])
    async def add_connection(body: ConnectionIn, test: bool = True, force: bool = False) -> ConnectionOut:
        added = await actions.add_connection(
            deps,
            name=body.name,
            kind=body.kind,
            settings=body.settings,
            credentials=_revealed(body.credentials) or {},
            prices=_book(body.prices),
            test=test,
            force=force,
        )
        return await _shown_connection(deps, added)

    @router.get("", dependencies=[Viewer])
    async def list_connections() -> list[ConnectionOut]:
        async with deps.database.reading() as db:
            found = await store.connections(db)
        return [await _shown_connection(deps, connection) for connection in found]

    @router.get("/{connection_id}", dependencies=[Viewer])
    async def get_connection(connection_id: str) -> ConnectionOut:
        async with deps.database.reading() as db:
            found = await store.connection(db, connection_id)
        return await _shown_connection(deps, found)

    @router.patch("/{connection_id}", dependencies=[Admin])
    async def change_connection(
        connection_id: str, body: ConnectionPatch, test: bool = True, force: bool = False
    ) -> ConnectionOut:
        changed = await actions.change_connection(
            deps,
            connection_id,
            name=body.name,
            settings=body.settings,
            credentials=_revealed(body.credentials),
            prices=_book(body.prices),
            test=test,
            force=force,
        )
        return await _shown_connection(deps, changed)

    @router.delete("/{connection_id}", status_code=204)
    async def remove_connection(connection_id: str, admin: Admins) -> Response:
        await actions.remove_connection(deps, connection_id, by=admin.name)
        return Response(status_code=204)

    @router.post("/{connection_id}/test", dependencies=[Depends(require("operator"))])
    async def test_connection(connection_id: str) -> ConnectionOut:
        return await _shown_connection(deps, await actions.test_connection(deps, connection_id))

    @router.get("/{connection_id}/licences", dependencies=[Viewer])
    async def list_licences(connection_id: str) -> list[LicenceOut]:
        found = await actions.licences(deps, connection_id)
        async with deps.database.reading() as db:
            prices = await store.prices(db, connection_id)
        return [
            LicenceOut(
                product=licence.product,
                name=licence.name,
                total=licence.total,
                used=licence.used,
                price=_money(price_of(prices, licence.product, licence.name)),
            )
            for licence in found
        ]

    return router


def _rules(deps: Deps) -> Router:
    router = Router()

    async def shown(rule: Rule) -> RuleOut:
        async with deps.database.reading() as db:
            return _shown_rule(rule, await desk_store.desks(db))

    @router.post("/rules", status_code=201)
    async def add_rule(body: RuleIn, operator: Editor) -> RuleOut:
        return await shown(await actions.add_rule(deps, body.connection_id, _given(body), author=operator.name))

    @router.get("/rules", dependencies=[Viewer])
    async def list_rules() -> list[RuleOut]:
        async with deps.database.reading() as db:
            heard = await desk_store.desks(db)
            return [_shown_rule(rule, heard) for rule in await store.rules(db)]

    @router.get("/rules/{rule_id}", dependencies=[Viewer])
    async def get_rule(rule_id: str) -> RuleWithVersions:
        async with deps.database.reading() as db:
            rule = await store.rule(db, rule_id)
            versions = await store.rule_versions(db, rule_id)
            heard = await desk_store.desks(db)
        return RuleWithVersions(
            **_shown_rule(rule, heard).model_dump(),
            versions=[_version(one) for one in versions],
        )

    @router.patch("/rules/{rule_id}")
    async def change_rule(rule_id: str, body: RulePatch, operator: Editor) -> RuleOut:
        changed = await actions.change_rule(deps, rule_id, _given(body), author=operator.name, version=body.version)
        return await shown(changed)

    @router.post("/rules/{rule_id}/submit")
    async def submit_rule(rule_id: str, operator: Editor) -> RuleOut:
        """Have a draft reviewed."""
        return await shown(await actions.submit_rule(deps, rule_id, by=operator.name))

    @router.post("/rules/{rule_id}/activate")
    async def activate_rule(rule_id: str, operator: Editor) -> RuleOut:
        return await shown(await actions.activate_rule(deps, rule_id, by=operator.name))

    @router.post("/rules/{rule_id}/pause")
    async def pause_rule(rule_id: str, operator: Editor) -> RuleOut:
        return await shown(await actions.pause_rule(deps, rule_id, by=operator.name))

    @router.post("/rules/{rule_id}/withdraw-cases")
    async def withdraw_cases(rule_id: str, body: WithdrawIn, operator: Editor) -> WithdrawnOut:
        """Take every open case of a rule that is not active back; what is frozen is restored."""
        return WithdrawnOut(withdrawn=await actions.withdraw_cases(deps, rule_id, body.reason, by=operator.name))

    @router.get("/rules/{rule_id}/diff", dependencies=[Viewer])
    async def compare_versions(
        rule_id: str, before: VersionNumber | None = None, after: VersionNumber | None = None
    ) -> DiffOut:
        """Compare two versions of a rule; unless told otherwise, the current one with the one before it."""
        found = await actions.compare_versions(deps, rule_id, before=before, after=after)
        return DiffOut(
            rule_id=rule_id,
            before=_version(found.before),
            after=_version(found.after),
            changes=[ChangeOut.model_validate(change) for change in found.changes],
        )

    @router.get("/rules/{rule_id}/preview", dependencies=[Viewer])
    async def preview_rule(rule_id: str) -> PreviewOut:
        async with deps.database.reading() as db:
            rule = await store.rule(db, rule_id)
        return await _previewed(deps, rule.connection_id, rule.terms, rule.id)

    @router.post("/preview", dependencies=[Viewer])
    async def preview_terms(body: RuleIn) -> PreviewOut:
        """Preview a rule that is not saved; what does not decide who is flagged may be left out. Nothing is changed."""
        async with deps.database.reading() as db:
            kind = (await store.connection(db, body.connection_id)).kind
        return await _previewed(deps, body.connection_id, actions.terms_to_preview(_given(body), kind))

    @router.get("/explain", dependencies=[Viewer])
    async def explain_seat(connection_id: str, holder: Annotated[str, Query(max_length=200)]) -> ExplainedOut:
        """Say for one holder's seat, rule by rule and check by check, why it is flagged or not.

        The holder is an account's id, an e-mail address, or a part of a name that nobody else has.
        """
        return shown_explanation(await finding.explained(deps, connection_id, holder))

    @router.get("/holders", dependencies=[Viewer])
    async def find_holders(
        connection_id: str, q: Annotated[str, Query(min_length=1, max_length=200, description="As in explain")]
    ) -> list[HolderOut]:
        """Find holders by id, e-mail address or a part of the name, among the seats that were read so far."""
        async with deps.database.reading() as db:
            await store.connection(db, connection_id)
            return [HolderOut.model_validate(one) for one in await finding.holders(db, connection_id, q)]

    return router


def _exclusions(deps: Deps) -> Router:
    router = Router(prefix="/exclusions")

    @router.get("", dependencies=[Viewer])
    async def list_exclusions(past: bool = False) -> list[ExclusionOut]:
        """List the exclusions in force, the newest first; with `past` those that are over."""
        async with deps.database.reading() as db:
            found = await exclusion_store.exclusions(db, deps.clock.now(), past=past)
        return [ExclusionOut.model_validate(one) for one in found]

    @router.post("", status_code=201)
    async def add_exclusion(body: ExclusionIn, operator: Editor) -> AddedExclusion:
        added, withdrawn = await actions.add_exclusion(deps, body.model_dump(), author=operator.name)
        warning = await actions.protects_nobody(deps, added)
        return AddedExclusion(**ExclusionOut.model_validate(added).model_dump(), withdrawn=withdrawn, warning=warning)

    @router.delete("/{exclusion_id}")
    async def end_exclusion(exclusion_id: str, operator: Editor) -> ExclusionOut:
        """End an exclusion before it expires; it stays in the list of those that are over."""
        return ExclusionOut.model_validate(await actions.end_exclusion(deps, exclusion_id, by=operator.name))

    return router


def _scans(deps: Deps) -> Router:
    router = Router()

    @router.post("/scans", status_code=202)
    async def start_scan(
        body: ScanIn,
        operator: Editor,
        idempotency_key: Annotated[
            str, Header(max_length=255, description="Sent again, it answers with the scan that it started")
        ] = "",
    ) -> RunOut:
        run = await actions.start_scan(
            deps,
            body.rule_id,
            dry_run=body.dry_run,
            accept_population=body.accept_population,
            asked_by=operator.name,
            key=idempotency_key,
        )
        return RunOut.model_validate(run)

    @router.get("/scans", dependencies=[Viewer])
    async def list_scans(rule_id: str | None = None, limit: Annotated[int, Query(ge=1, le=500)] = 100) -> list[RunOut]:
        async with deps.database.reading() as db:
            return [RunOut.model_validate(run) for run in await store.runs(db, rule_id=rule_id, limit=limit)]

    @router.get("/scans/{run_id}", dependencies=[Viewer])
    async def get_scan(run_id: str) -> RunOut:
        async with deps.database.reading() as db:
            return RunOut.model_validate(await store.run(db, run_id))

    @router.get("/candidates", dependencies=[Viewer])
    async def list_candidates(
        rule_id: str | None = None,
        run_id: str | None = None,
        state: Literal["open", "closed"] | None = None,
        after: Annotated[str | None, Query(description="The last case id of the page before")] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> list[CandidateOut]:
        """List flagged seats in the order they were flagged in."""
        async with deps.database.reading() as db:
            found = await store.candidates(
                db,
                rule_id=rule_id,
                run_id=run_id,
                is_open=None if state is None else state == "open",
                after=after,
                limit=limit,
            )
        return [CandidateOut.model_validate(candidate) for candidate in found]

    @router.get("/summary", dependencies=[Viewer])
    async def summary() -> Summary:
        async with deps.database.reading() as db:
            runs = await store.last_finished(db)
            is_open = await store.open_count(db)
        left_alone: Counter[str] = Counter()
        for run in runs:
            left_alone.update(run.left_alone)
        return Summary(
            seen=sum(run.seen for run in runs),
            used=sum(run.used for run in runs),
            flagged=sum(run.flagged for run in runs),
            skipped_by_check=dict(left_alone),
            open=is_open,
            rules=[RuleSummary.model_validate(run) for run in runs],
        )

    return router


def _revealed(credentials: Mapping[str, SecretStr] | None) -> dict[str, str] | None:
    return None if credentials is None else {name: value.get_secret_value() for name, value in credentials.items()}


def _book(prices: Mapping[str, MoneyIn] | None) -> dict[str, Money] | None:
    if prices is None:
        return None
    return {product: read_price(product, price.amount, price.currency) for product, price in prices.items()}


def _money(money: Money | None) -> MoneyOut | None:
    return None if money is None else MoneyOut(amount=money.amount, currency=money.currency)


def _given(body: TermsIn) -> dict[str, object]:
    """Return what was sent; None is not the same as left out: it takes a schedule away."""
    return {name: value for name, value in body.model_dump(exclude_unset=True).items() if name in TermsIn.model_fields}


async def _shown_connection(deps: Deps, connection: Connection) -> ConnectionOut:
    async with deps.database.reading() as db:
        prices = await store.prices(db, connection.id)
    shown = ConnectionOut.model_validate(connection)
    shown.prices = {product: MoneyOut.model_validate(price) for product, price in prices.items()}
    shown.capabilities = sorted(capabilities(connection.kind, connection.settings))
    return shown


def _shown_rule(rule: Rule, heard: Sequence[Desk]) -> RuleOut:
    own = {name: getattr(rule, name) for name in RuleOut.model_fields if hasattr(rule, name)}
    said = {"words": rule.terms.words, "warning": doubt(heard, rule.terms)}
    return RuleOut.model_validate({**actions.shown_terms(rule.terms), **own, **said})


async def _previewed(deps: Deps, connection_id: str, terms: Terms, rule_id: str | None = None) -> PreviewOut:
    async with deps.database.reading() as db:
        connection = await store.connection(db, connection_id)
    return shown_preview(await preview(deps, connection, terms, rule_id))


def shown_preview(found: Preview) -> PreviewOut:
    """Return a preview as the API answers it."""
    tally = found.tally
    return PreviewOut(
        expected=tally.expected,
        seen=tally.seen,
        used=tally.used,
        flagged=tally.flagged,
        skipped_by_check=dict(tally.left_alone),
        missing=tally.missing,
        stale=tally.stale,
        yearly=_amounts(tally.money()),
        unpriced=tally.unpriced,
        seats=[FoundOut.model_validate(seat) for seat in found.found],
        left_alone=[SparedOut.model_validate(seat) for seat in found.spared],
        stopped=None if found.stopped is None else StoppedOut.model_validate(found.stopped),
    )


def shown_explanation(found: Explained) -> ExplainedOut:
    """Return an explanation as the API answers it."""
    seat = found.seat
    return ExplainedOut(
        connection_id=found.connection.id,
        holder=PersonOut.model_validate(seat.holder),
        product=seat.product,
        product_name=seat.product_name,
        department=seat.department,
        active=seat.active,
        created_at=seat.created_at,
        last_used_at=found.last_used_at,
        read_at=found.read_at,
        verdicts=[
            VerdictOut(
                rule_id=verdict.rule.id,
                rule_name=verdict.rule.terms.name,
                rule_version=verdict.rule.version,
                rule_status=verdict.rule.status,
                result=verdict.result,
                summary=verdict.summary,
                approver=PersonOut.model_validate(verdict.approver) if verdict.approver else None,
                findings=[FindingOut.model_validate(finding) for finding in verdict.findings],
                use=UseOut.model_validate(verdict.use),
                device=verdict.device,
            )
            for verdict in found.verdicts
        ],
    )


def _version(one: RuleVersion) -> VersionOut:
    return VersionOut(
        version=one.version, author=one.author, created_at=one.created_at, terms=actions.shown_terms(one.terms)
    )


def _amounts(amounts: Sequence[Money]) -> list[MoneyOut]:
    return [MoneyOut(amount=money.amount, currency=money.currency) for money in amounts]
