"""Scans that did not record suites are told apart, openings are looked at by themselves, and questions may wait."""

import sqlalchemy as sa
from alembic import op

from reclaim.common.db import Json, UtcDateTime

revision = "scanner_0014"
down_revision = "scanner_0013"


def upgrade() -> None:
    # An empty list stood there for scans of every release before; nobody can tell any more which of them it is true of.
    op.execute("ALTER TABLE scan_runs RENAME COLUMN suites TO suites_before")
    op.add_column("scan_runs", sa.Column("suites", Json))
    op.execute("UPDATE scan_runs SET suites = suites_before WHERE CAST(suites_before AS TEXT) <> '[]'")
    op.drop_column("scan_runs", "suites_before")
    op.add_column("scan_runs", sa.Column("uncompared", sa.Text))
    op.execute(
        "INSERT INTO reviews (rule_id, product, asked_at, attempts, look_at) "
        "SELECT rule_id, '', MAX(asked_at), 0, 0 FROM reviews "
        "WHERE rule_id IN (SELECT rule_id FROM openings) GROUP BY rule_id"
    )
    op.create_table(
        "questions",
        sa.Column("case_id", sa.Text, primary_key=True),
        sa.Column("connection_id", sa.Text, nullable=False, index=True),
        sa.Column("question", Json, nullable=False),
        sa.Column("asked_at", UtcDateTime, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("look_at", sa.BigInteger, nullable=False, index=True),
    )
