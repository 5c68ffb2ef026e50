"""Whether a step may have been sent to the connected system; how often it only asked the scanner tells too little."""

import sqlalchemy as sa
from alembic import op

revision = "lifecycle_0007"
down_revision = "lifecycle_0006"


def upgrade() -> None:
    op.add_column("effect", sa.Column("sent", sa.Boolean, nullable=False, server_default=sa.false()))
    op.execute(sa.text("UPDATE effect SET sent = (attempts > asked)"))
    op.drop_column("effect", "asked")
