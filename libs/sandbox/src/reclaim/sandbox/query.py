"""Checks a parsed query against the schema, and answers it from the org's tables.

A query is compiled to closures over rows, so a scan of 200,000 users costs a fraction of a second, and one that
names ids (`Id = `, `UserId IN (...)`, a semi-join) never scans: it starts from an index.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from . import soql
from .dates import at_midnight, day_interval, format_datetime
from .errors import SalesforceError
from .ids import normalise_id
from .schema import BY_PREFIX, ID_TYPES, NAME_FIELDS, NUMBER_TYPES, OBJECTS, TEXT_TYPES, Field, ObjectType, find_object
from .soql import Call, Compare, Condition, Join, Logic, Path, Query, Value, malformed

if TYPE_CHECKING:
    from .org import Org

Row = list[Any]
Read = Callable[[Row], Any]
Test = Callable[[Row], bool]

MAX_HOPS = 5
MAX_OFFSET = 2_000
MAX_JOINS = 2
_AGGREGATES = frozenset({"COUNT", "COUNT_DISTINCT", "SUM", "AVG", "MIN", "MAX"})


@dataclass(frozen=True, slots=True)
class Column:
    """A field path that the schema knows: its canonical name, its field, and how to read it from a row."""

    name: str
    field: Field
    read: Read
    hops: int


@dataclass(frozen=True, slots=True)
class Result:
    """The rows a query matched, and how to write one: as JSON for REST, as cells for Bulk."""

    object: str
    rows: Sequence[Any]
    project: Callable[[Any, str], dict[str, Any]]
    header: tuple[str, ...]
    cells: Callable[[Any], list[str]]
    aggregate: bool
    total: int


def run_query(org: Org, text: str) -> Result:
    """Answer a query.

    Raises:
        SalesforceError: the query is not understood, or names something that the schema does not have.
    """
    tree = soql.parse(text)
    try:
        return _Compiler(org).run(tree)
    except RecursionError:
        raise soql.too_complicated() from None


class _Compiler:
    def __init__(self, org: Org) -> None:
        self.org = org
        self.today = org.clock.now().date()

    def run(self, tree: Query) -> Result:
        kind = _object_type(tree.object)
        functions = [item for item in tree.items if isinstance(item.what, Call)]
        if functions and isinstance(functions[0].what, Call) and functions[0].what.path is None:
            return self._count(kind, tree)
        if functions or tree.group:
            return self._aggregate(kind, tree)
        return self._plain(kind, tree)

    def _count(self, kind: ObjectType, tree: Query) -> Result:
        call = tree.items[0].what
        if len(tree.items) > 1 or tree.group or tree.order or tree.items[0].alias:
            raise malformed("COUNT() must be the only thing selected, without an alias, GROUP BY or ORDER BY")
        if isinstance(call, Call) and call.function != "COUNT":
            raise malformed(f"{call.function}() needs a field")
        total = len(_window(self._matching(kind, tree.where), tree))
        return Result(kind.name, (), lambda _row, _version: {}, (), lambda _row: [], aggregate=True, total=total)

    def _plain(self, kind: ObjectType, tree: Query) -> Result:
        columns = []
        for item in tree.items:
            if item.alias is not None:
                raise malformed(f"only aggregate expressions use field aliasing: '{item.alias}'")
            assert isinstance(item.what, Path)
            columns.append(self.column(kind, item.what))
        names = [column.name for column in columns]
        for name in names:
            if names.count(name) > 1:
                raise malformed(f"duplicate field selected: {name}")
        rows = self._matching(kind, tree.where)
        for ordering in reversed(tree.order):
            if not isinstance(ordering.what, Path):
                raise malformed("an aggregate orders only a grouped query")
            column = self.column(kind, ordering.what)
            if not column.field.sortable:
                raise SalesforceError("INVALID_FIELD", f"field '{column.name}' can not be sorted in a query call")
            rows = _ordered(rows, _sort_key(column), ordering)
        rows = _window(rows, tree)
        node = _Node(self.org, kind)
        for item in tree.items:
            assert isinstance(item.what, Path)
            node.add(item.what.parts)
        return Result(
            kind.name,
            rows,
            node.project,
            tuple(names),
            lambda row: [_cell(column.read(row)) for column in columns],
            aggregate=False,
            total=len(rows),
        )

    # Conditions -----------------------------------------------------------------------------------------------

    def _matching(self, kind: ObjectType, where: Condition | None, *, inner: bool = False) -> list[Row]:
        """Return the rows a condition holds for, in the order of their ids."""
        table = self.org.tables[kind.name]
        if where is None:
            return list(table.rows.values())
        conditions = where.parts if isinstance(where, Logic) and where.operator == "AND" else (where,)
        joins = [each for each in conditions if isinstance(each, Join)]
        if inner and joins:
            raise malformed("Nesting of semi join sub-selects is not supported")
        if len(joins) > MAX_JOINS:
            raise malformed(f"Maximum {MAX_JOINS} semi join sub-selects are allowed")
        tests: list[Test] = []
        sources: list[tuple[int, Callable[[], Iterable[str]]]] = []
        for each in conditions:
            if isinstance(each, Join):
                column, found = self._join(kind, each)
                tests.append(_membership(column.read, found, negated=each.negated))
                if not each.negated:
                    sources.extend(self._source(kind, column, found))
            else:
                tests.append(self._test(kind, each))
                if named := self._ids_named(kind, each):
                    sources.extend(self._source(kind, *named))
        rows: Iterable[Row] = table.rows.values()
        if sources:
            size, ids = min(sources, key=itemgetter(0))
            if size < len(table.rows):
                rows = [table.rows[each] for each in sorted(set(ids())) if each in table.rows]
        for test in tests:
            rows = filter(test, rows)
        return list(rows)

    def _ids_named(self, kind: ObjectType, each: Condition) -> tuple[Column, frozenset[str]] | None:
        """Return the ids that a condition restricts one of the row's own id fields to, if it does."""
        if not isinstance(each, Compare) or each.operator not in {"=", "IN"}:
            return None
        column = self.column(kind, each.path)
        if column.field.type not in ID_TYPES or any(value.kind == "null" for value in each.values):
            return None
        return column, frozenset(_id_literal(column, value) for value in each.values)

    def _source(
        self, kind: ObjectType, column: Column, wanted: frozenset[str]
    ) -> Iterator[tuple[int, Callable[[], Iterable[str]]]]:
        """Yield how to reach the rows that hold one of some ids without a scan, and how many those are at most."""
        if column.hops:
            return
        if column.field.type == "id":
            yield len(wanted), lambda: wanted
        elif column.field.indexed:
            index = self.org.tables[kind.name].index(column.field.slot)
            buckets = [index[each] for each in wanted if each in index]
            yield sum(map(len, buckets)), lambda: (each for bucket in buckets for each in bucket)

    def _join(self, kind: ObjectType, join: Join) -> tuple[Column, frozenset[str]]:
        """Run the inner query of a semi- or anti-join; return the outer column and the ids found."""
        column = self._filterable(kind, join.path)
        inner = join.query
        inner_kind = _object_type(inner.object)
        what = inner.items[0].what
        if len(inner.items) != 1 or not isinstance(what, Path) or inner.items[0].alias:
            raise malformed("a semi join sub-select selects exactly one field")
        if inner.group or inner.order or inner.limit is not None or inner.offset is not None:
            raise malformed("a semi join sub-select takes no GROUP BY, ORDER BY, LIMIT or OFFSET")
        if inner_kind is kind:
            raise malformed("The inner and outer selects should not be on the same object type")
        inner_column = self.column(inner_kind, what)
        for side in (column, inner_column):
            if side.field.type not in ID_TYPES:
                raise malformed(f"a semi join compares ids and references: '{side.name}' is neither")
        if inner_column.hops:
            raise malformed("a semi join sub-select selects a field of its own object")
        if not _targets(kind, column) & _targets(inner_kind, inner_column):
            raise malformed(f"'{column.name}' and '{inner_column.name}' do not point at the same type")
        rows = self._matching(inner_kind, inner.where, inner=True)
        return column, frozenset(each for each in map(inner_column.read, rows) if each is not None)

    def _test(self, kind: ObjectType, where: Condition) -> Test:
        if isinstance(where, Join):
            raise malformed(
                "Semi join sub-selects are only allowed at the top level WHERE expressions, joined by AND, and not "
                "in nested WHERE expressions"
            )
        if isinstance(where, Compare):
            column = self._filterable(kind, where.path)
            return self._comparison(column, where)
        parts = [self._test(kind, part) for part in where.parts]
        if where.operator == "AND":
            return lambda row: all(part(row) for part in parts)
        if where.operator == "OR":
            return lambda row: any(part(row) for part in parts)
        negated = parts[0]
        return lambda row: not negated(row)

    def _filterable(self, kind: ObjectType, path: Path) -> Column:
        column = self.column(kind, path)
        if not column.field.filterable:
            raise SalesforceError("INVALID_FIELD", f"field '{column.name}' can not be filtered in a query call")
        return column

    def _comparison(self, column: Column, where: Compare) -> Test:
        operator, values, read = where.operator, where.values, column.read
        if operator == "LIKE":
            return self._like(column, values[0])
        if column.field.type == "boolean":
            return _boolean_test(column, operator, values)
        if operator in {"IN", "NOT IN"}:
            if any(value.kind == "interval" for value in values):
                return self._any_of(column, where)
            wanted = frozenset(self.operand(column, value) for value in values)
            fold = column.field.type in TEXT_TYPES
            return _membership(read, wanted, negated=operator == "NOT IN", fold=fold)
        value = values[0]
        if value.kind == "interval":
            return self._interval_test(column, operator, value)
        if value.kind == "null":
            if operator not in {"=", "!="}:
                raise SalesforceError("INVALID_QUERY_FILTER_OPERATOR", f"null takes = or !=, not {operator}")
            return (lambda row: read(row) is None) if operator == "=" else (lambda row: read(row) is not None)
        return _ordered_test(column, operator, self.operand(column, value))

    def _any_of(self, column: Column, where: Compare) -> Test:
        parts = [self._comparison(column, Compare(where.path, "=", (value,))) for value in where.values]
        if where.operator == "IN":
            return lambda row: any(part(row) for part in parts)
        return lambda row: not any(part(row) for part in parts)

    def _like(self, column: Column, value: Value) -> Test:
        if column.field.type not in TEXT_TYPES:
            raise SalesforceError("INVALID_QUERY_FILTER_OPERATOR", f"invalid operator on {column.field.type} field")
        if value.kind != "string":
            raise _wrong_literal(column, value)
        match, read = soql.like_pattern(value.text).fullmatch, column.read
        return lambda row: (text := read(row)) is not None and match(text) is not None

    def operand(self, column: Column, value: Value) -> Any:
        """Return what a literal means for a field, in the form in which rows hold it (text in lower case).

        Raises:
            SalesforceError: the literal is not of the field's type.
        """
        kind = column.field.type
        if value.kind == "null":
            return None
        if kind in ID_TYPES:
            return _id_literal(column, value)
        if kind in TEXT_TYPES and value.kind == "string":
            return soql.unescape(value.text).lower()
        if kind in NUMBER_TYPES and value.kind == "number":
            return _number(value.text)
        if kind == "datetime" and value.kind == "datetime":
            return _moment(value.text)
        if kind == "date" and value.kind == "date":
            return _day(value.text)
        raise _wrong_literal(column, value)

    def _interval_test(self, column: Column, operator: str, value: Value) -> Test:
        kind = column.field.type
        if kind not in {"date", "datetime"}:
            raise _wrong_literal(column, value)
        try:
            first, after = day_interval(value.text, self.today)
        except OverflowError:
            raise SalesforceError("INVALID_QUERY_FILTER_OPERATOR", f"{value.text} is outside the calendar") from None
        start: Any = at_midnight(first) if kind == "datetime" else first
        end: Any = at_midnight(after) if kind == "datetime" else after
        read = column.read
        if operator == "=":
            return lambda row: (at := read(row)) is not None and start <= at < end
        if operator == "!=":
            return lambda row: (at := read(row)) is None or not start <= at < end
        bound = start if operator in {"<", ">="} else end
        if operator in {"<", "<="}:
            return lambda row: (at := read(row)) is not None and at < bound
        return lambda row: (at := read(row)) is not None and at >= bound

    # Columns --------------------------------------------------------------------------------------------------

    def column(self, kind: ObjectType, path: Path) -> Column:
        """Resolve a field path, walking its relationships.

        Raises:
            SalesforceError: INVALID_FIELD, for a field or relationship that the schema does not have.
        """
        parts = path.parts
        if len(parts) - 1 > MAX_HOPS:
            raise malformed(f"a path walks at most {MAX_HOPS} relationships: {path.text}")
        return _resolve(self.org, kind, parts)

    # Aggregates -----------------------------------------------------------------------------------------------

    def _aggregate(self, kind: ObjectType, tree: Query) -> Result:
        groups = {column.name: column for column in (self._groupable(kind, path) for path in tree.group)}
        outputs: list[tuple[str, Callable[[tuple[Any, ...], list[Row]], Any]]] = []
        unnamed = 0
        for item in tree.items:
            if isinstance(item.what, Call):
                name = item.alias
                if name is None:
                    name, unnamed = f"expr{unnamed}", unnamed + 1
                outputs.append((name, self._reducer(kind, item.what)))
            else:
                column = self.column(kind, item.what)
                if column.name not in groups:
                    raise malformed(f"Field must be grouped or aggregated: {column.name}")
                place = list(groups).index(column.name)
                outputs.append((item.alias or column.name.rpartition(".")[2], _key_part(place)))
        names = [name for name, _ in outputs]
        for name in names:
            if "." in name or names.count(name) > 1:
                raise malformed(f"duplicate or invalid alias: {name}")
        gathered: dict[tuple[Any, ...], list[Row]] = {}
        reads = [column.read for column in groups.values()]
        for row in self._matching(kind, tree.where):
            gathered.setdefault(tuple(read(row) for read in reads), []).append(row)
        if not groups and not gathered:
            gathered[()] = []
        pairs = list(gathered.items())
        for ordering in reversed(tree.order):
            if isinstance(ordering.what, Call):
                reduce = self._reducer(kind, ordering.what)
            else:
                column = self.column(kind, ordering.what)
                if column.name not in groups:
                    raise malformed(f"Ordered field must be grouped or aggregated: {column.name}")
                reduce = _key_part(list(groups).index(column.name), fold=column.field.type in TEXT_TYPES)
            pairs = _ordered(pairs, _over_pair(reduce), ordering)
        pairs = _window(pairs, tree)
        rows = [{name: reduce(key, members) for name, reduce in outputs} for key, members in pairs]
        return Result(
            "AggregateResult",
            rows,
            lambda row, _version: {
                "attributes": {"type": "AggregateResult"},
                **{name: json_value(value) for name, value in row.items()},
            },
            tuple(names),
            lambda row: [_cell(value) for value in row.values()],
            aggregate=True,
            total=len(rows),
        )

    def _groupable(self, kind: ObjectType, path: Path) -> Column:
        column = self.column(kind, path)
        if not column.field.groupable:
            raise malformed(f"field '{column.name}' can not be grouped in a query call")
        return column

    def _reducer(self, kind: ObjectType, call: Call) -> Callable[[tuple[Any, ...], list[Row]], Any]:
        function = call.function
        if function not in _AGGREGATES or call.path is None:
            raise malformed(f"unknown function or missing field: {function}")
        column = self.column(kind, call.path)
        read, field_type = column.read, column.field.type
        if function in {"SUM", "AVG"} and field_type not in NUMBER_TYPES:
            raise malformed(f"the {function} aggregate operator can not be used on a {field_type} field: {column.name}")
        if function in {"MIN", "MAX"} and field_type in {"boolean", *ID_TYPES}:
            raise malformed(f"the {function} aggregate operator can not be used on a {field_type} field: {column.name}")

        def reduce(_key: tuple[Any, ...], members: list[Row]) -> Any:
            values = [value for value in map(read, members) if value is not None]
            if function == "COUNT":
                return len(values)
            if function == "COUNT_DISTINCT":
                return len(set(values))
            if not values:
                return None
            if function == "AVG":
                return sum(values) / len(values)
            if function == "SUM":
                return sum(values)
            return min(values) if function == "MIN" else max(values)

        return reduce


def _object_type(name: str) -> ObjectType:
    kind = find_object(name)
    if kind is None:
        raise SalesforceError(
            "INVALID_TYPE",
            f"sObject type '{name}' is not supported. If you are attempting to use a custom object, be sure to append "
            "the '__c' after the entity name. Please reference your WSDL or the describe call for the appropriate "
            "names.",
        )
    return kind


def _no_column(name: str, kind: str) -> SalesforceError:
    return SalesforceError("INVALID_FIELD", f"No such column '{name}' on entity '{kind}'.")


def _targets(kind: ObjectType, column: Column) -> frozenset[str]:
    return frozenset(column.field.refers) if column.field.type == "reference" else frozenset({kind.name})


# Reading rows -----------------------------------------------------------------------------------------------------


def _own_read(org: Org, kind: ObjectType, name: str) -> tuple[Field, Read]:
    field = kind.by_name.get(name.lower())
    if field is None:
        raise _no_column(name, kind.name)
    if field.computed:
        return field, lambda row: org.compute(kind, field, row)
    return field, itemgetter(field.slot)


def _relationship(kind: ObjectType, name: str) -> Field:
    field = kind.by_relationship.get(name.lower())
    if field is None:
        raise SalesforceError("INVALID_FIELD", f"Didn't understand relationship '{name}' in field path.")
    return field


def _parent(org: Org, field: Field) -> Callable[[Row], Row | None]:
    """Return how to get from a row to the row that one of its references points at."""
    slot = field.slot
    if len(field.refers) == 1:
        rows = org.tables[field.refers[0]].rows
        return lambda row: rows.get(row[slot])
    tables = {OBJECTS[name].prefix: org.tables[name].rows for name in field.refers}

    def find(row: Row) -> Row | None:
        target = row[slot]
        return tables[target[:3]].get(target) if target else None

    return find


def _name_read(name: str, refers: tuple[str, ...]) -> tuple[Field, Read]:
    """Return a field of whatever a reference with several targets points at (an owner: a user or a queue)."""
    folded = name.lower()
    kinds = [OBJECTS[each] for each in refers]
    fields = [kind.by_name[folded] for kind in kinds if folded in kind.by_name]
    if folded not in NAME_FIELDS:
        raise _no_column(name, "Name")
    if folded == "type":
        field = Field("Type", "picklist", "Type")
        return field, lambda row: "User" if row[0].startswith("005") else "Queue"
    if not fields:
        raise _no_column(name, "Name")
    slots = {kind.prefix: kind.by_name[folded].slot for kind in kinds if folded in kind.by_name}

    def read(row: Row) -> Any:
        slot = slots.get(row[0][:3])
        return None if slot is None else row[slot]

    return fields[0], read


def _resolve(org: Org, kind: ObjectType, parts: list[str]) -> Column:
    if len(parts) == 1:
        field, read = _own_read(org, kind, parts[0])
        return Column(field.name, field, read, 0)
    link = _relationship(kind, parts[0])
    parent = _parent(org, link)
    if len(link.refers) > 1:
        if len(parts) > 2:
            raise SalesforceError("INVALID_FIELD", f"Didn't understand relationship '{parts[1]}' in field path.")
        field, read = _name_read(parts[1], link.refers)
        inner = Column(field.name, field, read, 0)
    else:
        inner = _resolve(org, OBJECTS[link.refers[0]], parts[1:])
    inner_read = inner.read

    def walk(row: Row) -> Any:
        above = parent(row)
        return None if above is None else inner_read(above)

    return Column(f"{link.relationship}.{inner.name}", inner.field, walk, inner.hops + 1)


class _Node:
    """One level of a record in an answer: its own fields, and the records that its relationships lead to."""

    def __init__(self, org: Org, kind: ObjectType | None, refers: tuple[str, ...] = ()) -> None:
        self.org = org
        self.kind = kind
        self.refers = refers
        self.parts: dict[str, Read | tuple[Callable[[Row], Row | None], _Node]] = {}

    def add(self, parts: list[str]) -> None:
        if self.kind is None:
            field, read = _name_read(parts[0], self.refers)
            self.parts[field.name] = read
        elif len(parts) == 1:
            field, read = _own_read(self.org, self.kind, parts[0])
            self.parts[field.name] = read
        else:
            link = _relationship(self.kind, parts[0])
            assert link.relationship is not None
            below = self.parts.get(link.relationship)
            if not isinstance(below, tuple):
                single = len(link.refers) == 1
                node = _Node(self.org, OBJECTS[link.refers[0]] if single else None, link.refers)
                below = self.parts[link.relationship] = (_parent(self.org, link), node)
            below[1].add(parts[1:])

    def project(self, row: Row, version: str) -> dict[str, Any]:
        kind = self.kind or BY_PREFIX[row[0][:3]]
        out: dict[str, Any] = {
            "attributes": {
                "type": "Name" if self.kind is None else kind.name,
                "url": f"/services/data/v{version}/sobjects/{kind.name}/{row[0]}",
            }
        }
        for name, part in self.parts.items():
            if isinstance(part, tuple):
                parent, node = part
                above = parent(row)
                out[name] = None if above is None else node.project(above, version)
            else:
                out[name] = json_value(part(row))
        return out


def json_value(value: Any) -> Any:
    """Return a field's value as REST writes it."""
    if isinstance(value, datetime):
        return format_datetime(value)
    if isinstance(value, date):
        return value.isoformat()
    return value


def _cell(value: Any) -> str:
    """Return a field's value as a Bulk CSV cell holds it."""
    if value is None:
        return ""
    if value is True:
        return "true"
    if value is False:
        return "false"
    if isinstance(value, datetime):
        return format_datetime(value, zone="Z")
    return value.isoformat() if isinstance(value, date) else str(value)


# Literals and comparisons -----------------------------------------------------------------------------------------


def _wrong_literal(column: Column, value: Value) -> SalesforceError:
    kind = {"datetime": "dateTime", "reference": "ID", "id": "ID"}.get(column.field.type, column.field.type)
    quoted = (
        "should be enclosed in quotes"
        if column.field.type in TEXT_TYPES | ID_TYPES
        else ("should not be enclosed in quotes")
    )
    return SalesforceError(
        "INVALID_FIELD",
        f"value of filter criterion for field '{column.name}' must be of type {kind} and {quoted}: {value.text[:80]}",
    )


def _id_literal(column: Column, value: Value) -> str:
    if value.kind != "string":
        raise _wrong_literal(column, value)
    found = normalise_id(value.text)
    if found is None:
        raise SalesforceError("INVALID_QUERY_FILTER_OPERATOR", f"invalid ID field: {value.text[:40]}")
    return found


def _number(text: str) -> int | float:
    return int(text) if re.fullmatch(r"[+-]?\d{1,18}", text) else float(text)


def _moment(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise malformed(f"'{text}' is not an instant") from None


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise malformed(f"'{text}' is not a day") from None


def _boolean_test(column: Column, operator: str, values: tuple[Value, ...]) -> Test:
    if any(value.kind != "boolean" for value in values):
        raise _wrong_literal(column, values[0])
    if operator not in {"=", "!=", "IN", "NOT IN"}:
        raise SalesforceError("INVALID_QUERY_FILTER_OPERATOR", "invalid operator on boolean field")
    wanted = {value.text == "true" for value in values}
    if operator in {"!=", "NOT IN"}:
        wanted = {True, False} - wanted
    read = column.read
    # A missing parent's boolean reads as false in a filter, as it does in Salesforce.
    return lambda row: bool(read(row)) in wanted


def _membership(read: Read, wanted: frozenset[Any], *, negated: bool, fold: bool = False) -> Test:
    if not fold:
        return (lambda row: read(row) not in wanted) if negated else (lambda row: read(row) in wanted)

    def test(row: Row) -> bool:
        value = read(row)
        return ((value.lower() if value is not None else None) in wanted) is not negated

    return test


def _ordered_test(column: Column, operator: str, wanted: Any) -> Test:
    """Return the test of one value; only `!=` holds for a row that has none."""
    read = _sort_key(column)
    tests: dict[str, Test] = {
        "=": lambda row: bool(read(row) == wanted),
        "!=": lambda row: bool(read(row) != wanted),
        "<": lambda row: (value := read(row)) is not None and value < wanted,
        "<=": lambda row: (value := read(row)) is not None and value <= wanted,
        ">": lambda row: (value := read(row)) is not None and value > wanted,
        ">=": lambda row: (value := read(row)) is not None and value >= wanted,
    }
    return tests[operator]


# Order and window -------------------------------------------------------------------------------------------------


def _ordered(rows: list[Any], read: Callable[[Any], Any], ordering: soql.Ordering) -> list[Any]:
    """Sort by one key, keeping the order of equals; nulls come first unless the query says otherwise."""
    nulls = [row for row in rows if read(row) is None]
    others = sorted((row for row in rows if read(row) is not None), key=read, reverse=ordering.descending)
    return others + nulls if ordering.nulls_last else nulls + others


def _window(rows: list[Any], tree: Query) -> list[Any]:
    offset = tree.offset or 0
    if offset > MAX_OFFSET:
        raise SalesforceError("NUMBER_OUTSIDE_VALID_RANGE", f"Maximum SOQL offset allowed is {MAX_OFFSET}")
    if tree.limit is not None:
        return rows[offset : offset + tree.limit]
    return rows[offset:] if offset else rows


def _sort_key(column: Column) -> Read:
    """Return how to read a column for a comparison: text without regard to case, ids with it."""
    read = column.read
    if column.field.type not in TEXT_TYPES:
        return read
    return lambda row: None if (value := read(row)) is None else value.lower()


def _key_part(place: int, *, fold: bool = False) -> Callable[[tuple[Any, ...], list[Row]], Any]:
    if fold:
        return lambda key, _members: None if key[place] is None else key[place].lower()
    return lambda key, _members: key[place]


def _over_pair(
    reduce: Callable[[tuple[Any, ...], list[Row]], Any],
) -> Callable[[tuple[tuple[Any, ...], list[Row]]], Any]:
    return lambda pair: reduce(pair[0], pair[1])
