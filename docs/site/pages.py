"""Gather the pages of the site: the docs, the README and the benchmarks, with links that hold there."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BUILT = ROOT / "build" / "site" / "pages"

# Files from outside `docs/`, and their places on the site.
MOVED = {
    ROOT / "README.md": "index.md",
    ROOT / "benchmarks" / "README.md": "benchmarks.md",
    ROOT / "benchmarks" / "features.md": "features.md",
    HERE / "style.css": "style.css",
}
_LINK = re.compile(r"\[([^]]*)\]\((?!\w+:|#)([^)#\s]+)(#[^)\s]*)?\)")


def places() -> dict[Path, str]:
    """Return the place of each file on the site."""
    docs = ROOT / "docs"
    files = [path for path in docs.rglob("*") if path.is_file() and HERE not in path.parents]
    return MOVED | {path: path.relative_to(docs).as_posix() for path in files}


def relinked(page: Path, placed: dict[Path, str]) -> str:
    """Return the text of a page with links for its place on the site.

    The label of a link to a file that is not on the site stays, without a link. A label that is a file's name
    becomes the title of that page. A file that does not exist is an error.
    """

    def change(link: re.Match[str]) -> str:
        label, name, section = link.groups(default="")
        target = Path(os.path.normpath(page.parent / name))
        if not target.exists():
            raise SystemExit(f"{page} links to {name}, which does not exist")
        if target not in placed:
            return label
        if label.endswith(".md"):
            label = target.read_text().removeprefix("# ").partition("\n")[0]
        place = os.path.relpath(BUILT / placed[target], (BUILT / placed[page]).parent)
        return f"[{label}]({place}{section})"

    return _LINK.sub(change, page.read_text())


def main() -> None:
    """Replace all pages, and copy the configuration."""
    shutil.rmtree(BUILT, ignore_errors=True)
    BUILT.mkdir(parents=True)
    shutil.copyfile(HERE / "zensical.toml", BUILT.parent / "zensical.toml")
    placed = places()
    for file, place in placed.items():
        target = BUILT / place
        target.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".md":
            target.write_text(relinked(file, placed))
        else:
            shutil.copyfile(file, target)


if __name__ == "__main__":
    main()
