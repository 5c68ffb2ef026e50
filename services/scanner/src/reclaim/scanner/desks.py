"""Which service desks a rule can name, and what is wrong with the one that it does. Pure.

What is known of desks was heard, and may lag behind: a doubt about a rule is shown, and refuses nothing but its
activation, which a person can try again. Where no desk was ever heard of nothing is doubted: the gateway may be of a
release that tells nothing, or may have yet to do so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from reclaim.common.errors import Invalid
from reclaim.connectors.itsm.registry import PLATFORMS
from reclaim.scanner.domain import Terms

NOT_CONNECTED: Final = "not connected"


@dataclass(frozen=True, slots=True)
class Desk:
    """A service desk as it was last told of. The one that `asks` opens the tickets of rules that name none."""

    desk_id: str
    platform: str
    asks: bool
    removed: bool

    @property
    def label(self) -> str:
        """What people know it by: its id and its platform."""
        platform = PLATFORMS.get(self.platform)
        return f"{self.desk_id} ({platform.label if platform else self.platform})"


def choices(heard: Sequence[Desk], chosen: str) -> list[tuple[str, str]]:
    """Return the desks to choose from, as ids and texts; none at all is the first, and what is chosen always there."""
    connected = {desk.desk_id: desk.label for desk in heard if not desk.removed}
    asking = next((desk.label for desk in heard if desk.asks and not desk.removed), "")
    usual = "The one that is asked by default"
    if connected:
        usual += f": {asking}" if asking else ": none at present"
    if chosen and chosen not in connected:
        connected[chosen] = f"{chosen} ({NOT_CONNECTED})"
    return [("", usual), *sorted(connected.items())]


def doubt(heard: Sequence[Desk], terms: Terms) -> str | None:
    """Return why a rule cannot open tickets, and what to do; None if it can, or asks by mail only, or none is known."""
    if terms.route == "email" or not heard:
        return None
    connected = [desk for desk in heard if not desk.removed]
    if terms.desk and terms.desk not in {desk.desk_id for desk in connected}:
        return _not_connected(heard, terms.desk, ", ".join(desk.desk_id for desk in connected))
    if not terms.desk and not any(desk.asks for desk in connected):
        return (
            "The rule names no service desk, and none asks new cases by default: no ticket can be opened. Choose a "
            "desk, or let one ask new cases on the last step of its set-up."
        )
    return None


def _not_connected(heard: Sequence[Desk], desk_id: str, others: str) -> str:
    if any(desk.desk_id == desk_id for desk in heard):
        happened, ahead = f"The service desk {desk_id} was disconnected", "Connect it again under this id"
    else:
        happened = f"No service desk is connected as {desk_id}"
        ahead = "If it was connected just now, try again in a moment; else connect it under this id"
    instead = f", or choose another: {others}" if others else ", or let the rule ask by mail only"
    return f"{happened}: no ticket can be opened there. {ahead}{instead}."


def must_be_connected(heard: Sequence[Desk], terms: Terms) -> None:
    """Refuse a rule that names a desk which is not connected.

    That none asks by default refuses nothing: which one does is settled with the desks, at any time.

    Raises:
        Invalid: it is not; the text says what to do.
    """
    if terms.desk and (problem := doubt(heard, terms)) is not None:
        raise Invalid(problem, field="desk")
