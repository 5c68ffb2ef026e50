"""What Reclaim asks of a service desk, whichever it is: a ticket opened once, told things, and read back.

A desk answers in one of three ways that matter to a caller. `Passing`: nothing was done, the same call may succeed
later. `Refused`: a person has to mend something first. `UnknownOutcome`: it may or may not have been done, and the desk
has to be read before it is asked again.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal, Protocol
from uuid import UUID

from reclaim.common.errors import Invalid, Permanent, Transient

Answer = Literal["keep", "revoke", "downgrade", "done"]
"""What a person may answer on a ticket; `done` closes a task for a person (the seat was taken back by hand)."""
Reading = Literal["keep", "revoke", "downgrade", "done", "undecided", "open"]
Deed = Literal["open", "tag", "comment", "close", "reopen"]
"""What is done to tickets, and takes a permission of the connection's user."""
Json = None | bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"]

TEST_PREFIX: Final = "[DRY-RUN]"
TEST_TAG: Final = "lr_test"
TASK: Final = "-task"
"""What follows the id of a case in the name of the ticket that asks a person to free its seat."""
_MARKER: Final = "lr-case-"
_SHORT: Final = {"": "lr-c-", TASK: "lr-t-"}
_CASE_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,79}")


class Passing(Transient):
    """The desk cannot just now, and has done nothing. `retry_after` are the seconds it asks for, where it says so."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class UnknownOutcome(Transient):
    """The desk may have done it, and no answer says so. Read the desk again, not before `look_after` seconds."""

    title = "Not known whether it was done"

    def __init__(self, message: str, *, look_after: float = 0.0) -> None:
        super().__init__(message)
        self.look_after = look_after


class Refused(Permanent):
    """The desk understood and refuses. The message has its own words; `remedy` is what a person can do about it."""

    title = "Refused by the service desk"

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(f"{message} {remedy}")
        self.remedy = remedy


class SignInRefused(Refused):
    """The desk does not accept the connection's credentials."""


class NotThere(Refused):
    """What was asked for is not there, or not any more, or the connection's user may not see it."""


def case_marker(case_id: str) -> str:
    """Return the text by which the ticket of a case is found again: a label, a tag, or a line of its description.

    Raises:
        Invalid: the case's id would not survive as a label.
    """
    if not _CASE_ID.fullmatch(case_id):
        raise Invalid("A case's id has up to 80 letters, digits, hyphens and underscores.", field="case_id")
    return f"{_MARKER}{case_id}"


def short_marker(case_id: str, room: int) -> str:
    """Return a marker that has room: of a case's own id, which is a UUID, it is 31 characters, in small letters.

    An id that is too long, and no UUID in its usual spelling, has one that it cannot be read from again: then only its
    ticket's description tells.

    Raises:
        Invalid: the case's id would not survive as a label.
    """
    marker = case_marker(case_id)
    if len(marker) <= room:
        return marker
    kind = TASK if case_id.endswith(TASK) else ""
    try:
        short = _SHORT[kind] + base64.b32encode(UUID(case_id.removesuffix(TASK)).bytes).decode().rstrip("=").lower()
    except ValueError:
        short = ""
    # One that spells its UUID otherwise would be read again as another case.
    return short if marked_case(short) == case_id else f"lr-x-{hashlib.sha256(case_id.encode()).hexdigest()[:20]}"


def marked_case(label: str) -> str | None:
    """Return the id of the case that a label marks; None if it marks none."""
    for kind, prefix in _SHORT.items():
        if label.startswith(prefix):
            return _spelled_out(label.removeprefix(prefix), kind)
    case_id = label.removeprefix(_MARKER)
    return case_id if case_id != label and _CASE_ID.fullmatch(case_id) else None


def _spelled_out(short: str, kind: str) -> str | None:
    try:
        return f"{UUID(bytes=base64.b32decode(f'{short.upper()}======'))}{kind}"
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class TicketRef:
    """One ticket: `key` is what its platform calls it in the API, `number` what people call it, `url` its page."""

    key: str
    number: str
    url: str


@dataclass(frozen=True, slots=True)
class TicketDraft:
    """A ticket to be opened.

    `opened_at` is when the case came to be: no ticket for it is older. `fields` are further fields of the platform, by
    its own names and in its own types (see `FieldSpec.value`). `test` marks a dry run: the ticket says so.
    """

    case_id: str
    title: str
    description: str
    opened_at: datetime
    requester_email: str | None = None
    fields: Mapping[str, Json] = field(default_factory=dict)
    test: bool = False

    @property
    def marker(self) -> str:
        return case_marker(self.case_id)

    @property
    def subject(self) -> str:
        """The title on one line; that of a dry run begins by saying so."""
        title = " ".join(self.title.split())
        return f"{TEST_PREFIX} {title}" if self.test else title

    @property
    def text(self) -> str:
        """The description, and below it the marker."""
        return self.description.strip() + self.reference

    @property
    def reference(self) -> str:
        """The last line of the description, by which the ticket is found."""
        return f"\n\nReference: {self.marker}"

    @property
    def tags(self) -> tuple[str, ...]:
        return (self.marker, TEST_TAG) if self.test else (self.marker,)


@dataclass(frozen=True, slots=True)
class Choice:
    """One value that a field may take: what the API wants, and what people see."""

    value: str
    label: str


FieldKind = Literal[
    "text", "integer", "decimal", "boolean", "date", "choice", "choices", "level", "option", "options", "unsupported"
]
"""A `level` is a choice that the API wants as a number, `option` and `options` are wanted as `{"id": value}`."""


@dataclass(frozen=True, slots=True)
class FieldSpec:
    """One field of a platform's tickets, as the platform itself describes it."""

    name: str
    label: str
    kind: FieldKind
    required: bool = False
    choices: tuple[Choice, ...] = ()

    def value(self, text: str) -> Json:
        """Return a text, as a person or a template gives it, in the type that the platform's API wants.

        Raises:
            Invalid: it does not fit; the message says what would.
        """
        text = text.strip()
        match self.kind:
            case "text":
                return text
            case "integer" | "decimal":
                return self._number(text)
            case "boolean":
                if text.lower() not in {"true", "false"}:
                    raise self._misfit("true or false")
                return text.lower() == "true"
            case "date":
                try:
                    return datetime.strptime(text, "%Y-%m-%d").date().isoformat()  # noqa: DTZ007  a day has no zone
                except ValueError:
                    raise self._misfit("a date such as 2026-11-30") from None
            case "choice":
                return self._choice(text)
            case "choices":
                return [self._choice(part) for part in text.split(",")]
            case "level":
                return int(self._choice(text))
            case "option":
                return {"id": self._choice(text)}
            case "options":
                return [{"id": self._choice(part)} for part in text.split(",")]
            case "unsupported":
                raise Invalid(f"“{self.label}” has a type that cannot be filled here.", field=self.name)

    def _number(self, text: str) -> int | float:
        try:
            return int(text) if self.kind == "integer" else float(text)
        except ValueError:
            raise self._misfit("a whole number" if self.kind == "integer" else "a number") from None

    def _choice(self, text: str) -> str:
        wanted = text.strip()
        for choice in self.choices:
            if wanted in (choice.value, choice.label):
                return choice.value
        raise self._misfit(f"one of {', '.join(choice.label for choice in self.choices[:20]) or 'no choices'}")

    def _misfit(self, wanted: str) -> Invalid:
        return Invalid(f"“{self.label}” takes {wanted}.", field=self.name)


@dataclass(frozen=True, slots=True)
class PermissionResult:
    """One thing that the connection needs: whether it works, what was seen, and if it does not, what to do."""

    what: str
    ok: bool
    detail: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class ReadDecision:
    """What a ticket says.

    `open`: nobody has answered yet; `pending` is what it would say if it were closed as it stands. `undecided`: it was
    closed without an answer, or with two that disagree; `reason` says which. `closed` is about the ticket, whatever it
    says. `actor` is who answered, where the platform tells, and `at` when; of one that was reopened it is `moved_by`
    and `moved_at`, where those are somebody else's doing and another time. `ours` is what the platform calls the
    connection's own account, which answers nothing. `test` is True on the ticket of a dry run, whose answer is recorded
    and never acted on.
    """

    reading: Reading
    closed: bool
    reason: str = ""
    actor: str | None = None
    at: datetime | None = None
    test: bool = False
    moved_by: str | None = None
    moved_at: datetime | None = None
    ours: str | None = None
    pending: Reading | None = None


class ServiceDesk(Protocol):
    """One connection to a service desk. Nothing is sent before its first call; its HTTP client belongs to the caller.

    Every method may raise:
        Passing: the desk is busy, out or asks for fewer calls; nothing was done.
        Refused: a person has to mend something (`SignInRefused`: the credentials; `NotThere`: the ticket is gone).

    Those that change something may also raise:
        UnknownOutcome: it may have been done.
    """

    async def test_connection(self) -> Sequence[PermissionResult]:
        """Try each thing that the connection needs; one result each, never an exception for a failed one."""
        ...

    async def discover_fields(self) -> Sequence[FieldSpec]:
        """Return the fields that the platform's tickets have, in its own order."""
        ...

    async def find_by_case(self, case_id: str, *, since: datetime) -> TicketRef | None:
        """Return the ticket of a case; of several, the oldest. None was opened before `since`."""
        ...

    async def create(self, draft: TicketDraft, *, tried: bool = False) -> TicketRef:
        """Return the ticket of the draft's case, opening it if there is none.

        `tried` says that an earlier call may have opened it without saying so: then every way to find it is taken,
        the slow ones too, before another is opened.
        """
        ...

    async def comment(self, ref: TicketRef, text: str, *, mark: str = "", tried: bool = False) -> None:
        """Add a comment for the people who work on tickets.

        `mark` is put below it, by which it is found again: of letters, digits and hyphens, another for each word, and
        never used again. `tried` says that an earlier call with this mark may have said it without saying so: then,
        where the platform lets comments be read, they are looked through first. The same holds for the next two.
        """
        ...

    async def close(self, ref: TicketRef, text: str, *, mark: str = "", tried: bool = False) -> None:
        """Close a ticket, with a word on why; one that is closed already stays as it is.

        One that was closed with this mark before stays as it is too: who has opened it since meant to.
        """
        ...

    async def was_closed(self, ref: TicketRef, *, mark: str) -> bool:
        """Tell whether a closing with this mark was carried out, however the ticket stands now.

        False too where the platform keeps nothing to tell by: then closing with that mark again does nothing there.
        """
        ...

    async def reopen(self, ref: TicketRef, text: str, *, mark: str = "", tried: bool = False) -> None:
        """Open a closed ticket again, with a word on why; one that is open stays as it is."""
        ...

    async def read_decision(self, ref: TicketRef) -> ReadDecision:
        """Read the ticket and return what it says now."""
        ...
