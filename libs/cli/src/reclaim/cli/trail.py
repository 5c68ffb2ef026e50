"""`reclaim audit` and `reclaim attention`: the record of what happened, and what waits for a person."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer

from reclaim.cli.client import ApiError
from reclaim.cli.options import DEFAULT_URL, REFUSED, OutputOption, UrlOption, connected, fail
from reclaim.cli.output import Output, listing, progress_console, show

ANSWER_IS_NO: Final = 1

audit_app = typer.Typer(no_args_is_help=True, help="The audit trail.")
attention_app = typer.Typer(no_args_is_help=True, help="What only a person can move on.")


class ExportFormat(StrEnum):
    """How an export is written."""

    CSV = "csv"
    JSONL = "jsonl"


@audit_app.command("verify")
def audit_verify(
    checkpoint: Annotated[
        list[Path] | None, typer.Option(help="a checkpoint kept outside, from `audit checkpoint`; repeat for several")
    ] = None,
    url: UrlOption = DEFAULT_URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """Read the whole audit trail and its checkpoints. Exit code 1 if it is not what was written."""
    outside = [_checkpoint(path) for path in checkpoint or ()]
    with connected(url) as client:
        result = client.post("/lifecycle/api/audit/verify", {"checkpoints": outside})
    show(output, result)
    if not result["verified"]:
        raise typer.Exit(ANSWER_IS_NO)


def _checkpoint(path: Path) -> Any:
    try:
        return msgspec.json.decode(path.read_bytes())
    except OSError as error:
        fail(f"{path} cannot be read: {error.strerror}", REFUSED)
    except msgspec.DecodeError:
        fail(f"{path} is no checkpoint: `reclaim audit checkpoint --out FILE` writes one", REFUSED)


@audit_app.command("checkpoint")
def audit_checkpoint(
    out: Annotated[Path | None, typer.Option(help="keep it in this file, which must not exist")] = None,
    url: UrlOption = DEFAULT_URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """Sign the end of the audit trail, if it has grown, and show the newest checkpoint. Keep it outside."""
    with connected(url) as client:
        result = client.post("/lifecycle/api/audit/checkpoints")
    if out is not None:
        try:
            with out.open("xb") as file:
                file.write(msgspec.json.format(msgspec.json.encode(result)) + b"\n")
        except FileExistsError:
            fail(f"{out} exists and is left alone: an earlier checkpoint proves more than a later one", REFUSED)
        except OSError as error:
            fail(f"{out} cannot be written: {error.strerror}", REFUSED)
    show(output, result)


@audit_app.command("keys")
def audit_keys(url: UrlOption = DEFAULT_URL, output: OutputOption = Output.TABLE) -> None:
    """Show the public keys that checkpoints are verified with, the newest first."""
    with connected(url) as client:
        result = client.get("/lifecycle/api/audit/keys")
    columns = {"key_id": "Id", "algorithm": "Algorithm", "public_key": "Public key"}
    show(output, result, table=listing(result["keys"], columns))


@audit_app.command("export")
def audit_export(
    form: Annotated[ExportFormat, typer.Option("--format", help="csv for spreadsheets, jsonl for programs")],
    since: Annotated[str | None, typer.Option(help="a date or an instant, included")] = None,
    until: Annotated[str | None, typer.Option(help="a date, included, or an instant, not included")] = None,
    case: Annotated[str | None, typer.Option(help="id of one case")] = None,
    personal: Annotated[bool, typer.Option("--personal", help="with address and browser; for administrators")] = False,
    out: Annotated[Path | None, typer.Option(help="write to this file instead of standard output")] = None,
    url: UrlOption = DEFAULT_URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """Export the audit trail. With --out, what is printed says where it is."""
    query = {
        "format": form.value,
        "from": since,
        "to": until,
        "case_id": case,
        "personal": "true" if personal else None,
    }
    with connected(url) as client, client.download("/lifecycle/api/audit/export", **query) as parts:
        if out is None:
            for part in parts:
                sys.stdout.buffer.write(part)
            sys.stdout.buffer.flush()
            return
        try:
            with out.open("wb") as file:
                size = sum(file.write(part) for part in parts)
        except OSError as error:
            fail(f"{out} cannot be written: {error.strerror}", REFUSED)
    show(output, {"file": str(out), "format": form.value, "bytes": size})


@audit_app.command("erase")
def audit_erase(
    actor: Annotated[str, typer.Option(help="whose address and browser; as it stands in the audit trail")],
    reason: Annotated[str, typer.Option(help="who asked for it; kept in the audit trail")],
    url: UrlOption = DEFAULT_URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """Erase the address and browser of one person's decisions. The trail records that, and stays valid."""
    with connected(url) as client:
        # The trail comes last: what it records has been done everywhere by then.
        answers = client.post("/approvals/api/erase", {"actor": actor})
        entries = client.post("/lifecycle/api/audit/erase", {"actor": actor, "reason": reason})
    show(output, {**entries, "answers": answers["answers"]})


@attention_app.command("list")
def attention_list(
    kind: Annotated[
        str,
        typer.Option(
            help="question, answer, freeze, restore, reclaim, reactivation, other, task, left_frozen, override, pages "
            "or message"
        ),
    ] = "",
    url: UrlOption = DEFAULT_URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """List what waits for a person, the longest waiting first, with the parked messages of every service."""
    with connected(url) as client:
        result = client.get("/lifecycle/api/attention", kind=kind or None)
        unknown = []
        for service in result["elsewhere"]:
            try:
                parked = client.get(f"/{service}/api/parked")["parked"]
            except ApiError:
                unknown.append(service)
                continue
            result["counts"]["message"] += len(parked)
            result["total"] += len(parked)
            if kind in {"", "message"}:
                result["items"] += [_message(service, one) for one in parked]
    result["elsewhere"] = unknown
    result["items"].sort(key=lambda item: item["since"])
    rows = [
        {
            **item,
            "what": item.get("holder")
            or item.get("event")
            or ("a tripped brake" if "trip_id" in item else "approvals"),
            "id": item.get("case_id") or item.get("event_id") or item.get("trip_id", ""),
        }
        for item in result["items"]
    ]
    columns = {"id": "Id", "what": "What", "kind": "Kind", "reason": "Why", "remedy": "What to do", "since": "Since"}
    show(output, result, table=listing(rows, columns, title=f"{result['total']} waiting"))
    if unknown and output is Output.TABLE:
        progress_console.print(f"Not asked, because they do not answer here: {', '.join(unknown)}")


def _message(service: str, parked: dict[str, Any]) -> dict[str, Any]:
    return {
        "kind": "message",
        "since": parked["since"],
        "reason": parked["reason"],
        "remedy": f"Remove the reason, then: reclaim parked redrive {service} {parked['event_id']}",
        "service": service,
        "event_id": parked["event_id"],
        "event": parked["wire"],
    }
