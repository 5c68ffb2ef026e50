"""Salesforce, through simple-salesforce: one org's seats read, and acted upon."""

from reclaim.common.clock import Clock
from reclaim.common.outgoing import Outgoing
from reclaim.connectors.ports import ConnectionProfile
from reclaim.connectors.salesforce.actor import SalesforceActor
from reclaim.connectors.salesforce.profile import OrgProfile, read_profile
from reclaim.connectors.salesforce.reader import SalesforceReader
from reclaim.connectors.salesforce.session import ReadSession, Tuning, WriteSession

__all__ = ["OrgProfile", "SalesforceActor", "SalesforceReader", "Tuning", "open_actor", "open_reader", "read_profile"]


def open_reader(
    profile: ConnectionProfile, clock: Clock, tuning: Tuning | None = None, *, outgoing: Outgoing | None = None
) -> SalesforceReader:
    """Return a reader of the org that a profile describes; nothing is sent before its first call."""
    return SalesforceReader(ReadSession(read_profile(profile.settings, profile.credentials), clock, tuning, outgoing))


def open_actor(
    profile: ConnectionProfile, clock: Clock, tuning: Tuning | None = None, *, outgoing: Outgoing | None = None
) -> SalesforceActor:
    """Return an actor on the org that a profile describes; nothing is sent before its first call."""
    return SalesforceActor(WriteSession(read_profile(profile.settings, profile.credentials), clock, tuning, outgoing))
