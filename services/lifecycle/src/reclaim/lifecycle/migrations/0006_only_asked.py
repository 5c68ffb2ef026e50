"""How many attempts at a step only asked the scanner whether the seat is used."""

import sqlalchemy as sa
from alembic import op

revision = "lifecycle_0006"
down_revision = "lifecycle_0005"


def upgrade() -> None:
    op.add_column("effect", sa.Column("asked", sa.Integer, nullable=False, server_default="0"))
