"""`python -m reclaim.cli` is the `reclaim` command."""

from reclaim.cli.main import main

main()
