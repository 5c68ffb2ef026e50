"""Periods that begin together are records of their own; seats that came back and managers who left are known."""

from typing import Any

import sqlalchemy as sa
from alembic import op

from reclaim.common.db import Json, UtcDateTime

revision = "scanner_0010"
down_revision = "scanner_0009"

_RECORD_KEY = (
    "source",
    "product",
    "user_key",
    "device",
    "channel",
    "period_start",
    "period_end",
    "process",
    "version",
)
_REPORT_KEY = ("source", "product", "period_start", "period_end")


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        _copied_records()
        _copied_reports()
    else:
        for table, key in (("usage_records", _RECORD_KEY), ("usage_reports", _REPORT_KEY)):
            op.drop_constraint(f"{table}_pkey", table, type_="primary")
            op.create_primary_key(f"{table}_pkey", table, list(key))
    op.create_table(
        "readings",
        sa.Column("connection_id", sa.Text, primary_key=True),
        sa.Column("product", sa.Text, primary_key=True),
        sa.Column("read_at", UtcDateTime, nullable=False),
    )
    op.add_column("known_seats", sa.Column("manager_able", sa.Boolean))
    op.add_column("known_seats", sa.Column("returned", sa.Boolean, nullable=False, server_default=sa.false()))


def _copied_records() -> None:
    """SQLite cannot alter a key: the table is made anew, with what is in it."""
    for index in ("usage_records_user", "usage_records_device"):
        op.drop_index(index, "usage_records")
    _made_anew(
        "usage_records",
        sa.Column("source", sa.Text, primary_key=True),
        sa.Column("product", sa.Text, primary_key=True),
        sa.Column("user_key", sa.Text, primary_key=True),
        sa.Column("device", sa.Text, primary_key=True),
        sa.Column("channel", sa.Text, primary_key=True),
        sa.Column("period_start", UtcDateTime, primary_key=True),
        sa.Column("period_end", UtcDateTime, primary_key=True),
        sa.Column("process", sa.Text, primary_key=True, server_default=""),
        sa.Column("version", sa.Text, primary_key=True, server_default=""),
        sa.Column("user_name", sa.Text, nullable=False),
        sa.Column("seconds", sa.BigInteger),
        sa.Column("runs", sa.BigInteger, nullable=False),
        sa.Column("session", sa.Boolean, nullable=False),
        sa.Column("last_used_from", UtcDateTime),
        sa.Column("last_used_by", UtcDateTime),
        sa.Column("heard_at", UtcDateTime, nullable=False),
    )
    op.create_index("usage_records_user", "usage_records", ["product", "user_key"])
    op.create_index("usage_records_device", "usage_records", ["product", "device"])


def _copied_reports() -> None:
    _made_anew(
        "usage_reports",
        sa.Column("source", sa.Text, primary_key=True),
        sa.Column("product", sa.Text, primary_key=True),
        sa.Column("period_start", UtcDateTime, primary_key=True),
        sa.Column("period_end", UtcDateTime, primary_key=True),
        sa.Column("heard_at", UtcDateTime, nullable=False),
        sa.Column("complete", sa.Boolean, nullable=False),
        sa.Column("channels", Json, nullable=False),
        sa.Column("timed", sa.Boolean, nullable=False),
        sa.Column("anonymised", sa.Boolean, nullable=False),
        sa.Column("late_seconds", sa.Integer, nullable=False),
        sa.Column("silence_seconds", sa.Integer, nullable=False),
    )


def _made_anew(name: str, *columns: sa.Column[Any]) -> None:
    names = ", ".join(column.name for column in columns)
    op.rename_table(name, f"{name}_before")
    op.create_table(name, *columns)
    op.execute(f"INSERT INTO {name} ({names}) SELECT {names} FROM {name}_before")  # noqa: S608 - constants
    op.drop_table(f"{name}_before")
