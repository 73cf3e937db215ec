"""fsspec's own abstract suites on `StarfishFileSystem`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from fsspec.tests.abstract import (
    AbstractCopyTests,
    AbstractFixtures,
    AbstractGetTests,
    AbstractOpenTests,
    AbstractPipeTests,
    AbstractPutTests,
)

from adapters.stores import CONDITIONAL, STORES, new_store
from starfish_server.adapters.fsspec import StarfishFileSystem

if TYPE_CHECKING:
    from collections.abc import Iterator

# Of fsspec's own tests, up to 2026.6.
pytestmark = pytest.mark.filterwarnings("ignore:Class-scoped fixtures defined as instance methods")


class Fixtures(AbstractFixtures):  # type: ignore[misc]  # fsspec has no types
    @pytest.fixture
    def fs(self, name: str, full: bool, request: pytest.FixtureRequest) -> Iterator[StarfishFileSystem]:
        if name == "moto" and "glob_edge_cases" in request.node.name and not full:
            pytest.skip("patterns are matched here, so the other stores show it; over S3 with --full")
        with new_store(name, request) as store:
            yield StarfishFileSystem(store=store)

    @pytest.fixture
    def fs_path(self) -> str:
        return "files"

    @pytest.fixture
    def supports_empty_directories(self) -> bool:
        return False


@pytest.mark.parametrize("name", STORES)
class TestBulk(Fixtures, AbstractCopyTests, AbstractGetTests, AbstractPutTests, AbstractOpenTests):  # type: ignore[misc]  # fsspec has no types
    pass


@pytest.mark.parametrize("name", CONDITIONAL)
class TestExclusive(Fixtures, AbstractPipeTests):  # type: ignore[misc]  # fsspec has no types
    pass
