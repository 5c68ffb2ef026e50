"""Which cases ended and left a freeze of ours behind: the daily comparison follows them."""

import json

import sqlalchemy as sa
from alembic import op

revision = "lifecycle_0009"
down_revision = "lifecycle_0008"


def upgrade() -> None:
    op.add_column("reclaim_case", sa.Column("left_frozen", sa.Boolean, nullable=False, server_default=sa.false()))
    fill(op.get_bind())


def fill(db: sa.Connection) -> None:
    """Set the column of the cases that there are; what stands in their documents alone is read from there."""
    case = sa.table("reclaim_case", sa.column("id"), sa.column("left_frozen"))
    skipped = sa.text("SELECT id, document FROM reclaim_case WHERE state = 'skipped' AND NOT dry_run")
    for case_id in [row.id for row in db.execute(skipped) if _left(json.loads(bytes(row.document)))]:
        db.execute(sa.update(case).where(case.c.id == case_id).values(left_frozen=sa.true()))


def _left(document: dict[str, object]) -> bool:
    return document.get("frozen_at") is not None or bool(document.get("unsure"))
