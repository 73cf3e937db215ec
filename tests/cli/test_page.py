"""The page of the command line is what its help says."""

from __future__ import annotations

from cli.page import COMMANDS, PAGE, help_of, page


def test_the_page_is_what_the_help_says() -> None:
    assert PAGE.read_text() == page(), "run: PYTHONPATH=tests python tests/cli/page.py"


def test_every_command_has_a_section() -> None:
    listed = {
        f"{group} {name}".strip() for group in ("", "audit") for name in commands(help_of(*group.split()))
    }
    assert listed == set(COMMANDS)


def commands(text: str) -> list[str]:
    """The names under "Commands:"; the lines of their descriptions are indented further."""
    lines = text.partition("Commands:\n")[2].splitlines()
    return [line.split()[0] for line in lines if line.startswith("  ") and not line.startswith("   ")]
