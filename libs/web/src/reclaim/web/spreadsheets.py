"""Tables as a spreadsheet reads them: CSV in which no cell is taken for a formula."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

BYTE_ORDER_MARK: Final = "\ufeff"
"""What Excel needs in front to read a file as UTF-8."""

_FORMULA: Final = tuple(
    "=+-@\N{FULLWIDTH EQUALS SIGN}\N{FULLWIDTH PLUS SIGN}\N{FULLWIDTH HYPHEN-MINUS}\N{FULLWIDTH COMMERCIAL AT}"
)
"""How a text begins that a spreadsheet would run, white space aside: OWASP, *CSV Injection*."""

_SHIFTED: Final = ("\t", "\r", "\n")
"""What a spreadsheet may take for the end of a cell, and what follows for the beginning of one."""


def csv_line(values: Sequence[object]) -> str:
    """Return one line of CSV; instants in UTC, in ISO 8601."""
    line = io.StringIO()
    csv.writer(line).writerow([cell(value) for value in values])
    return line.getvalue()


def cell(value: object) -> object:
    """Return a value as it may stand in a spreadsheet: text that begins like a formula is kept from being one."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, str) and (value.startswith(_SHIFTED) or value.lstrip().startswith(_FORMULA)):
        return f"'{value}"
    return value
