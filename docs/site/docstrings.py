"""Render docstrings: options, one `name: text` a line, as parameters; public names and pages as links."""

from __future__ import annotations

import builtins
import inspect
import re
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import griffe

DOCS = Path(__file__).resolve().parents[1]
_OPTIONS = re.compile(r"(\w+(?:, \w+)*): (.+)", re.DOTALL)


@cache
def reference() -> dict[str, str]:
    """Return the path of each name in the API reference."""
    text = "".join(page.read_text() for page in DOCS.glob("reference/*.md"))
    return {path.rpartition(".")[2]: path for path in re.findall(r"^::: (\S+)$", text, flags=re.MULTILINE)}


def sections(paragraph: str, found: griffe.Object) -> str:
    """Return a paragraph that describes options as sections of Google's style; any other unchanged."""
    parameters = {p.name for p in found.parameters} if found.is_function or found.is_class else set()
    names = parameters | set(found.members)
    items = [_OPTIONS.fullmatch(item) for item in re.split(r"\n(?! )", paragraph)]
    if not items[0] or not names.issuperset(items[0][1].split(", ")):
        return paragraph
    described = []
    for item in items:
        if not item or not names.issuperset(item[1].split(", ")):
            raise ValueError(f"{found.path}: not all lines of this describe an option\n{paragraph}")
        described += [(name, item[2].replace("\n", "\n    ")) for name in item[1].split(", ")]
    lines = []
    for title, group in groupby(described, lambda each: "Args" if each[0] in parameters else "Attributes"):
        lines += [f"\n{title}:", *(f"    {name}: {text}" for name, text in group)]
    return "\n".join(lines)


def linked(text: str, found: griffe.Object) -> str:
    """Return the text with names of the API reference and pages of the docs as links."""

    def link(quoted: re.Match[str]) -> str:
        name = quoted[1]
        if name.startswith("docs/"):
            return f"[{name}](../{name.removeprefix('docs/').replace('.md', '.html')})"
        path = reference().get(name, "")
        return f"[{quoted[0]}][{path}]" if path and not found.path.endswith(f".{name}") else quoted[0]

    return re.sub(r"(?<![\[`])`(\w+|docs/[\w-]+\.md)`(?!`)", link, text)


def _is_public(base: str) -> bool:
    """Return whether a base class is one that readers of the reference know."""
    return base in reference() or hasattr(builtins, base)


class Options(griffe.Extension):  # type: ignore[misc]  # griffe is installed in .venv-docs only
    """Changes every docstring of the package once all of it has been read."""

    def on_class_instance(self, *, cls: griffe.Class, **_: Any) -> None:
        """Show the `__init__` that `slotted` makes, as that of a dataclass."""
        for decorator in cls.decorators:
            if str(decorator.value) == "slotted":
                decorator.value = griffe.ExprName("dataclasses.dataclass")

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Change the docstrings of a package."""
        self._change(pkg)

    def _change(self, found: griffe.Object) -> None:
        if found.is_class:
            found.bases = [base for base in found.bases if _is_public(str(base))]
        if found.docstring is not None:
            paragraphs = inspect.cleandoc(found.docstring.value).split("\n\n")
            text = "\n\n".join(sections(paragraph, found) for paragraph in paragraphs)
            found.docstring.value = linked(text, found)
        for member in found.members.values():
            if not member.is_alias:
                self._change(member)
