"""The site of `make docs`: its navigation, and links that lead to the right place there."""

from __future__ import annotations

import ast
import re
import tomllib
from typing import TYPE_CHECKING, Any

import pytest

from docs.snippets import ROOT
from pages import places, relinked

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PROJECT = tomllib.loads((ROOT / "docs" / "site" / "zensical.toml").read_text())["project"]


def pages_of(nav: Any) -> Iterator[str]:
    """The pages of a navigation, in its order."""
    if isinstance(nav, str):
        yield nav
    else:
        for item in nav.values() if isinstance(nav, dict) else nav:
            yield from pages_of(item)


def test_the_navigation_has_every_page_once() -> None:
    pages = [place for place in places().values() if place.endswith(".md")]
    assert sorted(pages_of(PROJECT["nav"])) == sorted(pages)


def test_nothing_is_fetched_from_elsewhere() -> None:
    assert PROJECT["theme"]["font"] is False


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        ("[the page](docs/b.md#part)", "[the page](sub/b.md#part)"),
        ("[docs/b.md](docs/b.md)", "[The page B](sub/b.md)"),
        ("![chart](docs/c.svg)", "![chart](c.svg)"),
        ("[`code`](code.py)", "`code`"),
        ("[a](#here), [x](https://example.org/b.md)", "[a](#here), [x](https://example.org/b.md)"),
    ],
)
def test_a_link_leads_to_the_place_on_the_site(tmp_path: Path, link: str, expected: str) -> None:
    placed = {tmp_path / "README.md": "index.md", tmp_path / "docs" / "b.md": "sub/b.md"}
    placed[tmp_path / "docs" / "c.svg"] = "c.svg"
    (tmp_path / "docs").mkdir()
    for file in (*placed, tmp_path / "code.py"):
        file.write_text("# The page B\n")
    (tmp_path / "README.md").write_text(link)
    assert relinked(tmp_path / "README.md", placed) == expected


def test_a_link_to_a_missing_file_is_an_error(tmp_path: Path) -> None:
    page = tmp_path / "a.md"
    page.write_text("![chart](nope.svg)")
    with pytest.raises(SystemExit, match=r"nope\.svg"):
        relinked(page, {page: "a.md"})


@pytest.mark.parametrize("path", sorted((ROOT / "src").rglob("*.py")), ids=lambda path: path.name)
def test_options_are_described_one_a_line(path: Path) -> None:
    """The site refuses any other docstring; here that is seen without building it."""
    option = re.compile(r"(\w+(?:, \w+)*): ")
    wrong = []
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        names = {each.arg for each in ast.walk(node) if isinstance(each, ast.arg)}
        names |= {ast.unparse(each.target) for each in node.body if isinstance(each, ast.AnnAssign)}
        for paragraph in (ast.get_docstring(node) or "").split("\n\n"):
            found = [option.match(line) for line in re.split(r"\n(?! )", paragraph)]
            if found[0] and names.issuperset(found[0][1].split(", ")) and not all(found):
                wrong.append(f"{node.name}: {paragraph}")
    assert wrong == []
