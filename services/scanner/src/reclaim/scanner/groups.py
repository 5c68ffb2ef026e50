"""Groups that filters and exclusions name: which they are, who is in them, and what a connection cannot tell at all."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from reclaim.common.errors import Transient
from reclaim.connectors.ports import Members, SeatReader
from reclaim.connectors.registry import capabilities
from reclaim.scanner import exclusion_store, known_seats
from reclaim.scanner.catalog import Coverage
from reclaim.scanner.domain import INSTALLED, Rejected, Terms
from reclaim.scanner.filters import Condition, parse
from reclaim.scanner.filters.checks import FilterRefused, Problem
from reclaim.scanner.filters.tree import names
from reclaim.scanner.installed_seats import NO_GROUPS
from reclaim.scanner.store import Connection

UNTOLD: Final[Mapping[str, Mapping[str, str]]] = {
    "salesforce": {"assigned_at": "Salesforce does not keep when a licence was assigned; ask for user/created_at."},
    "scim": {
        "assigned_at": "SCIM does not tell when a licence was assigned; ask for user/created_at.",
        "last_used_at": "SCIM tells nobody's last use; sources of use answer the rule's condition.",
    },
    INSTALLED: {
        "last_used_at": "what is installed has no account with a last use; the rule's condition asks for use.",
        "user/created_at": "there is no account behind an installation; ask for installed_at.",
        "user/active": "there is no account behind an installation.",
        "user/type": "there is no account behind an installation.",
    },
}
"""The fields that a kind of connection never has a value for, and what to do instead.

A filter on one would choose nobody, or with `eq null` everybody.
"""


def filters_of(terms: Terms, covered: Coverage | None = None) -> list[Condition]:
    """Return the filters of a rule, and of the products it covers."""
    texts = [terms.filter, *(covered.filters.values() if covered is not None else terms.product_filters.values())]
    return [parse(text, terms.applies_to) for text in texts if text]


def named(trees: Iterable[Condition]) -> frozenset[str]:
    """Return the groups that some filters name."""
    return frozenset[str]().union(*map(known_seats.named_groups, trees))


def must_be_told(tree: Condition, connection: Connection) -> None:
    """Refuse a filter on what a connection cannot tell of anybody.

    Raises:
        FilterRefused: saying what that is, why, and what to ask for instead.
    """
    untold = UNTOLD.get(connection.kind, {})
    why = [f"{field} cannot be asked for here: {untold[field]}" for field in sorted(names(tree) & untold.keys())]
    if known_seats.named_groups(tree) and "groups" not in capabilities(connection.kind, connection.settings):
        why.append(f"in_group cannot be asked for here. {NO_GROUPS}")
    if why:
        raise FilterRefused([Problem(0, 0, text) for text in why])


def must_tell(terms: Terms, connection: Connection) -> None:
    """Refuse a rule whose own filter asks for what its connection cannot tell; Rejected, as `must_be_told`."""
    if terms.filter:
        try:
            must_be_told(parse(terms.filter, terms.applies_to), connection)
        except FilterRefused as error:
            raise Rejected({"filter": str(error)}) from error


async def wanted(db: AsyncConnection, connection_id: str, trees: Iterable[Condition], now: datetime) -> frozenset[str]:
    """Return the groups of a connection whose members are needed: those of some filters, and the excluded ones."""
    return named(trees) | await exclusion_store.groups(db, connection_id, now)


async def read(reader: SeatReader, groups: Collection[str]) -> dict[str, Members]:
    """Return who is in each of some groups; nobody is asked about none.

    Raises:
        Transient, Permanent: the connected system did not answer, or a person has to mend the connection.
    """
    return dict(await reader.members(sorted(groups))) if groups else {}


def must_not_pass(groups: Mapping[str, Members]) -> None:
    """Refuse to act for good on groups of which one could not be read just now; Transient, with the reason."""
    if passing := [members.doubt for _name, members in sorted(groups.items()) if members.passing]:
        raise Transient(passing[0])


def doubts(groups: Mapping[str, Members]) -> dict[str, str]:
    """Return why it is not known who is in some groups, as a scan lists what it could not read."""
    return {f"group {name}": members.doubt for name, members in sorted(groups.items()) if members.doubt}
