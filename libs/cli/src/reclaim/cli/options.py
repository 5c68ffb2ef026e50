"""What the commands share: options, exit codes, and the client they call the services with."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Final, NoReturn

import typer

from reclaim.cli.client import Client, own_token
from reclaim.cli.output import Output, progress_console

ANSWER_IS_NO: Final = 1
REFUSED: Final = 3
UNREACHABLE: Final = 4

OutputOption = Annotated[Output, typer.Option("--output", "-o", help="table for people, json for programs")]
UrlOption = Annotated[str, typer.Option("--url", envvar="RECLAIM_URL", help="where the services answer")]
DEFAULT_URL: Final = "http://127.0.0.1:8080"


@contextmanager
def connected(url: str) -> Iterator[Client]:
    """Open a client with the token of the environment, or one made with this installation's own keys."""
    token = os.environ.get("RECLAIM_TOKEN") or own_token()
    with Client(url, token) as client:
        yield client


def fail(message: str, code: int) -> NoReturn:
    """End the command with one line that says why.

    Raises:
        Exit: always.
    """
    progress_console.print(f"[bold red]error:[/] {message}", highlight=False)
    raise typer.Exit(code)
