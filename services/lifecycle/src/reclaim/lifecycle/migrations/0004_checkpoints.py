"""Signed checkpoints of the audit trail, what the list of cases is searched by, and bulk decisions."""

import msgspec
import sqlalchemy as sa
from alembic import op

from reclaim.common.db import BigKey, Json, UtcDateTime

revision = "lifecycle_0004"
down_revision = "lifecycle_0003"

AT_A_TIME = 1_000


def upgrade() -> None:
    op.create_table(
        "audit_checkpoint",
        sa.Column("position", BigKey, primary_key=True, autoincrement=False),
        sa.Column("hash", sa.Text, nullable=False),
        sa.Column("at", UtcDateTime, nullable=False),
        sa.Column("key_id", sa.Text, nullable=False),
        sa.Column("signature", sa.Text, nullable=False),
    )
    op.create_table(
        "bulk_batch",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("at", UtcDateTime, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("results", Json, nullable=False),
    )
    op.add_column("reclaim_case", sa.Column("holder_email", sa.Text))
    op.add_column("reclaim_case", sa.Column("attention", sa.Text))
    op.create_index(
        "case_attention",
        "reclaim_case",
        ["attention"],
        sqlite_where=sa.text("attention IS NOT NULL"),
        postgresql_where=sa.text("attention IS NOT NULL"),
    )
    fill(op.get_bind())


def fill(db: sa.Connection) -> None:
    """Take the new columns of the cases that there are from their documents."""
    case = sa.table(
        "reclaim_case",
        sa.column("id", sa.Text),
        sa.column("document", sa.LargeBinary),
        sa.column("holder_email", sa.Text),
        sa.column("attention", sa.Text),
    )
    change = sa.update(case).where(case.c.id == sa.bindparam("at"))
    last = ""
    while True:
        page = sa.select(case.c.id, case.c.document).where(case.c.id > last).order_by(case.c.id).limit(AT_A_TIME)
        rows = list(db.execute(page))
        if not rows:
            return
        last = rows[-1].id
        for row in rows:
            document = msgspec.json.decode(row.document)
            values = {
                "holder_email": document["seat"]["holder"].get("email"),
                "attention": (document.get("attention") or {}).get("resume"),
            }
            if any(values.values()):
                db.execute(change.values(**values), {"at": row.id})
