"""What the command prints: a table for people on standard output, or one JSON document for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

from rich.console import Console
from rich.table import Table

console = Console()
progress_console = Console(stderr=True)
"""Progress and notes go to standard error, so that standard output is the result alone."""


class Output(StrEnum):
    """How results are printed."""

    TABLE = "table"
    JSON = "json"


def show(output: Output, document: Any, *, table: Table | None = None) -> None:
    """Print the document as JSON, or the table made of it."""
    if output is Output.JSON:
        print(json.dumps(document, indent=2, default=str))
    elif table is not None:
        console.print(table)
    else:
        console.print(pairs(document))


def listing(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], *, title: str | None = None) -> Table:
    """Return a table of rows; `columns` maps a dotted key to its heading."""
    table = Table(title=title)
    for heading in columns.values():
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(_text(_dig(row, key)) for key in columns))
    return table


def pairs(document: Mapping[str, Any], *, title: str | None = None) -> Table:
    """Return a table of names and values; nested documents get dotted names."""
    table = Table(title=title, show_header=False)
    table.add_column()
    table.add_column(overflow="fold")
    for name, value in _flat(document):
        table.add_row(name.replace("_", " "), _text(value))
    return table


def _flat(document: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, value in document.items():
        if isinstance(value, Mapping):
            found.extend(_flat(value, f"{prefix}{name} · "))
        else:
            found.append((f"{prefix}{name}", value))
    return found


def _dig(row: Mapping[str, Any], key: str) -> Any:
    value: Any = row
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        if any(isinstance(one, Mapping) for one in value):
            return f"{len(value)} (see --output json)"
        return ", ".join(_text(one) for one in value)
    return str(value)
