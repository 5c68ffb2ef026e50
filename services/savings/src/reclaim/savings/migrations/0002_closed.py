"""When a frozen seat's case was closed without freeing the seat."""

import sqlalchemy as sa
from alembic import op

from reclaim.common.db import UtcDateTime

revision = "savings_0002"
down_revision = "savings_0001"


def upgrade() -> None:
    op.add_column("seat_saving", sa.Column("closed_at", UtcDateTime))
    # A rebuild that is under way fills tables of the old form: it begins anew.
    op.execute(
        "UPDATE projection SET position = 0 WHERE name = 'rebuild' AND EXISTS "
        "(SELECT 1 FROM rebuild WHERE state IN ('seats', 'days'))"
    )
    op.execute(
        "UPDATE rebuild SET state = 'requested', snapshot = 0, seat_events = 0, last_case = NULL "
        "WHERE state IN ('seats', 'days')"
    )
