"""ServiceNow, through the Table API.

A ticket is a record of one table (incident, unless another is chosen). Its `correlation_id` holds the marker of the
case. A part of a query that ServiceNow does not understand is ignored without a word, so that everything that comes
back is compared with what was asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final

import httpx
import msgspec

from reclaim.common.errors import Invalid
from reclaim.connectors.itsm.base import (
    Adapter,
    Basic,
    ClientCredentials,
    Line,
    closed_at_last,
    marked,
    moment,
    only,
    tried,
)
from reclaim.connectors.itsm.decisions import answer_of, read
from reclaim.connectors.itsm.ports import (
    TEST_TAG,
    Choice,
    Deed,
    FieldKind,
    FieldSpec,
    Json,
    PermissionResult,
    ReadDecision,
    Refused,
    TicketDraft,
    TicketRef,
    case_marker,
)
from reclaim.connectors.itsm.profile import (
    ADDRESS,
    ALLOW_HTTP,
    PUBLIC_COMMENTS,
    DeskProfile,
    Entered,
    Entry,
    Tuning,
)
from reclaim.connectors.itsm.texts import Room

ENTRIES: Final = (
    ADDRESS,
    Entry("username", "User", "The user that Reclaim works as; empty with OAuth.", required=False),
    Entry("password", "Password", "That user's password.", required=False, secret=True),
    Entry("client_id", "OAuth client id", "For the client credentials grant, instead of a user.", required=False),
    Entry("client_secret", "OAuth client secret", "The secret of that client.", required=False, secret=True),
    Entry("table", "Table", "Where tickets are opened.", required=False, default="incident"),
    Entry(
        "requester_field",
        "Requester field",
        "The field that names for whom the ticket is; a hyphen leaves it out.",
        required=False,
        default="caller_id",
    ),
    Entry(
        "closed_states",
        "Closed states",
        "Values of state that count as closed: for incidents 6 resolved, 7 closed, 8 cancelled.",
        required=False,
        default="6,7,8",
    ),
    Entry("close_state", "State to close with", "The state that Reclaim sets.", required=False, default="6"),
    Entry("open_state", "State to reopen with", "The state that Reclaim sets.", required=False, default="2"),
    Entry(
        "close_code",
        "Resolution code to close with",
        "A resolution code of your instance; a hyphen leaves it out.",
        required=False,
        default="Solution provided",
    ),
    PUBLIC_COMMENTS,
    ALLOW_HTTP,
)

PERMISSIONS: Final[Mapping[Deed, str]] = MappingProxyType(
    {
        "open": "the right to create records of the table (for incidents the role itil)",
        "tag": "the right to create and read label_entry, and a tag that everyone may see",
        "comment": "the right to write work_notes, or comments where these are public",
        "close": "the right to write state, close_code and close_notes, and a resolution code that the instance has",
        "reopen": "the right to write state of a resolved record",
    }
)
"""What the user that Reclaim works as has to be allowed."""

PAGE: Final = 1000
DEEPEST: Final = 8
"""Tables above a table; ServiceNow's own trees have four."""
_KINDS: Final[Mapping[str, FieldKind]] = {
    "boolean": "boolean",
    "integer": "integer",
    "decimal": "decimal",
    "float": "decimal",
    "glide_date": "date",
    "string": "text",
    "html": "text",
    "url": "text",
    "email": "text",
    "phone_number_e164": "text",
    "reference": "text",
}

Record = dict[str, str]


class _One(msgspec.Struct):
    result: dict[str, Any]


class _Many(msgspec.Struct):
    result: list[dict[str, Any]]


def _explain(body: Any) -> str:
    error = body["error"]
    return error if isinstance(error, str) else f"{error['message']} {error.get('detail') or ''}"


class ServiceNow(Adapter):
    """One table of one instance."""

    room = Room(title=160, text=4_000)

    def __init__(self, profile: DeskProfile, client: httpx.AsyncClient, tuning: Tuning) -> None:
        entered = Entered(profile, ENTRIES)
        user, password, client_id, secret = (
            entered[each] for each in ("username", "password", "client_id", "client_secret")
        )
        if bool(user and password) == bool(client_id and secret):
            raise Invalid("Enter a user and its password, or a client id and its secret.", field="username")
        super().__init__(
            Line(
                client,
                name="ServiceNow",
                base=entered.url("base_url"),
                authority=(
                    Basic(user, password)
                    if user
                    else ClientCredentials("/oauth_token.do", client_id, secret, in_form=True)
                ),
                calls_per_minute=300,
                tuning=tuning,
                explain=_explain,
            ),
            tuning,
        )
        self.decisions = profile.decisions
        self.user = user
        self.table = entered.name("table")
        requester = entered.name("requester_field")
        self.requester_field = "" if requester == "-" else requester
        self.closed_states = frozenset(entered.names("closed_states"))
        self.close_state, self.open_state = entered.name("close_state"), entered.name("open_state")
        if self.close_state not in self.closed_states or self.open_state in self.closed_states:
            raise Invalid(
                "The state to close with counts as closed, the one to reopen with does not.", field="close_state"
            )
        self.close_code = "" if entered["close_code"] == "-" else entered["close_code"]
        self.comment_field = "comments" if entered.flag("public_comments") else "work_notes"

    async def test_connection(self) -> Sequence[PermissionResult]:
        async def sees_tickets() -> str:
            found = await self._query(self.table, "", ("sys_id", "number"), limit=1)
            return f"{self.table} can be read{'' if found else ', and is empty'}."

        async def sees_fields() -> str:
            names = {spec.name for spec in await self.discover_fields()}
            needed = {"correlation_id", "short_description", "description", "state", self.comment_field}
            needed |= {each for each in (self.requester_field, self.decisions.decision_field) if each}
            missing = sorted(needed - names)
            if missing:
                raise Refused(
                    f"{self.table} has no field {', '.join(missing)}, or the user may not see it.",
                    "Give the user the right to read sys_dictionary, or choose another table or field.",
                )
            return f"{len(names)} fields."

        async def sees_tags() -> str:
            await self._query("label_entry", f"table={self.table}", ("label.name", "table", "table_key"), limit=1)
            names = {each["name"] for each in await self._labels((*self.decisions.tags, TEST_TAG))}
            missing = sorted({*self.decisions.tags, TEST_TAG} - names)
            if missing:
                raise Refused(f"There is no tag {', '.join(missing)}.", "Create the tags, viewable by everyone.")
            return "Every tag exists, and can be read on tickets."

        return [
            await tried("read tickets", sees_tickets),
            await tried("read the table's fields", sees_fields),
            await tried("read tags", sees_tags),
        ]

    async def discover_fields(self) -> Sequence[FieldSpec]:
        tables = await self._lineage()
        names = ",".join(tables)
        columns = ("name", "element", "column_label", "internal_type", "mandatory", "read_only", "active")
        rows = [
            row
            for row in await self._query("sys_dictionary", f"nameIN{names}^elementISNOTEMPTY^active=true", columns)
            if row["name"] in tables and row["element"] and row["active"] != "false" and row["read_only"] != "true"
        ]
        choices: dict[str, dict[str, Choice]] = {}
        # The table's own choices stand above those that it inherits.
        for row in sorted(
            await self._query(
                "sys_choice",
                f"nameIN{names}^language=en^inactive=false",
                ("name", "element", "value", "label", "language", "inactive"),
            ),
            key=lambda row: tables.index(row["name"]) if row["name"] in tables else -1,
            reverse=True,
        ):
            if row["name"] in tables and row["language"] == "en" and row["inactive"] != "true" and row["value"]:
                choices.setdefault(row["element"], {})[row["value"]] = Choice(row["value"], row["label"])
        found: dict[str, FieldSpec] = {}
        for row in sorted(rows, key=lambda row: (tables.index(row["name"]), row["element"])):
            element = row["element"]
            offered = tuple(choices.get(element, {}).values())
            kind: FieldKind = "choice" if offered else _KINDS.get(row["internal_type"], "text")
            found.setdefault(
                element,
                FieldSpec(element, row["column_label"] or element, kind, row["mandatory"] == "true", offered),
            )
        return list(found.values())

    async def find_by_case(self, case_id: str, *, since: datetime) -> TicketRef | None:  # noqa: ARG002  it is indexed
        marker = case_marker(case_id)
        rows = await self._query(
            self.table,
            f"correlation_id={marker}^ORDERBYsys_created_on",
            ("sys_id", "number", "correlation_id"),
            limit=20,
        )
        self._heeded(rows, correlation_id=marker)
        return only([self._ref(row) for row in rows], case_id)

    async def _comment(self, ref: TicketRef, text: str, mark: str) -> None:  # noqa: ARG002  it is in the text
        await self._update(ref, {self.comment_field: _plain(text)})

    async def _close(self, ref: TicketRef, text: str, mark: str) -> None:
        if (await self._read(ref))["state"] in self.closed_states:
            return
        change = {"state": self.close_state, "close_notes": _plain(text)}
        if self.close_code:
            change["close_code"] = self.close_code
        # A field that an access rule or a business rule forbids keeps its value, and the answer is 200 all the same.
        closed_at_last(ref, closed=await self._update(ref, change) in self.closed_states)
        await self._comment(ref, text, mark)

    async def _reopen(self, ref: TicketRef, text: str, mark: str) -> None:  # noqa: ARG002  it is in the text
        if (await self._read(ref))["state"] in self.closed_states:
            await self._update(ref, {"state": self.open_state, self.comment_field: _plain(text)})

    @staticmethod
    def _written(text: str) -> str:
        return _plain(text)

    async def _says(self, ref: TicketRef, mark: str) -> bool:
        # A journal is write-only but in its display value, which has all its entries.
        answer = await self.line.call(
            "GET",
            f"/api/now/table/{self.table}/{ref.key}",
            into=_One,
            params={"sysparm_fields": self.comment_field, "sysparm_display_value": "true"},
        )
        return marked(_record(answer.result).values(), mark)

    async def _closed_with(self, ref: TicketRef, mark: str) -> bool:
        # They are written with the state, and stay when the record is reopened.
        answer = await self.line.call(
            "GET", f"/api/now/table/{self.table}/{ref.key}", into=_One, params={"sysparm_fields": "close_notes"}
        )
        return marked(_record(answer.result).values(), mark)

    async def read_decision(self, ref: TicketRef) -> ReadDecision:
        record, entries = await self._read(ref), await self._entries(ref)
        field = self.decisions.decision_field
        said = read(
            self.decisions,
            closed=record["state"] in self.closed_states,
            tags=[row["label.name"] for row in entries],
            values=[record[field]] if field else (),
        )
        # Tickets are opened by the connection's own account: with OAuth nothing else tells its name.
        ours = record["sys_created_by"] or self.user
        moved_by = record["sys_updated_by"] if record["sys_updated_by"] != ours else ""
        moved_at = moment(record["sys_updated_on"])
        actor, at = moved_by, moved_at
        # A tag is a row of its own, and setting one is no update of the record: who set it stands there.
        deciding = [row for row in entries if answer_of(self.decisions, row["label.name"]) == said.reading]
        if deciding:
            first = min(deciding, key=lambda row: row["sys_created_on"])
            actor = first["sys_created_by"] if first["sys_created_by"] != ours else ""
            at = moment(first["sys_created_on"])
        return replace(
            said, actor=actor or None, at=at, moved_by=moved_by or None, moved_at=moved_at, ours=ours or None
        )

    async def _open(self, draft: TicketDraft) -> TicketRef:
        body: dict[str, Json] = {name: _as_text(value) for name, value in draft.fields.items()}
        body |= {
            "short_description": self._subject(draft),
            "description": self._description(draft),
            "correlation_id": draft.marker,
            "correlation_display": "Reclaim",
        }
        caller = await self._user(draft.requester_email) if self.requester_field else None
        if caller is not None:
            body[self.requester_field] = caller
        made = await self.line.call(
            "POST",
            f"/api/now/table/{self.table}",
            into=_One,
            params={"sysparm_exclude_reference_link": "true"},
            body=body,
        )
        return self._ref(_record(made.result))

    async def _prepare(self, draft: TicketDraft) -> None:
        if draft.test and not await self._labels((TEST_TAG,)):
            raise Refused(f"There is no tag {TEST_TAG}.", "Create it, viewable by everyone.")

    async def _complete(self, ref: TicketRef, draft: TicketDraft) -> None:
        if not draft.test or TEST_TAG in {row["label.name"] for row in await self._entries(ref)}:
            return
        (label, *_) = await self._labels((TEST_TAG,))
        await self.line.call(
            "POST",
            "/api/now/table/label_entry",
            into=_One,
            body={"label": label["sys_id"], "table": self.table, "table_key": ref.key},
        )

    async def _lineage(self) -> list[str]:
        """Return the table and those that it extends, itself first."""
        tables: list[str] = []
        name = self.table
        while name and name not in tables and len(tables) < DEEPEST:
            tables.append(name)
            rows = await self._query("sys_db_object", f"name={name}", ("name", "super_class.name"), limit=2)
            name = next((row["super_class.name"] for row in rows if row["name"] == name), "")
        return tables

    async def _user(self, email: str | None) -> str | None:
        # A caret would begin another part of the query.
        if not email or "^" in email:
            return None
        rows = await self._query("sys_user", f"email={email}^active=true", ("sys_id", "email", "active"), limit=2)
        return next((row["sys_id"] for row in rows if row["email"].casefold() == email.casefold()), None)

    async def _labels(self, names: Sequence[str]) -> list[Record]:
        rows = await self._query("label", f"nameIN{','.join(names)}", ("sys_id", "name"), limit=PAGE)
        return [row for row in rows if row["name"] in names]

    async def _entries(self, ref: TicketRef) -> list[Record]:
        rows = await self._query(
            "label_entry",
            f"table={self.table}^table_key={ref.key}",
            ("label.name", "table", "table_key", "sys_created_by", "sys_created_on"),
        )
        self._heeded(rows, table=self.table, table_key=ref.key)
        return rows

    def _heeded(self, rows: Sequence[Record], **asked: str) -> None:
        """Refuse an answer that holds what was not asked for: then what was asked for may be missing from it."""
        if any(row[name] != value for row in rows for name, value in asked.items()):
            raise Refused(
                f"ServiceNow ignored a part of the query ({', '.join(asked)}).",
                "Give the user the right to read these fields, or choose a table that has them.",
            )

    async def _read(self, ref: TicketRef) -> Record:
        names = ["sys_id", "number", "state", "sys_created_by", "sys_updated_by", "sys_updated_on"]
        if self.decisions.decision_field:
            names.append(self.decisions.decision_field)
        answer = await self.line.call(
            "GET",
            f"/api/now/table/{self.table}/{ref.key}",
            into=_One,
            params={"sysparm_fields": ",".join(names), "sysparm_exclude_reference_link": "true"},
        )
        return _record(answer.result, names)

    async def _update(self, ref: TicketRef, change: Mapping[str, Json]) -> str:
        """Change a record; return the state that it has then."""
        answer = await self.line.call(
            "PATCH",
            f"/api/now/table/{self.table}/{ref.key}",
            into=_One,
            params={"sysparm_fields": "sys_id,state", "sysparm_exclude_reference_link": "true"},
            body=change,
        )
        return _record(answer.result, ("state",))["state"]

    async def _query(self, table: str, query: str, names: Sequence[str], *, limit: int = 0) -> list[Record]:
        """Return rows of a table; all of them, page by page, unless there is a limit."""
        found: list[Record] = []
        while True:
            params: dict[str, str | int] = {
                "sysparm_fields": ",".join(names),
                "sysparm_limit": limit or PAGE,
                "sysparm_exclude_reference_link": "true",
            }
            if query:
                params["sysparm_query"] = query
            if found:
                params["sysparm_offset"] = len(found)
            page = (await self.line.call("GET", f"/api/now/table/{table}", into=_Many, params=params)).result
            found += [_record(row, names) for row in page]
            if limit or len(page) < PAGE:
                return found

    def _ref(self, row: Record) -> TicketRef:
        key = row.get("sys_id", "")
        return TicketRef(key, row.get("number") or key, f"{self.line.base}/nav_to.do?uri={self.table}.do?sys_id={key}")


def _record(row: Mapping[str, Any], names: Sequence[str] = ()) -> Record:
    """Return a row as texts: a reference may come as an object, a missing field not at all."""
    texts = {
        name: str(value.get("value", "")) if isinstance(value, dict) else ("" if value is None else str(value))
        for name, value in row.items()
    }
    return dict.fromkeys(names, "") | texts


def _as_text(value: Json) -> str:
    """Return a value as the Table API takes it: everything is text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


def _plain(text: str) -> str:
    """Return text that the journal shows as it is: between `[code]` marks it would be taken for HTML."""
    return text.replace("[code]", "[ code]").replace("[/code]", "[ /code]")
