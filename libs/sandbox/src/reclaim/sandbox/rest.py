"""The resources below `/services/data/vNN.N`, without HTTP: a call goes in, a reply comes out.

The composite resource sends its subrequests through the same door, so that a subrequest and a call behave alike.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from .auth import Session
from .errors import SalesforceError
from .faults import REFUSALS, Fault
from .ids import make_id, normalise_id
from .org import Org, Row, Transaction
from .query import Result, json_value, run_query
from .schema import OBJECTS, ObjectType, find_object

MAX_COLLECTION = 200
MAX_CHUNKS = 10
MAX_RETRIEVE = 2_000
MAX_SUBREQUESTS = 25
MAX_HEAVY_SUBREQUESTS = 5
MAX_PAGE = 2_000
MIN_PAGE = 200
MAX_CURSORS = 100
CURSOR_LIFE = timedelta(days=2)
RESULT_LIFE = timedelta(days=7)

_REFERENCE = re.compile(r"@\{([A-Za-z0-9_]+)((?:\.[A-Za-z0-9_]+|\[\d+\])+)\}")


@dataclass(slots=True)
class Call:
    """One call, or a `nested` subrequest. `path` follows the version; `records` counts what was read or written."""

    method: str
    path: str
    params: dict[str, str]
    body: Any
    version: str
    session: Session
    fault: Fault | None = None
    batch: int = MAX_PAGE
    prefix: str = ""
    nested: bool = False
    transaction: Transaction | None = None
    all_or_none: bool = False
    records: int = 0
    query: str | None = None

    def struck(self, kind: str) -> Fault | None:
        """Return the fault that strikes this call, if it is of that kind."""
        return self.fault if self.fault is not None and self.fault.kind == kind else None


@dataclass(slots=True)
class Reply:
    """What a call answers: JSON, CSV text, or nothing."""

    status: int
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    text: str | None = None


@dataclass(slots=True)
class _Cursor:
    result: Result
    opened: datetime
    batch: int


@dataclass(slots=True)
class _Job:
    id: str
    query: str
    version: str
    created: datetime
    owner: str
    delimiter: str
    line_end: str
    state: str = "UploadComplete"
    result: Result | None = None
    error: str | None = None
    keep: int | None = None


_DELIMITERS = {"COMMA": ",", "SEMICOLON": ";", "TAB": "\t", "PIPE": "|", "CARET": "^", "BACKQUOTE": "`"}
_LINE_ENDS = {"LF": "\n", "CRLF": "\r\n"}


class Rest:
    """The org's REST resources."""

    def __init__(self, org: Org) -> None:
        self.org = org
        self._cursors: dict[str, _Cursor] = {}
        self._jobs: dict[str, _Job] = {}
        self._made = 0
        self.usage: Callable[[], tuple[int, int]] = lambda: (0, org.settings.daily_api_limit)
        """How many calls the last day saw, and how many it may see."""
        self._routes: list[tuple[str, re.Pattern[str], Callable[[Call, re.Match[str]], Reply]]] = [
            ("GET", re.compile(""), self._resources),
            ("GET", re.compile("limits"), self._limits),
            ("GET", re.compile("query"), self._query),
            ("GET", re.compile("query/([^/]+)"), self._query_more),
            ("GET", re.compile("sobjects"), self._global_describe),
            ("GET", re.compile("sobjects/([^/]+)/describe"), self._describe),
            ("POST", re.compile("sobjects/([^/]+)"), self._create),
            ("GET", re.compile("sobjects/([^/]+)/([^/]+)"), self._read),
            ("PATCH", re.compile("sobjects/([^/]+)/([^/]+)"), self._update),
            ("DELETE", re.compile("sobjects/([^/]+)/([^/]+)"), self._delete),
            ("POST", re.compile("composite"), self._composite),
            ("POST", re.compile("composite/sobjects"), self._write_collection),
            ("PATCH", re.compile("composite/sobjects"), self._write_collection),
            ("DELETE", re.compile("composite/sobjects"), self._delete_collection),
            ("GET", re.compile("composite/sobjects/([^/]+)"), self._read_collection),
            ("POST", re.compile("composite/sobjects/([^/]+)"), self._read_collection),
            ("POST", re.compile("jobs/query"), self._create_job),
            ("GET", re.compile("jobs/query"), self._jobs_list),
            ("GET", re.compile("jobs/query/([^/]+)"), self._job),
            ("PATCH", re.compile("jobs/query/([^/]+)"), self._abort_job),
            ("DELETE", re.compile("jobs/query/([^/]+)"), self._delete_job),
            ("GET", re.compile("jobs/query/([^/]+)/results"), self._job_results),
        ]

    def answer(self, call: Call) -> Reply:
        """Answer a call; a refusal is a reply too."""
        try:
            return self._route(call)
        except SalesforceError as error:
            return Reply(error.status, error.as_call_error())

    def _route(self, call: Call) -> Reply:
        known = False
        for method, pattern, handler in self._routes:
            match = pattern.fullmatch(call.path.strip("/"))
            if match is None:
                continue
            known = True
            if method == call.method:
                return handler(call, match)
        if known:
            raise SalesforceError(
                "METHOD_NOT_ALLOWED", f"HTTP Method '{call.method}' not allowed for this resource.", status=405
            )
        raise not_found()

    # Service resources --------------------------------------------------------------------------------------------

    def _resources(self, call: Call, _match: re.Match[str]) -> Reply:
        base = f"{call.prefix}/services/data/v{call.version}"
        names = ("sobjects", "query", "limits", "composite", "jobs")
        return Reply(200, {name: f"{base}/{name}" for name in names})

    def _limits(self, _call: Call, _match: re.Match[str]) -> Reply:
        used, limit = self.usage()
        return Reply(
            200,
            {
                "DailyApiRequests": {"Max": limit, "Remaining": max(limit - used, 0)},
                "DailyBulkV2QueryJobs": {"Max": 10_000, "Remaining": 10_000 - len(self._jobs)},
            },
        )

    def _global_describe(self, call: Call, _match: re.Match[str]) -> Reply:
        base = f"{call.prefix}/services/data/v{call.version}/sobjects"
        kinds = [
            {
                **_traits(kind),
                "urls": {"sobject": f"{base}/{kind.name}", "describe": f"{base}/{kind.name}/describe"},
            }
            for kind in OBJECTS.values()
        ]
        return Reply(200, {"encoding": "UTF-8", "maxBatchSize": MAX_COLLECTION, "sobjects": kinds})

    def _describe(self, _call: Call, match: re.Match[str]) -> Reply:
        kind = _kind(match[1])
        fields = [
            {
                "name": each.name,
                "label": each.label,
                "type": each.type,
                "length": each.length if each.type not in {"boolean", "int", "double", "currency"} else 0,
                "nillable": not each.required and each.type not in {"boolean", "id"},
                "createable": each.createable,
                "updateable": each.updateable,
                "filterable": each.filterable,
                "sortable": each.sortable,
                "groupable": each.groupable,
                "custom": each.custom,
                "calculated": each.computed,
                "defaultedOnCreate": each.default is not None,
                "referenceTo": list(each.refers),
                "relationshipName": each.relationship,
                "restrictedPicklist": each.restricted,
                "picklistValues": [{"value": value, "label": value, "active": True} for value in each.values],
            }
            for each in kind.fields
        ]
        children = [
            {"childSObject": other.name, "field": each.name, "cascadeDelete": False}
            for other in OBJECTS.values()
            for each in other.fields
            if kind.name in each.refers
        ]
        return Reply(200, {**_traits(kind), "fields": fields, "childRelationships": children})

    # Query --------------------------------------------------------------------------------------------------------

    def _query(self, call: Call, _match: re.Match[str]) -> Reply:
        text = call.params.get("q")
        if text is None:
            raise SalesforceError("MALFORMED_QUERY", "no query: the parameter q is missing")
        call.query = text
        result = run_query(self.org, text)
        if result.aggregate and len(result.rows) > MAX_PAGE:
            raise SalesforceError(
                "EXCEEDED_ID_LIMIT", "Aggregate query does not support queryMore(), use LIMIT to restrict"
            )
        if call.struck("empty_scan"):
            return Reply(200, {"totalSize": 0, "done": True, "records": []})
        if len(result.rows) <= call.batch:
            return self._page(call, result, 0, None, call.batch)
        locator = self._new_id("01g")
        self._cursors[locator] = _Cursor(result, self.org.clock.now(), call.batch)
        if len(self._cursors) > MAX_CURSORS:
            del self._cursors[next(iter(self._cursors))]
        return self._page(call, result, 0, locator, call.batch)

    def _query_more(self, call: Call, match: re.Match[str]) -> Reply:
        locator, _, place = match[1].partition("-")
        cursor = self._cursors.get(locator)
        if cursor is not None and self.org.clock.now() - cursor.opened > CURSOR_LIFE:
            cursor = None
        if cursor is None or not place.isdecimal() or int(place) >= len(cursor.result.rows):
            raise SalesforceError("INVALID_QUERY_LOCATOR", "invalid query locator")
        return self._page(call, cursor.result, int(place), locator, cursor.batch)

    def _page(self, call: Call, result: Result, start: int, locator: str | None, batch: int) -> Reply:
        rows = result.rows[start : start + batch]
        end = start + len(rows)
        done = locator is None or end >= len(result.rows)
        if fault := call.struck("truncated_page"):
            rows, done = rows[: int(fault.params.get("keep", len(rows) // 2))], True
        call.records = len(rows)
        body: dict[str, Any] = {"totalSize": result.total, "done": done}
        if not done:
            body["nextRecordsUrl"] = f"{call.prefix}/services/data/v{call.version}/query/{locator}-{end}"
        body["records"] = [result.project(row, call.version) for row in rows]
        return Reply(200, body)

    # One record ---------------------------------------------------------------------------------------------------

    def _create(self, call: Call, match: re.Match[str]) -> Reply:
        kind = _kind(match[1])
        values = _without_attributes(call.body)
        self._refuse_locked(call, None)
        with self._writing(call) as transaction:
            record_id = transaction.create(kind.name, values)
        call.records = 1
        return Reply(201, {"id": record_id, "success": True, "errors": []})

    def _read(self, call: Call, match: re.Match[str]) -> Reply:
        kind = _kind(match[1])
        row = self._existing(kind, match[2])
        names = [each for each in call.params.get("fields", "").split(",") if each]
        call.records = 1
        return Reply(200, self._record(kind, row, names or [each.name for each in kind.fields], call))

    def _update(self, call: Call, match: re.Match[str]) -> Reply:
        kind = _kind(match[1])
        values = _without_attributes(call.body)
        row = self._existing(kind, match[2])
        self._refuse_locked(call, row[0])
        with self._writing(call) as transaction:
            transaction.update(kind.name, row[0], values)
        call.records = 1
        return Reply(204)

    def _delete(self, call: Call, match: re.Match[str]) -> Reply:
        kind = _kind(match[1])
        row = self._existing(kind, match[2])
        self._refuse_locked(call, row[0])
        with self._writing(call) as transaction:
            transaction.delete(kind.name, row[0])
        call.records = 1
        return Reply(204)

    def _existing(self, kind: ObjectType, record_id: str) -> Row:
        found = normalise_id(record_id)
        row = self.org.tables[kind.name].rows.get(found) if found else None
        if row is None:
            raise not_found()
        return row

    def _record(self, kind: ObjectType, row: Row, names: list[str], call: Call) -> dict[str, Any]:
        out: dict[str, Any] = {
            "attributes": {
                "type": kind.name,
                "url": f"/services/data/v{call.version}/sobjects/{kind.name}/{row[0]}",
            }
        }
        for name in names:
            each = kind.by_name.get(name.strip().lower())
            if each is None:
                raise SalesforceError("INVALID_FIELD", f"No such column '{name.strip()}' on entity '{kind.name}'.")
            value = self.org.compute(kind, each, row) if each.computed else row[each.slot]
            out[each.name] = json_value(value)
        return out

    def _refuse_locked(self, call: Call, record_id: str | None) -> None:
        fault = call.struck("row_lock")
        if fault is not None and (record_id is None or record_id in fault.params.get("ids", [record_id])):
            raise _locked(record_id)

    @contextmanager
    def _writing(self, call: Call, *, api: str = "sobject") -> Iterator[Transaction]:
        """Yield the transaction that the call writes in: the composite call's own, if it is all or none."""
        if call.transaction is not None:
            yield call.transaction
            return
        api = "composite" if call.nested else api
        with self.org.transaction(caller=call.session.username, api=api) as transaction:
            yield transaction

    # Collections --------------------------------------------------------------------------------------------------

    def _write_collection(self, call: Call, _match: re.Match[str]) -> Reply:
        records = call.body.get("records") if isinstance(call.body, dict) else None
        if not isinstance(records, list) or not all(isinstance(each, dict) for each in records):
            raise SalesforceError("JSON_PARSER_ERROR", "the body needs a list of records")
        all_or_none = call.all_or_none or call.body.get("allOrNone", False) is True
        kinds = [_type_named(each) for each in records]
        _within_limits(kinds)
        struck = self._struck_rows(call, records)

        def write(place: int, transaction: Transaction) -> str:
            record, kind = records[place], kinds[place]
            values = _without_attributes(record)
            if kind is None:
                raise SalesforceError("INVALID_TYPE", "the record's attributes name no type that there is")
            given = next((name for name in values if name.lower() == "id"), None)
            record_id = values.pop(given) if given else None
            if call.method == "POST":
                if record_id is not None:
                    raise SalesforceError("INVALID_FIELD_FOR_INSERT_UPDATE", "cannot specify Id in an insert call")
                return transaction.create(kind.name, values)
            if not isinstance(record_id, str):
                raise SalesforceError("MISSING_ARGUMENT", "Id not specified in an update call")
            if place in struck:
                raise struck[place]
            transaction.update(kind.name, record_id, values)
            return normalise_id(record_id) or record_id

        return self._rows_apart(call, len(records), write, all_or_none=all_or_none)

    def _delete_collection(self, call: Call, _match: re.Match[str]) -> Reply:
        ids = [each for each in call.params.get("ids", "").split(",") if each]
        kinds = [_kind_of_id(each) for each in ids]
        _within_limits(kinds)

        def remove(place: int, transaction: Transaction) -> str:
            kind = kinds[place]
            if kind is None:
                raise SalesforceError("MALFORMED_ID", f"malformed id {ids[place]}")
            transaction.delete(kind.name, ids[place])
            return normalise_id(ids[place]) or ids[place]

        all_or_none = call.all_or_none or call.params.get("allOrNone", "false").lower() == "true"
        return self._rows_apart(call, len(ids), remove, all_or_none=all_or_none)

    def _rows_apart(
        self, call: Call, count: int, write: Callable[[int, Transaction], str], *, all_or_none: bool
    ) -> Reply:
        """Write the rows of a collection; each has its own result, and the call is HTTP 200 whatever they are."""
        results: list[dict[str, Any]] = []
        with self._writing(call, api="collections") as transaction:
            start = transaction.savepoint()
            for place in range(count):
                before = transaction.savepoint()
                try:
                    results.append({"id": write(place, transaction), "success": True, "errors": []})
                except SalesforceError as error:
                    transaction.rollback_to(before)
                    results.append({"success": False, "errors": [error.as_row_error()]})
            if all_or_none and not all(each["success"] for each in results):
                transaction.rollback_to(start)
                results = [_rolled_back(each) if each["success"] else each for each in results]
        call.records = sum(1 for each in results if each["success"])
        return Reply(200, results)

    def _struck_rows(self, call: Call, records: list[dict[str, Any]]) -> dict[int, SalesforceError]:
        """Return what strikes single rows, a lock or a refusal, by their places."""
        fault = call.struck("row_lock") or call.struck("row_refused")
        if fault is None:
            return {}
        places = {
            place: normalise_id(str(record.get("id", "")))
            for place, record in enumerate(records)
            if fault.object is None or _type_name(record).lower() == fault.object.lower()
        }
        if fault.kind == "row_refused":
            said = {normalise_id(each): REFUSALS[name] for each, name in fault.params["refusals"].items()}
            return {place: SalesforceError(*said[row]) for place, row in places.items() if row in said}
        if ids := fault.params.get("ids"):
            named = {normalise_id(str(each)) for each in ids}
            return {place: _locked(records[place]["id"]) for place, row in places.items() if row in named}
        return {place: _locked(records[place].get("id")) for place in [*places][: int(fault.params.get("rows", 1))]}

    def _read_collection(self, call: Call, match: re.Match[str]) -> Reply:
        kind = _kind(match[1])
        if call.method == "GET":
            ids: Any = [each for each in call.params.get("ids", "").split(",") if each]
            names: Any = [each for each in call.params.get("fields", "").split(",") if each]
        else:
            body = call.body if isinstance(call.body, dict) else {}
            ids, names = body.get("ids"), body.get("fields")
        if not isinstance(ids, list) or not isinstance(names, list) or not names:
            raise SalesforceError("JSON_PARSER_ERROR", "ids and fields are required")
        if len(ids) > MAX_RETRIEVE:
            raise SalesforceError("EXCEEDED_ID_LIMIT", f"at most {MAX_RETRIEVE} ids a call")
        if call.struck("empty_scan"):
            return Reply(200, [None] * len(ids))
        rows = [self.org.find(kind.name, str(each)) for each in ids]
        call.records = sum(1 for row in rows if row is not None)
        return Reply(
            200, [None if row is None else self._record(kind, row, [str(each) for each in names], call) for row in rows]
        )

    # Composite ----------------------------------------------------------------------------------------------------

    def _composite(self, call: Call, _match: re.Match[str]) -> Reply:
        body = call.body if isinstance(call.body, dict) else {}
        parts = body.get("compositeRequest")
        if call.nested:
            raise SalesforceError("INVALID_INPUT", "a composite request cannot hold another")
        if not isinstance(parts, list) or not parts or not all(isinstance(each, dict) for each in parts):
            raise SalesforceError("JSON_PARSER_ERROR", "compositeRequest must be a list of subrequests")
        _composite_limits(parts)
        if body.get("allOrNone", False) is True:
            return self._composite_whole(call, parts)
        done: dict[str, Any] = {}
        responses = [self._subrequest(call, part, done, None) for part in parts]
        return Reply(200, {"compositeResponse": responses})

    def _composite_whole(self, call: Call, parts: list[dict[str, Any]]) -> Reply:
        """Run every subrequest in one transaction, which the first failure undoes."""
        done: dict[str, Any] = {}
        responses: list[dict[str, Any]] = []
        failed = False
        with self.org.transaction(caller=call.session.username, api="composite") as transaction:
            for part in parts:
                response = _halted(part) if failed else self._subrequest(call, part, done, transaction)
                failed = failed or not _went_well(response)
                responses.append(response)
            if failed:
                transaction.rollback_to((0, 0))
                responses = [
                    _halted(part) if _went_well(each) else each for part, each in zip(parts, responses, strict=True)
                ]
                call.records = 0
        return Reply(200, {"compositeResponse": responses})

    def _subrequest(
        self, call: Call, part: dict[str, Any], done: dict[str, Any], transaction: Transaction | None
    ) -> dict[str, Any]:
        reference = str(part.get("referenceId", ""))
        try:
            url = _filled(str(part.get("url", "")), done)
            body = _filled(part.get("body"), done)
            split = urlsplit(url)
            match = re.fullmatch(r"/services/data/v(\d+\.\d)/(.*)", split.path)
            if match is None:
                raise not_found()
            sub = Call(
                method=str(part.get("method", "")).upper(),
                path=match[2],
                params=dict(parse_qsl(split.query)),
                body=body,
                version=match[1],
                session=call.session,
                fault=call.fault,
                prefix=call.prefix,
                nested=True,
                transaction=transaction,
                all_or_none=transaction is not None,
            )
            reply = self.answer(sub)
            call.records += sub.records
        except SalesforceError as error:
            reply = Reply(error.status, error.as_call_error())
        if reply.status < 400:
            done[reference] = reply.body
        return {
            "body": reply.body,
            "httpHeaders": reply.headers,
            "httpStatusCode": reply.status,
            "referenceId": reference,
        }

    # Bulk API 2.0 query -------------------------------------------------------------------------------------------

    def _create_job(self, call: Call, _match: re.Match[str]) -> Reply:
        body = call.body if isinstance(call.body, dict) else {}
        text = body.get("query")
        if body.get("operation") != "query" or not isinstance(text, str):
            raise SalesforceError("API_ERROR", "operation must be `query`, and query a text")
        delimiter, line_end = body.get("columnDelimiter", "COMMA"), body.get("lineEnding", "LF")
        if delimiter not in _DELIMITERS or line_end not in _LINE_ENDS:
            raise SalesforceError("API_ERROR", "unknown columnDelimiter or lineEnding")
        call.query = text
        job = _Job(
            id=self._new_id("750"),
            query=text,
            version=call.version,
            created=self.org.clock.now(),
            owner=call.session.user_id,
            delimiter=delimiter,
            line_end=line_end,
        )
        try:
            job.result = run_query(self.org, text)
        except SalesforceError as error:
            job.error = f"{error.code}: {error.message}"
        if job.result is not None and job.result.aggregate:
            job.error = "FEATURENOTENABLED: Aggregate queries are not supported in Bulk Query"
        self._jobs[job.id] = job
        return Reply(200, _job_info(job, whole=False))

    def _jobs_list(self, _call: Call, _match: re.Match[str]) -> Reply:
        return Reply(200, {"done": True, "records": [_job_info(job, whole=False) for job in self._jobs.values()]})

    def _job(self, call: Call, match: re.Match[str]) -> Reply:
        job = self._found_job(match[1])
        if job.state == "UploadComplete":
            job.state = "InProgress"
        elif job.state == "InProgress":
            if call.struck("bulk_failed"):
                job.error = str(
                    (call.fault and call.fault.params.get("message")) or "InternalServerError: retries exceeded"
                )
            job.state = "Failed" if job.error else "JobComplete"
        return Reply(200, _job_info(job, whole=True))

    def _abort_job(self, call: Call, match: re.Match[str]) -> Reply:
        job = self._found_job(match[1])
        state = call.body.get("state") if isinstance(call.body, dict) else None
        if state != "Aborted":
            raise SalesforceError("API_ERROR", "a query job's state can only be set to Aborted")
        if job.state in {"JobComplete", "Failed"}:
            raise SalesforceError("INVALIDJOBSTATE", f"the job is {job.state} already")
        job.state = "Aborted"
        return Reply(200, _job_info(job, whole=False))

    def _delete_job(self, _call: Call, match: re.Match[str]) -> Reply:
        job = self._found_job(match[1])
        if job.state not in {"JobComplete", "Failed", "Aborted"}:
            raise SalesforceError("API_ERROR", f"a job that is {job.state} cannot be deleted")
        del self._jobs[job.id]
        return Reply(204)

    def _job_results(self, call: Call, match: re.Match[str]) -> Reply:
        job = self._found_job(match[1])
        if job.state != "JobComplete" or job.result is None:
            raise SalesforceError("INVALIDJOBSTATE", f"the job is {job.state}: there are no results")
        if call.version != job.version:
            raise SalesforceError("API_ERROR", f"the job was created with v{job.version}: use that version")
        rows = job.result.rows
        wanted, locator = call.params.get("maxRecords", "100000"), call.params.get("locator", "0")
        if not wanted.isdecimal() or int(wanted) < 1:
            raise SalesforceError("API_ERROR", "maxRecords must be a positive number")
        if not locator.isdecimal() or int(locator) > len(rows):
            raise SalesforceError("INVALID_QUERY_LOCATOR", "invalid query locator")
        start = int(locator)
        page = rows[start : start + int(wanted)]
        end = start + len(page)
        following = str(end) if end < len(rows) else "null"
        if call.struck("empty_scan"):
            page, following = [], "null"
        if fault := call.struck("truncated_page"):
            page, following = page[: int(fault.params.get("keep", len(page) // 2))], "null"
        call.records = len(page)
        out = io.StringIO()
        writer = csv.writer(
            out,
            delimiter=_DELIMITERS[job.delimiter],
            lineterminator=_LINE_ENDS[job.line_end],
            quoting=csv.QUOTE_ALL,
        )
        writer.writerow(job.result.header)
        writer.writerows(map(job.result.cells, page))
        return Reply(
            200,
            headers={"Sforce-Locator": following, "Sforce-NumberOfRecords": str(len(page))},
            text=out.getvalue(),
        )

    def _found_job(self, job_id: str) -> _Job:
        job = self._jobs.get(normalise_id(job_id) or "")
        if job is None or self.org.clock.now() - job.created > RESULT_LIFE:
            raise not_found()
        return job

    def _new_id(self, prefix: str) -> str:
        self._made += 1
        return make_id(prefix, self._made)


# Helpers ----------------------------------------------------------------------------------------------------------


def not_found() -> SalesforceError:
    """Return the refusal of a path, a type or a record that there is not."""
    return SalesforceError("NOT_FOUND", "The requested resource does not exist", status=404)


def _locked(record_id: str | None) -> SalesforceError:
    about = f": {record_id}" if record_id else ""
    return SalesforceError(
        "UNABLE_TO_LOCK_ROW", f"unable to obtain exclusive access to this record or 1 records{about}"
    )


def _kind(name: str) -> ObjectType:
    kind = find_object(name)
    if kind is None:
        raise not_found()
    return kind


def _kind_of_id(record_id: str) -> ObjectType | None:
    found = normalise_id(record_id)
    return next((kind for kind in OBJECTS.values() if found and found.startswith(kind.prefix)), None)


def _type_name(record: dict[str, Any]) -> str:
    attributes = record.get("attributes")
    return str(attributes.get("type", "")) if isinstance(attributes, dict) else ""


def _type_named(record: dict[str, Any]) -> ObjectType | None:
    return find_object(_type_name(record))


def _without_attributes(body: Any) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise SalesforceError("JSON_PARSER_ERROR", "the body must be one JSON object")
    return {name: value for name, value in body.items() if name != "attributes"}


def _within_limits(kinds: list[ObjectType | None]) -> None:
    if not kinds:
        raise SalesforceError("REQUIRED_FIELD_MISSING", "no records were given")
    if len(kinds) > MAX_COLLECTION:
        raise SalesforceError(
            "EXCEEDED_ID_LIMIT", f"record limit reached. cannot submit more than {MAX_COLLECTION} records in this call"
        )
    chunks = 1 + sum(1 for before, after in pairwise(kinds) if before is not after)
    if chunks > MAX_CHUNKS:
        raise SalesforceError(
            "LIMIT_EXCEEDED", f"a call processes at most {MAX_CHUNKS} chunks of one type, not {chunks}"
        )


def _composite_limits(parts: list[dict[str, Any]]) -> None:
    if len(parts) > MAX_SUBREQUESTS:
        raise SalesforceError("LIMIT_EXCEEDED", f"The limit of {MAX_SUBREQUESTS} subrequests is exceeded: {len(parts)}")
    heavy = sum(1 for part in parts if re.search(r"/(composite/sobjects|query)\b", str(part.get("url", ""))))
    if heavy > MAX_HEAVY_SUBREQUESTS:
        raise SalesforceError(
            "LIMIT_EXCEEDED", f"at most {MAX_HEAVY_SUBREQUESTS} subrequests may be queries or collections, not {heavy}"
        )
    references = [part.get("referenceId") for part in parts]
    if len(set(map(str, references))) != len(parts) or not all(isinstance(each, str) and each for each in references):
        raise SalesforceError("JSON_PARSER_ERROR", "every subrequest needs a referenceId of its own")


def _rolled_back(result: dict[str, Any]) -> dict[str, Any]:
    error = SalesforceError(
        "ALL_OR_NONE_OPERATION_ROLLED_BACK",
        "Record rolled back because not all records were valid and the request was using AllOrNone header",
    )
    return {"id": result["id"], "success": False, "errors": [error.as_row_error()]}


def _halted(part: dict[str, Any]) -> dict[str, Any]:
    error = SalesforceError(
        "PROCESSING_HALTED",
        "The transaction was rolled back since another operation in the same transaction failed.",
    )
    return {
        "body": error.as_call_error(),
        "httpHeaders": {},
        "httpStatusCode": error.status,
        "referenceId": part.get("referenceId"),
    }


def _went_well(response: dict[str, Any]) -> bool:
    body = response["body"]
    rows_fine = not isinstance(body, list) or all(each.get("success", True) for each in body if isinstance(each, dict))
    return bool(response["httpStatusCode"] < 400 and rows_fine)


def _filled(value: Any, done: dict[str, Any]) -> Any:
    """Put the answers of earlier subrequests where `@{reference.path}` stands."""
    if isinstance(value, dict):
        return {name: _filled(each, done) for name, each in value.items()}
    if isinstance(value, list):
        return [_filled(each, done) for each in value]
    if not isinstance(value, str) or "@{" not in value:
        return value
    return _REFERENCE.sub(lambda match: str(_looked_up(match, done)), value)


def _looked_up(match: re.Match[str], done: dict[str, Any]) -> Any:
    found: Any = done.get(match[1])
    for name, place in re.findall(r"\.([A-Za-z0-9_]+)|\[(\d+)\]", match[2]):
        if name:
            found = found.get(name) if isinstance(found, dict) else None
        else:
            found = found[int(place)] if isinstance(found, list) and int(place) < len(found) else None
    if found is None or isinstance(found, dict | list):
        raise SalesforceError("PROCESSING_HALTED", f"Invalid reference specified. No value for {match[0]} found")
    return found


def _traits(kind: ObjectType) -> dict[str, Any]:
    return {
        "name": kind.name,
        "label": kind.label,
        "keyPrefix": kind.prefix,
        "createable": kind.createable,
        "updateable": kind.updateable,
        "deletable": kind.deletable,
        "queryable": True,
        "custom": False,
    }


def _job_info(job: _Job, *, whole: bool) -> dict[str, Any]:
    info: dict[str, Any] = {
        "id": job.id,
        "operation": "query",
        "object": job.result.object if job.result else "",
        "createdById": job.owner,
        "createdDate": json_value(job.created),
        "systemModstamp": json_value(job.created),
        "state": job.state,
        "concurrencyMode": "Parallel",
        "contentType": "CSV",
        "apiVersion": float(job.version),
        "lineEnding": job.line_end,
        "columnDelimiter": job.delimiter,
    }
    if whole:
        info |= {"jobType": "V2Query", "retries": 0, "totalProcessingTime": 0}
        info["numberRecordsProcessed"] = job.result.total if job.result and job.state == "JobComplete" else 0
    if job.state == "Failed":
        info["errorMessage"] = job.error
    return info


def parse_json(raw: bytes) -> Any:
    """Return the JSON of a request body; an empty body is none.

    Raises:
        SalesforceError: JSON_PARSER_ERROR, when it is not JSON.
    """
    if not raw.strip():
        return None
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise SalesforceError("JSON_PARSER_ERROR", f"the body is not JSON: {error}") from None
