"""What the columns of each kind of export are called. Names are compared without case, spaces and punctuation.

Exports differ by version, language pack and by whoever wrote the query behind them, so each column has several names.
A heading that is not listed is ignored, and the report says which were.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

_LETTERS: Final = re.compile(r"[^a-z0-9]+")

USER: Final = ("user", "user name", "username", "user_name0", "logon name", "login name", "last logged on user")
DEVICE: Final = ("device", "device name", "computer", "computer name", "machine", "host name")
PRODUCT: Final = ("product", "product name", "application", "application name", "app name", "software", "title")
VERSION: Final = ("version", "product version", "application version", "app version", "file version")
PUBLISHER: Final = ("publisher", "vendor", "manufacturer", "application publisher")
PLATFORM: Final = ("platform", "operating system", "os")
PROCESS: Final = ("process", "process name", "file name", "executable")
INSTALLED: Final = ("installed at", "installed on", "install date", "installation date", "date installed")
LAST_USED: Final = ("last used", "last usage", "last used at", "last use", "last run", "last used time")
MONTH: Final = ("month", "period", "year month", "usage month")
DAY: Final = ("date", "day", "usage date")
SECONDS: Final = ("seconds", "usage seconds", "total seconds", "usage time (seconds)", "duration (seconds)")
MINUTES: Final = (
    "minutes",
    "usage minutes",
    "total usage (minutes)",
    "usage time (minutes)",
    "duration (minutes)",
)
HOURS: Final = ("hours", "usage hours", "total usage (hours)", "usage time (hours)")
RUNS: Final = ("runs", "run count", "usage count", "launches", "starts")


@dataclass(frozen=True, slots=True)
class Feed:
    """One endpoint manager's exports: its name, the platform it speaks of, and what else its columns are called.

    `usage` and `installations` add names to the common ones; one that is empty says that it exports no such thing.
    """

    label: str
    platform: str | None
    usage: Mapping[str, Sequence[str]]
    installations: Mapping[str, Sequence[str]]


_COMMON_USAGE: Final[Mapping[str, Sequence[str]]] = {
    "user": USER,
    "device": DEVICE,
    "product": PRODUCT,
    "process": PROCESS,
    "version": VERSION,
    "platform": PLATFORM,
    "month": MONTH,
    "day": DAY,
    "seconds": SECONDS,
    "minutes": MINUTES,
    "hours": HOURS,
    "runs": RUNS,
    "last_used": LAST_USED,
}
_COMMON_INSTALLATIONS: Final[Mapping[str, Sequence[str]]] = {
    "user": USER,
    "device": DEVICE,
    "product": PRODUCT,
    "version": VERSION,
    "publisher": PUBLISHER,
    "platform": PLATFORM,
    "installed": INSTALLED,
}


def _with(common: Mapping[str, Sequence[str]], more: Mapping[str, Sequence[str]]) -> Mapping[str, Sequence[str]]:
    return {name: (*more.get(name, ()), *names) for name, names in common.items()} | {
        name: names for name, names in more.items() if name not in common
    }


FEEDS: Final[Mapping[str, Feed]] = {
    "sccm": Feed(
        label="Microsoft Configuration Manager (SCCM)",
        platform="windows",
        # The views behind its software metering reports: UsageTime is in seconds, TimeKey is year * 100 + month.
        usage=_with(
            _COMMON_USAGE,
            {
                "user": ("full name", "metered user", "UserName0"),
                "device": ("Netbios_Name0", "Name0", "ResourceName"),
                "product": ("ProductName0", "metered product", "rule name"),
                "process": ("FileName0", "original file name", "metered file"),
                "version": ("FileVersion0",),
                "month": ("TimeKey",),
                "seconds": ("UsageTime", "total usage (seconds)"),
                "more_runs": ("TSUsageCount", "terminal services usage count"),
                "last_used": ("LastUsage", "last usage time", "LastUsedTime0"),
            },
        ),
        installations=_with(
            _COMMON_INSTALLATIONS,
            {
                "user": ("UserName0", "TopConsoleUser0", "primary user"),
                "device": ("Netbios_Name0", "Name0", "ResourceName"),
                "product": ("ProductName0", "DisplayName0", "ARPDisplayName0", "NormalizedName"),
                "version": ("ProductVersion0", "Version0", "NormalizedVersion"),
                "publisher": ("Publisher0", "NormalizedPublisher"),
                "installed": ("InstallDate0", "InstallDate"),
            },
        ),
    ),
    "intune": Feed(
        label="Microsoft Intune",
        platform=None,
        # Its inventory of discovered applications tells what is installed, and nobody's use.
        usage={},
        installations=_with(
            _COMMON_INSTALLATIONS,
            {
                "user": (
                    "UserPrincipalName",
                    "user principal name",
                    "primary user UPN",
                    "EmailAddress",
                    "email address",
                ),
                "device": ("DeviceName",),
                "product": ("ApplicationName",),
                "version": ("ApplicationVersion", "ApplicationShortVersion"),
                "publisher": ("ApplicationPublisher",),
                "platform": ("Platform", "OSDescription"),
            },
        ),
    ),
    "jamf": Feed(
        label="Jamf Pro",
        platform="macos",
        # A day a row: what was in the foreground was used, what was merely open was not.
        usage=_with(
            _COMMON_USAGE,
            {
                "user": ("email address", "assigned user"),
                "product": ("application title", "app"),
                "minutes": ("foreground", "foreground minutes", "minutes in foreground", "foreground (minutes)"),
                "seconds": ("secondsActive", "secondsforemost", "foreground seconds"),
            },
        ),
        installations=_with(
            _COMMON_INSTALLATIONS,
            {
                "user": ("email address", "assigned user"),
                "product": ("application title", "app"),
                "version": ("application version", "app version"),
            },
        ),
    ),
    "csv": Feed(
        label="Another tool",
        platform=None,
        usage=_COMMON_USAGE,
        installations=_COMMON_INSTALLATIONS,
    ),
}
"""The kinds of export by name."""


def folded(heading: str) -> str:
    """Return a heading as it is compared: letters and digits alone."""
    return _LETTERS.sub("", heading.casefold())


def match(headings: Sequence[str], names: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Return where each known column stands; of several names for one column, the one listed first wins."""
    at: dict[str, int] = {}
    for position, heading in enumerate(headings):
        at.setdefault(folded(heading), position)
    found = {}
    for column, aliases in names.items():
        there = [at[each] for each in map(folded, aliases) if each and each in at]
        if there:
            found[column] = there[0]
    return found
