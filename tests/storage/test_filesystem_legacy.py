"""Folders of earlier servers: `k` with `k.__meta__` beside it."""

import json
from pathlib import Path

import pytest

from starfish_server.errors import KeyConflictError
from storage.filesystem_support import make_store, take_away_xattrs, visible_entries

SIDE = '{"contentType": "image/png"}'


@pytest.fixture(params=["xattrs", "side files"], autouse=True)
def _both_kinds_of_file_system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "side files":
        take_away_xattrs(monkeypatch)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "k").write_bytes(b"body")
    (tmp_path / "d" / "k.__meta__").write_text(SIDE)
    return tmp_path


async def test_an_old_object_reads_with_its_content_type(old: Path) -> None:
    async with make_store(old) as store:
        assert await store.get_bytes("d/k") == (b"body", "image/png")
        assert await store.get_string("d/k") == "body"


async def test_an_old_side_file_is_no_object(old: Path) -> None:
    async with make_store(old) as store:
        assert await store.list_keys("") == ["d/k"]
        assert await store.list_keys("d/k.") == []
        assert await store.get_string("d/k.__meta__") is None
        assert await store.get_bytes("d/k.__meta__") is None
        await store.delete("d/k.__meta__")
        assert (old / "d" / "k.__meta__").read_text() == SIDE


async def test_a_put_supersedes_the_old_side_file(old: Path) -> None:
    async with make_store(old) as store:
        await store.put_bytes("d/k", b"new", content_type="a/b")
        assert await store.get_bytes("d/k") == (b"new", "a/b")
        assert await store.list_keys("") == ["d/k"]


async def test_a_delete_removes_the_old_side_file(old: Path) -> None:
    async with make_store(old) as store:
        await store.delete("d/k")
        assert visible_entries(old) == []


async def test_an_object_in_place_of_an_old_side_file_is_refused(old: Path) -> None:
    """It would take the content type from the object that the side file belongs to."""
    async with make_store(old) as store:
        with pytest.raises(KeyConflictError, match="content type of 'd/k'"):
            await store.put("d/k.__meta__", SIDE, content_type="text/x")
        assert await store.get_bytes("d/k") == (b"body", "image/png")
        assert await store.list_keys("") == ["d/k"]


@pytest.mark.parametrize(
    "content", ["", "text", "[]", "1", '{"type": 1}', '{"contentType": 1}', "[" * 100_000, "\udcff"]
)
async def test_a_file_that_only_has_the_name_of_a_side_file_is_an_object(
    tmp_path: Path, content: str
) -> None:
    (tmp_path / "k").write_text("x")
    (tmp_path / "k.__meta__").write_bytes(content.encode(errors="surrogateescape"))
    async with make_store(tmp_path) as store:
        assert await store.list_keys("") == ["k", "k.__meta__"]
        assert await store.get_bytes("k") == (b"x", "application/octet-stream")
        await store.delete("k")
        assert await store.list_keys("") == ["k.__meta__"]


async def test_a_type_that_could_forge_a_header_is_not_passed_on(old: Path) -> None:
    (old / "d" / "k.__meta__").write_text(json.dumps({"contentType": "a/b\r\nset-cookie: x"}))
    async with make_store(old) as store:
        assert await store.get_bytes("d/k") == (b"body", "application/octet-stream")
        assert await store.list_keys("") == ["d/k"]


async def test_a_file_without_any_attribute_is_an_octet_stream(tmp_path: Path) -> None:
    (tmp_path / "k").write_text("x")
    async with make_store(tmp_path) as store:
        assert await store.get_bytes("k") == (b"x", "application/octet-stream")
