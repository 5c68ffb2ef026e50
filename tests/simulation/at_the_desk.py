"""What people do at the service desk of a history, and what must be so on its tickets in the end."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Awaitable, Callable

import sqlalchemy as sa

from reclaim.common.security import Sealer
from reclaim.connectors.itsm.fake import FakeTicket
from reclaim.itsm_gateway import delivery_store, ticket_store
from reclaim.itsm_gateway.delivery_store import WEBHOOK_DELIVERY, Arrival
from reclaim.itsm_gateway.desks import Desks
from reclaim.itsm_gateway.domain import of_reference
from reclaim.itsm_gateway.hints import Hint
from reclaim.itsm_gateway.intake import HANDLE
from reclaim.itsm_gateway.ticket_store import TICKET, TICKET_WORD
from reclaim.itsm_gateway.ticketing import OPEN, TELL
from tests.simulation.desk import DESK, PLATFORM, Hook, stored
from tests.simulation.invariants import Instant, Known
from tests.simulation.world import SEALING, World

GATEWAY = "itsm-gateway"
AWAITED = "awaiting_fulfilment"


async def connect(world: World) -> None:
    """Connect the desk, or enter its credentials anew: what failed there is tried again."""
    running = world.processes[GATEWAY].running

    async def enter() -> None:
        sealer = Sealer([SEALING])
        connected = Desks(running.database, sealer, world.settings.outgoing())
        async with running.database.unit() as unit:
            before = await ticket_store.desk(unit.db, DESK)
            await connected.store(unit, before or stored(sealer, unit.now), "otto")
            unit.wake(OPEN)
            unit.wake(TELL)

    await world.run(world.processes[GATEWAY], "console: enter the desk's credentials", enter())


async def mend(world: World) -> None:
    """Let the desk accept us again, and somebody enter credentials that are good."""
    world.desk.revoked = False
    await connect(world)


def acts(world: World) -> list[tuple[float, Callable[[World], Awaitable[None]]]]:
    """Return what may be done at the desk now, and how likely each is."""
    site = world.desk
    choices: list[tuple[float, Callable[[World], Awaitable[None]]]] = [(0.6 if site.revoked else 0.1, _credentials)]
    if site.fake.tickets:
        choices.append((2.5, _somebody_answers))
    if site.hooks:
        choices.append((2.0, _a_webhook_comes))
    return choices


async def _credentials(world: World) -> None:
    if world.desk.revoked:
        await mend(world)
    else:
        world.happened("desk: credentials revoked")
        world.desk.revoked = True


async def _somebody_answers(world: World) -> None:
    site, chance = world.desk, world.chance
    tickets = site.tickets()
    ticket = chance.choices(tickets, [0.3 if _is_over(world, each) else 1.0 for each in tickets])[0]
    case_id, kind = of_reference(ticket.case_id)
    case = world.judge.cases.get(case_id)
    if case is None:
        return
    before, was_closed = site.reading(ticket), ticket.closed
    what = _on_a_task(world, ticket, case) if kind == "task" else _on_a_question(world, ticket)
    world.happened(f"ticket: {what}")
    world.log(f"  {case.holder}: {what} on T-{ticket.number}, which says {site.reading(ticket)}")
    if what == "deleted":
        return
    at, after = Instant(world.true, world.true), site.reading(ticket)
    if was_closed and not ticket.closed:
        case.sent.append(("keep", at))
        # Before we have closed it, nobody has read there that the seat is frozen, and what reopening would mean.
        if kind == "question" and ticket.closings and world.shown.get(case_id) in {"frozen", "in_grace"}:
            site.appeals[ticket.case_id] = world.true
    if after != before and after in {"keep", "revoke", "downgrade"}:
        means_revoke = after == "downgrade" and case.policy.downgrade_to is None
        case.sent.append(("revoke" if means_revoke else after, at))


def _is_over(world: World, ticket: FakeTicket) -> bool:
    case_id, _ = of_reference(ticket.case_id)
    return world.shown.get(case_id) in {"reclaimed", "kept", "restored", "cancelled", "skipped", "reactivated"}


def _on_a_question(world: World, ticket: FakeTicket) -> str:
    site, chance = world.desk, world.chance
    if ticket.closed and chance.random() < 0.6:
        site.reopen(ticket)
        return "reopened"
    what = chance.choices(
        ("keep", "revoke", "downgrade", "changed their mind", "closed", "deleted"), (2, 5, 0.3, 0.7, 0.7, 0.15)
    )[0]
    match what:
        case "changed their mind":
            said = site.reading(ticket)
            site.untag(ticket)
            site.tag(ticket, "keep" if said == "revoke" else "revoke")
        case "closed":
            site.close(ticket)
        case "deleted":
            site.delete(ticket)
        case answer:
            site.tag(ticket, answer)
            if chance.random() < 0.4:
                site.close(ticket)
    return what


def _on_a_task(world: World, ticket: FakeTicket, case: Known) -> str:
    site, chance = world.desk, world.chance
    if ticket.closed:
        site.reopen(ticket)
        return "reopened"
    what = chance.choices(("done", "given up", "keep"), (3, 1, 0.5))[0]
    if what == "keep":
        site.tag(ticket, "keep")
        return what
    if what == "done":
        user = world.org.users[case.holder]
        if user.active and world.shown.get(case.id) == AWAITED and chance.random() < 0.8:
            world.org.person(case.holder, active=False)
        case.done += 1
        site.tag(ticket, "done")
    site.close(ticket)
    return what


async def _a_webhook_comes(world: World) -> None:
    """Deliver one of those on their way, in no order; one that is not taken is sent again."""
    hook = world.chance.choice(world.desk.hooks)
    step = await world.run(world.processes[GATEWAY], f"webhook of {hook.number}", _take(world, hook))
    if step.task is not None and step.task.done() and step.error is None:
        world.desk.hooks.remove(hook)


async def _take(world: World, hook: Hook) -> None:
    webhook_id = world.next_id()
    arrival = Arrival(
        connection_id=DESK,
        platform=PLATFORM,
        webhook_id=webhook_id,
        secret_id=None,
        once=(),
        body_hash=hashlib.sha256(webhook_id.encode()).hexdigest(),
        hint=Hint(hook.reference, hook.number, hook.claims, "Pat", "from the ticket"),
    )
    async with world.processes[GATEWAY].running.database.unit() as unit:
        await delivery_store.add_deliveries(unit.db, [arrival], unit.now)
        unit.wake(HANDLE)


# The end.


async def waits(world: World) -> int:
    """Return how much is still to be opened, told or handled."""
    here = TICKET.c.reference == TICKET_WORD.c.reference
    to_tell = sa.select(sa.func.count()).select_from(TICKET_WORD).join(TICKET, here)
    counted = (
        sa.select(sa.func.count()).select_from(TICKET).where(TICKET.c.state == "wanted"),
        to_tell.where(TICKET_WORD.c.state == "waiting", TICKET.c.key.is_not(None)),
        sa.select(sa.func.count()).select_from(WEBHOOK_DELIVERY).where(WEBHOOK_DELIVERY.c.state == "waiting"),
    )
    async with world.processes[GATEWAY].running.database.reading() as db:
        return sum([int((await db.execute(query)).scalar_one()) for query in counted])


async def judge_the_end(world: World, states: dict[str, str], ended: frozenset[str]) -> None:
    """Judge the tickets as they stand, and take what they say for what people were told would be heard."""
    site, judge = world.desk, world.judge
    if left := await waits(world):
        judge.blame(f"the service desk: {left} tickets, words or webhooks never came to an end")
    opened = Counter(ticket.case_id for ticket in site.tickets())
    for reference, times in sorted(opened.items()):
        if times > 1:
            judge.blame(f"{reference}: {times} tickets were opened")
    for ticket in site.tickets():
        case_id, kind = of_reference(ticket.case_id)
        case = judge.cases.get(case_id)
        if case is None:
            judge.blame(f"T-{ticket.number} is about no case that was flagged")
            continue
        if len(ticket.comments) != len(ticket.marks):
            judge.blame(f"{case.holder}: T-{ticket.number} was told something twice")
        over = states.get(case_id) in ended
        if over and not ticket.closed and ticket.case_id not in site.reopened:
            judge.blame(f"{case.holder}: its case ended as {states[case_id]}, and T-{ticket.number} is still open")
        said = ticket.changed_at if site.reading(ticket) == "keep" else site.appeals.get(ticket.case_id)
        if kind == "question" and said is not None:
            case.confirmed.append(("keep", Instant(said, said)))
