"""What connecting a service desk takes, step by step; each step is stored, so that any of them can be gone on from."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final, Literal, cast

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from reclaim.common.db import Database
from reclaim.common.errors import Conflict, Invalid, NotFound, ReclaimError
from reclaim.common.security import Sealer
from reclaim.connectors.itsm import templates
from reclaim.connectors.itsm.decisions import DecisionRules
from reclaim.connectors.itsm.ports import Answer, Choice, FieldKind, FieldSpec, Json, PermissionResult, TicketRef
from reclaim.connectors.itsm.registry import PLATFORMS
from reclaim.itsm_gateway import domain, setup_store, ticket_store
from reclaim.itsm_gateway.attempts import Attempt, within
from reclaim.itsm_gateway.desks import Desks, drafted
from reclaim.itsm_gateway.setup_store import Setup
from reclaim.itsm_gateway.ticket_store import Desk
from reclaim.itsm_gateway.ticketing import OPEN, TELL

Step = Literal["sign-in", "ticket", "answers", "test", "trial", "webhook", "finish"]
STEPS: Final[Mapping[Step, str]] = MappingProxyType(
    {
        "sign-in": "Sign in",
        "ticket": "Ticket",
        "answers": "Answers",
        "test": "Test",
        "trial": "Test ticket",
        "webhook": "Webhook",
        "finish": "Finish",
    }
)
_ORDER: Final = tuple(STEPS)

PATIENCE: Final = 60.0
"""Seconds that a page waits for a desk."""

SAYING: Final = "comment on it"

EXAMPLE: Final[Mapping[str, str]] = MappingProxyType(
    {
        "case_id": "0198c5e2-7d4b-7c31-9a53-5d2f0c8e4b11",
        "holder_name": "Zoë Müller",
        "holder_email": "zoe.mueller@example.com",
        "department": "Sales",
        "product_name": "Sales Cloud",
        "rule_name": "Idle Salesforce seats",
        "reason": "not used for 90 days",
        "last_used": "12 March 2026",
        "annual_cost": "1980.00 EUR",
        "flagged_on": "30 June 2026",
        "decide_by": "14 days after this ticket was opened",
        "case_url": "https://reclaim.example.com/lifecycle/cases/0198c5e2",
        "warnings": "- Service account: The name looks like that of an integration.",
    }
)
"""A case to show templates with."""

ANSWERS: Final[Mapping[Answer, str]] = MappingProxyType(
    {"keep": "Keep the seat", "revoke": "Revoke it", "downgrade": "Downgrade it", "done": "The task is done"}
)


class Field(msgspec.Struct, frozen=True):
    """A field as the platform reported it, for a page."""

    name: str
    label: str
    kind: FieldKind
    required: bool
    choices: list[tuple[str, str]]

    def spec(self) -> FieldSpec:
        """Return it as the adapter gave it."""
        choices = tuple(Choice(value, label) for value, label in self.choices)
        return FieldSpec(self.name, self.label, self.kind, self.required, choices)


class Result(msgspec.Struct, frozen=True):
    """One thing that was tried."""

    what: str
    ok: bool
    detail: str
    remedy: str


class Trial(msgspec.Struct, frozen=True):
    """The test ticket, and what was tried on it."""

    key: str
    number: str
    url: str
    results: list[Result]
    closed: bool = False


class _Tried(msgspec.Struct, frozen=True):
    """The ticket on which the connection is tested; without a `key` nobody knows whether it was opened."""

    reference: str
    at: datetime
    key: str = ""
    number: str = ""
    url: str = ""

    @property
    def ref(self) -> TicketRef | None:
        return TicketRef(self.key, self.number, self.url) if self.key else None


class Setups:
    """Set-ups of service desks: what every page of the way does."""

    def __init__(self, database: Database, sealer: Sealer, desks: Desks) -> None:
        self._database = database
        self._sealer = sealer
        self._desks = desks

    # Where one stands -------------------------------------------------------------------------------------------------

    async def all(self) -> list[tuple[Setup | None, Desk | None]]:
        """Return every connection that is set up or being set up, by its id."""
        async with self._database.reading() as db:
            begun = {one.desk_id: one for one in await setup_store.setups(db)}
            stored = {one.id: one for one in await ticket_store.desks(db)}
        return [(begun.get(desk_id), stored.get(desk_id)) for desk_id in sorted({*begun, *stored})]

    async def found(self, desk_id: str) -> tuple[Setup, Desk | None]:
        """Return a set-up, and the connection as far as it is stored.

        Raises:
            NotFound: there is neither.
        """
        async with self._database.reading() as db:
            begun, stored = await setup_store.setup(db, desk_id), await ticket_store.desk(db, desk_id)
        if begun is None and stored is not None:
            # It was connected through the API: every step can be gone through.
            begun = _begun(desk_id, stored.platform, stored.changed_at, stored.changed_by, step="finish")
        if begun is None:
            raise NotFound(f"No service desk is being connected as {desk_id}.")
        return begun, stored

    async def begin(self, desk_id: str, platform: str, by: str) -> None:
        """Begin to connect a desk.

        Raises:
            Conflict: there is one of that id.
            Invalid: there is no such platform.
        """
        if platform not in PLATFORMS:
            raise Invalid("Choose one of the platforms.", field="platform")
        async with self._database.unit() as unit:
            if await setup_store.setup(unit.db, desk_id) or await ticket_store.desk(unit.db, desk_id):
                raise Conflict(f"There is a connection {desk_id} already. Go on with it, or choose another name.")
            await setup_store.begin(unit.db, _begun(desk_id, platform, unit.now, by))

    async def disconnect(self, desk_id: str) -> None:
        """Forget a connection with its credentials and the secrets of its webhooks."""
        async with self._database.unit() as unit:
            await self._desks.remove(unit, desk_id)

    # The steps --------------------------------------------------------------------------------------------------------

    async def sign_in(
        self, desk_id: str, settings: Mapping[str, str], secrets: Mapping[str, str], forget: set[str], by: str
    ) -> None:
        """Store address, settings and credentials, and read the fields of the desk if it lets us in.

        `secrets` that are not among those given stay, unless they are in `forget`, or would go to another address.

        Raises:
            Invalid, AddressRefused: something does not fit.
            Conflict: tickets are open at the place that it would no longer lead to, or somebody else has changed it.
        """
        begun, before = await self.found(desk_id)
        kept: dict[str, str] = {}
        if before is not None:
            old = msgspec.json.decode(before.settings, type=dict[str, str])
            if old.get("base_url", "") == settings.get("base_url", ""):
                opened = self._sealer.open(before.credentials)
                kept = {name: value for name, value in opened.items() if name not in forget}
        empty = Desk(
            id=desk_id,
            platform=begun.platform,
            settings="{}",
            credentials="",
            decisions=_json(DecisionRules()),
            title=templates.DEFAULT_TITLE,
            description=templates.DEFAULT_DESCRIPTION,
            fields="{}",
            asks=False,
            version=0,
            changed_at=begun.changed_at,
            changed_by=by,
        )
        changed = replace(before or empty, settings=_json(settings), credentials=self._sealer.seal({**kept, **secrets}))
        await self._store(begun, changed, by, then="ticket", results=None, tested_at=None)
        await self.read_fields(desk_id, by)

    async def read_fields(self, desk_id: str, by: str) -> str | None:
        """Read the fields of the desk's tickets; return why that failed, or None."""
        fields: list[Field] = []

        async def discover() -> str:
            found = await (await self._desks.connected(desk_id)).discover_fields()
            fields.extend(_field(one) for one in found)
            return ""

        result = await within("read the fields", discover, PATIENCE)
        await self._note(desk_id, by, fields=_json(fields) if result.ok else None)
        return None if result.ok else result.detail

    async def ticket(self, desk_id: str, title: str, description: str, fields: Mapping[str, str], by: str) -> None:
        """Store the templates, and what the platform's own fields are filled with.

        Raises:
            Invalid: something does not fit; `field` names it.
        """
        begun, stored = await self._connected(desk_id)
        known = {one.name: one.spec() for one in fields_of(begun)}
        typed = {name: _value(known.get(name), name, text) for name, text in fields.items()}
        changed = replace(stored, title=title, description=description, fields=_json(typed))
        await self._store(begun, changed, by, then="answers")

    async def answers(self, desk_id: str, rules: DecisionRules, by: str) -> None:
        """Store how a ticket reads.

        Raises:
            Invalid: something does not fit.
        """
        begun, stored = await self._connected(desk_id)
        await self._store(begun, replace(stored, decisions=_json(rules)), by, then="test", results=None)

    async def test(self, desk_id: str, by: str) -> list[Result]:
        """Try everything that the connection needs, and keep what came of it: first reading, then on a ticket.

        The ticket is marked as a test, and closed at the end. It is stored before it is opened, so that whoever tests
        again closes one that was left, whatever had come in between.
        """
        begun, stored = await self._connected(desk_id)
        try:
            async with asyncio.timeout(PATIENCE):
                found = list(await self._desks.test(self._desks.profile(stored)))
        except TimeoutError:
            found = [PermissionResult("answer", False, f"It did not within {PATIENCE:g} s.", "Check its address.")]
        except ReclaimError as error:
            found = [PermissionResult("reach the desk", False, str(error), "Go back to “Sign in” and mend it.")]
        if any(one.ok for one in found):
            found += await self._try_on_a_ticket(begun, stored, by)
        results = [Result(one.what, one.ok, one.detail, one.remedy) for one in found]
        then = _further(begun.step, "trial") if all(one.ok for one in results) else begun.step
        await self._note(desk_id, by, results=_json(results), tested_at=self._database.clock.now(), step=then)
        return results

    async def _try_on_a_ticket(self, begun: Setup, stored: Desk, by: str) -> list[PermissionResult]:
        desk_id, token = begun.desk_id, secrets.token_hex(4)
        left, results = await self._clear_away(begun, stored, by)
        if left:
            return results  # one that cannot be closed is enough
        trying = await self._attempt(stored, token)
        reference, now = domain.reference(domain.trial(desk_id, token), "trial"), self._database.clock.now()
        draft = drafted(stored, EXAMPLE, reference=reference, kind="trial", opened_at=now, test=True)
        await self._note(desk_id, by, attempt=_json(_Tried(reference, now)))
        ref = await trying.open(draft)
        if ref is not None:
            await self._note(desk_id, by, attempt=_json(_Tried(reference, now, ref.key, ref.number, ref.url)))
            if await trying.use(ref):
                await self._note(desk_id, by, attempt=None)
        return results + trying.results

    async def _clear_away(self, begun: Setup, stored: Desk, by: str) -> tuple[bool, list[PermissionResult]]:
        """Close the ticket that an earlier test left, if there is one; tell whether it still stands open."""
        if begun.attempt is None:
            return False, []
        trying = await self._attempt(stored, secrets.token_hex(4))
        before = msgspec.json.decode(begun.attempt, type=_Tried)
        closed = await trying.clear_away(before.ref, before.reference, before.at)
        if closed:
            await self._note(begun.desk_id, by, attempt=None)
        return not closed, trying.results

    async def _attempt(self, stored: Desk, token: str) -> Attempt:
        permissions = PLATFORMS[stored.platform].permissions
        return Attempt(await self._desks.connected(stored.id), permissions, token, patience=PATIENCE)

    async def send_trial(self, desk_id: str, by: str) -> None:
        """Open a test ticket, comment on it and read it back, and keep what came of each."""
        begun, stored = await self._connected(desk_id)
        before, now, again = trial_of(begun), self._database.clock.now(), begun.trial_at is not None
        if not again:
            # Stored before it is opened: whoever tries again looks for it.
            await self._note(desk_id, by, trial_at=now, listening_at=now)
            begun, stored = await self._connected(desk_id)
        draft = drafted(
            stored,
            EXAMPLE,
            reference=domain.reference(domain.trial(desk_id, begun.token), "trial"),
            kind="trial",
            opened_at=begun.trial_at or now,
            test=True,
        )
        refs: list[TicketRef] = []

        async def opens() -> str:
            desk = await self._desks.connected(desk_id)
            refs.append(await desk.create(draft, tried=again))
            return f"Ticket {refs[0].number} is open."

        async def comments() -> str:
            text = "This is a test by Reclaim. Nothing depends on this ticket."
            desk = await self._desks.connected(desk_id)
            await desk.comment(refs[0], text, mark=_mark("setup", begun), tried=True)
            return "The comment is there."

        async def reads() -> str:
            said = await (await self._desks.connected(desk_id)).read_decision(refs[0])
            return f"It says: {said.reading}."

        results = [await within("open a ticket", opens, PATIENCE)]
        if refs:
            # Not every platform lets comments be read: one that was made is not made again.
            said = [one for one in (before.results if before else ()) if one.what == SAYING and one.ok]
            results.append(
                PermissionResult(SAYING, True, said[0].detail) if said else await within(SAYING, comments, PATIENCE)
            )
            results.append(await within("read it back", reads, PATIENCE))
        ref = refs[0] if refs else TicketRef("", "", "")
        shown = [Result(one.what, one.ok, one.detail, one.remedy) for one in results]
        then = _further(begun.step, "webhook") if all(one.ok for one in shown) else begun.step
        await self._note(desk_id, by, trial=_json(Trial(ref.key, ref.number, ref.url, shown)), step=then)

    async def listen(self, desk_id: str, by: str) -> None:
        """Wait for a webhook that comes from now on."""
        await self._note(desk_id, by, listening_at=self._database.clock.now())

    async def past_webhook(self, desk_id: str, by: str) -> None:
        """Go on from the webhook, whether one came or not: tickets are polled as well."""
        begun, _ = await self._connected(desk_id)
        await self._note(desk_id, by, step=_further(begun.step, "finish"))

    async def finish(self, desk_id: str, *, asks: bool, by: str) -> None:
        """Let new cases be asked at this desk, or not; close the test ticket."""
        begun, stored = await self._connected(desk_id)
        await self._clear_away(begun, stored, by)
        trial = trial_of(begun)
        if trial is not None and trial.key and not trial.closed:
            ref = TicketRef(trial.key, trial.number, trial.url)

            async def closes() -> str:
                text = "The set-up is finished. Thank you."
                await (await self._desks.connected(desk_id)).close(
                    ref, text, mark=_mark("setup-end", begun), tried=True
                )
                return "It is closed."

            result = await within("close it", closes, PATIENCE)
            results = [one for one in trial.results if one.what != result.what]
            results.append(Result(result.what, result.ok, result.detail, result.remedy))
            closed = msgspec.structs.replace(trial, results=results, closed=result.ok)
            await self._note(desk_id, by, trial=_json(closed))
        await self._store(begun, replace(stored, asks=asks), by, then="finish")

    # ------------------------------------------------------------------------------------------------------------------

    async def _connected(self, desk_id: str) -> tuple[Setup, Desk]:
        begun, stored = await self.found(desk_id)
        if stored is None:
            raise Conflict("Enter where the desk is and how to sign in first.")
        return begun, stored

    async def _store(self, begun: Setup, wanted: Desk, by: str, *, then: Step, **also: Any) -> None:
        async with self._database.unit() as unit:
            await self._desks.store(unit, wanted, by)
            unit.wake(OPEN)
            unit.wake(TELL)
            await _remember(unit.db, begun)
            step = _further(begun.step, then)
            await setup_store.change(unit.db, begun.desk_id, by=by, now=unit.now, step=step, **also)

    async def _note(self, desk_id: str, by: str, **values: Any) -> None:
        begun, _ = await self.found(desk_id)
        async with self._database.unit() as unit:
            await _remember(unit.db, begun)
            await setup_store.change(unit.db, desk_id, by=by, now=unit.now, **values)


async def _remember(db: AsyncConnection, begun: Setup) -> None:
    if await setup_store.setup(db, begun.desk_id) is None:
        await setup_store.begin(db, begun)


def _begun(desk_id: str, platform: str, at: datetime, by: str, *, step: Step = "sign-in") -> Setup:
    return Setup(desk_id, platform, step, None, None, None, None, None, None, at, by, secrets.token_hex(4))


def _mark(said: str, begun: Setup) -> str:
    return f"lr-note-{said}-{begun.token}" if begun.token else f"lr-note-{said}"


def _further(reached: str, then: Step) -> str:
    return max(reached, then, key=_ORDER.index)


def is_name(text: str) -> bool:
    """Tell whether a connection can be called so: its id stands in addresses and labels."""
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,71}", text) is not None


def reached(begun: Setup, step: Step) -> bool:
    """Tell whether a step can be gone to."""
    return _ORDER.index(step) <= _ORDER.index(begun.step)


def after(step: Step) -> Step:
    """Return the step that follows."""
    return _ORDER[min(_ORDER.index(step) + 1, len(_ORDER) - 1)]


def fields_of(begun: Setup) -> list[Field]:
    """Return the fields that the platform reported."""
    return msgspec.json.decode(begun.fields, type=list[Field]) if begun.fields else []


def results_of(begun: Setup) -> list[Result]:
    """Return what the test of the connection found."""
    return msgspec.json.decode(begun.results, type=list[Result]) if begun.results else []


def trial_of(begun: Setup) -> Trial | None:
    """Return the test ticket, or None before it was asked for."""
    return msgspec.json.decode(begun.trial, type=Trial) if begun.trial else None


def example(stored: Desk) -> tuple[str, str, str | None]:
    """Return title and description of a made-up case's ticket, and why its templates cannot be filled in, if so."""
    try:
        draft = drafted(stored, EXAMPLE, reference=EXAMPLE["case_id"], kind="question", opened_at=stored.changed_at)
    except Invalid as error:
        return "", "", str(error)
    return draft.subject, draft.text, None


def shown_value(value: Json, field: Field | None = None) -> str:
    """Return what a field is filled with as a person enters it: of a choice, what people see."""
    match value:
        case bool():
            return "true" if value else "false"
        case {"id": chosen}:
            return shown_value(cast("Json", chosen), field)
        case list():
            return ", ".join(shown_value(each, field) for each in value)
        case None:
            return ""
        case _:
            return dict(field.choices if field else []).get(str(value), str(value))


def _value(spec: FieldSpec | None, name: str, text: str) -> Json:
    if spec is None:
        raise Invalid(f"The platform reported no field {name}. Read its fields again, or take it out.", field=name)
    if "${" not in text:
        return spec.value(text)
    if spec.kind != "text":
        raise Invalid(f"“{spec.label}” is no text: only texts take placeholders.", field=name)
    templates.check(name, text)
    return text.strip()


def _field(spec: FieldSpec) -> Field:
    return Field(
        spec.name, spec.label, spec.kind, spec.required, [(choice.value, choice.label) for choice in spec.choices]
    )


def rules_from(
    tags: Mapping[Answer, str], field: str, values: Mapping[Answer, str], *, needs_close: bool, known: Sequence[Field]
) -> DecisionRules:
    """Return how a ticket reads, from what was entered: for each answer a tag and a value of one field, or neither.

    Raises:
        Invalid: two answers have the same tag or value, or an answer has none that is needed.
    """
    named: dict[str, Answer] = {}
    chosen: dict[str, Answer] = {}
    choices = next((one.choices for one in known if one.name == field), [])
    by_label = {label.casefold(): value for value, label in choices}
    for answer, tag in tags.items():
        if tag.strip():
            _add(named, tag.strip(), answer, "tag")
    for answer, text in values.items():
        if text.strip():
            _add(chosen, by_label.get(text.strip().casefold(), text.strip()), answer, "value")
    if not field and chosen:
        raise Invalid("Choose the field that these values stand in.", field="decision_field")
    for answer in ("keep", "revoke"):
        if answer not in {*named.values(), *chosen.values()}:
            raise Invalid(f"Enter a tag or a value for “{ANSWERS[answer]}”.", field=f"tag_{answer}")
    return DecisionRules(tags=named, decision_field=field if chosen else "", values=chosen, needs_close=needs_close)


def _add(into: dict[str, Answer], text: str, answer: Answer, what: str) -> None:
    if text.casefold() in {each.casefold() for each in into}:
        raise Invalid(f"Two answers have the {what} {text}.", field=f"{what}_{answer}")
    into[text] = answer


def _json(value: object) -> str:
    if isinstance(value, DecisionRules):
        value = asdict(value)
    return msgspec.json.encode(value).decode()
