"""When a frozen seat's case was closed without freeing the seat."""

import sqlalchemy as sa
from alembic import op

from reclaim.common.db import UtcDateTime

revision = "savings_0002"
down_revision = "savings_0001"


def upgrade() -> None:
    op.add_column("seat_saving", sa.Column("closed_at", UtcDateTime))
