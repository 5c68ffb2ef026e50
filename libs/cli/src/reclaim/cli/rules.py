"""The commands that change a rule and that say why: `rule change`, `explain`, `diff`, `submit` ..., and `exclusion`."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.markup import escape

from reclaim.cli.client import Client
from reclaim.cli.options import DEFAULT_URL, OutputOption, UrlOption, connected, fail, named
from reclaim.cli.output import Output, listing, pairs, progress_console, show

exclusion_app = typer.Typer(no_args_is_help=True, help="Seats that no rule flags: for whom, why, and until when.")

RuleArgument = Annotated[str, typer.Argument(help="name or id")]


def add_to(app: typer.Typer, rule_app: typer.Typer) -> None:
    """Add the commands to the command's grammar."""
    app.add_typer(exclusion_app, name="exclusion")
    rule_app.command("change")(change)
    rule_app.command("explain")(explain)
    rule_app.command("diff")(diff)
    rule_app.command("submit")(submit)
    rule_app.command("withdraw-cases")(withdraw_cases)


def change(
    rule: RuleArgument,
    parts: Annotated[list[str], typer.Argument(help="such as grace_days=21 desk=jira; nothing after = takes it away")],
    url: UrlOption = DEFAULT_URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """Change parts of a rule, named as in `rule show -o json`, and keep the rest. Open cases keep their version.

    Several values are apart by commas: products=SFDC,AUL.
    """
    with connected(url) as client:
        path = f"/scanner/api/rules/{_rule(client, rule)}"
        present = client.get(path)
        document = {"version": present["version"]}
        for name, given, value in (part.partition("=") for part in parts):
            if not given or name not in present:
                fail(f"{name!r} is no part of a rule: write such as grace_days=21, named as in `rule show -o json`.", 2)
            several = isinstance(present[name], list)
            document[name] = [one.strip() for one in value.split(",") if one.strip()] if several else value or None
        show_rule(output, client.call("PATCH", path, json=document))


def show_rule(output: Output, rule: dict[str, Any]) -> None:
    """Print a rule, and what it is warned of."""
    show(output, rule, table=pairs({name: value for name, value in rule.items() if name != "warning"}))
    warn(rule.get("warning"))


def warn(warning: str | None) -> None:
    """Print a warning for people, if there is one."""
    if warning is not None:
        progress_console.print(f"[bold yellow]warning:[/] {escape(warning)}", highlight=False)


def explain(
    holder: Annotated[str, typer.Argument(help="the account's id, its e-mail address, or a part of the name")],
    connection: Annotated[str, typer.Option(help="name or id of the connection")],
    url: UrlOption = DEFAULT_URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """Say for one seat, rule by rule and check by check, why it is flagged or not. Nothing is changed."""
    with connected(url) as client:
        result = client.get("/scanner/api/explain", connection_id=_connection(client, connection), holder=holder)
    if output is Output.JSON:
        show(output, result)
        return
    rules = {"rule_name": "Rule", "rule_status": "Status", "result": "Says", "summary": "Because"}
    show(output, result, table=listing(result["verdicts"], rules))
    for verdict in result["verdicts"]:
        if verdict["result"] != "not_meant":
            checks = {"check": f"Check of {verdict['rule_name']}", "outcome": "Says", "evidence": "Because"}
            show(output, verdict, table=listing(verdict["findings"], checks))


def diff(
    rule: RuleArgument,
    before: Annotated[int | None, typer.Option(help="version; without: the one before")] = None,
    after: Annotated[int | None, typer.Option(help="version; without: the current one")] = None,
    url: UrlOption = DEFAULT_URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show what two versions of a rule say differently."""
    with connected(url) as client:
        result = client.get(f"/scanner/api/rules/{_rule(client, rule)}/diff", before=before, after=after)
    if output is Output.TABLE and result["before"]["version"] == result["after"]["version"]:
        progress_console.print(f"Both are version {result['after']['version']}: there is nothing to compare.")
        return
    columns = {
        "field": "Part",
        "before": f"Version {result['before']['version']}",
        "after": f"Version {result['after']['version']}",
    }
    show(output, result, table=listing(result["changes"], columns))


def submit(rule: RuleArgument, url: UrlOption = DEFAULT_URL, output: OutputOption = Output.TABLE) -> None:
    """Have a draft reviewed: it opens no case until somebody activates it."""
    with connected(url) as client:
        show_rule(output, client.post(f"/scanner/api/rules/{_rule(client, rule)}/submit"))


def withdraw_cases(
    rule: RuleArgument,
    reason: Annotated[str, typer.Option(help="why; it is kept with every case")],
    url: UrlOption = DEFAULT_URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """Take every open case of a rule that is not active back; what is frozen is restored."""
    with connected(url) as client:
        show(output, client.post(f"/scanner/api/rules/{_rule(client, rule)}/withdraw-cases", {"reason": reason}))


@exclusion_app.command("add")
def exclusion_add(
    kind: Annotated[str, typer.Argument(help="person, group, department, product or connection")],
    reason: Annotated[str, typer.Option(help="why; it is shown wherever the seat is left alone")],
    value: Annotated[str, typer.Argument(help="id or address, group, department, licence; empty: all")] = "",
    connection: Annotated[str | None, typer.Option(help="name or id; without: on every connection")] = None,
    until: Annotated[str | None, typer.Option(help="last day, such as 2026-12-31; without: until ended")] = None,
    url: UrlOption = DEFAULT_URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """Exclude seats from being flagged; open cases of theirs are taken back."""
    with connected(url) as client:
        document = {
            "kind": kind,
            "value": value,
            "connection_id": None if connection is None else _connection(client, connection),
            "reason": reason,
            "expires_at": until,
        }
        added = client.post("/scanner/api/exclusions", document)
    warning = added["warning"]
    shown = {name: value for name, value in added.items() if name not in {"warning", "last_day"}}
    show(output, added, table=pairs(shown | {"expires_at": _until(added)}))
    warn(warning)


def _until(exclusion: dict[str, Any]) -> str | None:
    last: str | None = exclusion["last_day"]
    return exclusion["expires_at"] if last is None else f"the end of {last}"


@exclusion_app.command("list")
def exclusion_list(
    past: Annotated[bool, typer.Option("--past", help="those that are over")] = False,
    url: UrlOption = DEFAULT_URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """List the exclusions in force."""
    with connected(url) as client:
        result = client.get("/scanner/api/exclusions", past="true" if past else None)
    columns = {
        "id": "Id",
        "kind": "Kind",
        "value": "Excluded",
        "connection_name": "Connection",
        "reason": "Why",
        "author": "By",
        "expires_at": "Until",
    }
    rows = [{**one, "expires_at": _until(one)} for one in result]
    show(output, result, table=listing(rows, columns))


@exclusion_app.command("end")
def exclusion_end(
    exclusion: Annotated[str, typer.Argument(help="id")],
    url: UrlOption = DEFAULT_URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """End an exclusion before it expires: its seats may be flagged again."""
    with connected(url) as client:
        show(output, client.call("DELETE", f"/scanner/api/exclusions/{exclusion}"))


def _connection(client: Client, connection: str) -> Any:
    return named(client.get("/scanner/api/connections"), connection, "connection")["id"]


def _rule(client: Client, rule: str) -> Any:
    return named(client.get("/scanner/api/rules"), rule, "rule")["id"]
