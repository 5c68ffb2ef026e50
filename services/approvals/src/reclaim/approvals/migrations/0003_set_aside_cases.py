"""What is set aside names its case, and is found by it when the case begins."""

from reclaim.common.migrate import add_case_of_set_aside

revision = "approvals_0003"
down_revision = "approvals_0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    add_case_of_set_aside()
