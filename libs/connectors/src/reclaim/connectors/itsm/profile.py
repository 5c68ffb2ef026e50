"""What a connection to a service desk needs, and how what an operator entered is read. Pure: nothing is sent."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from reclaim.common.errors import Invalid
from reclaim.connectors.addresses import is_loopback
from reclaim.connectors.itsm.decisions import DecisionRules

_NAME: Final = re.compile(r"[A-Za-z0-9_.-]+")


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that an operator enters. A `secret` is a credential: sealed at rest, and never shown again."""

    name: str
    label: str
    help: str
    required: bool = True
    secret: bool = False
    default: str = ""


@dataclass(frozen=True, slots=True)
class DeskProfile:
    """One connection: its platform, what was entered, and how a decision reads."""

    platform: str
    settings: Mapping[str, str]
    credentials: Mapping[str, str] = field(repr=False)
    decisions: DecisionRules = field(default_factory=DecisionRules)


@dataclass(frozen=True, slots=True)
class Tuning:
    """Patience of an adapter, in seconds.

    `look_again` are the waits between the looks for a ticket that may have been opened: longer, together, than a
    platform's search is behind. `unknown_for` is what a caller is asked to wait when it was still not found.
    """

    connect_timeout: float = 10.0
    read_timeout: float = 30.0
    look_again: tuple[float, ...] = (1.0, 3.0, 6.0, 10.0)
    unknown_for: float = 60.0


ADDRESS: Final = Entry(
    "base_url",
    "Address",
    "The address of your site, such as https://example.service-now.com or https://example.atlassian.net.",
)
ALLOW_HTTP: Final = Entry(
    "allow_http", "Allow http", "true for a simulated desk in a private network.", required=False, default="false"
)
PUBLIC_COMMENTS: Final = Entry(
    "public_comments",
    "Comments are public",
    "true if the requester should read Reclaim's comments, not only those who work on tickets.",
    required=False,
    default="false",
)


class Entered:
    """What was entered, checked against what the platform asks for.

    Raises:
        Invalid: something is missing, not known or does not fit; `field` names it.
    """

    def __init__(self, profile: DeskProfile, entries: tuple[Entry, ...]) -> None:
        self._values: dict[str, str] = {}
        given = {False: profile.settings, True: profile.credentials}
        for secret, values in given.items():
            known = {entry.name for entry in entries if entry.secret is secret}
            for name in values:
                if name not in known:
                    raise Invalid(f"{name!r} is not a setting of this platform.", field=name)
        for entry in entries:
            value = given[entry.secret].get(entry.name, "").strip() or entry.default
            if entry.required and not value:
                raise Invalid(f"Enter “{entry.label}”: {entry.help}", field=entry.name)
            self._values[entry.name] = value

    def __getitem__(self, name: str) -> str:
        return self._values[name]

    def flag(self, name: str) -> bool:
        """Return a setting that is true or false."""
        value = self[name].lower()
        if value not in {"true", "false"}:
            raise Invalid("Enter true or false.", field=name)
        return value == "true"

    def number(self, name: str, least: int, most: int) -> int:
        """Return a setting that is a whole number."""
        value = self[name]
        if not (value.isascii() and value.isdigit() and least <= int(value) <= most):
            raise Invalid(f"Enter a whole number from {least} to {most}.", field=name)
        return int(value)

    def name(self, name: str) -> str:
        """Return a setting that is a name or an id in the platform's API: letters, digits, `_`, `.` and `-`."""
        value = self[name]
        if value and not _NAME.fullmatch(value):
            raise Invalid("Enter a name or id: letters, digits, underscores, full stops and hyphens.", field=name)
        return value

    def names(self, name: str) -> tuple[str, ...]:
        """Return a setting that is a list of names or ids, with commas between them."""
        found = tuple(part.strip() for part in self[name].split(",") if part.strip())
        if not all(_NAME.fullmatch(part) for part in found):
            raise Invalid("Enter names or ids with commas between them.", field=name)
        return found

    def url(self, name: str) -> str:
        """Return an address without a trailing slash; https, except to this machine or where http is allowed."""
        text = self[name]
        wrong = Invalid("Enter an address such as https://desk.example.com.", field=name)
        try:
            url = urlsplit(text)
            port = url.port
        except ValueError:
            raise wrong from None
        if url.scheme not in {"http", "https"} or not url.hostname or port == 0 or url.username or url.password:
            raise wrong
        if url.query or url.fragment:
            raise Invalid("Enter the address without a query.", field=name)
        if url.scheme == "http" and not (self.flag("allow_http") or is_loopback(url.hostname)):
            raise Invalid("Enter an https address: over http anybody on the way can read the credentials.", field=name)
        return text.rstrip("/")
