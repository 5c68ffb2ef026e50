"""What the commands have in common: their options, the client they call through, and how they refuse."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Final, NoReturn

import typer

from reclaim.cli.client import Client, own_token
from reclaim.cli.output import Output, progress_console

REFUSED: Final = 3
DEFAULT_URL: Final = "http://127.0.0.1:8080"

OutputOption = Annotated[Output, typer.Option("--output", "-o", help="table for people, json for programs")]
UrlOption = Annotated[str, typer.Option("--url", envvar="RECLAIM_URL", help="where the services answer")]


@contextmanager
def connected(url: str) -> Iterator[Client]:
    """Yield a client with the token of the environment, or one made with this installation's keys."""
    token = os.environ.get("RECLAIM_TOKEN") or own_token()
    with Client(url, token) as client:
        yield client


def named(rows: list[dict[str, Any]], wanted: str, what: str) -> dict[str, Any]:
    """Return the row of that name or id; refuse, saying which there are."""
    for row in rows:
        if wanted in {row["id"], row["name"]}:
            return row
    names = ", ".join(repr(row["name"]) for row in rows) or "none yet"
    return fail(f"there is no {what} {wanted!r}. There are: {names}.", REFUSED)


def fail(message: str, code: int) -> NoReturn:
    """End the command with one line that says what to do."""
    progress_console.print(f"[bold red]error:[/] {message}", highlight=False)
    raise typer.Exit(code)
