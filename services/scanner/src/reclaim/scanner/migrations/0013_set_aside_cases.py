"""What is set aside names its case, and is found by it when the case begins."""

from reclaim.common.migrate import add_case_of_set_aside

revision = "scanner_0013"
down_revision = "scanner_0012"


def upgrade() -> None:
    add_case_of_set_aside()
