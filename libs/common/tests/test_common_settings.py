"""What settings say when they do not fit."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from pydantic import ValidationError

from reclaim.common.contracts import SERVICES
from reclaim.common.security import Notary, new_seed
from reclaim.common.settings import Settings


def test_an_error_in_the_settings_does_not_repeat_the_keys() -> None:
    with pytest.raises(ValidationError, match="at least 32 characters") as error:
        Settings(_env_file=None, secret_keys=["short-secret"], sealing_keys=["sealing-secret"])
    assert "short-secret" not in str(error.value)
    assert "sealing-secret" not in str(error.value)


KEYS = {"secret_keys": ["s" * 32], "sealing_keys": [Fernet.generate_key().decode()]}


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("RECLAIM_") and not name.startswith("RECLAIM_TEST_")]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize("missing", ["secret_keys", "sealing_keys"])
def test_without_keys_the_message_names_the_command_that_makes_them(missing: str) -> None:
    with pytest.raises(ValidationError, match="`reclaim init` writes both"):
        Settings(_env_file=None, **{name: keys for name, keys in KEYS.items() if name != missing})


def test_a_sealing_key_that_is_none_is_named_without_being_shown() -> None:
    with pytest.raises(ValidationError, match="RECLAIM_SEALING_KEYS") as error:
        Settings(_env_file=None, **KEYS | {"sealing_keys": [*KEYS["sealing_keys"], "a-password-of-mine"]})
    assert "a-password-of-mine" not in str(error.value)


def test_an_audit_key_that_is_none_is_named_without_being_shown() -> None:
    for wrong in ("a-password-of-mine", "c2hvcnQ=", "s" * 44):
        with pytest.raises(ValidationError, match="RECLAIM_AUDIT_KEYS") as error:
            Settings(_env_file=None, **KEYS, audit_keys=[new_seed(), wrong])
        assert wrong not in str(error.value)


def test_without_audit_keys_one_is_kept_beside_the_data(tmp_path: Path) -> None:
    key = new_seed()
    given = Settings(_env_file=None, **KEYS, audit_keys=[key], data_dir=tmp_path)
    assert given.notary().key_id == Notary([key]).key_id
    assert list(tmp_path.iterdir()) == []
    own = Settings(_env_file=None, **KEYS, data_dir=tmp_path)
    assert own.notary().key_id == own.notary().key_id != given.notary().key_id
    assert key not in repr(given)


def test_keys_do_not_show_in_what_settings_look_like() -> None:
    settings = Settings(_env_file=None, **KEYS)
    for key in (*KEYS["secret_keys"], *KEYS["sealing_keys"]):
        assert key not in repr(settings)
        assert key not in str(settings.model_dump())
    assert settings.signing_keys() == KEYS["secret_keys"]


def test_time_moves_only_in_a_rehearsal() -> None:
    with pytest.raises(ValidationError, match="a movable clock is for demo and test"):
        Settings(_env_file=None, clock_url="file:///tmp/offset", **KEYS)
    for environment in ("demo", "test"):
        Settings(_env_file=None, environment=environment, clock_url="file:///tmp/offset", **KEYS)
    assert Settings(_env_file=None, **KEYS).environment == "production", "what is not said to be a rehearsal is none"


def test_each_service_has_a_database_of_its_own() -> None:
    settings = Settings(_env_file=None, data_dir=Path("/srv/data"), **KEYS)
    assert settings.database_for("itsm-gateway") == "sqlite+aiosqlite:////srv/data/itsm_gateway.db"
    servers = Settings(_env_file=None, database_url="postgresql+asyncpg://u:p@db/reclaim_{service}", **KEYS)
    assert servers.database_for("itsm-gateway") == "postgresql+asyncpg://u:p@db/reclaim_itsm_gateway"
    assert len({servers.database_for(service) for service in SERVICES}) == len(SERVICES)


def test_settings_come_from_the_environment_before_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / ".env"
    file.write_text(
        f'RECLAIM_SECRET_KEYS=["{"f" * 32}"]\nRECLAIM_SEALING_KEYS={json.dumps(KEYS["sealing_keys"])}\n'
        "RECLAIM_PORT=1\nRECLAIM_HOST=192.0.2.1\nRECLAIM_SCANNER_LEASE_SECONDS=3\n"
    )
    monkeypatch.setenv("RECLAIM_PORT", "2")
    settings = Settings(_env_file=file)
    assert (settings.port, settings.host, settings.signing_keys()) == (2, "192.0.2.1", ["f" * 32])
