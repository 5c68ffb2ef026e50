"""CloudEvents 1.0, JSON format: one event is a structured-mode object, a message is a batch of them.

Specification: CloudEvents 1.0.2, *JSON Event Format*, sections 3 (envelope) and 4 (batch). The SDK has no batch
format, so the envelope is a typed struct here, and the contract tests read it back with the SDK.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final, Generic, TypeVar

import msgspec

from reclaim.common.contracts import BY_WIRE, CaseEvent, Event
from reclaim.common.errors import Undecodable
from reclaim.common.ids import new_id

CONTENT_TYPE: Final = "application/cloudevents-batch+json"

E_co = TypeVar("E_co", bound=Event, covariant=True)


class _Envelope(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    specversion: str = msgspec.field(default="1.0")
    id: str
    source: str
    type: str
    time: datetime
    subject: str | None = None
    datacontenttype: str = "application/json"
    traceparent: str | None = None
    data: msgspec.Raw


class Received(msgspec.Struct, Generic[E_co], frozen=True, gc=False):
    """An event as it arrived. `body` is its own envelope in bytes, for setting it aside and trying again."""

    id: str
    source: str
    time: datetime
    data: E_co
    body: bytes
    traceparent: str | None = None


class Unreadable(msgspec.Struct, frozen=True, gc=False):
    """A part of a message that is no event we know; kept as it came, for an operator to see."""

    id: str
    type: str
    source: str
    reason: str
    body: bytes


_encoder = msgspec.json.Encoder()
_envelope = msgspec.json.Decoder(_Envelope)
_batch = msgspec.json.Decoder(list[msgspec.Raw])
_data = {wire: msgspec.json.Decoder(event) for wire, event in BY_WIRE.items()}


def encode(
    event: Event, *, source: str, time: datetime, event_id: str | None = None, traceparent: str | None = None
) -> bytes:
    """Return one event as a structured-mode CloudEvent. `source` is the name of the service that says it."""
    return _encoder.encode(
        {
            "specversion": "1.0",
            "id": event_id or new_id(),
            "source": f"/reclaim/{source}",
            "type": event.wire,
            "time": time.astimezone(UTC),
            **({"subject": event.case_id} if isinstance(event, CaseEvent) else {}),
            "datacontenttype": "application/json",
            **({"traceparent": traceparent} if traceparent else {}),
            "data": event,
        }
    )


def listed(bodies: Sequence[bytes]) -> bytes:
    """Return already encoded events one after the other, as they stand in a batch."""
    return b",".join(bodies)


def join(bodies: Sequence[bytes]) -> bytes:
    """Return the batch of already encoded events, or of lists of them, without encoding them again."""
    return b"[" + listed(bodies) + b"]"


def split(message: bytes) -> list[Received[Event] | Unreadable]:
    """Read a batch; what is no event we know comes back as `Unreadable`, and its neighbours as events.

    Raises:
        Undecodable: the message as a whole is not a JSON array.
    """
    try:
        parts = _batch.decode(message)
    except msgspec.DecodeError as error:
        raise Undecodable(f"the message is not a CloudEvents JSON batch: {error}") from error
    return [read(bytes(part)) for part in parts]


def read(body: bytes) -> Received[Event] | Unreadable:
    """Read one structured-mode CloudEvent."""
    try:
        envelope = _envelope.decode(body)
    except msgspec.DecodeError as error:
        return unreadable(body, f"not a CloudEvent: {error}")
    if "\0" in envelope.id + envelope.type + envelope.source:
        return unreadable(body, "an attribute has a NUL character, which a database cannot keep as text")
    source = envelope.source.removeprefix("/reclaim/")
    decoder = _data.get(envelope.type)
    if decoder is None:
        return Unreadable(envelope.id, envelope.type, source, f"no event of type {envelope.type} is known here", body)
    try:
        data = decoder.decode(envelope.data)
    except msgspec.DecodeError as error:
        return Unreadable(
            envelope.id, envelope.type, source, f"{envelope.type} does not fit its contract: {error}", body
        )
    return Received(envelope.id, source, envelope.time, data, body, envelope.traceparent)


def unreadable(message: bytes, reason: str) -> Unreadable:
    """Wrap a whole message that is no batch; its id is its digest, so that a second copy is the same one."""
    return Unreadable(f"sha256:{hashlib.sha256(message).hexdigest()}", "", "", reason, message)
