"""Profiles and their rules, what is read from connections again and again, and the files that people send."""

import sqlalchemy as sa
from alembic import op

from reclaim.common.db import Json, UtcDateTime

revision = "scanner_0008"
down_revision = "scanner_0007"


def upgrade() -> None:
    op.add_column("rules", sa.Column("moved_why", sa.Text))
    op.create_table(
        "profiles",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("connection_id", sa.Text, nullable=False),
        sa.Column("how", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("seats_connection_id", sa.Text, nullable=False),
        sa.Column("product", sa.Text, nullable=False),
        sa.Column("rule_id", sa.Text, nullable=False),
        sa.Column("added_by", sa.Text, nullable=False),
        sa.Column("added_at", UtcDateTime, nullable=False),
        sa.Column("ended_at", UtcDateTime),
        sa.Column("ended_why", sa.Text),
        sa.Column("covered_since", UtcDateTime),
        sa.Column("covered_until", UtcDateTime),
        sa.Column("hidden_until", UtcDateTime),
        sa.UniqueConstraint("connection_id", "key", name="profiles_once"),
    )
    op.create_index("ix_profiles_seats_connection_id", "profiles", ["seats_connection_id"])
    op.create_table(
        "syncs",
        sa.Column("connection_id", sa.Text, primary_key=True),
        sa.Column("what", sa.Text, primary_key=True),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("asked_by", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("lease", sa.Text),
        sa.Column("look_at", sa.BigInteger),
        sa.Column("started_at", UtcDateTime),
        sa.Column("ended_at", UtcDateTime),
        sa.Column("succeeded_at", UtcDateTime),
        sa.Column("problem", sa.Text),
        sa.Column("remedy", sa.Text),
        sa.Column("cursor", UtcDateTime),
        sa.Column("since", UtcDateTime),
        sa.Column("until", UtcDateTime),
        sa.Column("records", sa.BigInteger, nullable=False),
        sa.Column("failed", sa.BigInteger, nullable=False),
    )
    op.create_index("syncs_look_at", "syncs", ["look_at"])
    op.create_table(
        "imports",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("shape", sa.Text, nullable=False),
        sa.Column("what", sa.Text, nullable=False),
        sa.Column("file_name", sa.Text, nullable=False),
        sa.Column("author", sa.Text, nullable=False),
        sa.Column("terms", Json, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("requested_at", UtcDateTime, nullable=False),
        sa.Column("ended_at", UtcDateTime),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("bytes_read", sa.BigInteger, nullable=False),
        sa.Column("rows", sa.BigInteger, nullable=False),
        sa.Column("bad", sa.BigInteger, nullable=False),
        sa.Column("kept", sa.BigInteger, nullable=False),
        sa.Column("findings", Json, nullable=False),
        sa.Column("vouched", sa.Text),
        sa.Column("problem", sa.Text),
        sa.Column("remedy", sa.Text),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("lease", sa.Text),
        sa.Column("look_at", sa.BigInteger),
    )
    op.create_index("imports_look_at", "imports", ["look_at"])
    op.create_index("imports_requested", "imports", ["requested_at"])
    op.create_table(
        "import_parts",
        sa.Column("import_id", sa.Text, primary_key=True),
        sa.Column("part", sa.Integer, primary_key=True),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "import_refusals",
        sa.Column("import_id", sa.Text, primary_key=True),
        sa.Column("line", sa.Integer, primary_key=True),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("row", sa.Text, nullable=False),
    )
    op.create_table(
        "import_rows",
        sa.Column("import_id", sa.Text, primary_key=True),
        sa.Column("product", sa.Text, primary_key=True),
        sa.Column("user_key", sa.Text, primary_key=True),
        sa.Column("device", sa.Text, primary_key=True),
        sa.Column("period_start", UtcDateTime, primary_key=True),
        sa.Column("detail", sa.Text, primary_key=True),
        sa.Column("period_end", UtcDateTime, nullable=False),
        sa.Column("user_name", sa.Text, nullable=False),
        sa.Column("seconds", sa.BigInteger),
        sa.Column("runs", sa.BigInteger, nullable=False),
        sa.Column("last_used_at", UtcDateTime),
    )
