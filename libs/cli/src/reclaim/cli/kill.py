"""`reclaim kill`: stop every freeze, hand-over and reclaim, and let them go on."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated, Any

import typer

from reclaim.cli.client import ApiError, Client
from reclaim.cli.options import DEFAULT_URL, REFUSED, OutputOption, UrlOption, connected, fail, named
from reclaim.cli.output import Output, listing, show

kill_app = typer.Typer(no_args_is_help=True, help="The kill switch: nothing is taken away while it is engaged.")

ConnectionOption = Annotated[str | None, typer.Option(help="only this connection, by name or id")]
RuleOption = Annotated[str | None, typer.Option(help="only this rule, by name or id")]


def _scope(client: Client, connection: str | None, rule: str | None) -> dict[str, str]:
    if connection is not None and rule is not None:
        fail("give --connection or --rule, or neither for everything", 2)
    if connection is not None:
        known = client.get("/lifecycle/api/brakes")["connections"]
        return {"scope": "connection", "target": named(known, connection, "connection")["id"]}
    if rule is not None:
        return {"scope": "rule", "target": named(client.get("/scanner/api/rules"), rule, "rule")["id"]}
    return {"scope": "global", "target": ""}


def _names(client: Client) -> dict[str, str]:
    """Return the names of what a switch may stop; while the scanner is away, its rules go by their ids."""
    stopped = list(client.get("/lifecycle/api/brakes")["connections"])
    with suppress(ApiError):
        stopped += client.get("/scanner/api/rules")
    return {one["id"]: one["name"] for one in stopped}


@kill_app.command("engage")
def kill_engage(
    reason: Annotated[str, typer.Option()],
    connection: ConnectionOption = None,
    rule: RuleOption = None,
    url: UrlOption = DEFAULT_URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """Stop taking away, everywhere or for one connection or rule. Appeals and restoring go on."""
    with connected(url) as client:
        wanted = {**_scope(client, connection, rule), "reason": reason}
        show(output, client.post("/lifecycle/api/kill-switch", wanted))


@kill_app.command("release")
def kill_release(
    reason: Annotated[str, typer.Option()],
    connection: ConnectionOption = None,
    rule: RuleOption = None,
    url: UrlOption = DEFAULT_URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """Release the switch that was engaged with the same options; what waited is checked again and goes on."""
    with connected(url) as client:
        scope = _scope(client, connection, rule)
        engaged: list[dict[str, Any]] = client.get("/lifecycle/api/kill-switch")["engaged"]
        for switch in engaged:
            if (switch["scope"], switch["target"]) == (scope["scope"], scope["target"]):
                path = f"/lifecycle/api/kill-switch/{switch['id']}/release"
                show(output, client.post(path, {"reason": reason}))
                return
    there = ", ".join(f"{one['scope']} {one['target']}".strip() for one in engaged) or "none"
    fail(f"no such kill switch is engaged. Engaged: {there}.", REFUSED)


@kill_app.command("list")
def kill_list(url: UrlOption = DEFAULT_URL, output: OutputOption = Output.TABLE) -> None:
    """List the kill switches, the engaged ones first."""
    with connected(url) as client:
        result = client.get("/lifecycle/api/kill-switch")
        names = _names(client) if output is Output.TABLE else {}
    rows = [{**switch, "target": names.get(switch["target"], switch["target"])} for switch in result["history"]]
    columns = {
        "scope": "Stops",
        "target": "Which",
        "engaged_by": "Engaged by",
        "engaged_at": "When",
        "reason": "Why",
        "released_by": "Released by",
        "released_at": "Released",
    }
    show(output, result, table=listing(rows, columns))
