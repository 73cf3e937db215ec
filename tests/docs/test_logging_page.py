"""The table of `docs/logging-and-debugging.md` has every line that the package logs, and no other."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

import starfish_server
from docs.snippets import ROOT

PACKAGE = Path(starfish_server.__file__).parent
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "logs.py")
LEVELS = {"debug": "DEBUG", "info": "INFO", "warning": "WARNING", "error": "ERROR", "exception": "ERROR"}
CONVERSION = re.compile(r"%(\(\w+\))?(\.\d)?[sdrgf]")


@dataclass(frozen=True)
class Line:
    """A call that logs, or a row of the page; no levels means any."""

    logger: str
    levels: frozenset[str]
    message: str
    fields: frozenset[str]

    def is_shown_by(self, row: Line) -> bool:
        pattern = ".*".join(map(re.escape, CONVERSION.sub("\0", self.message).split("\0")))
        return (
            (self.logger, self.fields) == (row.logger, row.fields)
            and (not self.levels or self.levels == row.levels)
            and re.fullmatch(pattern, row.message) is not None
        )


def lines_of(path: Path) -> list[Line]:
    tree = ast.parse(path.read_text())
    assigned = {
        ast.unparse(node.targets[0]): node.value for node in ast.walk(tree) if isinstance(node, ast.Assign)
    }
    loggers = [name for name, value in assigned.items() if ast.unparse(value).startswith("SafeLogger(")]
    assert loggers in ([], ["_log"]), f"{path}: a logger has another name than elsewhere"
    if not loggers:
        return []
    module = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    name = package if "__package__" in ast.unparse(assigned["_log"]) else module
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    found = (line_of(call, name, assigned) for call in calls)
    return [line for line in found if line is not None]


def line_of(call: ast.Call, logger: str, assigned: dict[str, ast.expr]) -> Line | None:
    called, _, method = ast.unparse(call.func).partition(".")
    if called != "_log" or method not in {*LEVELS, "log", "failure"}:
        return None
    given = [assigned.get(ast.unparse(argument), argument) for argument in call.args]
    texts = [
        node.value
        for argument in given
        for node in ast.walk(argument)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    if not texts:
        return None  # it passes on what it was given
    named = re.findall(r"logging\.([A-Z]+)", " ".join(map(ast.unparse, given)))
    keywords = {str(keyword.arg): keyword.value for keyword in call.keywords}
    fields = {"error_type", "reason", *keywords} if method == "failure" else set[str]()
    if (extra := keywords.get("extra")) is not None:
        extra = assigned.get(ast.unparse(extra), extra)
        assert isinstance(extra, ast.Dict)
        fields = {ast.literal_eval(key) for key in extra.keys if key is not None}
    levels = [LEVELS[method]] if method in LEVELS else named
    return Line(logger, frozenset(levels), texts[0], frozenset(fields))


def rows() -> list[Line]:
    page = (ROOT / "docs/logging-and-debugging.md").read_text()
    found = re.findall(
        r"^\| `(starfish_server[\w.]*)` \| ([A-Z, ]+) \| `(.*)` \|(.*) \|$", page, re.MULTILINE
    )
    return [
        Line(logger, frozenset(levels.split(", ")), message, frozenset(re.findall(r"`(\w+)`", fields)))
        for logger, levels, message, fields in found
    ]


LOGGED = [line for path in FILES for line in lines_of(path)]


def test_the_lines_of_every_file_with_a_logger_are_found() -> None:
    assert [path.name for path in FILES if "= SafeLogger(" in path.read_text() and not lines_of(path)] == []


@pytest.mark.parametrize("line", LOGGED, ids=lambda line: f"{line.logger}: {line.message}")
def test_what_is_logged_is_on_the_page(line: Line) -> None:
    assert [row.message for row in rows() if line.is_shown_by(row)]


@pytest.mark.parametrize("row", rows(), ids=lambda row: f"{row.logger}: {row.message}")
def test_what_is_on_the_page_is_logged(row: Line) -> None:
    assert len([line for line in LOGGED if line.is_shown_by(row)]) == 1
