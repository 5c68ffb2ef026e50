"""The lifecycle's JSON API, under `/lifecycle/api`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from fastapi import Depends, Query
from msgspec.structs import asdict
from pydantic import BaseModel, ConfigDict, Field

from reclaim.common.db import Database
from reclaim.common.errors import Conflict, NotFound
from reclaim.common.routing import Router
from reclaim.lifecycle import console_store, queries, store
from reclaim.lifecycle.console import FilterIn, filters
from reclaim.lifecycle.domain import Case, Command, Decide, Reactivate, Rejected, Retry
from reclaim.lifecycle.submit import Submission, submit
from reclaim.web.auth import require
from reclaim.web.operators import Operator


class DecisionIn(BaseModel):
    """An operator's decision on a case."""

    model_config = ConfigDict(extra="forbid")

    decision: Literal["keep", "revoke", "downgrade"]
    reason: str = Field(min_length=1, max_length=2000)


class ReactivationIn(BaseModel):
    """Why a reclaimed seat is given back."""

    model_config = ConfigDict(extra="forbid")

    reason: str = Field(min_length=1, max_length=2000)


def shown(case: Case) -> dict[str, Any]:
    """Return a case as the API shows it."""
    document: dict[str, Any] = msgspec.to_builtins(case)
    return {**document, "open": case.open}


async def command(database: Database, case_id: str, operator: Operator, wanted: Command, evidence: str = "") -> Case:
    """Give an operator's command to a case and return the case as it is then. A refusal is recorded as well.

    Raises:
        NotFound: there is no such case.
        Conflict: the command does not fit its state.
    """
    async with database.unit() as unit:
        if case_id not in await store.load(unit.db, [case_id]):
            raise NotFound(f"There is no case {case_id}. Look it up in the list of cases.")
        submission = Submission(case_id, wanted, actor=operator.name, channel="console", evidence=evidence)
        (verdict,) = await submit(unit, [submission])
    # Only now: raised within the unit it would take the record of the refusal back.
    if isinstance(verdict, Rejected):
        raise Conflict(f"{verdict.reason[:1].upper()}{verdict.reason[1:]}.")
    return verdict.case


def router(database: Database) -> Router:
    """Return the routes of the API."""
    api = Router(prefix="/api", tags=["lifecycle"])

    @api.get("/cases", dependencies=[Depends(require("viewer"))])
    async def list_cases(
        given: Annotated[FilterIn, Depends(filters)],
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        after: Annotated[str | None, Query(description="`next` of the page before")] = None,
    ) -> dict[str, Any]:
        wanted = given.wanted()
        async with database.reading() as db:
            cases, following = await console_store.page(db, wanted, limit=limit, after=after)
            counts = await console_store.count_by_state(db, wanted)
        return {"cases": [shown(case) for case in cases], "next": following, "counts": counts}

    @api.get("/cases/{case_id}", dependencies=[Depends(require("viewer"))])
    async def show_case(case_id: str) -> dict[str, Any]:
        async with database.reading() as db:
            case = await queries.find(db, case_id)
            moments = await store.history(db, case_id)
            effects = await store.effects_of(db, case_id)
        history = [
            {**asdict(moment.link.entry), "position": moment.link.position, "hash": moment.link.hash}
            for moment in moments
        ]
        return {"case": shown(case), "history": history, "outstanding": effects}

    @api.post("/cases/{case_id}/decision")
    async def decide(
        case_id: str, wanted: DecisionIn, operator: Annotated[Operator, Depends(require("operator"))]
    ) -> dict[str, Any]:
        decision = Decide(wanted.decision, operator.name, "console", wanted.reason, database.clock.now())
        return shown(await command(database, case_id, operator, decision, wanted.reason))

    @api.post("/cases/{case_id}/reactivate")
    async def reactivate(
        case_id: str, wanted: ReactivationIn, operator: Annotated[Operator, Depends(require("operator"))]
    ) -> dict[str, Any]:
        asked = Reactivate(operator.name, wanted.reason)
        return shown(await command(database, case_id, operator, asked, wanted.reason))

    @api.post("/cases/{case_id}/retry")
    async def retry(case_id: str, operator: Annotated[Operator, Depends(require("operator"))]) -> dict[str, Any]:
        return shown(await command(database, case_id, operator, Retry(operator.name)))

    @api.get("/summary", dependencies=[Depends(require("viewer"))])
    async def summary() -> dict[str, Any]:
        async with database.reading() as db:
            return await queries.summary(db)

    return api
