"""The log and its tables: whatever comes, in whatever order, they say the same as arithmetic by hand."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from cryptography.fernet import Fernet
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reclaim.common import envelope, migrate
from reclaim.common.bus.inproc import InprocBus
from reclaim.common.clock import FixedClock
from reclaim.common.contracts import (
    CaseClosed,
    CaseEvent,
    CheaperLicence,
    Money,
    Person,
    Seat,
    SeatReactivated,
    SeatReclaimed,
    UserFrozen,
    UserRestored,
)
from reclaim.common.errors import Transient
from reclaim.common.service import Running
from reclaim.common.settings import Settings
from reclaim.savings import domain, jobs, store
from reclaim.savings.service import build

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
USD_75 = Money(amount=Decimal("75.00"), currency="USD")


def seat(case_id: str, price: Money | None = USD_75, product: str = "sfdc", department: str | None = "Sales") -> Seat:
    return Seat(
        connection_id="org-1",
        product=product,
        product_name=f"The {product}",
        holder=Person(id=f"user of {case_id}", name="Ann"),
        department=department,
        price=price,
    )


def frozen(case_id: str, at: datetime = NOW, *, dry_run: bool = False, **of_seat: Any) -> UserFrozen:
    return UserFrozen(
        case_id=case_id,
        seat=seat(case_id, **of_seat),
        decision="revoke",
        frozen_at=at,
        grace_ends_at=at + timedelta(days=14),
        dry_run=dry_run,
    )


def restored(case_id: str, at: datetime = NOW, *, dry_run: bool = False, **of_seat: Any) -> UserRestored:
    return UserRestored(
        case_id=case_id, seat=seat(case_id, **of_seat), actor="Ann", reason="", restored_at=at, dry_run=dry_run
    )


def reclaimed(
    case_id: str, at: datetime = NOW, *, rule: str = "r-1", dry_run: bool = False, **of_seat: Any
) -> SeatReclaimed:
    return SeatReclaimed(
        case_id=case_id,
        seat=seat(case_id, **of_seat),
        rule_id=rule,
        rule_name=f"Rule {rule}",
        method="deactivate",
        records_transferred=3,
        reclaimed_at=at,
        dry_run=dry_run,
    )


def reactivated(
    case_id: str, at: datetime = NOW, *, rule: str = "r-1", dry_run: bool = False, **of_seat: Any
) -> SeatReactivated:
    return SeatReactivated(
        case_id=case_id,
        seat=seat(case_id, **of_seat),
        rule_id=rule,
        rule_name=f"Rule {rule}",
        actor="Ann",
        reason="",
        reactivated_at=at,
        dry_run=dry_run,
    )


def closed(case_id: str, at: datetime = NOW, *, dry_run: bool = False, **of_seat: Any) -> CaseClosed:
    return CaseClosed(
        case_id=case_id,
        outcome="skipped",
        reason="the account is no longer active",
        closed_at=at,
        frozen=seat(case_id, **of_seat),
        dry_run=dry_run,
    )


def encoded(events: Iterable[CaseEvent]) -> list[bytes]:
    return [envelope.encode(event, source="lifecycle", time=NOW) for event in events]


@asynccontextmanager
async def service(data_dir: Path, database_url: str | None = None) -> AsyncIterator[Running]:
    given_settings = Settings(
        environment="test",
        data_dir=data_dir,
        secret_keys=["x" * 32],
        sealing_keys=[Fernet.generate_key().decode()],
        **({"database_url": database_url} if database_url else {}),
    )
    running = Running.start(build, "savings", given_settings, FixedClock(NOW), InprocBus())
    await migrate.upgrade(running.database.engine, running.service.migrations)
    try:
        yield running
    finally:
        await running.close()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.servers)])
async def running(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Running]:
    url = None if request.param == "sqlite" else request.getfixturevalue("fresh_database")
    async with service(tmp_path, url) as started:
        yield started


async def tell(running: Running, *events: CaseEvent) -> None:
    await running.inbox.receive([envelope.join(encoded(events))])
    assert await running.inbox.parked() == []


async def tables(running: Running) -> dict[str, list[tuple[Any, ...]]]:
    async with running.database.reading() as db:
        return {
            table.name: [tuple(row) for row in await db.execute(sa.select(table).order_by(*table.primary_key.columns))]
            for table in store.LIVE.tables()
        }


async def verified(running: Running) -> store.Verification:
    async with running.database.reading() as db:
        return await store.verify(db)


async def state_of_the_rebuild(running: Running) -> str:
    async with running.database.reading() as db:
        return str((await db.execute(sa.select(store.REBUILD.c.state))).scalar_one())


async def parked(running: Running) -> list[str]:
    return [event.reason for event in await running.inbox.parked()]


# ------------------------------------------------------------------------------------------------ the property

PRICES = (USD_75, Money(amount=Decimal("12.3456"), currency="EUR"), Money(amount=Decimal(0), currency="USD"), None)
START = datetime(2025, 12, 30, 22, 30, tzinfo=UTC)


@st.composite
def histories(draw: st.DrawFn) -> list[CaseEvent]:
    """Any stages of up to a few cases, each case with one seat, one rule, and live or rehearsed as a whole."""
    told: list[CaseEvent] = []
    for number in range(draw(st.integers(1, 6))):
        case_id = f"case-{number}"
        terms: dict[str, Any] = {
            "price": draw(st.sampled_from(PRICES)),
            "product": draw(st.sampled_from(("sfdc", "tableau"))),
            "department": draw(st.sampled_from(("Sales", "Ops", None))),
            "dry_run": draw(st.sampled_from((False, False, True))),
        }
        rule = draw(st.sampled_from(("r-1", "r-2")))
        hours = st.integers(0, 24 * 40).map(lambda n: START + timedelta(hours=n))
        if draw(st.booleans()):
            told.append(frozen(case_id, draw(hours), **terms))
        if draw(st.booleans()):
            told.append(restored(case_id, draw(hours), **terms))
        if draw(st.booleans()):
            told.append(reclaimed(case_id, draw(hours), rule=rule, **terms))
        if draw(st.booleans()):
            told.append(reactivated(case_id, draw(hours), rule=rule, **terms))
        if draw(st.booleans()):
            told.append(closed(case_id, draw(hours), **terms))
    return told


@st.composite
def deliveries(draw: st.DrawFn) -> tuple[list[CaseEvent], list[list[bytes]]]:
    """A history, and the batches in which it arrives: shuffled, each event up to three times, some under a new id."""
    history = draw(histories())
    bodies = encoded(history)
    again = draw(st.lists(st.sampled_from(bodies), max_size=6)) if bodies else []
    retold = encoded(draw(st.lists(st.sampled_from(history), max_size=3))) if history else []
    arriving = draw(st.permutations(bodies + again + retold))
    cuts = sorted(draw(st.lists(st.integers(0, len(arriving)), max_size=4)))
    return history, [arriving[a:b] for a, b in zip([0, *cuts], [*cuts, len(arriving)], strict=True)]


def model(history: Sequence[CaseEvent]) -> tuple[dict[Any, list[Any]], dict[str, tuple[Any, ...]]]:
    """The daily table and the seats, by hand: `{key: [freed, returned, delta]}` and `{case: (state, monthly)}`."""
    daily: dict[Any, list[Any]] = defaultdict(lambda: [0, 0, Decimal(0)])
    kinds: dict[str, set[str]] = defaultdict(set)
    for event in history:
        assert isinstance(event, UserFrozen | UserRestored | SeatReclaimed | SeatReactivated | CaseClosed)
        kinds[event.case_id].add(type(event).__name__)
        if event.dry_run or isinstance(event, UserFrozen | UserRestored | CaseClosed):
            continue
        at = event.reclaimed_at if isinstance(event, SeatReclaimed) else event.reactivated_at
        price = event.seat.price
        line = daily[
            at.date(),
            price.currency if price else "",
            event.seat.connection_id,
            event.seat.product,
            event.seat.department or "",
            event.rule_id,
        ]
        freed = isinstance(event, SeatReclaimed)
        line[0 if freed else 1] += 1
        line[2] += (price.amount if freed else -price.amount) if price else Decimal(0)
    order = (
        ("SeatReactivated", "reactivated"),
        ("SeatReclaimed", "freed"),
        ("UserRestored", "restored"),
        ("CaseClosed", "closed"),
        ("UserFrozen", "frozen"),
    )
    prices = {event.case_id: (getattr(event, "seat", None) or event.frozen).price for event in history}  # type: ignore[attr-defined]
    seats = {
        case: (next(state for kind, state in order if kind in told), prices[case].amount if prices[case] else None)
        for case, told in kinds.items()
    }
    return daily, seats


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(delivery=deliveries(), chunk=st.integers(1, 9))
def test_any_delivery_gives_the_model_and_a_rebuild_gives_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory, delivery: tuple[list[CaseEvent], list[list[bytes]]], chunk: int
) -> None:
    history, batches = delivery

    async def check() -> None:
        async with service(tmp_path_factory.mktemp("savings")) as running:
            for batch in batches:
                await running.inbox.receive([envelope.join(batch)])
            live = await tables(running)
            daily, seats = model(history)
            assert {row[:6]: list(row[6:]) for row in live["savings_daily"]} == daily
            assert {row[0]: (row[1], row[7]) for row in live["seat_saving"]} == seats
            found = await verified(running)
            assert found.ok
            assert found.events == len(history)
            await jobs.rebuild(running.database, requested_by="test", chunk=chunk)
            assert await tables(running) == live
            assert (await verified(running)).ok

    asyncio.run(check())


# ------------------------------------------------------------------------------------------------ fixed cases


async def test_the_migration_makes_what_the_code_declares(running: Running) -> None:
    assert await migrate.differences(running.database.engine, running.service.metadata) == []
    await jobs.rebuild(running.database, requested_by="test")
    assert await migrate.differences(running.database.engine, running.service.metadata) == []


@pytest.mark.parametrize("backwards", [False, True])
async def test_a_reactivation_nets_out_whichever_comes_first(running: Running, backwards: bool) -> None:
    story = [frozen("c"), reclaimed("c", NOW - timedelta(days=30)), reactivated("c", NOW - timedelta(days=3))]
    for event in reversed(story) if backwards else story:
        await tell(running, event)
    content = await tables(running)
    assert sum(row[8] for row in content["savings_daily"]) == 0
    assert [(row[6], row[7]) for row in content["savings_daily"]] == [(1, 0), (0, 1)]
    assert [row[1] for row in content["seat_saving"]] == ["reactivated"]
    assert (await verified(running)).ok


async def test_a_price_that_changed_in_between_still_nets_out(running: Running) -> None:
    await tell(running, reclaimed("c"))
    dearer = Money(amount=Decimal(90), currency="EUR")
    await tell(running, reactivated("c", rule="r-2", price=dearer, product="other", department=None))
    daily = (await tables(running))["savings_daily"]
    assert [row[1:] for row in daily] == [("USD", "org-1", "sfdc", "Sales", "r-1", 1, 1, Decimal("0.0000"))]


async def pending(running: Running) -> list[tuple[int, Decimal]]:
    async with running.database.reading() as db:
        totals = await store.seat_totals(db, domain.Period.of(2026, NOW), None)
    return [(row.pending, row.pending_monthly) for row in totals]


@pytest.mark.parametrize("backwards", [False, True])
async def test_a_case_that_closes_takes_what_it_might_have_saved_away(running: Running, backwards: bool) -> None:
    story = [frozen("c"), closed("c")]
    for event in reversed(story) if backwards else story:
        await tell(running, event)
    assert await pending(running) == [(0, Decimal("0.0000"))]
    live = await tables(running)
    assert [row[1] for row in live["seat_saving"]] == ["closed"]
    assert live["savings_daily"] == []
    await jobs.rebuild(running.database, requested_by="test")
    assert await tables(running) == live
    assert (await verified(running)).ok


async def test_a_case_that_closes_without_a_freeze_is_none_of_ours(running: Running) -> None:
    await tell(running, CaseClosed(case_id="c", outcome="kept", reason="kept", closed_at=NOW))
    assert (await verified(running)).events == 0


def cheaper(price: Money | None) -> CheaperLicence:
    return CheaperLicence(product="aul", product_name="Platform", price=price)


@pytest.mark.parametrize(
    ("price", "saved"),
    [
        (Money(amount=Decimal(25), currency="USD"), Decimal("50.0000")),
        (Money(amount=Decimal(75), currency="USD"), Decimal("0.0000")),
        (Money(amount=Decimal(25), currency="EUR"), None),
        (Money(amount=Decimal(76), currency="USD"), None),
        (None, None),
    ],
)
async def test_a_downgrade_saves_the_difference(running: Running, price: Money | None, saved: Decimal | None) -> None:
    target = cheaper(price)
    told = msgspec.structs.replace(reclaimed("c"), method="downgrade", downgrade_to=target)
    await tell(running, msgspec.structs.replace(frozen("c"), downgrade_to=target))
    assert await pending(running) == [(1, saved if saved is not None else Decimal("0.0000"))]
    await tell(running, told)
    content = await tables(running)
    assert [(row[0], row[7]) for row in content["seat_saving"]] == [("c", saved)]
    assert [row[8] for row in content["savings_daily"]] == [saved or Decimal("0.0000")]
    await tell(running, msgspec.structs.replace(reactivated("c"), downgrade_to=target))
    assert sum(row[8] for row in (await tables(running))["savings_daily"]) == 0
    assert (await verified(running)).ok


async def test_a_downgrade_to_nobody_knows_what_has_no_price(running: Running) -> None:
    await tell(running, msgspec.structs.replace(reclaimed("c"), method="downgrade"))
    assert [row[7] for row in (await tables(running))["seat_saving"]] == [None]


async def test_the_same_fact_under_two_ids_is_booked_once(running: Running) -> None:
    await tell(running, reclaimed("c"), reclaimed("c"))
    await tell(running, reclaimed("c"))
    assert [row[6:] for row in (await tables(running))["savings_daily"]] == [(1, 0, Decimal("75.0000"))]
    assert (await verified(running)).events == 1


async def test_rehearsals_are_logged_and_never_counted(running: Running) -> None:
    await tell(running, frozen("c", dry_run=True), reclaimed("c", dry_run=True), frozen("d"))
    content = await tables(running)
    assert content["savings_daily"] == []
    async with running.database.reading() as db:
        assert await store.rehearsed(db) == {"freed": 1}
        period = domain.Period.of(2026, NOW)
        assert [row.pending for row in await store.seat_totals(db, period, None)] == [1]
    assert (await verified(running)).events == 3


@pytest.mark.parametrize(
    "price",
    [
        Money(amount=Decimal(-1), currency="USD"),
        Money(amount=Decimal("NaN"), currency="USD"),
        Money(amount=Decimal("1e30"), currency="USD"),
        Money(amount=Decimal(1), currency=""),
        Money(amount=Decimal(1), currency="usd"),
    ],
)
async def test_what_is_no_price_is_parked_and_its_neighbours_are_booked(running: Running, price: Money) -> None:
    await running.inbox.receive([envelope.join(encoded([reclaimed("good"), reclaimed("bad", price=price)]))])
    assert ["price book" in reason for reason in await parked(running)] == [True]
    assert [row[0] for row in (await tables(running))["seat_saving"]] == ["good"]


async def test_names_are_the_ones_told_last(running: Running) -> None:
    await tell(running, reclaimed("a"))
    renamed = reclaimed("b")
    await tell(
        running, SeatReclaimed(**{**{f: getattr(renamed, f) for f in renamed.__struct_fields__}, "rule_name": "New"})
    )
    async with running.database.reading() as db:
        assert await store.names(db, "rule") == {"r-1": "New"}
        assert await store.names(db, "product") == {"sfdc": "The sfdc"}


async def test_the_check_sees_a_tampered_table_and_a_rebuild_mends_it(running: Running) -> None:
    await tell(running, reclaimed("a"), reclaimed("b"))
    before = await tables(running)
    async with running.database.unit() as unit:
        await unit.db.execute(sa.update(store.LIVE.daily).values(monthly_delta=Decimal(1)))
        await unit.db.execute(sa.delete(store.LIVE.seats).where(store.LIVE.seats.c.case_id == "a"))
    found = await verified(running)
    assert not found.ok
    assert found.differing == {"savings_daily": 2, "seat_saving": 1, "savings_name": 0}
    assert [sums.agree for sums in found.sums] == [False]
    await jobs.rebuild(running.database, requested_by="test")
    assert await tables(running) == before
    assert (await verified(running)).ok


async def test_the_check_sees_a_gap(running: Running) -> None:
    await tell(running, reclaimed("a"), reclaimed("b"), reclaimed("c"))
    async with running.database.unit() as unit:
        await unit.db.execute(sa.delete(store.EVENT_LOG).where(store.EVENT_LOG.c.position == 2))
    assert not (await verified(running)).gap_free


async def test_events_that_come_during_a_rebuild_are_in_it_and_a_cut_rebuild_goes_on(running: Running) -> None:
    await tell(running, *(reclaimed(f"case-{n}") for n in range(10)))
    async with running.database.unit() as unit:
        assert await store.request_rebuild(unit.db, "test", NOW)
        assert not await store.request_rebuild(unit.db, "test", NOW)
    assert await jobs.step(running.database, 4)
    assert await jobs.step(running.database, 4)
    await tell(running, reactivated("case-1"), reclaimed("case-10"))

    async def killed_before_the_commit() -> None:
        async with running.database.unit() as unit:
            await store.rebuild_step(unit.db, 4, NOW)
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        await killed_before_the_commit()
    steps = 0
    while await jobs.step(running.database, 4):
        await tell(running, reclaimed(f"late-{steps}"))
        steps += 1
    async with running.database.reading() as db:
        status = await store.rebuild_status(db)
    assert status is not None
    assert status.state == "done"
    found = await verified(running)
    assert found.ok
    assert found.events == 12 + steps


async def test_the_views_show_the_new_tables_after_a_rebuild(running: Running) -> None:
    await tell(
        running, reclaimed("a", NOW - timedelta(days=40)), reclaimed("b"), frozen("c"), frozen("d", dry_run=True)
    )

    async def shown() -> dict[str, list[tuple[Any, ...]]]:
        async with running.database.reading() as db:
            views = {
                "report_savings_daily": "day, currency, product_name, rule_name, seats_freed, monthly_delta",
                "report_savings_monthly": "month, currency, product_name, rule_name, seats_freed, monthly_delta",
                "report_seat_saving": "case_id, state, currency, product_name, rule_name, monthly",
            }
            return {
                view: [
                    tuple(map(_plain, row)) for row in await db.execute(sa.text(f"SELECT {c} FROM {view} ORDER BY 1"))
                ]
                for view, c in views.items()
            }

    await jobs.rebuild(running.database, requested_by="test")
    await tell(running, reactivated("b"))
    assert await shown() == {
        "report_savings_daily": [
            ("2026-10-12", "USD", "The sfdc", "Rule r-1", 1, 75.0),
            ("2026-11-21", "USD", "The sfdc", "Rule r-1", 1, 0.0),
        ],
        "report_savings_monthly": [
            ("2026-10-01", "USD", "The sfdc", "Rule r-1", 1, 75.0),
            ("2026-11-01", "USD", "The sfdc", "Rule r-1", 1, 0.0),
        ],
        "report_seat_saving": [
            ("a", "freed", "USD", "The sfdc", "Rule r-1", 75.0),
            ("b", "reactivated", "USD", "The sfdc", "Rule r-1", 75.0),
            ("c", "frozen", "USD", "The sfdc", None, 75.0),
        ],
    }


def _plain(value: Any) -> Any:
    if isinstance(value, date):
        return value.isoformat()
    return float(value) if isinstance(value, Decimal) else value


async def test_a_batch_takes_a_constant_number_of_statements(running: Running) -> None:
    counts = []
    statements: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        statements.append(statement)

    sa.event.listen(running.database.engine.sync_engine, "before_cursor_execute", note)
    for size in (1, 200):
        statements.clear()
        await tell(running, *(reclaimed(f"{size}-{n}") for n in range(size)))
        counts.append(len(statements))
    assert counts[0] == counts[1]


@pytest.mark.servers
async def test_a_swap_gives_way_to_a_long_query(
    fresh_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "SWAP_WAITS", "50ms")
    async with service(tmp_path, fresh_database) as running:
        await tell(running, reclaimed("a"))
        before = await tables(running)
        async with running.database.unit() as unit:
            await store.request_rebuild(unit.db, "test", NOW)
        async with running.database.reading() as reader:
            await reader.execute(sa.select(store.LIVE.daily))
            while await state_of_the_rebuild(running) != "days":
                await jobs.step(running.database, 100)
            with pytest.raises(Transient, match="long query"):
                await jobs.step(running.database, 100)
            await tell(running, reclaimed("b"))
        while await jobs.step(running.database, 100):
            pass
        assert (await verified(running)).ok
        assert (await tables(running))["savings_daily"] != before["savings_daily"]


@pytest.mark.servers
async def test_two_consumers_leave_no_gap(fresh_database: str, tmp_path: Path) -> None:
    async with service(tmp_path, fresh_database) as one, service(tmp_path, fresh_database) as other:
        bodies = encoded(event for n in range(300) for event in (reclaimed(f"case-{n}"), reactivated(f"case-{n}")))
        batches = [envelope.join(bodies[n : n + 12]) for n in range(0, len(bodies), 12)]

        async def consume(running: Running, messages: list[bytes]) -> None:
            for message in messages:
                await running.inbox.receive([message])

        await asyncio.gather(
            consume(one, batches), consume(other, batches[::-1]), jobs.rebuild(one.database, requested_by="t", chunk=50)
        )
        found = await verified(one)
        assert found.ok
        assert found.events == 600
        assert found.sums == [store.CurrencySums("USD", Decimal(0), Decimal(0), Decimal(0))]
