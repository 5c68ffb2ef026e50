"""Okta's System Log: who signed in to which application, as a source of usage."""

from reclaim.common.clock import Clock
from reclaim.common.outgoing import Outgoing
from reclaim.connectors.http import Tuning
from reclaim.connectors.okta.profile import OktaProfile, read_profile
from reclaim.connectors.okta.reader import OktaReader
from reclaim.connectors.ports import ConnectionProfile

__all__ = ["OktaProfile", "OktaReader", "Tuning", "open_reader", "read_profile"]


def open_reader(
    profile: ConnectionProfile, clock: Clock, tuning: Tuning | None = None, *, outgoing: Outgoing | None = None
) -> OktaReader:
    """Return a reader of the tenant's log that a profile describes; nothing is sent before its first call."""
    return OktaReader(read_profile(profile.settings, profile.credentials), profile.name, clock, tuning, outgoing)
