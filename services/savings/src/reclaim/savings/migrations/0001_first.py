"""The event log, its reporting tables, and the views that a dashboard reads."""
# ruff: noqa: S608 (the views are made of constants)

import sqlalchemy as sa
from alembic import op

from reclaim.common.db import Amount, UtcDateTime
from reclaim.common.migrate import create_messaging_tables

revision = "savings_0001"
down_revision = None

ID = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    create_messaging_tables()
    op.create_table(
        "event_log",
        sa.Column("position", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("event_id", ID, nullable=False, unique=True),
        sa.Column("case_id", ID, nullable=False),
        sa.Column("kind", ID, nullable=False),
        sa.Column("connection_id", ID, nullable=False),
        sa.Column("product", ID, nullable=False),
        sa.Column("product_name", sa.Text, nullable=False),
        sa.Column("department", ID),
        sa.Column("rule_id", ID),
        sa.Column("rule_name", sa.Text),
        sa.Column("currency", ID),
        sa.Column("monthly", Amount),
        sa.Column("occurred_at", UtcDateTime, nullable=False),
        sa.Column("day", sa.Date, nullable=False),
        sa.Column("dry_run", sa.Boolean, nullable=False),
        sa.UniqueConstraint("case_id", "kind", name="event_log_stage"),
    )
    head = op.create_table(
        "log_head",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("position", sa.BigInteger, nullable=False),
    )
    op.bulk_insert(head, [{"id": 1, "position": 0}])
    projection = op.create_table(
        "projection",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("position", sa.BigInteger, nullable=False),
    )
    op.bulk_insert(projection, [{"name": "live", "position": 0}, {"name": "rebuild", "position": 0}])
    op.create_table(
        "rebuild",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("state", ID, nullable=False),
        sa.Column("requested_by", sa.Text, nullable=False),
        sa.Column("requested_at", UtcDateTime, nullable=False),
        sa.Column("finished_at", UtcDateTime),
        sa.Column("snapshot", sa.BigInteger, nullable=False),
        sa.Column("last_case", ID),
        sa.Column("seat_events", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "savings_daily",
        sa.Column("day", sa.Date, primary_key=True),
        sa.Column("currency", ID, primary_key=True),
        sa.Column("connection_id", ID, primary_key=True),
        sa.Column("product", ID, primary_key=True),
        sa.Column("department", ID, primary_key=True),
        sa.Column("rule_id", ID, primary_key=True),
        sa.Column("seats_freed", sa.BigInteger, nullable=False),
        sa.Column("seats_returned", sa.BigInteger, nullable=False),
        sa.Column("monthly_delta", Amount, nullable=False),
    )
    op.create_table(
        "seat_saving",
        sa.Column("case_id", ID, primary_key=True),
        sa.Column("state", ID, nullable=False),
        sa.Column("connection_id", ID, nullable=False),
        sa.Column("product", ID, nullable=False),
        sa.Column("department", ID, nullable=False),
        sa.Column("rule_id", ID, nullable=False),
        sa.Column("currency", ID, nullable=False),
        sa.Column("monthly", Amount),
        sa.Column("dry_run", sa.Boolean, nullable=False),
        sa.Column("frozen_at", UtcDateTime),
        sa.Column("restored_at", UtcDateTime),
        sa.Column("reclaimed_at", UtcDateTime),
        sa.Column("reactivated_at", UtcDateTime),
    )
    op.create_table(
        "savings_name",
        sa.Column("kind", ID, primary_key=True),
        sa.Column("id", ID, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
    )
    _create_views()


def _create_views() -> None:
    """For dashboards: names instead of ids, amounts in units of their currency, no rehearsals."""
    sqlite = op.get_bind().dialect.name == "sqlite"
    month = "date(d.day, 'start of month')" if sqlite else "CAST(date_trunc('month', d.day) AS date)"

    def amount(sql: str) -> str:
        return f"{sql} / 10000.0" if sqlite else sql

    named = (
        "LEFT JOIN savings_name p ON p.kind = 'product' AND p.id = {t}.product "
        "LEFT JOIN savings_name r ON r.kind = 'rule' AND r.id = {t}.rule_id"
    )
    labels = (
        "NULLIF({t}.currency, '') AS currency, {t}.connection_id, {t}.product, p.name AS product_name, "
        "NULLIF({t}.department, '') AS department, NULLIF({t}.rule_id, '') AS rule_id, r.name AS rule_name"
    )
    daily, seat = labels.format(t="d"), labels.format(t="s")
    op.execute(
        f"CREATE VIEW report_savings_daily AS SELECT d.day, {daily}, d.seats_freed, d.seats_returned, "
        f"{amount('d.monthly_delta')} AS monthly_delta FROM savings_daily d {named.format(t='d')}"
    )
    op.execute(
        f"CREATE VIEW report_savings_monthly AS SELECT {month} AS month, {daily}, "
        "SUM(d.seats_freed) AS seats_freed, SUM(d.seats_returned) AS seats_returned, "
        f"{amount('SUM(d.monthly_delta)')} AS monthly_delta FROM savings_daily d {named.format(t='d')} "
        "GROUP BY 1, 2, 3, 4, 5, 6, 7, 8"
    )
    op.execute(
        f"CREATE VIEW report_seat_saving AS SELECT s.case_id, s.state, {seat}, {amount('s.monthly')} AS monthly, "
        "s.frozen_at, s.restored_at, s.reclaimed_at, s.reactivated_at "
        f"FROM seat_saving s {named.format(t='s')} WHERE NOT s.dry_run"
    )
