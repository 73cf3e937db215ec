"""Every snippet of the README and the docs runs, page by page, and prints what the page says it prints."""

from __future__ import annotations

import ast
import contextlib
import inspect
import io
import logging
import re
import types
from itertools import groupby
from typing import TYPE_CHECKING

import pytest

from docs.snippets import ROOT, Snippet, snippets
from redis_server import RedisServer
from starfish_server import MemoryObjectStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from servers import S3Server

PYTHON_PAGES = {
    page: list(found) for page, found in groupby(snippets("python", "text"), key=lambda snippet: snippet.page)
}

DURATION = re.compile(r"\b\d+\.\d+ m?s\b")  # as measured, so no two runs print the same


@pytest.fixture
def environment(seaweedfs: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder, and the variables that the pages read."""
    monkeypatch.chdir(tmp_path)
    for service in ("S3", "R2", "TIGRIS"):
        monkeypatch.setenv(f"{service}_ACCESS_KEY_ID", seaweedfs.access_key_id)
        monkeypatch.setenv(f"{service}_SECRET_ACCESS_KEY", seaweedfs.secret_access_key)
    monkeypatch.setenv("S3_ENDPOINT", seaweedfs.endpoint)
    monkeypatch.setenv("S3_BUCKET", seaweedfs.make_bucket())
    monkeypatch.setenv("CF_ACCOUNT_ID", "0123456789abcdef")


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """The package's logger gets the level and the handlers back that it had before a page set others."""
    logger = logging.getLogger("starfish_server")
    level, handlers = logger.level, [*logger.handlers]
    yield
    logger.setLevel(level)
    logger.handlers[:] = handlers


async def run(snippet: Snippet, names: dict[str, object], output: io.StringIO) -> str:
    """Run one snippet, `await` at the top level allowed, and return what it printed."""
    padded = "\n" * (snippet.line - 1) + snippet.code
    code = compile(padded, snippet.page, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    before = output.tell()
    with contextlib.redirect_stdout(output):
        if code.co_flags & inspect.CO_COROUTINE:
            await types.FunctionType(code, names)()
        else:
            exec(code, names)
    return output.getvalue()[before:]


@pytest.fixture
def redis_url(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A redis-server; where there is none, what needs it is skipped."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        monkeypatch.setenv("REDIS_URL", server.url)
        yield


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("page", PYTHON_PAGES)
async def test_page(page: str, request: pytest.FixtureRequest) -> None:
    if any("REDIS_URL" in snippet.code for snippet in PYTHON_PAGES[page]):
        request.getfixturevalue("redis_url")
    names: dict[str, object] = {"__name__": "__main__"}
    output = io.StringIO()
    printed = ""
    for snippet in PYTHON_PAGES[page]:
        if snippet.language == "python":
            assert printed == "", f"{snippet}: the page does not show what the snippet before it prints"
            printed = await run(snippet, names, output)
        else:
            assert DURATION.sub("N", snippet.code) == DURATION.sub("N", printed), str(snippet)
            printed = ""
    assert printed == "", f"{page}: the page does not show what its last snippet prints"
    await MemoryObjectStore().delete_many(await MemoryObjectStore().list_keys(""))


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < 150


def test_every_page_of_the_docs_is_linked_from_the_readme_or_another_page() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    text = "".join(page.read_text() for page in pages)
    assert [page.name for page in pages[1:] if page.name not in text] == []


def test_what_the_pages_link_to_is_there() -> None:
    pages = [ROOT / "README.md", ROOT / "benchmarks" / "README.md", *(ROOT / "docs").rglob("*.md")]
    links = [
        (page, page.parent / file if file else page, section)
        for page in pages
        for file, section in re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", page.read_text())
        if "://" not in file
    ]
    assert links
    assert [
        (page.name, target.name, section)
        for page, target, section in links
        if not target.exists() or (section and section not in sections(target))
    ] == []


def sections(page: Path) -> set[str]:
    """The anchors of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
