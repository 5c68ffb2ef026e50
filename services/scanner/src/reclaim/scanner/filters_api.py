"""Filters over HTTP: what a text says or what is wrong with it, and the fields there are.

Neither changes anything; a filter is kept by the rule or the suite that it is sent to.
"""

from __future__ import annotations

from typing import Any

from fastapi import Depends
from pydantic import BaseModel, ConfigDict, Field

from reclaim.common.routing import Router
from reclaim.scanner import known_seats
from reclaim.scanner.filters import builder
from reclaim.scanner.filters.checks import MOST_CHARACTERS, MOST_LEVELS, MOST_VALUES, Problem
from reclaim.scanner.filters.fields import FIELDS, KINDS, Kind
from reclaim.scanner.filters.text import FUNCTIONS, read, show
from reclaim.scanner.filters.tree import COMPARISONS, Condition, dump
from reclaim.scanner.ports import Deps
from reclaim.web.auth import require


class FilterIn(BaseModel):
    model_config = ConfigDict(extra="forbid")

    kind: Kind = Field(description="What the rule applies to")
    filter: str = Field(description="The filter as text", max_length=10 * MOST_CHARACTERS)
    count: bool = Field(False, description="Also count what it says about the seats that were read last")


class ProblemOut(BaseModel):
    at: int = Field(description="The first character's place in the text, from 0")
    length: int
    message: str


class CountOut(BaseModel):
    chosen: int
    left: int
    unknown: int = Field(description="Seats of which it cannot be told; they are not chosen")


class FilterOut(BaseModel):
    valid: bool
    canonical: str | None = Field(description="The filter in the form in which it is kept")
    tree: Any = None
    simple: bool = Field(description="Whether it fits into the rows of the builder")
    problems: list[ProblemOut]
    seats: CountOut | None = None


class FieldOut(BaseModel):
    path: str
    label: str
    type: str


class FieldsOut(BaseModel):
    fields: dict[str, list[FieldOut]] = Field(description="By what a rule applies to")
    operators: list[str]
    functions: list[str]
    most_characters: int = MOST_CHARACTERS
    most_levels: int = MOST_LEVELS
    most_values: int = MOST_VALUES


def routes(deps: Deps) -> Router:
    """Return the routes of filters, for the scanner's API."""
    router = Router(prefix="/api/filters", tags=["scanner"])

    @router.get("/fields", dependencies=[Depends(require("viewer"))])
    async def list_fields() -> FieldsOut:
        return FieldsOut(
            fields={
                kind: [FieldOut(path=one.path, label=one.label, type=one.type) for one in FIELDS[kind].values()]
                for kind in KINDS
            },
            operators=[*COMPARISONS, "in"],
            functions=list(FUNCTIONS),
        )

    @router.post("/validate", dependencies=[Depends(require("viewer"))])
    async def validate(body: FilterIn) -> FilterOut:
        """Say what a filter means, or what is wrong with it and where. An invalid one is a normal answer here."""
        found = read(body.filter, body.kind)
        if found.tree is None:
            return FilterOut(valid=False, canonical=None, simple=False, problems=list(map(_problem, found.problems)))
        return FilterOut(
            valid=True,
            canonical=show(found.tree),
            tree=dump(found.tree),
            simple=builder.unbuild(found.tree) is not None,
            problems=[],
            seats=await _counted(deps, found.tree, body.kind) if body.count else None,
        )

    return router


def _problem(problem: Problem) -> ProblemOut:
    return ProblemOut(at=problem.at, length=problem.length, message=problem.message)


async def _counted(deps: Deps, tree: Condition, kind: Kind) -> CountOut:
    async with deps.database.reading() as db:
        matched = await known_seats.match(db, tree, kind, deps.clock.now())
    return CountOut(chosen=matched.chosen, left=matched.left, unknown=matched.unknown)
