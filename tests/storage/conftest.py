"""Fixtures of the tests of leaves."""

from __future__ import annotations

import pytest

from starfish_server.storage.s3 import transport


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries follow immediately."""
    monkeypatch.setattr(transport, "INITIAL_SECONDS", 0.0)
