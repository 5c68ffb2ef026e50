"""The command's grammar. Exit codes: 0 done, 1 the answer is no, 2 wrong usage, 3 refused, 4 nobody answers."""

from __future__ import annotations

import asyncio
import re
import secrets
import sys
from datetime import timedelta
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from pydantic import ValidationError
from pydantic_settings import SettingsError
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from reclaim.cli import products, rules, seats, setup, usage, waiting
from reclaim.cli.client import ApiError, Client, Unreachable
from reclaim.cli.kill import kill_app
from reclaim.cli.options import DEFAULT_URL, REFUSED, OutputOption, UrlOption
from reclaim.cli.options import connected as _client
from reclaim.cli.options import fail as _fail
from reclaim.cli.options import named as _named
from reclaim.cli.output import Output, listing, pairs, progress_console, show
from reclaim.cli.trail import attention_app, audit_app
from reclaim.common.clock import SystemClock
from reclaim.common.contracts import SERVICES
from reclaim.common.errors import ReclaimError
from reclaim.common.settings import Settings
from reclaim.web.tokens import issue_api_token

ANSWER_IS_NO: Final = 1
UNREACHABLE: Final = 4

SHOWN: Final = 20
"""Rows of a long list that a table shows."""

app = typer.Typer(no_args_is_help=True, help="Take unused licences back, safely.", pretty_exceptions_enable=False)
connection_app = typer.Typer(no_args_is_help=True, help="Integration profiles: which systems are read and acted on.")
rule_app = typer.Typer(no_args_is_help=True, help="Reclamation rules: who is flagged, who is asked, what happens.")
scan_app = typer.Typer(no_args_is_help=True, help="Look for unused seats now.")
case_app = typer.Typer(no_args_is_help=True, help="Flagged seats on their way.")
savings_app = typer.Typer(no_args_is_help=True, help="What was saved.")
parked_app = typer.Typer(no_args_is_help=True, help="Messages that wait for an operator.")
token_app = typer.Typer(no_args_is_help=True, help="Tokens for programs.")
for name, group in (
    ("connection", connection_app),
    ("rule", rule_app),
    ("scan", scan_app),
    ("case", case_app),
    ("kill", kill_app),
    ("audit", audit_app),
    ("attention", attention_app),
    ("savings", savings_app),
    ("parked", parked_app),
    ("token", token_app),
):
    app.add_typer(group, name=name)
seats.add_to(app, case_app)
rules.add_to(app, rule_app)
products.add_to(app, rule_app)
usage.add_to(app, connection_app)


class TokenRole(StrEnum):
    """What a token may do; each role may also do what those before it may."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"


# Running.


@app.command()
def init(
    file: Annotated[Path, typer.Option(help="where to write the settings")] = Path(".env"),
    operator: Annotated[str, typer.Option(help="name of the first operator")] = "admin",
    output: OutputOption = Output.TABLE,
) -> None:
    """Make keys and a first operator, and write them into a settings file."""
    password = secrets.token_urlsafe(12)
    try:
        setup.write(file, setup.generate(operator, password))
    except FileExistsError:
        _fail(f"{file} exists and is left alone: its keys open what is stored. Name another file with --file.", REFUSED)
    show(output, {"file": str(file), "operator": operator, "password": password})


@app.command()
def run(
    services: Annotated[list[str] | None, typer.Argument(help="which services; all that are installed if none")] = None,
) -> None:
    """Run services in this process until interrupted."""
    from reclaim.common import host  # here and below: what services need takes a second and more to load

    host.run(Settings(), services or [])


@app.command()
def migrate(services: Annotated[list[str] | None, typer.Argument()] = None) -> None:
    """Bring the databases to their newest revision and declare the queues; `run` does the same by itself."""
    from reclaim.common import host

    asyncio.run(host.prepare(Settings(), services or []))


@app.command()
def demo(
    exit_after: Annotated[bool, typer.Option("--exit", help="stop after the story instead of serving on")] = False,
    output: OutputOption = Output.TABLE,
    port: Annotated[int, typer.Option(help="port of the console; 0 takes a free one")] = 8080,
    users: Annotated[int, typer.Option(min=50, max=20_000, help="users of the simulated org")] = 1000,
    seed: Annotated[int, typer.Option(help="the same seed gives the same org")] = 2024,
    data: Annotated[Path | None, typer.Option(help="keep the data in this folder; default: a temporary one")] = None,
) -> None:
    """Play the whole product on a simulated org: from an unused seat to a dollar in the report."""
    from reclaim.cli import demo as demonstration

    wanted = demonstration.Demo(port=port, users=users, seed=seed, data=data, serve_on=not exit_after)
    demonstration.play(wanted, output)


# Connections.


@connection_app.command("add")
def connection_add(
    kind: Annotated[str, typer.Argument(help="salesforce, scim, okta, or installed (what feeds report)")],
    name: Annotated[str, typer.Option()],
    instance_url: Annotated[str | None, typer.Option(help="https://yourcompany.my.salesforce.com")] = None,
    base_url: Annotated[str | None, typer.Option(help="scim: what /Users comes after")] = None,
    org_url: Annotated[str | None, typer.Option(help="okta: https://yourcompany.okta.com")] = None,
    client_id: Annotated[str | None, typer.Option(help="of the connected app, OAuth client or service app")] = None,
    token_url: Annotated[str | None, typer.Option(help="where tokens are issued, if not at the instance")] = None,
    client_secret: Annotated[
        str | None, typer.Option(envvar="RECLAIM_CLIENT_SECRET", help="for the client credentials flow")
    ] = None,
    jwt_key: Annotated[Path | None, typer.Option(help="private key file, for the JWT bearer flow")] = None,
    bearer_token: Annotated[
        str | None, typer.Option(envvar="RECLAIM_BEARER_TOKEN", help="scim, instead of a client secret")
    ] = None,
    api_token: Annotated[
        str | None, typer.Option(envvar="RECLAIM_API_TOKEN", help="okta, instead of a private key")
    ] = None,
    username: Annotated[str | None, typer.Option(help="the user to act as, with --jwt-key")] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="another setting of the kind, as name=value; repeat for several")
    ] = None,
    force: Annotated[bool, typer.Option(help="add it although its test fails")] = False,
    url: UrlOption = DEFAULT_URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """Connect a system; it is tested first, and not added if the test fails."""
    if kind == "okta" and not (api_token or jwt_key):
        _fail("give either RECLAIM_API_TOKEN, or --jwt-key with --client-id", 2)
    if kind == "salesforce" and (client_secret is None) == (jwt_key is None):
        _fail("give either --client-secret (or RECLAIM_CLIENT_SECRET), or --jwt-key with --username", 2)
    settings = {
        "instance_url": instance_url,
        "base_url": base_url,
        "org_url": org_url,
        "client_id": client_id,
        "token_url": token_url,
        "username": username,
    }
    for pair in setting or []:
        key, given, value = pair.partition("=")
        if not given or not key:
            _fail(f"--set takes name=value, not {key!r}", 2)
        settings[key] = value
    given_credentials = {"client_secret": client_secret, "token": bearer_token, "api_token": api_token}
    credentials = {key: value for key, value in given_credentials.items() if value is not None}
    if jwt_key is not None:
        try:
            credentials["private_key"] = jwt_key.read_text()
        except OSError as error:
            _fail(f"{jwt_key} cannot be read: {error.strerror}", 2)
    document = {
        "name": name,
        "kind": kind,
        "settings": {key: value for key, value in settings.items() if value is not None},
        "credentials": credentials,
    }
    with _client(url) as client:
        result = client.post("/scanner/api/connections", document, force=force)
    show(output, result, table=_test_results(result))


@connection_app.command("test")
def connection_test(
    connection: Annotated[str, typer.Argument(help="name or id")],
    url: UrlOption = DEFAULT_URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """Try every permission that a connection needs. Exit code 1 if one is missing."""
    with _client(url) as client:
        found = _named(client.get("/scanner/api/connections"), connection, "connection")
        result = client.post(f"/scanner/api/connections/{found['id']}/test")
    show(output, result, table=_test_results(result))
    if not result["works"]:
        raise typer.Exit(ANSWER_IS_NO)


def _test_results(connection: dict[str, Any]) -> Table:
    columns = {"what": "Needs", "ok": "Works", "detail": "Detail"}
    return listing(connection["test_results"], columns, title=connection["name"])


@connection_app.command("remove")
def connection_remove(
    connection: Annotated[str, typer.Argument(help="name or id")],
    url: UrlOption = DEFAULT_URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """Forget a connection and its credentials; its rules are paused."""
    with _client(url) as client:
        found = _named(client.get("/scanner/api/connections"), connection, "connection")
        client.call("DELETE", f"/scanner/api/connections/{found['id']}")
    show(output, {"removed": found["name"]})


@connection_app.command("list")
def connection_list(url: UrlOption = DEFAULT_URL, output: OutputOption = Output.TABLE) -> None:
    """List the connections."""
    with _client(url) as client:
        result = client.get("/scanner/api/connections")
    addresses = ("instance_url", "base_url", "org_url")
    rows = [
        {**one, "address": next((one["settings"][name] for name in addresses if name in one["settings"]), "")}
        for one in result
    ]
    columns = {"id": "Id", "name": "Name", "kind": "Kind", "address": "Address"}
    show(output, result, table=listing(rows, columns))


# Rules.


@rule_app.command("add")
def rule_add(
    name: Annotated[str, typer.Option()],
    connection: Annotated[str, typer.Option(help="name or id of the connection")],
    product: Annotated[list[str], typer.Option(help="licence key; repeat for several")],
    on_timeout: Annotated[str, typer.Option(help="what no answer means: freeze, keep or escalate")],
    grace_days: Annotated[int, typer.Option(help="days between the freeze and the reclaim")],
    inactive_days: Annotated[
        int | None, typer.Option(help="flag seats last used before this many days ago; or give --minimum-hours")
    ] = None,
    minimum_hours: Annotated[
        str | None, typer.Option(help="flag seats used for fewer hours in the window; sources have to measure time")
    ] = None,
    window_days: Annotated[int | None, typer.Option(help="the window of --minimum-hours: so many days")] = None,
    window_months: Annotated[int | None, typer.Option(help="or so many complete months, in --time-zone")] = None,
    channel: Annotated[
        list[str] | None, typer.Option(help="ui, mobile, api or sso: only such use counts; repeat for several")
    ] = None,
    preferred_source: Annotated[
        list[str] | None,
        typer.Option(help="the source whose hours count; several in their order, the others come after them"),
    ] = None,
    include_no_activity: Annotated[
        bool, typer.Option("--include-no-activity", help="no record counts as no use, where sources prove coverage")
    ] = False,
    decision_days: Annotated[int, typer.Option(help="days the manager has to answer")] = 14,
    route: Annotated[str, typer.Option(help="email, itsm or both")] = "email",
    desk: Annotated[
        str, typer.Option(help="id of the service desk that opens the tickets; else the one that asks")
    ] = "",
    live: Annotated[bool, typer.Option("--live", help="really act; without it the rule is a dry run")] = False,
    hand_over: Annotated[bool, typer.Option(help="give open records to the manager")] = True,
    schedule: Annotated[str | None, typer.Option(help="cron expression, in --time-zone")] = None,
    time_zone: Annotated[str, typer.Option()] = "UTC",
    grace_calendar: Annotated[str, typer.Option(help="calendar: grace counts all days; business: working days")] = (
        "calendar"
    ),
    day_off: Annotated[list[str] | None, typer.Option(help="a holiday, such as 2026-12-25; repeat for several")] = None,
    reclaim_by: Annotated[
        str, typer.Option(help="deactivate, downgrade, or task (a person does it), as for installed software")
    ] = "",
    downgrade_product: Annotated[str, typer.Option(help="key of the cheaper licence to downgrade to")] = "",
    downgrade_name: Annotated[str, typer.Option(help="what people call it")] = "",
    downgrade_profile: Annotated[str, typer.Option(help="its profile, if it has several")] = "",
    no_reclaim_before_days_off: Annotated[
        bool, typer.Option("--no-reclaim-before-days-off", help="free no seat on a day off or right before one")
    ] = False,
    fallback_approver: Annotated[
        str, typer.Option(help="address of whoever is asked when the manager is missing, inactive or the holder")
    ] = "",
    fallback_name: Annotated[str, typer.Option(help="what they are called")] = "",
    most_flagged: Annotated[
        int | None, typer.Option(help="a scan that would flag more seats opens nothing; without: only the share counts")
    ] = None,
    most_flagged_share: Annotated[int, typer.Option(help="nor does one that would flag more of a hundred seats")] = 50,
    most_a_day: Annotated[
        int | None, typer.Option(help="at most so many of its seats are frozen, and freed, in 24 hours")
    ] = None,
    most_a_month: Annotated[int | None, typer.Option(help="and in 30 days")] = None,
    cooldown_days: Annotated[int, typer.Option(help="days that a kept seat is left in peace")] = 90,
    young_days: Annotated[int, typer.Option(help="days that a new account is left alone")] = 30,
    hand_over_to: Annotated[
        str, typer.Option(help="id of the user who takes open records over; else the manager")
    ] = "",
    act_from: Annotated[str, typer.Option(help="act on accounts from this time of a working day, such as 09:00")] = "",
    act_until: Annotated[str, typer.Option(help="and until this one, in --time-zone")] = "",
    chosen_by: Annotated[
        str, typer.Option("--filter", help="which of the seats, such as \"user/department eq 'Sales'\"")
    ] = "",
    ask_first: Annotated[str, typer.Option(help="manager or holder")] = "manager",
    holder_days: Annotated[int, typer.Option(help="days the holder has before the manager is asked")] = 3,
    remind: Annotated[list[int] | None, typer.Option(help="days after it that a question is put again; repeat")] = None,
    warn: Annotated[
        list[str] | None,
        typer.Option(help="check=reason: a check that warns instead of skipping, and why; repeat for several"),
    ] = None,
    url: UrlOption = DEFAULT_URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """Add a rule as a draft; preview it and activate it afterwards."""
    if minimum_hours is not None and (window_days is None) == (window_months is None):
        _fail("give either --window-days or --window-months with --minimum-hours", 2)
    with _client(url) as client:
        found = _named(client.get("/scanner/api/connections"), connection, "connection")
        document = {
            "name": name,
            "connection_id": found["id"],
            "products": product,
            "inactive_days": inactive_days,
            "condition": "last_used" if minimum_hours is None else "hours",
            "minimum_hours": minimum_hours,
            "window_unit": "days" if window_months is None else "months",
            "window_count": window_days if window_months is None else window_months,
            "channels": channel or [],
            "preferred_sources": preferred_source or [],
            "include_no_activity": include_no_activity,
            "route": route,
            "desk": desk,
            "decision_days": decision_days,
            "on_timeout": on_timeout,
            "grace_days": grace_days,
            "hand_over": hand_over,
            "dry_run": not live,
            "schedule": schedule,
            "time_zone": time_zone,
            "grace_calendar": grace_calendar,
            "days_off": day_off or [],
            "reclaim_by": reclaim_by,
            "downgrade_product": downgrade_product,
            "downgrade_name": downgrade_name,
            "downgrade_profile": downgrade_profile,
            "no_reclaim_before_days_off": no_reclaim_before_days_off,
            "fallback_approver": fallback_approver,
            "fallback_name": fallback_name,
            "most_flagged": most_flagged,
            "most_flagged_share": most_flagged_share,
            "most_a_day": most_a_day,
            "most_a_month": most_a_month,
            "cooldown_days": cooldown_days,
            "young_days": young_days,
            "hand_over_to": hand_over_to,
            "act_from": act_from,
            "act_until": act_until,
            "remind_days": remind or [],
            "filter": chosen_by,
            "ask_first": ask_first,
            "holder_days": holder_days,
            "warn_only": [given.partition("=")[0] for given in warn or []],
            "warn_reasons": {given.partition("=")[0]: given.partition("=")[2] for given in warn or []},
        }
        rules.show_rule(output, client.post("/scanner/api/rules", document))


@rule_app.command("list")
def rule_list(url: UrlOption = DEFAULT_URL, output: OutputOption = Output.TABLE) -> None:
    """List the rules."""
    with _client(url) as client:
        result = client.get("/scanner/api/rules")
    columns = {
        "id": "Id",
        "name": "Name",
        "status": "Status",
        "version": "Version",
        "words": "Flags what has",
        "on_timeout": "No answer",
        "dry_run": "Dry run",
    }
    show(output, result, table=listing(result, columns))


@rule_app.command("show")
def rule_show(
    rule: Annotated[str, typer.Argument(help="name or id")],
    url: UrlOption = DEFAULT_URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show a rule with its versions."""
    with _client(url) as client:
        rules.show_rule(output, client.get(f"/scanner/api/rules/{_rule(client, rule)['id']}"))


@rule_app.command("activate")
def rule_activate(
    rule: Annotated[str, typer.Argument(help="name or id")],
    url: UrlOption = DEFAULT_URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """Let a rule open cases."""
    with _client(url) as client:
        rules.show_rule(output, client.post(f"/scanner/api/rules/{_rule(client, rule)['id']}/activate"))


@rule_app.command("pause")
def rule_pause(
    rule: Annotated[str, typer.Argument(help="name or id")],
    url: UrlOption = DEFAULT_URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """Let a rule open no more cases; those it has opened go on."""
    with _client(url) as client:
        rules.show_rule(output, client.post(f"/scanner/api/rules/{_rule(client, rule)['id']}/pause"))


@rule_app.command("preview")
def rule_preview(
    rule: Annotated[str, typer.Argument(help="name or id")],
    url: UrlOption = DEFAULT_URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show who a rule would flag today, and who is left alone by which check. Nothing is created."""
    with _client(url) as client:
        result = client.get(f"/scanner/api/rules/{_rule(client, rule)['id']}/preview")
    yearly = [f"{Decimal(one['amount']):,.2f} {one['currency']}" for one in result["yearly"]]
    show(output, result, table=pairs(result | {"yearly": yearly}))
    if output is Output.TABLE:
        columns = {
            "seat.holder.name": "Would be flagged",
            "seat.product_name": "Product",
            "last_used_at": "Last used",
            "approver.name": "Asks",
        }
        show(output, result, table=listing(result["seats"][:SHOWN], columns))
        if (more := len(result["seats"]) - SHOWN) > 0:
            progress_console.print(f"and {more:,} more, in --output json")


def _rule(client: Client, rule: str) -> Any:
    return _named(client.get("/scanner/api/rules"), rule, "rule")


# Scans.


@scan_app.command("run")
def scan_run(
    rule: Annotated[str, typer.Argument(help="name or id of the rule")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="rehearse, whatever the rule says")] = False,
    url: UrlOption = DEFAULT_URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """Scan now and show progress. Exit code 1 if the scan failed."""
    with _client(url) as client:
        queued = client.post("/scanner/api/scans", {"rule_id": _rule(client, rule)["id"], "dry_run": dry_run})
        with _progress() as progress:
            task = progress.add_task("scanning", total=None)

            def moved(scan: dict[str, Any]) -> None:
                progress.update(task, completed=scan["seen"], total=scan["expected"] or None)

            scan = waiting.for_scan(client, queued["id"], on_change=moved)
    show(output, scan)
    if scan["status"] != "finished":
        raise typer.Exit(ANSWER_IS_NO)


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=progress_console,
        transient=True,
    )


# Cases.


@case_app.command("list")
def case_list(
    state: Annotated[list[str] | None, typer.Option(help="repeat for several")] = None,
    find: Annotated[str | None, typer.Option("--find", "--holder", help="part of name or e-mail, or a case id")] = None,
    rule: Annotated[str | None, typer.Option(help="name or id")] = None,
    connection: Annotated[str | None, typer.Option(help="name or id")] = None,
    product: Annotated[str | None, typer.Option(help="licence key")] = None,
    dry_run: Annotated[bool | None, typer.Option("--dry-run/--live", help="only the one or the other")] = None,
    attention: Annotated[str | None, typer.Option(help="kind of attention; see `attention list`")] = None,
    since: Annotated[str | None, typer.Option(help="flagged from this date on")] = None,
    until: Annotated[str | None, typer.Option(help="flagged until this date, included")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 100,
    after: Annotated[str | None, typer.Option(help="`next` of the page before")] = None,
    url: UrlOption = DEFAULT_URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """List cases, the latest first."""
    with _client(url) as client:
        query = {
            "state": state,
            "q": find,
            "rule": _rule(client, rule)["id"] if rule else None,
            "connection": (
                _named(client.get("/scanner/api/connections"), connection, "connection")["id"] if connection else None
            ),
            "product": product,
            "dry_run": None if dry_run is None else str(dry_run).lower(),
            "attention": attention,
            "from": since,
            "to": until,
            "limit": limit,
            "after": after,
        }
        result = client.get("/lifecycle/api/cases", **query)
    columns = {
        "id": "Id",
        "seat.holder.name": "Holder",
        "seat.product_name": "Product",
        "state": "State",
        "decision": "Decision",
        "attention.reason": "Attention",
    }
    rows = [{**case, "state": f"{case['state']}{_rehearsed(case)}"} for case in result["cases"]]
    show(output, result, table=listing(rows, columns))
    if result["next"] is not None:
        progress_console.print(f"There are more: the same with --after {result['next']} goes on.", highlight=False)


def _rehearsed(case: dict[str, Any]) -> str:
    return " (dry run)" if case["policy"]["dry_run"] else ""


@case_app.command("show")
def case_show(
    case: Annotated[str, typer.Argument(help="id")], url: UrlOption = DEFAULT_URL, output: OutputOption = Output.TABLE
) -> None:
    """Show a case and everything that happened to it."""
    with _client(url) as client:
        result = client.get(f"/lifecycle/api/cases/{case}")
    columns = {"at": "When", "actor": "Who", "command": "What", "before": "Before", "after": "After", "note": "Note"}
    title = f"{result['case']['seat']['holder']['name']}{_rehearsed(result['case'])}"
    show(output, result, table=listing(result["history"], columns, title=title))


@case_app.command("decide")
def case_decide(
    case: Annotated[str, typer.Argument(help="id")],
    decision: Annotated[str, typer.Argument(help="keep or revoke")],
    reason: Annotated[str, typer.Option()],
    url: UrlOption = DEFAULT_URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """Decide on a case; keep also grants an appeal."""
    with _client(url) as client:
        show(output, client.post(f"/lifecycle/api/cases/{case}/decision", {"decision": decision, "reason": reason}))


@case_app.command("retry")
def case_retry(
    case: Annotated[str, typer.Argument(help="id")], url: UrlOption = DEFAULT_URL, output: OutputOption = Output.TABLE
) -> None:
    """Let a case in attention go on."""
    with _client(url) as client:
        show(output, client.post(f"/lifecycle/api/cases/{case}/retry"))


@case_app.command("deleted")
def case_deleted(
    case: Annotated[str, typer.Argument(help="id")],
    note: Annotated[str, typer.Option(help="how you know")],
    url: UrlOption = DEFAULT_URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """Say that an account which its connection does not show any more was deleted: the case closes without savings."""
    with _client(url) as client:
        show(output, client.post(f"/lifecycle/api/cases/{case}/deleted", {"note": note}))


@case_app.command("unfreeze")
def case_unfreeze(
    case: Annotated[str, typer.Argument(help="id")], url: UrlOption = DEFAULT_URL, output: OutputOption = Output.TABLE
) -> None:
    """Undo a freeze of ours that was left on an account after its case had ended."""
    with _client(url) as client:
        show(output, client.post(f"/lifecycle/api/cases/{case}/unfreeze"))


@case_app.command("reactivate")
def case_reactivate(
    case: Annotated[str, typer.Argument(help="id")],
    reason: Annotated[str, typer.Option()],
    url: UrlOption = DEFAULT_URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """Give a reclaimed seat back to its holder."""
    with _client(url) as client:
        show(output, client.post(f"/lifecycle/api/cases/{case}/reactivate", {"reason": reason}))


# Savings.


@savings_app.command("report")
def savings_report(
    year: Annotated[int | None, typer.Option()] = None,
    url: UrlOption = DEFAULT_URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show what was saved."""
    with _client(url) as client:
        show(output, client.get("/savings/api/report", year=year))


@savings_app.command("rebuild")
def savings_rebuild(url: UrlOption = DEFAULT_URL, output: OutputOption = Output.TABLE) -> None:
    """Drop the reporting tables and make them again from the event log."""
    with _client(url) as client, _progress() as progress:
        task = progress.add_task("rebuilding", total=None)

        def moved(status: dict[str, Any]) -> None:
            progress.update(task, completed=status["position"], total=status["target"] or None)

        result = waiting.for_rebuild(client, on_change=moved)
    show(output, result)


# Operations.


def _must_be_service(name: str) -> None:
    if name not in SERVICES:
        _fail(f"there is no service {name!r}. There are: {', '.join(SERVICES)}.", REFUSED)


@parked_app.command("list")
def parked_list(
    service: Annotated[str, typer.Argument()], url: UrlOption = DEFAULT_URL, output: OutputOption = Output.TABLE
) -> None:
    """List the messages that a service could not handle."""
    _must_be_service(service)
    with _client(url) as client:
        result = client.get(f"/{service}/api/parked")
    columns = {"event_id": "Id", "wire": "Event", "attempts": "Attempts", "since": "Since", "reason": "Reason"}
    show(output, result, table=listing(result["parked"], columns))


@parked_app.command("redrive")
def parked_redrive(
    service: Annotated[str, typer.Argument()],
    event: Annotated[str, typer.Argument(help="id")],
    url: UrlOption = DEFAULT_URL,
    output: OutputOption = Output.TABLE,
) -> None:
    """Let a service handle a parked message again."""
    _must_be_service(service)
    with _client(url) as client:
        client.post(f"/{service}/api/parked/{event}/redrive")
    show(output, {"redriven": event})


@token_app.command("issue")
def token_issue(
    name: Annotated[str, typer.Option(help="who the token stands for in the audit trail")],
    role: Annotated[TokenRole, typer.Option()] = TokenRole.VIEWER,
    days: Annotated[int, typer.Option(min=1, max=366)] = 90,
    output: OutputOption = Output.TABLE,
) -> None:
    """Make a token for a program, with this installation's keys."""
    keys = Settings().signing_keys()
    token = issue_api_token(
        secret_keys=keys, name=name, role=role.value, lifetime=timedelta(days=days), now=SystemClock().now
    )
    if output is Output.TABLE:
        print(token)  # alone and whole, to be copied
    else:
        show(output, {"token": token})


# Errors.


def main() -> None:
    """Run the command; what can go wrong by use ends with one line that says what to do."""
    try:
        app()
    except ApiError as error:
        _end(str(error), REFUSED)
    except Unreachable as error:
        _end(str(error), UNREACHABLE)
    except ReclaimError as error:
        _end(error.detail, REFUSED)
    except ValidationError as error:
        for part in error.errors():
            _end(str(part["msg"]).removeprefix("Value error, "), REFUSED)
    except SettingsError as error:
        field = re.search(r'field "(\w+)"', str(error))
        _end(f'the setting {field[1] if field else ""} is not JSON: a list is written ["one", "two"].', REFUSED)


def _end(message: str, code: int) -> None:
    progress_console.print(f"[bold red]error:[/] {message}", highlight=False)
    sys.exit(code)
