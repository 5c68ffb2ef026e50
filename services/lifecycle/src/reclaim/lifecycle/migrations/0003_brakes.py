"""Limits, permits, tripped brakes with their overrides, canaries, and the kill switch."""

import sqlalchemy as sa
from alembic import op

from reclaim.common.db import UtcDateTime

revision = "lifecycle_0003"
down_revision = "lifecycle_0002"


def upgrade() -> None:
    op.create_table(
        "brake",
        sa.Column("connection_id", sa.Text, primary_key=True),
        sa.Column("dry_run", sa.Boolean, primary_key=True),
    )
    op.create_table(
        "brake_limit",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("connection_id", sa.Text, nullable=False),
        sa.Column("run_most", sa.Integer, nullable=False),
        sa.Column("run_share", sa.Integer, nullable=False),
        sa.Column("day_most", sa.Integer, nullable=False),
        sa.Column("day_share", sa.Integer, nullable=False),
        sa.Column("month_most", sa.Integer, nullable=False),
        sa.Column("month_share", sa.Integer, nullable=False),
        sa.Column("canary", sa.Integer, nullable=False),
        sa.Column("set_by", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("set_at", UtcDateTime, nullable=False),
    )
    op.create_index("ix_brake_limit_connection_id", "brake_limit", ["connection_id"])
    op.create_table(
        "brake_seats",
        sa.Column("connection_id", sa.Text, primary_key=True),
        sa.Column("product", sa.Text, primary_key=True),
        sa.Column("seats", sa.Integer, nullable=False),
        sa.Column("seen_at", UtcDateTime, nullable=False),
    )
    op.create_table(
        "brake_permit",
        sa.Column("case_id", sa.Text, primary_key=True),
        sa.Column("step", sa.Text, primary_key=True),
        sa.Column("connection_id", sa.Text, nullable=False),
        sa.Column("dry_run", sa.Boolean, nullable=False),
        sa.Column("run_id", sa.Text),
        sa.Column("rule_id", sa.Text, nullable=False),
        sa.Column("rule_version", sa.Integer, nullable=False),
        sa.Column("override_id", sa.Text),
        sa.Column("taken_at", UtcDateTime, nullable=False),
    )
    op.create_index("brake_permit_window", "brake_permit", ["connection_id", "dry_run", "taken_at"])
    op.create_index("brake_permit_run", "brake_permit", ["connection_id", "run_id"])
    op.create_index("brake_permit_rule", "brake_permit", ["rule_id", "rule_version"])
    op.create_table(
        "brake_trip",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("connection_id", sa.Text, nullable=False),
        sa.Column("dry_run", sa.Boolean, nullable=False),
        sa.Column("cap", sa.Text, nullable=False),
        sa.Column("step", sa.Text, nullable=False),
        sa.Column("scope", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("used", sa.Integer, nullable=False),
        sa.Column("allowed", sa.Integer, nullable=False),
        sa.Column("tripped_at", UtcDateTime, nullable=False),
        sa.Column("closed_at", UtcDateTime),
        sa.Column("closed_by", sa.Text, nullable=False),
        sa.Column("closed_how", sa.Text, nullable=False),
    )
    op.create_index(
        "brake_trip_open",
        "brake_trip",
        ["connection_id", "dry_run", "cap", "step", "scope"],
        unique=True,
        sqlite_where=sa.text("closed_at IS NULL"),
        postgresql_where=sa.text("closed_at IS NULL"),
    )
    op.create_table(
        "brake_held",
        sa.Column("trip_id", sa.Text, primary_key=True),
        sa.Column("case_id", sa.Text, primary_key=True),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("override_id", sa.Text),
    )
    op.create_table(
        "brake_override",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("trip_id", sa.Text, nullable=False),
        sa.Column("cases", sa.Integer, nullable=False),
        sa.Column("asked_by", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("asked_at", UtcDateTime, nullable=False),
        sa.Column("approved_by", sa.Text),
        sa.Column("approved_at", UtcDateTime),
        sa.Column("let_through", sa.Integer, nullable=False),
    )
    op.create_index("ix_brake_override_trip_id", "brake_override", ["trip_id"])
    op.create_table(
        "brake_canary",
        sa.Column("rule_id", sa.Text, primary_key=True),
        sa.Column("rule_version", sa.Integer, primary_key=True),
        sa.Column("connection_id", sa.Text, nullable=False),
        sa.Column("rule_name", sa.Text, nullable=False),
        sa.Column("size", sa.Integer, nullable=False),
        sa.Column("started_at", UtcDateTime, nullable=False),
        sa.Column("confirmed_by", sa.Text),
        sa.Column("confirmed_at", UtcDateTime),
    )
    op.create_table(
        "kill_switch",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("scope", sa.Text, nullable=False),
        sa.Column("target", sa.Text, nullable=False),
        sa.Column("engaged_by", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("engaged_at", UtcDateTime, nullable=False),
        sa.Column("released_by", sa.Text),
        sa.Column("release_reason", sa.Text),
        sa.Column("released_at", UtcDateTime),
    )
    op.create_index(
        "kill_switch_engaged",
        "kill_switch",
        ["scope", "target"],
        unique=True,
        sqlite_where=sa.text("released_at IS NULL"),
        postgresql_where=sa.text("released_at IS NULL"),
    )
