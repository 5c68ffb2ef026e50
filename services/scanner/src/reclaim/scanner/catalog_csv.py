"""The catalogue as CSV, both ways: one product a line, the parts of a cell kept apart by `|`. Pure, no I/O.

    key,name,publisher,components,processes
    WORD,Word,Microsoft,,windows:winword.exe|macos:microsoft word
    OFFICE,Office,Microsoft,EXCEL|WORD,

What cannot be read is told by its line and reason, and the other lines are taken. A line is the file's own line: no
cell goes over several, so that one forgotten quotation mark spoils one line and not the rest of the file.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from reclaim.common.errors import Invalid
from reclaim.scanner.catalog import SEPARATOR, Catalog, Product, place, read_product, runs
from reclaim.web.spreadsheets import BYTE_ORDER_MARK, csv_line

COLUMNS: Final = ("key", "name", "publisher", "components", "processes")
NEEDED: Final = ("key", "name")
LISTS: Final = ("components", "processes")
LONGEST_LINE: Final = 65_536
"""Bytes; a suite of 500 components with keys of 100 characters is a little shorter."""


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that was left out, and why."""

    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class ReadLine:
    """A product as one line has it."""

    line: int
    product: Product


def read_csv(data: bytes, known: Catalog, *, first_line: int = 2) -> tuple[list[ReadLine], list[BadLine]]:
    """Return the products of a file, and its bad lines.

    A column that the file does not have leaves what is known of a product as it is. `first_line` is the number of the
    line after the header, for a part of a longer file.

    Raises:
        Invalid: there is no header that says what the columns are.
    """
    head, *lines = data.split(b"\n")
    delimiter, columns = _header(head)
    good: list[ReadLine] = []
    bad: list[BadLine] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, first_line):
        if not line.strip():
            continue
        try:
            product = _product(line, delimiter, columns, known)
        except Invalid as error:
            bad.append(BadLine(number, str(error)))
            continue
        if product.key in seen:
            bad.append(BadLine(number, f"{product.key} stands on line {seen[product.key]} already."))
            continue
        seen[product.key] = number
        good.append(ReadLine(number, product))
    return good, bad


def _header(line: bytes) -> tuple[str, tuple[str, ...]]:
    if line.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise Invalid("Line 1: the file is UTF-16. Save it as CSV UTF-8 and send it again.", field="file")
    try:
        text = line.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise Invalid("Line 1: the header is not UTF-8. Save the file as CSV UTF-8.", field="file") from error
    delimiter = ";" if text.count(";") > text.count(",") else ","
    try:
        columns = tuple(name.strip().lower() for name in _cells(text, delimiter))
    except Invalid as error:
        raise Invalid(f"Line 1: {error}", field="file") from error
    unknown = [name[:40] for name in columns if name not in COLUMNS]
    if unknown or len(set(columns)) != len(columns) or not set(NEEDED) <= set(columns):
        what = f"{', '.join(unknown[:5])!r} is no column" if unknown else "a column is missing or there twice"
        raise Invalid(
            f"Line 1: {what}. The header names the columns: {', '.join(COLUMNS)}; {' and '.join(NEEDED)} are needed.",
            field="file",
        )
    return delimiter, columns


def _cells(text: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([text], delimiter=delimiter, strict=True), [])
    except csv.Error as error:
        raise Invalid(f"This is no line of CSV ({error}). A cell begins and ends on its line.") from error


def _product(line: bytes, delimiter: str, columns: Sequence[str], known: Catalog) -> Product:
    if len(line) > LONGEST_LINE:
        raise Invalid(f"The line has {len(line):,} bytes, and at most {LONGEST_LINE:,} are read.")
    try:
        text = line.decode("utf-8").rstrip("\r")
    except UnicodeDecodeError as error:
        raise Invalid("The line is not UTF-8. Save the file as CSV UTF-8.") from error
    cells = [cell.strip() for cell in _cells(text, delimiter)]
    if len(cells) != len(columns):
        raise Invalid(f"The line has {len(cells)} cells, and the header {len(columns)}.")
    for name, cell in zip(columns, cells, strict=True):
        if runs(cell):
            raise Invalid(f"{name} begins like a formula ({cell[:20]!r}): a spreadsheet would run it.")
    raw: dict[str, object] = {
        name: [part for each in cell.split(SEPARATOR) if (part := each.strip())] if name in LISTS else cell
        for name, cell in zip(columns, cells, strict=True)
    }
    before = known.get(str(raw["key"]))
    return read_product({**(_raw(before) if before else {}), **raw})


def _raw(product: Product) -> dict[str, object]:
    return {
        "publisher": product.publisher,
        "components": list(product.components),
        "processes": [str(process) for process in product.processes],
    }


@dataclass(frozen=True, slots=True)
class TakenIn:
    """What a file makes of the catalogue. `changed` are the products that it adds or changes."""

    catalog: dict[str, Product]
    added: int
    changed: tuple[Product, ...]
    unchanged: int
    bad: tuple[BadLine, ...]


def take_in(lines: Iterable[ReadLine], bad: Iterable[BadLine], catalog: Catalog) -> TakenIn:
    """Put what was read into the catalogue; what does not fit in it joins the bad lines.

    Products that are no suites come first, so a suite may stand before its components.
    """
    after = dict(catalog)
    names = {key.casefold(): key for key in catalog}
    left_out = list(bad)
    changed: list[Product] = []
    unchanged = 0
    for line in sorted(lines, key=lambda line: (line.product.is_suite, line.line)):
        product = line.product
        try:
            check_twin(product.key, names.get(product.key.casefold()))
            place(product, after)
        except Invalid as error:
            left_out.append(BadLine(line.line, str(error)))
            continue
        names[product.key.casefold()] = product.key
        if after.get(product.key) == product:
            unchanged += 1
            continue
        after[product.key] = product
        changed.append(product)
    added = sum(product.key not in catalog for product in changed)
    return TakenIn(after, added, tuple(changed), unchanged, tuple(sorted(left_out, key=lambda left: left.line)))


def check_twin(key: str, known: str | None) -> None:
    """Refuse a key that is another product's but for upper and lower case."""
    if known not in (None, key):
        raise Invalid(f"The catalogue has this product as {known}: keys that differ in case only are one.", field="key")


def write_csv(catalog: Catalog) -> Iterator[str]:
    """Yield the catalogue as lines of a file that `read_csv` reads; suites come after what they are made of."""
    yield BYTE_ORDER_MARK + csv_line(COLUMNS)
    for product in sorted(catalog.values(), key=lambda product: (product.is_suite, product.key)):
        yield csv_line(
            [
                product.key,
                product.name,
                product.publisher,
                SEPARATOR.join(product.components),
                SEPARATOR.join(map(str, product.processes)),
            ]
        )
