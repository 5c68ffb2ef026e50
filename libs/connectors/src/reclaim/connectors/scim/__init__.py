"""Any system that speaks SCIM 2.0 (RFC 7643, RFC 7644): its accounts read, switched off and on."""

from reclaim.common.clock import Clock
from reclaim.common.outgoing import Outgoing
from reclaim.connectors.http import Tuning
from reclaim.connectors.ports import ConnectionProfile
from reclaim.connectors.scim.actor import ScimActor
from reclaim.connectors.scim.profile import ScimProfile, read_profile
from reclaim.connectors.scim.reader import ScimReader
from reclaim.connectors.scim.session import ReadSession, WriteSession

__all__ = ["ScimActor", "ScimProfile", "ScimReader", "Tuning", "open_actor", "open_reader", "read_profile"]


def open_reader(
    profile: ConnectionProfile, clock: Clock, tuning: Tuning | None = None, *, outgoing: Outgoing | None = None
) -> ScimReader:
    """Return a reader of the system that a profile describes; nothing is sent before its first call."""
    session = ReadSession(read_profile(profile.settings, profile.credentials), clock, tuning, outgoing)
    return ScimReader(session, profile.name)


def open_actor(
    profile: ConnectionProfile, clock: Clock, tuning: Tuning | None = None, *, outgoing: Outgoing | None = None
) -> ScimActor:
    """Return an actor on the system that a profile describes; nothing is sent before its first call."""
    return ScimActor(WriteSession(read_profile(profile.settings, profile.credentials), clock, tuning, outgoing))
