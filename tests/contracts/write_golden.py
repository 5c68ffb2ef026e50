"""Write the golden documents of events that have none yet: `python -m tests.contracts.write_golden`.

A document that exists is never touched. It is what other releases, and messages that still wait in a broker, are
written in: who needs another form adds an event with the next version beside the old one.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from reclaim.common.contracts import Event
from tests.contracts.examples import EXAMPLES, Example

GOLDEN: Final = Path(__file__).parent / "golden"


def path_of(event: type[Event], folder: Path = GOLDEN) -> Path:
    """Return where the golden document of an event lies."""
    return folder / f"{event.wire}.json"


def encoded(examples: Iterable[Example]) -> list[dict[str, Any]]:
    """Return the CloudEvents batch of the examples as plain JSON values, as today's code encodes it."""
    return [json.loads(example.encode()) for example in examples]


def pretty(document: object) -> str:
    """Return a document as it is kept in the repository."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def canonical(document: object) -> str:
    """Return a document in a form in which two are equal only if they say the same, types included."""
    return json.dumps(document, sort_keys=True, ensure_ascii=False)


def write(folder: Path = GOLDEN) -> tuple[list[Path], list[Path]]:
    """Write what is missing; return the files written, and the files left alone although they say something else."""
    written, differing = [], []
    folder.mkdir(exist_ok=True)
    for event, examples in EXAMPLES.items():
        path, document = path_of(event, folder), encoded(examples)
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(pretty(document))
            written.append(path)
        except FileExistsError:
            if canonical(json.loads(path.read_text(encoding="utf-8"))) != canonical(document):
                differing.append(path)
    return written, differing


def main() -> int:
    written, differing = write()
    for path in written:
        print(f"written: {path}")
    for path in differing:
        print(
            f"not overwritten: {path} says something else than today's code. Leave that version as it is, and add "
            "the changed event under its next version.",
            file=sys.stderr,
        )
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
