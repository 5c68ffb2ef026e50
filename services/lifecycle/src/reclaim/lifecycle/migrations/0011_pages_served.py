"""When the pages on which people answer were up, as approvals tells it."""

import sqlalchemy as sa
from alembic import op

from reclaim.common.db import UtcDateTime

revision = "lifecycle_0011"
down_revision = "lifecycle_0010"


def upgrade() -> None:
    op.create_table(
        "pages_served",
        sa.Column("since", UtcDateTime, primary_key=True),
        sa.Column("until", UtcDateTime, nullable=False),
        sa.Column("beat", sa.BigInteger, nullable=False),
    )
