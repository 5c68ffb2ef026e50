"""Who is who on the bus: the order of the services, and what each of them listens to."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from reclaim.common.bus.inproc import InprocBus
from reclaim.common.clock import SystemClock
from reclaim.common.contracts import BY_WIRE, CONSUMERS, SERVICES
from reclaim.common.service import Running, chosen, installed
from reclaim.common.settings import Settings


def test_the_order_of_the_services_never_changes() -> None:
    """An outbox row keeps who has still to confirm it as bits by this index, and rows outlive a release.

    Another order would read the bit of one consumer as another's: receipts would clear the wrong bits, and events
    would be dropped that nobody has heard. A new service goes to the end.
    """
    assert SERVICES[:5] == ("scanner", "approvals", "itsm-gateway", "lifecycle", "savings")
    assert len(set(SERVICES)) == len(SERVICES)
    assert len(SERVICES) < 32, "the column is a signed 32-bit integer"


def test_every_consumer_is_a_service_and_every_event_has_one() -> None:
    for event, consumers in CONSUMERS.items():
        assert consumers, f"nobody would ever confirm {event.wire}"
        assert len(set(consumers)) == len(consumers)
        assert set(consumers) <= set(SERVICES)
    assert {wire: event.wire for wire, event in BY_WIRE.items()} == {wire: wire for wire in BY_WIRE}


def test_every_service_is_installed() -> None:
    assert tuple(installed()) == SERVICES


@pytest.mark.parametrize("name", SERVICES)
async def test_a_service_listens_to_exactly_what_the_contracts_send_it(name: str, tmp_path: Path) -> None:
    settings = Settings(
        _env_file=None,
        environment="test",
        data_dir=tmp_path,
        secret_keys=["s" * 32],
        sealing_keys=[Fernet.generate_key().decode()],
    )
    running = Running.start(chosen([name])[name], name, settings, SystemClock(), InprocBus())
    try:
        assert running.service.name == name
        assert set(running.service.subscriptions) == {
            event for event, consumers in CONSUMERS.items() if name in consumers
        }
        jobs = [job.name for job in running.jobs()]
        assert len(set(jobs)) == len(jobs), "a job is woken by its name"
    finally:
        await running.close()
