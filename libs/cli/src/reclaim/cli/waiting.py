"""Waiting for work that the services do in the background."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from reclaim.cli.client import Client

POLL: Final = 0.2
SCAN_ENDED: Final = frozenset({"finished", "failed", "stopped"})

OnChange = Callable[[dict[str, Any]], None]


def for_scan(client: Client, scan_id: str, *, on_change: OnChange = lambda _: None) -> dict[str, Any]:
    """Return a scan once it has ended, however it ended."""
    while True:
        scan: dict[str, Any] = client.get(f"/scanner/api/scans/{scan_id}")
        on_change(scan)
        if scan["status"] in SCAN_ENDED:
            return scan
        time.sleep(POLL)


def for_rebuild(client: Client, *, on_change: OnChange = lambda _: None) -> dict[str, Any]:
    """Ask savings to rebuild its tables and return its status once that has ended."""
    client.post("/savings/api/rebuild")
    while True:
        status: dict[str, Any] = client.get("/savings/api/rebuild")
        on_change(status)
        if status["state"] == "done":
            return status
        time.sleep(POLL)
