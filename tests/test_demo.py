"""`make demo` says so, and ends non-zero, when anything that comes back differs."""

from __future__ import annotations

from pathlib import PurePath

import pytest

import demo.__main__
from demo.leaves import round_trip
from starfish_server import MemoryObjectStore, StoreContext

FILES = {"README.md": b"# Title", "src/a.py": b"x = 1\r\n"}


class Memory(MemoryObjectStore):
    def __init__(self) -> None:
        super().__init__(data={})


class Damages(Memory):
    async def get_bytes(self, key: str, *, context: StoreContext | None = None) -> tuple[bytes, str] | None:
        found = await super().get_bytes(key)
        return found and (found[0].replace(b"\r\n", b"\n"), found[1])


class Loses(Memory):
    async def put_bytes(
        self,
        key: str,
        body: bytes,
        *,
        content_type: str,
        cache_control: str | None = None,
        context: StoreContext | None = None,
    ) -> None:
        if key != "README.md":
            await super().put_bytes(key, body, content_type=content_type)


class Keeps(Memory):
    async def delete_many(self, keys: list[str], *, context: StoreContext | None = None) -> None:
        return


@pytest.mark.parametrize(
    ("store", "problems"),
    [
        (Memory, []),
        (Damages, ["src/a.py differs"]),
        (Loses, ["the list differs: {'README.md'}", "README.md differs"]),
        (Keeps, ["2 objects left after deletion"]),
    ],
)
async def test_a_round_trip_names_what_differs(store: type[Memory], problems: list[str]) -> None:
    assert (await round_trip("store", store(), FILES)).problems == problems


@pytest.mark.parametrize(("problems", "status"), [([], 0), (["k differs"], 1)])
def test_the_demo_ends_non_zero_if_anything_differs(
    monkeypatch: pytest.MonkeyPatch, problems: list[str], status: int
) -> None:
    async def run(_console: object) -> list[str]:
        return problems

    monkeypatch.setattr(demo.__main__, "run", run)
    assert demo.__main__.main() == status


def test_the_demo_takes_the_markdown_and_python_files_of_this_repository() -> None:
    files = demo.__main__.repository_files()
    assert {"README.md", "docs/leaves.md", "benchmarks/demo/leaves.py", "tests/test_demo.py"} <= set(files)
    assert {PurePath(name).suffix for name in files} == {".md", ".py"}
    assert not any(name.startswith(".") for name in files)
