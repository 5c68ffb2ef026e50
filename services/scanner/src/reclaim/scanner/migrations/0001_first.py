"""The scanner's first tables."""

import sqlalchemy as sa
from alembic import op

from reclaim.common.db import Amount, Json, UtcDateTime
from reclaim.common.migrate import create_messaging_tables

revision = "scanner_0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    create_messaging_tables()
    op.create_table(
        "connections",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("name_key", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("settings", Json, nullable=False),
        sa.Column("credentials", sa.Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("removed_at", UtcDateTime),
        sa.Column("tested_at", UtcDateTime),
        sa.Column("test_results", Json, nullable=False),
    )
    present = sa.text("removed_at IS NULL")
    op.create_index(
        "connections_name", "connections", ["name_key"], unique=True, sqlite_where=present, postgresql_where=present
    )
    op.create_table(
        "prices",
        sa.Column("connection_id", sa.Text, primary_key=True),
        sa.Column("product", sa.Text, primary_key=True),
        sa.Column("amount", Amount, nullable=False),
        sa.Column("currency", sa.Text, nullable=False),
    )
    op.create_table(
        "rules",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("connection_id", sa.Text, nullable=False),
        sa.Column("name_key", sa.Text, nullable=False, unique=True),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("scheduled_until", UtcDateTime),
    )
    op.create_index("ix_rules_connection_id", "rules", ["connection_id"])
    op.create_table(
        "rule_versions",
        sa.Column("rule_id", sa.Text, primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True),
        sa.Column("terms", Json, nullable=False),
        sa.Column("author", sa.Text, nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
    )
    op.create_table(
        "scan_runs",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("rule_id", sa.Text, nullable=False),
        sa.Column("rule_version", sa.Integer),
        sa.Column("connection_id", sa.Text, nullable=False),
        sa.Column("asked_by", sa.Text, nullable=False),
        sa.Column("due_at", UtcDateTime),
        sa.Column("dry_run", sa.Boolean, nullable=False),
        sa.Column("accept_population", sa.Boolean, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("requested_at", UtcDateTime, nullable=False),
        sa.Column("started_at", UtcDateTime),
        sa.Column("ended_at", UtcDateTime),
        sa.Column("products", Json, nullable=False),
        sa.Column("expected", sa.Integer, nullable=False),
        sa.Column("pages", sa.Integer, nullable=False),
        sa.Column("seen", sa.Integer, nullable=False),
        sa.Column("used", sa.Integer, nullable=False),
        sa.Column("flagged", sa.Integer, nullable=False),
        sa.Column("left_alone", Json, nullable=False),
        sa.Column("missing", Json, nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("remedy", sa.Text),
        sa.Column("acceptable", sa.Boolean, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("lease", sa.Text),
        sa.Column("look_at", sa.BigInteger),
        sa.UniqueConstraint("rule_id", "due_at", name="scan_runs_due"),
    )
    op.create_index("scan_runs_look_at", "scan_runs", ["look_at"])
    op.create_index("scan_runs_rule", "scan_runs", ["rule_id", "requested_at"])
    op.create_table(
        "scan_pages",
        sa.Column("run_id", sa.Text, primary_key=True),
        sa.Column("page", sa.Integer, primary_key=True),
        sa.Column("found", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "candidates",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("rule_id", sa.Text, nullable=False),
        sa.Column("rule_version", sa.Integer, nullable=False),
        sa.Column("connection_id", sa.Text, nullable=False),
        sa.Column("holder_id", sa.Text, nullable=False),
        sa.Column("holder_name", sa.Text, nullable=False),
        sa.Column("holder_email", sa.Text),
        sa.Column("department", sa.Text),
        sa.Column("product", sa.Text, nullable=False),
        sa.Column("product_name", sa.Text, nullable=False),
        sa.Column("price", Amount),
        sa.Column("currency", sa.Text),
        sa.Column("approver", Json, nullable=False),
        sa.Column("findings", Json, nullable=False),
        sa.Column("last_used_at", UtcDateTime),
        sa.Column("flagged_at", UtcDateTime, nullable=False),
        sa.Column("dry_run", sa.Boolean, nullable=False),
        sa.Column("closed_at", UtcDateTime),
        sa.Column("outcome", sa.Text),
    )
    is_open = sa.text("closed_at IS NULL")
    op.create_index(
        "candidates_open",
        "candidates",
        ["connection_id", "holder_id", "product"],
        unique=True,
        sqlite_where=is_open,
        postgresql_where=is_open,
    )
    op.create_index("candidates_run", "candidates", ["run_id", "holder_id"])
    op.create_index("ix_candidates_rule_id", "candidates", ["rule_id"])
    op.create_table(
        "holds",
        sa.Column("connection_id", sa.Text, primary_key=True),
        sa.Column("holder_id", sa.Text, primary_key=True),
        sa.Column("product", sa.Text, primary_key=True),
        sa.Column("cause", sa.Text, nullable=False),
        sa.Column("since", UtcDateTime, nullable=False),
        sa.Column("dry_run", sa.Boolean, nullable=False),
    )
