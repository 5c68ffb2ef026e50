"""The golden documents: what is on the wire today is what other releases, and waiting messages, were written in."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from jsonschema import Draft202012Validator

from reclaim.common import envelope
from reclaim.common.contracts import CONSUMERS, SERVICES, CaseEvent, Event, SeatReclaimed
from reclaim.common.envelope import Received
from tests.contracts.examples import EXAMPLES
from tests.contracts.write_golden import GOLDEN, canonical, encoded, main, path_of, write

EVENTS = [pytest.param(event, id=event.wire) for event in CONSUMERS]

WIRE_NAME = re.compile(r"reclaim\.[A-Z][A-Za-z]+\.v[1-9][0-9]*")
UTC_INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)")
LOOKS_LIKE_AN_INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d")

CLOUDEVENT_SCHEMA = {
    "type": "object",
    "required": ["id", "source", "specversion", "type"],
    "properties": {
        "id": {"type": "string", "minLength": 1},
        "source": {"type": "string", "format": "uri-reference", "minLength": 1},
        "specversion": {"const": "1.0"},
        "type": {"type": "string", "minLength": 1},
        "datacontenttype": {"const": "application/json"},
        "subject": {"type": "string", "minLength": 1},
        "time": {"type": "string", "format": "date-time", "minLength": 1},
        "data": {"type": "object"},
    },
    # The specification's rule for the names of context attributes, extensions (`traceparent`) included.
    "patternProperties": {"^[a-z0-9]{1,20}$": {}},
    "additionalProperties": False,
}
"""What the CloudEvents 1.0 JSON format demands of one event, narrowed to what we use of it."""


def golden(event: type[Event]) -> list[dict[str, Any]]:
    document = json.loads(path_of(event).read_text(encoding="utf-8"))
    assert isinstance(document, list)
    return document


def read_back(part: object) -> Received[Any]:
    received = envelope.read(json.dumps(part).encode())
    assert isinstance(received, Received), received
    return received


def fields(document: object, path: str = "") -> Iterator[tuple[str, object]]:
    """Every leaf of a document with its path."""
    if isinstance(document, dict):
        for name, value in document.items():
            yield from fields(value, f"{path}.{name}")
    elif isinstance(document, list):
        for value in document:
            yield from fields(value, f"{path}[]")
    else:
        yield path, document


def objects(document: object) -> Iterator[dict[str, Any]]:
    """Every object within a document, itself included."""
    if isinstance(document, dict):
        yield document
        for value in document.values():
            yield from objects(value)
    elif isinstance(document, list):
        for value in document:
            yield from objects(value)


def test_every_event_has_a_golden_document_and_every_document_an_event() -> None:
    assert set(EXAMPLES) == set(CONSUMERS)
    assert {path.name for path in GOLDEN.iterdir()} == {path_of(event).name for event in CONSUMERS}, (
        "python -m tests.contracts.write_golden writes the document of a new event; the document of an event that "
        "other releases may still send stays, and so does the event"
    )


def test_wire_names_carry_the_name_of_the_event_and_a_version() -> None:
    for event in CONSUMERS:
        assert WIRE_NAME.fullmatch(event.wire)
        assert event.wire.split(".")[1] == event.__name__.removesuffix(f"V{event.wire.rsplit('.v')[-1]}")
    assert len({event.wire for event in CONSUMERS}) == len(CONSUMERS)


@pytest.mark.parametrize("event", EVENTS)
def test_todays_code_writes_exactly_the_golden_document(event: type[Event]) -> None:
    assert canonical(encoded(EXAMPLES[event])) == canonical(golden(event)), (
        f"{event.wire} would change for those who read it now: give the change the next version instead"
    )


@pytest.mark.parametrize("event", EVENTS)
def test_the_golden_document_reads_back_as_an_equal_event(event: type[Event]) -> None:
    examples, parts = EXAMPLES[event], golden(event)
    received = envelope.split(path_of(event).read_bytes())
    assert len(received) == len(examples) == len(parts)
    for example, part, one in zip(examples, parts, received, strict=True):
        assert isinstance(one, Received)
        assert type(one.data) is event
        assert (one.data, one.id, one.source, one.time) == (example.event, example.id, example.source, example.time)
        assert one.traceparent == example.traceparent == part.get("traceparent")
        assert json.loads(one.body) == part, "an event keeps its own envelope for when it is set aside"


@pytest.mark.parametrize("event", EVENTS)
def test_a_field_that_a_newer_writer_adds_is_ignored_wherever_it_stands(event: type[Event]) -> None:
    for example, part in zip(EXAMPLES[event], golden(event), strict=True):
        for known in list(objects(part)):
            if known is not part.get("data", {}).get("settings"):  # a map of the operator's own names, not a record
                known["added_later"] = {"nested": ["anything", 1, None]}
        part["newextension"] = "x"
        assert read_back(part).data == example.event


@pytest.mark.parametrize("event", EVENTS)
def test_what_a_contract_requires_is_required(event: type[Event]) -> None:
    required = {field.encode_name for field in msgspec.structs.fields(event) if field.required}
    for part in golden(event):
        assert required <= set(part["data"])
        for name in required:
            without = {**part, "data": {key: value for key, value in part["data"].items() if key != name}}
            answer = envelope.read(json.dumps(without).encode())
            assert not isinstance(answer, Received)
            assert name in answer.reason


@pytest.mark.parametrize("event", EVENTS)
def test_the_minimal_example_leaves_out_all_that_may_be(event: type[Event]) -> None:
    """What a writer of today may leave out, a writer of any later release may leave out too."""
    full, minimal = golden(event)[0], golden(event)[-1]
    optional = {field.encode_name for field in msgspec.structs.fields(event) if not field.required}
    assert not optional & set(minimal["data"])
    assert set(full["data"]) >= set(minimal["data"])
    if "seat" in minimal["data"]:
        assert not {"department", "price"} & set(minimal["data"]["seat"])
        assert "email" not in minimal["data"]["seat"]["holder"]


@pytest.mark.parametrize("event", EVENTS)
def test_every_envelope_is_a_cloudevent_for_the_sdk(event: type[Event]) -> None:
    for example, part in zip(EXAMPLES[event], golden(event), strict=True):
        Draft202012Validator(CLOUDEVENT_SCHEMA, format_checker=Draft202012Validator.FORMAT_CHECKER).validate(part)
        read = JSONFormat().read(CloudEvent, example.encode())
        assert read.get_specversion() == "1.0"
        assert read.get_id() == example.id
        assert read.get_source() == f"/reclaim/{example.source}"
        assert read.get_type() == event.wire
        assert read.get_time() == example.time
        assert read.get_datacontenttype() == "application/json"
        assert read.get_data() == part["data"]
        assert read.get_extension("traceparent") == example.traceparent
        # What the SDK writes for it, we read: the way back for a producer that is not ours.
        assert read_back(json.loads(JSONFormat().write(read))).data == example.event


@pytest.mark.parametrize("event", EVENTS)
def test_a_message_is_an_array_of_such_envelopes(event: type[Event]) -> None:
    message = envelope.join([example.encode() for example in EXAMPLES[event]])
    parts = json.loads(message)
    assert canonical(parts) == canonical(golden(event))
    for part in parts:
        JSONFormat().read(CloudEvent, json.dumps(part))
    assert envelope.CONTENT_TYPE == "application/cloudevents-batch+json"
    assert envelope.split(envelope.join([])) == []


@pytest.mark.parametrize("event", EVENTS)
def test_the_subject_is_the_case(event: type[Event]) -> None:
    for part in golden(event):
        if issubclass(event, CaseEvent):
            assert part["subject"] == part["data"]["case_id"]
        else:
            assert "subject" not in part


@pytest.mark.parametrize("event", EVENTS)
def test_money_keeps_its_decimals_and_instants_are_utc(event: type[Event]) -> None:
    for path, value in fields(golden(event)):
        if path.endswith(".amount"):
            assert value == "175.00"
        if isinstance(value, str) and (LOOKS_LIKE_AN_INSTANT.match(value) or path.endswith(("_at", ".time"))):
            assert UTC_INSTANT.fullmatch(value), f"{path} is {value}"
        assert not isinstance(value, float), f"{path} would be read with a binary fraction"


@pytest.mark.parametrize("amount", ["175.00", "175", "0.10", "0", "1234567890123.4567", "0.0000"])
def test_money_is_read_as_it_was_written(amount: str) -> None:
    (part, *_) = golden(SeatReclaimed)
    part["data"]["seat"]["price"]["amount"] = amount
    price = read_back(part).data.seat.price
    assert isinstance(price.amount, Decimal)
    assert str(price.amount) == amount
    assert json.loads(msgspec.json.encode(price)) == {"amount": amount, "currency": "EUR"}


def test_the_time_of_an_envelope_is_utc_wherever_it_was_made() -> None:
    (example, *_) = EXAMPLES[SeatReclaimed]
    for hours in (-9, 0, 5.5):
        elsewhere = example.time.astimezone(timezone(timedelta(hours=hours)))
        body = envelope.encode(example.event, source="lifecycle", time=elsewhere)
        assert json.loads(body)["time"] == "2026-11-02T12:00:01Z"


def test_the_producer_of_an_event_is_a_service() -> None:
    assert {example.source for examples in EXAMPLES.values() for example in examples} <= set(SERVICES)


def test_a_new_golden_document_is_written_and_an_old_one_never_touched(tmp_path: Path) -> None:
    written, differing = write(tmp_path)
    assert {path.name for path in written} == {path.name for path in GOLDEN.iterdir()}
    assert differing == []
    for path in written:
        assert path.read_text(encoding="utf-8") == (GOLDEN / path.name).read_text(encoding="utf-8")

    changed, missing = written[0], written[1]
    changed.write_text("[]\n", encoding="utf-8")
    missing.unlink()
    assert write(tmp_path) == ([missing], [changed])
    assert changed.read_text(encoding="utf-8") == "[]\n"


def test_the_command_says_which_document_it_refused_to_overwrite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tests.contracts.write_golden.write", lambda: ([], [tmp_path / "reclaim.CaseClosed.v1.json"]))
    assert main() == 1
    assert "not overwritten" in capsys.readouterr().err
    monkeypatch.setattr("tests.contracts.write_golden.write", lambda: ([tmp_path / "reclaim.New.v1.json"], []))
    assert main() == 0
    assert "written" in capsys.readouterr().out
