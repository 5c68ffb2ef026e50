"""Wiring of the ITSM gateway."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from reclaim.common.inbox import bind
from reclaim.common.routing import Router
from reclaim.common.service import Job, Runtime, Service
from reclaim.connectors.itsm.profile import Tuning
from reclaim.connectors.itsm.registry import open_desk
from reclaim.itsm_gateway import (
    api,
    deliveries,
    delivery_api,
    delivery_pages,
    desk_api,
    jobs,
    pages,
    setup_pages,
    store,
)
from reclaim.itsm_gateway.desks import Adapter
from reclaim.itsm_gateway.desks import Desks as Connected
from reclaim.itsm_gateway.handlers import SUBSCRIPTIONS, Deps
from reclaim.itsm_gateway.intake import HANDLE, PATH, Intake
from reclaim.itsm_gateway.keyring import Keyring
from reclaim.itsm_gateway.ports import Desks
from reclaim.itsm_gateway.settings import ItsmGatewaySettings
from reclaim.itsm_gateway.setup import Setups
from reclaim.itsm_gateway.ticketing import OPEN, POLL, TELL, Ticketing


def build(
    runtime: Runtime,
    *,
    settings: ItsmGatewaySettings | None = None,
    desks: Desks | None = None,
    tuning: Tuning | None = None,
    adapter: Adapter = open_desk,
) -> Service:
    """Return the service. In tests `settings` replaces those of the environment, `desks` those connected.

    `tuning` is how patient adapters are, and `adapter` what opens a desk.
    """
    database = runtime.database
    deps = Deps(database, settings or ItsmGatewaySettings(), runtime.settings.public_url)
    connected = Connected(database, runtime.sealer, runtime.settings.outgoing(), tuning=tuning, adapter=adapter)
    tickets = Ticketing(database, connected)
    keyring = Keyring(database, runtime.sealer, deps.settings.secrets())
    taken = Intake(database, keyring)
    handling = deliveries.Handling(database, desks or connected)
    router = Router()
    router.include_router(api.router(deps))
    router.include_router(delivery_api.router(database, keyring))
    router.include_router(delivery_pages.router(database, keyring))
    setups = Setups(database, runtime.sealer, connected)
    router.include_router(desk_api.router(database, runtime.sealer, connected, setups))
    router.include_router(setup_pages.router(database, setups, keyring, runtime.settings.public_url))
    router.include_router(pages.router(deps))

    async def close() -> None:
        await taken.close()
        await handling.close()
        await tickets.close()
        await connected.close()

    return Service(
        name="itsm-gateway",
        metadata=store.metadata,
        migrations=Path(__file__).parent / "migrations",
        subscriptions=bind(SUBSCRIPTIONS, deps),
        jobs=[
            Job(HANDLE, handling.run, every=1.0),
            Job(OPEN, tickets.open_tickets, every=2.0),
            Job(TELL, tickets.tell_tickets, every=2.0),
            Job(POLL, tickets.poll_tickets, every=5.0),
            Job("announce_desks", partial(jobs.announce_desks, deps), every=60),
            Job("forget_webhooks", partial(jobs.forget_webhooks, deps), every=3600),
            Job("forget_deliveries", partial(deliveries.forget, database), every=3600),
        ],
        router=router,
        doors={PATH: taken},
        close=close,
    )
