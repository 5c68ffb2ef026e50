"""Which adapter serves which platform, and what an operator has to enter for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import httpx

from reclaim.common.errors import Invalid
from reclaim.connectors.itsm import freshservice, generic, jira, serval, servicenow
from reclaim.connectors.itsm.ports import Deed, ServiceDesk
from reclaim.connectors.itsm.profile import DeskProfile, Entry, Tuning


@dataclass(frozen=True, slots=True)
class Platform:
    """One platform: what people call it, what is entered for it, what opens it, and what each deed takes there."""

    label: str
    entries: tuple[Entry, ...]
    adapter: Callable[[DeskProfile, httpx.AsyncClient, Tuning], ServiceDesk]
    permissions: Mapping[Deed, str]


PLATFORMS: Final[Mapping[str, Platform]] = {
    "servicenow": Platform("ServiceNow", servicenow.ENTRIES, servicenow.ServiceNow, servicenow.PERMISSIONS),
    "jira": Platform("Jira Service Management", jira.ENTRIES, jira.Jira, jira.PERMISSIONS),
    "freshservice": Platform("Freshservice", freshservice.ENTRIES, freshservice.Freshservice, freshservice.PERMISSIONS),
    "serval": Platform("Serval", serval.ENTRIES, serval.Serval, serval.PERMISSIONS),
    "generic": Platform("Any desk, by signed webhooks", generic.ENTRIES, generic.Generic, generic.PERMISSIONS),
}


def open_desk(profile: DeskProfile, client: httpx.AsyncClient, tuning: Tuning | None = None) -> ServiceDesk:
    """Return the adapter of a connection; nothing is sent before its first call.

    Args:
        profile: the connection.
        client: what calls are made with; it decides which addresses may be reached, and belongs to the caller.
        tuning: other patience than usual.

    Raises:
        Invalid: something that was entered does not fit; `field` names it.
    """
    return _platform(profile.platform).adapter(profile, client, tuning or Tuning())


def validate(profile: DeskProfile) -> None:
    """Check what was entered without calling anybody.

    Raises:
        Invalid: something is missing or does not fit; `field` names it, the message says what to enter.
    """
    open_desk(profile, _NOBODY)


def _platform(name: str) -> Platform:
    if name not in PLATFORMS:
        raise Invalid(f"There is no platform called {name!r}: use {', '.join(PLATFORMS)}.", field="platform")
    return PLATFORMS[name]


_NOBODY: Final = httpx.AsyncClient(transport=httpx.MockTransport(lambda _request: httpx.Response(503)))
"""A client that reaches nobody: checking a profile builds its adapter, and sends nothing."""
