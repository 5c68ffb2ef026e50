"""Usage by process and version: two versions of a product that were used in one period are two records."""

import sqlalchemy as sa
from alembic import op

from reclaim.common.db import UtcDateTime

revision = "scanner_0009"
down_revision = "scanner_0008"

_KEY = ("source", "product", "user_key", "device", "channel", "period_start", "process", "version")


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        _copied()
        return
    op.add_column("usage_records", sa.Column("process", sa.Text, nullable=False, server_default=""))
    op.add_column("usage_records", sa.Column("version", sa.Text, nullable=False, server_default=""))
    op.drop_constraint("usage_records_pkey", "usage_records", type_="primary")
    op.create_primary_key("usage_records_pkey", "usage_records", list(_KEY))


def _copied() -> None:
    """SQLite cannot alter a key: the table is made anew, with what is in it."""
    for index in ("usage_records_user", "usage_records_device"):
        op.drop_index(index, "usage_records")
    op.rename_table("usage_records", "usage_records_before")
    op.create_table(
        "usage_records",
        sa.Column("source", sa.Text, primary_key=True),
        sa.Column("product", sa.Text, primary_key=True),
        sa.Column("user_key", sa.Text, primary_key=True),
        sa.Column("device", sa.Text, primary_key=True),
        sa.Column("channel", sa.Text, primary_key=True),
        sa.Column("period_start", UtcDateTime, primary_key=True),
        sa.Column("process", sa.Text, primary_key=True, server_default=""),
        sa.Column("version", sa.Text, primary_key=True, server_default=""),
        sa.Column("period_end", UtcDateTime, nullable=False),
        sa.Column("user_name", sa.Text, nullable=False),
        sa.Column("seconds", sa.BigInteger),
        sa.Column("runs", sa.BigInteger, nullable=False),
        sa.Column("session", sa.Boolean, nullable=False),
        sa.Column("last_used_from", UtcDateTime),
        sa.Column("last_used_by", UtcDateTime),
        sa.Column("heard_at", UtcDateTime, nullable=False),
    )
    names = (
        "source, product, user_key, device, channel, period_start, period_end, user_name, seconds, runs, session, "
        "last_used_from, last_used_by, heard_at"
    )
    op.execute(f"INSERT INTO usage_records ({names}) SELECT {names} FROM usage_records_before")  # noqa: S608 - constants
    op.drop_table("usage_records_before")
    op.create_index("usage_records_user", "usage_records", ["product", "user_key"])
    op.create_index("usage_records_device", "usage_records", ["product", "device"])
