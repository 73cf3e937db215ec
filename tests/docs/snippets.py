"""The Python blocks of the project's Markdown pages."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Snippet:
    page: str
    line: int
    language: str
    code: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def snippets(*languages: str) -> list[Snippet]:
    found = []
    for page in PAGES:
        text = page.read_text()
        for match in _BLOCK.finditer(text):
            language, code = match.groups()
            line = text.count("\n", 0, match.start(2)) + 1
            found.append(Snippet(page.relative_to(ROOT).as_posix(), line, language, code))
    return [snippet for snippet in found if snippet.language in languages]


def first_example() -> tuple[str, str]:
    """The README's first example as a script, in the way the README says, and what it prints."""
    code, printed = snippets("python")[0].code, snippets("text")[0].code
    body = textwrap.indent(code, "    ")
    return f"import asyncio\n\n\nasync def main():\n{body}\n\nasyncio.run(main())\n", printed
