"""Filters: which seats a rule, or a suite, is about at all.

Written as text (a small subset of OData's `$filter`), read into a typed tree, and from there compiled twice: to SQL
over stored seats and to a function over seats in memory. Both answer true, false or unknown, and the same one. A filter
names fields of an allow-list only; what it does not know it refuses, with the place in the text.

| module | what it does |
| --- | --- |
| `tree` | the conditions, and their form as JSON |
| `fields` | the fields there are for subscription and for installed software |
| `checks` | what fits together: fields, operators, values, sizes |
| `text` | text to tree and back |
| `memory`, `sql` | the two compilers |
| `builder` | the form of rows in which a filter is put together on a page |
"""

from reclaim.scanner.filters.checks import FilterRefused, combined, require_applicable
from reclaim.scanner.filters.fields import Kind
from reclaim.scanner.filters.memory import Row, Superiors, compile_memory
from reclaim.scanner.filters.sql import Source, compile_sql
from reclaim.scanner.filters.text import parse, read, show
from reclaim.scanner.filters.tree import Condition, dump, load

__all__ = [
    "Condition",
    "FilterRefused",
    "Kind",
    "Row",
    "Source",
    "Superiors",
    "combined",
    "compile_memory",
    "compile_sql",
    "dump",
    "load",
    "parse",
    "read",
    "require_applicable",
    "show",
]
