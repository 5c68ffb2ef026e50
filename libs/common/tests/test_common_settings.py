"""What settings say when they do not fit."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from reclaim.common.settings import Settings


def test_an_error_in_the_settings_does_not_repeat_the_keys() -> None:
    with pytest.raises(ValidationError, match="at least 32 characters") as error:
        Settings(_env_file=None, secret_keys=["short-secret"], sealing_keys=["sealing-secret"])
    assert "short-secret" not in str(error.value)
    assert "sealing-secret" not in str(error.value)
