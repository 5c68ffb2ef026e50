"""The commands of sources of use: `usage ...`, and of a sign-in log's applications: `connection ...-application`."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Final
from urllib.parse import quote

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TaskProgressColumn, TextColumn

from reclaim.cli.client import Client
from reclaim.cli.options import DEFAULT_URL, REFUSED, OutputOption, UrlOption, connected, fail, named
from reclaim.cli.output import Output, listing, progress_console, show

NOT_ALL: Final = 1
"""The exit code of an import that refused rows, and of one that failed."""

POLL: Final = 0.5
PIECE: Final = 256 * 1024
ENDED: Final = frozenset({"finished", "failed"})

usage_app = typer.Typer(no_args_is_help=True, help="Who tells what is used: sources, their freshness, and files.")

ConnectionName = Annotated[str, typer.Argument(help="name or id of the connection")]


class Shape(StrEnum):
    """Which tool wrote a file."""

    SCCM = "sccm"
    INTUNE = "intune"
    JAMF = "jamf"
    CSV = "csv"


class What(StrEnum):
    """What a file tells."""

    USAGE = "usage"
    INSTALLATIONS = "installations"


class DateOrder(StrEnum):
    """How 03/04/2026 is meant."""

    MONTH_FIRST = "month_first"
    DAY_FIRST = "day_first"


def add_to(app: typer.Typer, connection_app: typer.Typer) -> None:
    """Add the commands to the command's grammar."""
    app.add_typer(usage_app, name="usage")
    connection_app.command("sync")(connection_sync)
    connection_app.command("applications")(applications)
    connection_app.command("choose-application")(choose_application)
    connection_app.command("drop-application")(drop_application)


# Sources.


@usage_app.command("sources")
def usage_sources(url: UrlOption = DEFAULT_URL, output: OutputOption = Output.TABLE) -> None:
    """List how far each source can be relied on. Exit code 1 if one is stale: nobody is flagged by it."""
    with connected(url) as client:
        result = client.get("/scanner/api/usage/sources")
    columns = {
        "source": "Source",
        "tells": "Tells",
        "product": "Product",
        "complete_until": "Complete until",
        "heard_at": "Last heard",
        "stale": "Stale",
    }
    show(output, result, table=listing(result, columns))
    if any(one["stale"] for one in result):
        raise typer.Exit(NOT_ALL)


@usage_app.command("retire")
def usage_retire(
    source: Annotated[str, typer.Argument(help="as `usage sources` shows it")],
    reason: Annotated[str, typer.Option(help="why it is no more")],
    url: UrlOption = DEFAULT_URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """Retire a source that is no more: it vouches for nothing, and is stale no longer. Its records of use stay."""
    with connected(url) as client:
        result = client.post("/scanner/api/usage/sources/retire", {"source": source, "reason": reason})
    show(output, result)


@usage_app.command("retired")
def usage_retired(url: UrlOption = DEFAULT_URL, output: OutputOption = Output.TABLE) -> None:
    """List the sources that were retired and have said nothing since."""
    with connected(url) as client:
        result = client.get("/scanner/api/usage/sources/retired")
    columns = {"source": "Source", "retired_at": "Retired", "retired_by": "By", "reason": "Reason"}
    show(output, result, table=listing(result, columns))


@usage_app.command("unmatched")
def usage_unmatched(
    source: Annotated[str | None, typer.Option(help="of this source only")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 100,
    url: UrlOption = DEFAULT_URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """List users that sources name and whom no known seat belongs to."""
    with connected(url) as client:
        result = client.get("/scanner/api/usage/unmatched", source=source, limit=limit)
    columns = {"user": "User", "source": "Source", "records": "Records", "last_used_at": "Last use"}
    show(output, result, table=listing(result, columns))


# Files.


@usage_app.command("import")
def usage_import(
    file: Annotated[Path, typer.Argument(help="CSV as the tool exported it")],
    shape: Annotated[Shape, typer.Option(help="which tool wrote it")],
    what: Annotated[What, typer.Option(help="what it tells")] = What.USAGE,
    source: Annotated[str, typer.Option(help="what the feed is called; the shape, if not given")] = "",
    complete: Annotated[
        bool, typer.Option("--complete", help="it has everybody's use in its periods, or every installation")
    ] = False,
    time_zone: Annotated[str, typer.Option(help="of times and months in it")] = "UTC",
    date_order: Annotated[DateOrder | None, typer.Option(help="how 03/04/2026 is meant")] = None,
    first_day: Annotated[str, typer.Option(help="for rows without month and day, with --last-day")] = "",
    last_day: Annotated[str, typer.Option()] = "",
    silence_days: Annotated[int, typer.Option(help="warn after so many days without a new file", min=1, max=40)] = 40,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="until it has been read")] = True,
    url: UrlOption = DEFAULT_URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """Send a file of any length. Good rows are kept; exit code 1 if rows were refused, or the file was not read.

    The same file again changes nothing.
    """
    said = {
        "shape": shape.value,
        "what": what.value,
        "source": source,
        "file_name": file.name,
        "complete": complete,
        "time_zone": time_zone,
        "date_order": date_order.value if date_order else "",
        "first_day": first_day,
        "last_day": last_day,
        "silence_days": silence_days,
    }
    try:
        stream = file.open("rb")
    except OSError as error:
        fail(f"{file} cannot be read: {error.strerror}", 2)
    with stream, connected(url) as client, _progress() as progress:
        size = file.stat().st_size
        sending = progress.add_task("sent", total=size)
        pieces = _pieces(stream, lambda count: progress.advance(sending, count))
        result = client.send("/scanner/api/usage/imports", pieces, "text/csv", size=size, **said)
        if wait:
            reading = progress.add_task("read", total=max(result["bytes"], 1))
            path = f"/scanner/api/usage/imports/{result['id']}"
            while result["status"] not in ENDED:
                time.sleep(POLL)
                result = client.get(path)
                progress.update(reading, completed=result["bytes_read"])
            result = client.get(path)
    _show_import(output, result)
    if result["bad"] or result["status"] == "failed":
        raise typer.Exit(NOT_ALL)


@usage_app.command("imports")
def usage_imports(url: UrlOption = DEFAULT_URL, output: OutputOption = Output.TABLE) -> None:
    """List the files that were sent."""
    with connected(url) as client:
        result = client.get("/scanner/api/usage/imports")
    columns = {
        "id": "Id",
        "file_name": "File",
        "source": "Source",
        "what": "Tells",
        "status": "Status",
        "rows": "Rows",
        "bad": "Refused",
        "kept": "Kept",
    }
    show(output, result, table=listing(result, columns))


@usage_app.command("refused")
def usage_refused(
    import_id: Annotated[str, typer.Argument(help="id of the import, see `usage imports`")],
    file: Annotated[Path | None, typer.Argument(help="where to write; standard output if none")] = None,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """Write the rows that were refused, with line and reason, as CSV."""
    path = f"/scanner/api/usage/imports/{quote(import_id, safe='')}/refused.csv"
    with connected(url) as client, client.download(path) as parts:
        if file is None:
            for part in parts:
                sys.stdout.buffer.write(part)
            sys.stdout.buffer.flush()
            return
        with file.open("wb") as target:
            for part in parts:
                target.write(part)


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TaskProgressColumn())
    return Progress(*columns, console=progress_console, transient=True)


def _pieces(stream: BinaryIO, sent: Any) -> Iterator[bytes]:
    while piece := stream.read(PIECE):
        yield piece
        sent(len(piece))


def _show_import(output: Output, result: dict[str, Any]) -> None:
    names = ("id", "source", "status", "rows", "bad", "kept", "vouched", "problem", "remedy")
    shown = {name: result[name] for name in names if result[name] is not None}
    if "vouched" in shown:
        shown["is it everything?"] = shown.pop("vouched")
    if result["findings"]["unknown"]:
        unknown = list(result["findings"]["unknown"].items())[:10]
        shown["not in the catalogue"] = ", ".join(f"{name} ({rows} row{'s' * (rows != 1)})" for name, rows in unknown)
    show(output, result if output is Output.JSON else shown)
    if output is Output.TABLE and result.get("refused"):
        columns = {"line": "Line", "reason": "Refused because", "row": "Row"}
        show(output, result, table=listing(result["refused"][:20], columns))


# Connections that are read by themselves.


def connection_sync(
    connection: ConnectionName, url: UrlOption = DEFAULT_URL, output: OutputOption = Output.TABLE
) -> None:
    """Read a connection again now: for new products, or for the sign-ins since the last time."""
    with connected(url) as client:
        result = client.post(f"{_connection(client, connection)}/sync")
    columns = {
        "source": "Source",
        "what": "Reads",
        "status": "Status",
        "succeeded_at": "Last good",
        "problem": "Problem",
    }
    show(output, result, table=listing(result, columns))


def applications(connection: ConnectionName, url: UrlOption = DEFAULT_URL, output: OutputOption = Output.TABLE) -> None:
    """List the applications that a sign-in log tells about, and which were chosen."""
    with connected(url) as client:
        result = client.get(f"{_connection(client, connection)}/applications")
    columns = {
        "id": "Id",
        "name": "Application",
        "chosen": "Chosen",
        "profile.product": "Counts as",
        "profile.rule_name": "Rule",
        "profile.rule_status": "Status",
    }
    show(output, result, table=listing(result, columns))


def choose_application(
    connection: ConnectionName,
    application: Annotated[str, typer.Argument(help="name or id of the application")],
    seats: Annotated[str, typer.Option(help="name or id of the connection that holds its seats")],
    product: Annotated[str, typer.Option(help="what that connection calls them: a licence's key")],
    url: UrlOption = DEFAULT_URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """Let an application's sign-ins count as use of some seats, and make its rule for review."""
    with connected(url) as client:
        known = client.get("/scanner/api/connections")
        document = {"seats_connection_id": named(known, seats, "connection")["id"], "product": product}
        path = _application(
            client, f"/scanner/api/connections/{named(known, connection, 'connection')['id']}", application
        )
        show(output, client.call("PUT", path, json=document))


def drop_application(
    connection: ConnectionName,
    application: Annotated[str, typer.Argument(help="name or id of the application")],
    url: UrlOption = DEFAULT_URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """Let an application's sign-ins count no more: its rule is paused, its open cases are taken back."""
    with connected(url) as client:
        client.call("DELETE", _application(client, _connection(client, connection), application))
    show(output, {"taken back": application})


def _connection(client: Client, connection: str) -> str:
    return f"/scanner/api/connections/{named(client.get('/scanner/api/connections'), connection, 'connection')['id']}"


def _application(client: Client, connection: str, wanted: str) -> str:
    """Return the address of one of a log's applications; refuse a name that several have."""
    there = client.get(f"{connection}/applications")
    found = [one for one in there if wanted in (one["id"], one["name"])]
    if len(found) > 1:
        ids = ", ".join(one["id"] for one in found)
        fail(f"several applications are called {wanted!r}: name one by its id, {ids}.", REFUSED)
    return f"{connection}/applications/{quote(found[0]['id'] if found else wanted, safe='')}"
