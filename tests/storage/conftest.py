"""Fixtures of the tests of leaves."""

from __future__ import annotations

import pytest

from starfish_server.storage.s3 import sessions, transport, writing


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries follow immediately."""
    monkeypatch.setattr(transport, "INITIAL_SECONDS", 0.0)


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """The removal of parts and the end of a store take as long as they need, on a slow machine too."""
    monkeypatch.setattr(writing, "REMOVAL_SECONDS", 600.0)
    monkeypatch.setattr(sessions, "CLOSE_GRACE_SECONDS", 600.0)
    monkeypatch.setattr(sessions, "_END_SECONDS", 600.0)
