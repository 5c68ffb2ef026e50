"""The commands of the product catalogue and of a rule's products: `product ...` and `rule ...-product`."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Final
from urllib.parse import quote

import typer

from reclaim.cli.client import Client
from reclaim.cli.options import DEFAULT_URL, REFUSED, OutputOption, UrlOption, connected, fail, named
from reclaim.cli.output import Output, listing, progress_console, show

BAD_LINES: Final = 1
"""The exit code of an import that left lines out."""

PART: Final = 900_000
"""Bytes of a file that are sent at a time; the services take a little more."""

product_app = typer.Typer(no_args_is_help=True, help="The catalogue: products, suites, their components and processes.")

Component = Annotated[list[str] | None, typer.Option(help="key of a component; repeat for several")]
Process = Annotated[list[str] | None, typer.Option(help="such as windows:winword.exe; repeat for several")]
Key = Annotated[str, typer.Argument(help="the product's key")]
RuleName = Annotated[str, typer.Argument(help="name or id of the rule")]


def add_to(app: typer.Typer, rule_app: typer.Typer) -> None:
    """Add the commands to the command's grammar."""
    app.add_typer(product_app, name="product")
    rule_app.command("products")(rule_products)
    rule_app.command("add-product")(rule_add_product)
    rule_app.command("change-product")(rule_change_product)
    rule_app.command("remove-product")(rule_remove_product)
    rule_app.command("renew-product")(rule_renew_product)


# The catalogue.


@product_app.command("list")
def product_list(
    search: Annotated[str, typer.Argument(help="part of a key, name or publisher")] = "",
    url: UrlOption = DEFAULT_URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """List the products."""
    with connected(url) as client:
        result = client.get("/scanner/api/products", q=search or None)
    columns = {"key": "Key", "name": "Name", "publisher": "Publisher", "components": "Components"}
    show(output, result, table=listing(result, columns))


@product_app.command("show")
def product_show(product: Key, url: UrlOption = DEFAULT_URL, output: OutputOption = Output.TABLE) -> None:
    """Show a product with its components, its processes and the suites it is in."""
    with connected(url) as client:
        show(output, client.get(_path(product)))


@product_app.command("add")
def product_add(
    product: Annotated[str, typer.Argument(help="what seats and usage records call it by; it never changes")],
    name: Annotated[str, typer.Option(help="what people call it")],
    publisher: Annotated[str, typer.Option()] = "",
    component: Component = None,
    process: Process = None,
    url: UrlOption = DEFAULT_URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """Add a product. With components it is a suite, and is reclaimed whole."""
    document = {
        "key": product,
        "name": name,
        "publisher": publisher,
        "components": component or [],
        "processes": process or [],
    }
    with connected(url) as client:
        show(output, client.post("/scanner/api/products", document))


@product_app.command("change")
def product_change(
    product: Key,
    name: Annotated[str | None, typer.Option()] = None,
    publisher: Annotated[str | None, typer.Option()] = None,
    component: Component = None,
    process: Process = None,
    no_components: Annotated[bool, typer.Option("--no-components", help="make it no suite any more")] = False,
    no_processes: Annotated[bool, typer.Option("--no-processes", help="let no process show its use")] = False,
    url: UrlOption = DEFAULT_URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """Change what is given and keep the rest; components and processes that are given replace all there were.

    Every rule that the product is in follows at once.
    """
    given: dict[str, Any] = {"name": name, "publisher": publisher}
    given["components"] = [] if no_components else component
    given["processes"] = [] if no_processes else process
    document = {field: value for field, value in given.items() if value is not None}
    with connected(url) as client:
        show(output, client.call("PATCH", _path(product), json=document))


@product_app.command("remove")
def product_remove(product: Key, url: UrlOption = DEFAULT_URL, output: OutputOption = Output.TABLE) -> None:
    """Take a product out of the catalogue; suites lose it as a component."""
    with connected(url) as client:
        client.call("DELETE", _path(product))
    show(output, {"removed": product})


@product_app.command("export")
def product_export(
    file: Annotated[Path | None, typer.Argument(help="where to write; standard output if none")] = None,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """Write the catalogue as CSV."""
    with connected(url) as client, client.download("/scanner/api/products.csv") as parts:
        if file is None:
            for part in parts:
                typer.echo(part, nl=False)
            return
        with file.open("wb") as target:
            for part in parts:
                target.write(part)


@product_app.command("import")
def product_import(
    file: Annotated[Path, typer.Argument(help="CSV with the columns key, name, publisher, components, processes")],
    url: UrlOption = DEFAULT_URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """Add and change products from CSV of any length. Exit code 1 if lines were left out; the good ones are taken.

    A long file is sent in parts: in it, products stand before the suites that are made of them.
    """
    done: dict[str, Any] = {"added": 0, "changed": 0, "unchanged": 0, "bad": 0, "bad_lines": []}
    try:
        source = file.open("rb")
    except OSError as error:
        fail(f"{file} cannot be read: {error.strerror}", 2)
    with source, connected(url) as client:
        for first_line, part in parts_of(source):
            answer = client.upload("/scanner/api/products.csv", part, "text/csv", first_line=first_line)
            done = {name: done[name] + answer[name] for name in done}
            last = first_line + len(part.splitlines()) - 2
            progress_console.print(f"sent up to line {last:,}", highlight=False)
    counts = {name: done[name] for name in ("added", "changed", "unchanged", "bad")}
    show(output, done if output is Output.JSON else counts)
    if done["bad_lines"] and output is Output.TABLE:
        columns = {"line": "Line", "reason": "Left out because"}
        show(output, done, table=listing(done["bad_lines"], columns))
    if done["bad"]:
        raise typer.Exit(BAD_LINES)


def parts_of(source: BinaryIO, most: int = PART) -> Iterator[tuple[int, bytes]]:
    """Yield a file in parts that each begin with its header: (number of the part's line after the header, bytes)."""
    header = source.readline()
    if not header.endswith(b"\n"):
        header += b"\n"
    first, number, part = 2, 2, io.BytesIO()
    part.write(header)
    for line in source:
        if part.tell() > len(header) and part.tell() + len(line) > most:
            yield first, part.getvalue()
            first, part = number, io.BytesIO()
            part.write(header)
        part.write(line)
        number += 1
    yield first, part.getvalue()


def _path(product: str) -> str:
    return f"/scanner/api/products/{quote(product)}"


# A rule's products.


def rule_products(rule: RuleName, url: UrlOption = DEFAULT_URL, output: OutputOption = Output.TABLE) -> None:
    """List what a rule is about: its products, and under each suite the components that it brought."""
    with connected(url) as client:
        _show_rule(output, client.get(_products_of(client, rule)))


def rule_add_product(
    rule: RuleName,
    product: Key,
    condition: Annotated[str, typer.Option("--filter", help="holds for the product and its components")] = "",
    url: UrlOption = DEFAULT_URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """Choose one more product for a rule; a suite brings its components and their processes."""
    with connected(url) as client:
        document = {"product": product, "filter": condition}
        _show_rule(output, client.post(_products_of(client, rule), document))


def rule_change_product(
    rule: RuleName,
    product: Key,
    by: Annotated[str | None, typer.Option(help="put this product in its place")] = None,
    condition: Annotated[str | None, typer.Option("--filter", help="empty for none")] = None,
    url: UrlOption = DEFAULT_URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """Put another product in a product's place, or set its filter."""
    given = {"product": by, "filter": condition}
    with connected(url) as client:
        document = {name: value for name, value in given.items() if value is not None}
        _show_rule(output, client.call("PATCH", _row(client, rule, product), json=document))


def rule_remove_product(
    rule: RuleName, product: Key, url: UrlOption = DEFAULT_URL, output: OutputOption = Output.TABLE
) -> None:
    """Take a product out of a rule, with the components that it brought."""
    with connected(url) as client:
        _show_rule(output, client.call("DELETE", _row(client, rule, product)))


def rule_renew_product(
    rule: RuleName, product: Key, url: UrlOption = DEFAULT_URL, output: OutputOption = Output.TABLE
) -> None:
    """Take a product out and put it back in: a legacy suite gets its components, and open cases become one a holder."""
    with connected(url) as client:
        _show_rule(output, client.post(f"{_row(client, rule, product)}/renew"))


def _products_of(client: Client, rule: str) -> str:
    return f"/scanner/api/rules/{named(client.get('/scanner/api/rules'), rule, 'rule')['id']}/products"


def _row(client: Client, rule: str, product: str) -> str:
    """Return the address of a product's row: of the chosen one, else of a component's, which says why it is refused."""
    base = _products_of(client, rule)
    rows = [row for row in client.get(base)["products"] if row["product"] == product]
    if not rows:
        fail(f"the rule has no product {product!r}. Look at `reclaim rule products`.", REFUSED)
    chosen = next((row for row in rows if row["editable"]), rows[0])
    return f"{base}/{chosen['id']}"


def _show_rule(output: Output, result: dict[str, Any]) -> None:
    columns = {
        "product": "Product",
        "name": "Name",
        "parent": "With suite",
        "mode": "Mode",
        "filter": "Filter",
        "processes": "Processes",
    }
    show(output, result, table=listing(result["products"], columns))
