"""Usage and installations of installed software, from the CSV files that endpoint managers export.

Pure: bytes in, typed records and a report out. Nothing is stored here, and a file of any length is read in the memory
of a page.
"""

from reclaim.connectors.feeds.columns import FEEDS, Feed
from reclaim.connectors.feeds.reading import (
    FeedReport,
    Options,
    Problem,
    Reading,
    read_installations,
    read_usage,
)

__all__ = ["FEEDS", "Feed", "FeedReport", "Options", "Problem", "Reading", "read_installations", "read_usage"]
