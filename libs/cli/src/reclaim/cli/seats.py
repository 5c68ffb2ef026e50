"""The commands for seats that people free by hand, and for what somebody else changed: `case fulfil` and `drift`."""

from __future__ import annotations

from typing import Annotated

import typer

from reclaim.cli.options import DEFAULT_URL, OutputOption, UrlOption, connected
from reclaim.cli.output import Output, listing, show

drift_app = typer.Typer(no_args_is_help=True, help="What somebody else changed since Reclaim acted.")


def add_to(app: typer.Typer, case_app: typer.Typer) -> None:
    """Add the commands to the command's grammar."""
    app.add_typer(drift_app, name="drift")
    case_app.command("fulfil")(fulfil)


def fulfil(
    case: Annotated[str, typer.Argument(help="id")],
    note: Annotated[str, typer.Option(help="what was done, or why it cannot be")],
    done: Annotated[bool, typer.Option("--done/--failed", help="whether the seat was freed by hand")],
    url: UrlOption = DEFAULT_URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """Say what became of a seat that a person was to free by hand."""
    with connected(url) as client:
        show(output, client.post(f"/lifecycle/api/cases/{case}/fulfilment", {"done": done, "note": note}))


@drift_app.command("list")
def drift_list(
    cleared: Annotated[bool, typer.Option("--cleared", help="what differed and does no longer")] = False,
    url: UrlOption = DEFAULT_URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """List what differs between the ledger and the connected systems, and what to do."""
    with connected(url) as client:
        result = client.get("/lifecycle/api/drift", cleared="true" if cleared else None)
    columns = {
        "case_id": "Case",
        "holder_name": "Holder",
        "product_name": "Product",
        "detail": "What differs",
        "remedy": "What to do",
        "found_at": "Found",
    }
    show(output, result, table=listing(result["drift"], columns))


@drift_app.command("compare")
def drift_compare(url: UrlOption = DEFAULT_URL, output: OutputOption = Output.TABLE) -> None:
    """Have every connection compared now instead of once a day."""
    with connected(url) as client:
        show(output, client.post("/lifecycle/api/drift/compare"))
