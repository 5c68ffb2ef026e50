"""A file that is complete proves nothing of products that its source has never named."""

from __future__ import annotations

from decimal import Decimal

from reclaim.scanner.usage import Span, UsageCondition
from reclaim.scanner.usage_store import make_plan
from services.scanner.tests.feeds_world import USAGE, send
from services.scanner.tests.scanner_world import NOON, Scanner

UNDER_8 = UsageCondition(span=Span("months", 1), minimum_hours=Decimal(8), include_no_activity=True, channels=("ui",))
OCTOBER = {"first_day": "2026-10-01", "last_day": "2026-10-31", "complete": "true", "source": "sccm"}


async def unproven(scanner: Scanner, product: str, *components: str) -> tuple[str, ...]:
    async with scanner.deps.database.reading() as db:
        return (await make_plan(db, UNDER_8, product, components=components, now=NOON)).unproven


async def test_a_file_that_names_one_product_does_not_vouch_for_another(both: Scanner) -> None:
    await send(both, USAGE + "u1@acme.example,PC-1,WORD,,,2026-10,60,1,\n", **OCTOBER)
    assert await unproven(both, "WORD") == ()
    assert await unproven(both, "VISIO") == (
        "No source reports the use of VISIO. sccm has never named it, and so may not know it.",
    )
    (why,) = await unproven(both, "OFFICE", "WORD", "EXCEL")
    assert "EXCEL. sccm has never named it" in why
    await send(both, USAGE + "u1@acme.example,PC-1,EXCEL,,,2026-09,60,1,\n", source="sccm")
    assert await unproven(both, "OFFICE", "WORD", "EXCEL") == (), "it knows it, and nobody used it in October"


async def test_another_sources_records_of_a_product_are_not_ones_own(both: Scanner) -> None:
    await send(both, USAGE + "u1@acme.example,PC-1,VISIO,,,2026-10,60,1,\n", source="jamf")
    await send(both, USAGE + "u1@acme.example,PC-1,WORD,,,2026-10,60,1,\n", **OCTOBER)
    assert "sccm has never named it" in (await unproven(both, "VISIO"))[0]
