"""Which desk the rule of a case names is kept, for the ticket of a task that may come long after the question."""

import sqlalchemy as sa
from alembic import op

revision = "itsm_gateway_0007"
down_revision = "itsm_gateway_0006"


def upgrade() -> None:
    # Of cases from before it is not known; where such a case has a ticket that asked, that one's desk is.
    op.add_column("case_route", sa.Column("desk", sa.Text))
