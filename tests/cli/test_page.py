"""The page of the command line is what its help says."""

from __future__ import annotations

import re

import pytest

from cli.page import COMMANDS, PAGE, help_of, page
from docs.snippets import PAGES


def test_the_page_is_what_the_help_says() -> None:
    assert PAGE.read_text() == page(), "run: PYTHONPATH=tests python tests/cli/page.py"


def test_every_command_has_a_section() -> None:
    listed = {
        f"{group} {name}".strip() for group in ("", "audit") for name in commands(help_of(*group.split()))
    }
    assert listed == set(COMMANDS)


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "audit"])
def test_the_pages_use_only_options_that_the_command_has(name: str) -> None:
    text = "".join(path.read_text() for path in PAGES)
    used = {
        option
        for arguments in re.findall(rf"\bstarfish {name}\b([^\n`|]*)", text)
        for option in re.findall(r"(?<=\s)-{1,2}[a-z][a-z-]*", arguments)
    }
    section = PAGE.read_text().split(f"## starfish {name}\n")[1].split("\n## ")[0]
    known = section.split("Options:")[1].split("Examples:")[0]
    assert used <= set(re.findall(r"-{1,2}[a-z][a-z-]*", known))


def commands(text: str) -> list[str]:
    """The names under "Commands:"; the lines of their descriptions are indented further."""
    lines = text.partition("Commands:\n")[2].splitlines()
    return [line.split()[0] for line in lines if line.startswith("  ") and not line.startswith("   ")]
