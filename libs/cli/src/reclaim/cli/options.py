"""What the commands have in common: their options, the client they call through, and how they refuse."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Final, NoReturn

import typer
from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from reclaim.cli.client import Client, own_token
from reclaim.cli.output import Output, progress_console

REFUSED: Final = 3
DEFAULT_URL: Final = ""
"""No address was given: the settings say which it is."""

OutputOption = Annotated[Output, typer.Option("--output", "-o", help="table for people, json for programs")]
UrlOption = Annotated[
    str,
    typer.Option(
        "--url",
        help="where the services answer",
        show_default="RECLAIM_URL of the environment or .env, else this machine at RECLAIM_PORT",
    ),
]


class _Reached(BaseSettings):
    """Which installation the command talks to, read where the services read their settings."""

    model_config = SettingsConfigDict(env_prefix="RECLAIM_", env_file=".env", extra="ignore", hide_input_in_errors=True)

    url: str = ""
    token: SecretStr = SecretStr("")
    port: int = 8080


@contextmanager
def connected(url: str) -> Iterator[Client]:
    """Yield a client with the token of the settings, or one made with this installation's keys."""
    reached = _Reached()
    token = reached.token.get_secret_value() or own_token()
    with Client(url or reached.url or f"http://127.0.0.1:{reached.port}", token) as client:
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
