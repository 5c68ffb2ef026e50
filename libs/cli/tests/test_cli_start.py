"""The command starts quickly: it loads what a service needs only to run one."""

from __future__ import annotations

import subprocess
import sys

OF_SERVICES = ("aio_pika", "alembic", "fastapi", "opentelemetry.sdk", "sqlalchemy", "uvicorn")


def test_what_services_need_is_not_loaded_for_a_call() -> None:
    program = "import sys, reclaim.cli.main; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert "reclaim.cli.client" in loaded
    assert [name for name in OF_SERVICES if name in loaded] == []
