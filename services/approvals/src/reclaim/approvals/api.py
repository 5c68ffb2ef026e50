"""The JSON interface of the stage, under `/approvals/api`."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

from fastapi import Depends, Query
from pydantic import BaseModel, ConfigDict, Field

from reclaim.approvals import store
from reclaim.approvals.domain import Request
from reclaim.approvals.resend import resend
from reclaim.approvals.store import Filter, Mail, MailStatus
from reclaim.common.errors import NotFound
from reclaim.common.routing import Router
from reclaim.common.service import Runtime
from reclaim.web.auth import require
from reclaim.web.operators import PERSONAL_ROLE

MAX_PAGE = 200


class PersonOut(BaseModel):
    """Somebody as the connected system knows them."""

    id: str
    name: str
    email: str | None


class MoneyOut(BaseModel):
    """An amount in one currency."""

    amount: Decimal
    currency: str


class RequestOut(BaseModel):
    """One case as this stage knows it. An instant is null as long as the thing has not happened."""

    case_id: str
    status: Literal["not_ours", "open", "decided", "closed"]
    holder: PersonOut
    approver: PersonOut | None
    product: str
    product_name: str
    price_per_year: MoneyOut | None
    rule_name: str
    dry_run: bool
    last_used_at: datetime | None
    flagged_at: datetime
    delivered_at: datetime | None
    deadline: datetime | None
    ask_failure: str | None
    decision: Literal["keep", "revoke", "downgrade"] | None
    decided_at: datetime | None
    decided_by: str | None
    justification: str
    frozen_at: datetime | None
    grace_ends_at: datetime | None
    appealed_at: datetime | None
    appealed_by: str | None
    appeal_reason: str
    restored_at: datetime | None
    reclaimed_at: datetime | None
    reactivated_at: datetime | None
    closed_at: datetime | None
    outcome: str | None
    closed_reason: str | None

    @classmethod
    def of(cls, request: Request) -> RequestOut:
        seat, price = request.seat, request.price_per_year
        computed: dict[str, Any] = {
            "holder": PersonOut.model_validate(request.holder, from_attributes=True),
            "approver": PersonOut.model_validate(request.approver, from_attributes=True) if request.approver else None,
            "product": seat.product,
            "product_name": seat.product_name,
            "price_per_year": MoneyOut(amount=price.amount, currency=price.currency) if price else None,
            "rule_name": request.policy.rule_name,
            "dry_run": request.policy.dry_run,
        }
        same: dict[str, Any] = {name: getattr(request, name) for name in cls.model_fields if name not in computed}
        return cls(**computed, **same)


class MailOut(BaseModel):
    """One mail of a case. `last_error` is why it failed, or why it was put off."""

    id: str
    kind: str
    audience: str
    recipient: str
    status: MailStatus
    attempts: int
    last_error: str | None
    created_at: datetime
    finished_at: datetime | None

    @classmethod
    def of(cls, mail: Mail) -> MailOut:
        return cls.model_validate(mail, from_attributes=True)


class RequestDetail(RequestOut):
    """A request with its mails, oldest first."""

    mails: list[MailOut]


class RequestPage(BaseModel):
    """Requests, newest case first. Ask again with `before` = `next_before` for older ones, unless it is null."""

    requests: list[RequestOut]
    next_before: str | None


class SummaryOut(BaseModel):
    """Counts. `unreachable` are the open questions that nobody could be asked."""

    by_status: dict[str, int]
    by_decision: dict[str, int]
    appeals: int
    unreachable: int
    mails: dict[str, int]


class Resent(BaseModel):
    """How many mails were queued."""

    mails: int


class ErasureIn(BaseModel):
    """Whose address and browser are erased here; the reason is on record with the lifecycle's half of the erasure."""

    model_config = ConfigDict(extra="forbid")

    actor: str = Field(min_length=1, max_length=320)


class Erased(BaseModel):
    """Of how many answers address and browser were erased."""

    actor: str
    answers: int


def api_routes(runtime: Runtime) -> Router:
    """Return the routes."""
    router = Router(prefix="/api", tags=["approvals"])
    database = runtime.database

    @router.get("/requests", dependencies=[Depends(require("viewer"))])
    async def list_requests(
        status: Filter | None = None,
        q: Annotated[str, Query(max_length=200, description="part of a name, an address or a product")] = "",
        before: Annotated[str | None, Query(max_length=100)] = None,
        limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = MAX_PAGE,
    ) -> RequestPage:
        """List requests, newest first."""
        async with database.reading() as db:
            found = await store.page(db, which=status, text=q, before=before, limit=limit + 1)
        more = len(found) > limit
        return RequestPage(
            requests=[RequestOut.of(request) for request in found[:limit]],
            next_before=found[limit - 1].case_id if more else None,
        )

    @router.get("/requests/{case_id}", dependencies=[Depends(require("viewer"))])
    async def show_request(case_id: str) -> RequestDetail:
        """Show one request with its mails."""
        async with database.reading() as db:
            request = await store.get(db, case_id)
            mails = await store.mails_of(db, [case_id])
        if request is None:
            raise NotFound(f"No case {case_id} was asked about here.")
        sent = [MailOut.of(mail) for mail in mails.get(case_id, [])]
        return RequestDetail(**RequestOut.of(request).model_dump(), mails=sent)

    @router.post("/requests/{case_id}/resend", status_code=202, dependencies=[Depends(require("operator"))])
    async def send_again(case_id: str) -> Resent:
        """Ask the open question of a case again with fresh links, and send its failed mails again."""
        async with database.unit() as unit:
            return Resent(mails=await resend(unit, case_id))

    @router.post("/erase", dependencies=[Depends(require(PERSONAL_ROLE))])
    async def erase(wanted: ErasureIn) -> Erased:
        """Erase the address and browser of one person's answers; the answers stay."""
        async with database.unit() as unit:
            return Erased(actor=wanted.actor, answers=await store.erase_origins_of(unit.db, wanted.actor))

    @router.get("/summary", dependencies=[Depends(require("viewer"))])
    async def summary() -> SummaryOut:
        """Count requests by status and decision, appeals, and mails by status."""
        async with database.reading() as db:
            return SummaryOut.model_validate(await store.summary(db), from_attributes=True)

    return router
