"""What is set aside names its case, and is found by it when the case begins."""

from reclaim.common.migrate import add_case_of_set_aside

revision = "savings_0003"
down_revision = "savings_0002"


def upgrade() -> None:
    add_case_of_set_aside()
