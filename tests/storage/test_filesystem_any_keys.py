"""Keys of any text as files, with `portable_keys=False`, and lists of one folder level."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from starfish_server.errors import InvalidKeyError
from starfish_server.storage.filesystem import FilesystemObjectStore, FilesystemStorageOptions
from storage.filesystem_support import make_store, present, visible_entries

KEYS = [
    "~", "~attributes/x", "~locks", "~staging/y/z", "~~", "~~~a", "a b", "a=b/c d", "a/~x", "é/ü", "日本/語",
    "\N{GRINNING FACE}", "back\\slash", "a'\"b", "%2F", "*?", "trailing ", " leading", "-", ".hidden", "...",
    "a\u2028b", "cafe\u0301", "café", "+", "x" * 255, "é" * 127, "~" + "x" * 253, "k.__meta__",
]  # fmt: skip


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[FilesystemObjectStore]:
    options = FilesystemStorageOptions(tmp_path, fsync=False, portable_keys=False)
    async with FilesystemObjectStore(options) as store:
        yield store


async def test_any_key_is_stored_listed_in_byte_order_and_removed(
    tmp_path: Path, store: FilesystemObjectStore
) -> None:
    for key in KEYS:
        await store.put(key, key)
    for key in KEYS:
        assert await store.get_string(key) == key
        assert present(await store.stat(key)).key == key
    in_order = sorted(KEYS, key=str.encode)
    assert await store.list_keys("") == in_order
    assert [info.key for info in (await store.list_objects("")).objects] == in_order
    for start_after in ("", "~", "~a", "~~", "b", "é", "\x7f"):
        expected = [key for key in in_order if key > start_after]
        assert await store.list_keys("", start_after=start_after) == expected
        assert await store.list_keys("", start_after=start_after, limit=2) == expected[:2]
    for prefix in ("~", "~~", "~s", "a", "a=", "日", "a/~"):
        assert await store.list_keys(prefix) == [key for key in in_order if key.startswith(prefix)]
    assert await store.unlistable() == []
    for key in KEYS[::2]:
        await store.delete(key)
    await store.delete_many(KEYS)
    assert visible_entries(tmp_path) == []
    assert await store.list_keys("") == []


async def test_a_key_cannot_reach_the_files_of_the_store(
    tmp_path: Path, store: FilesystemObjectStore
) -> None:
    await store.put("k", "x")
    before = sorted(os.listdir(tmp_path / "~locks"))
    for key in (f"~locks/{before[0]}", "~staging/x", "~attributes/x"):
        assert await store.get_string(key) is None
        await store.put(key, "mine")
        await store.delete(key)
    assert (tmp_path / "~locks" / before[0]).exists()
    assert os.listdir(tmp_path / "~staging") == []


@pytest.mark.parametrize(
    "key",
    ["x" * 256, "é" * 128, "~" * 255, "語" * 86, "a\nb", "a//b", "../a", "a\0", "\x7f", "\ud800"],
)
async def test_a_key_that_cannot_be_a_file_is_refused_before_any_write(
    tmp_path: Path, store: FilesystemObjectStore, key: str
) -> None:
    operations = [
        store.put(key, "x"),
        store.get_string(key),
        store.stat(key),
        store.write(key, "x"),
        store.copy("k", key),
        store.list_keys(key),
        store.list_objects(key),
        store.delete_many([key]),
    ]
    for operation in operations:
        with pytest.raises(InvalidKeyError):
            await operation
    assert os.listdir(tmp_path) == []


async def test_files_that_no_key_names_are_named_as_unlistable(
    tmp_path: Path, store: FilesystemObjectStore
) -> None:
    await store.put("~mine", "x")
    (tmp_path / "~theirs").write_text("x")
    (tmp_path / "~folder").mkdir()
    (tmp_path / "~folder" / "file").write_text("x")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "~fine").write_text("x")
    (tmp_path / "d" / "a\nb").write_text("x")
    (tmp_path / os.fsdecode(b"\xff")).write_text("x")
    assert await store.list_keys("") == ["d/~fine", "~mine"]
    assert [(found.path, found.reason) for found in await store.unlistable()] == [
        ("d/a\nb", "its name breaks the key rules"),
        ("~folder/file", "the name of a folder above it breaks the key rules"),
        ("~theirs", "its name breaks the key rules"),
        ("\udcff", "its name breaks the key rules"),
    ]


async def test_portable_keys_are_the_rule_without_the_option(tmp_path: Path) -> None:
    (tmp_path / "a b").write_text("x")
    async with make_store(tmp_path) as store:
        for key in ("a b", "~a", "é"):
            with pytest.raises(InvalidKeyError):
                await store.stat(key)
        assert (await store.list_objects("", delimiter="/")).objects == []
    with pytest.raises(TypeError, match="portable_keys"):
        FilesystemStorageOptions(tmp_path, portable_keys="no")  # type: ignore[arg-type]


async def test_one_level_walks_no_folder_below(
    tmp_path: Path, store: FilesystemObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in range(5):
        for number in range(20):
            await store.put(f"d{folder}/{number}/k", "x")
        await store.put(f"d{folder}/k", "x")
    await store.put("k", "x")
    entered = 0
    scandir = os.scandir

    def counted(path: int) -> object:
        nonlocal entered
        entered += 1
        return scandir(path)

    monkeypatch.setattr(os, "scandir", counted)
    level = await store.list_objects("", delimiter="/")
    assert ([info.key for info in level.objects], len(level.prefixes)) == (["k"], 5)
    assert entered == 6


async def test_a_folder_without_objects_is_no_prefix(tmp_path: Path, store: FilesystemObjectStore) -> None:
    (tmp_path / "empty" / "deeper").mkdir(parents=True)
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "link").symlink_to("/")
    (tmp_path / "legacy").mkdir()
    (tmp_path / "legacy" / "k.__meta__").write_text('{"contentType": "a/b"}')
    await store.put("deep/er/k", "x")
    await store.put("~/k", "x")
    for limit in (None, 2):
        level = await store.list_objects("", delimiter="/", limit=limit)
        assert (level.objects, level.prefixes) == ([], ["deep/", "~/"])
    assert (await store.list_objects("~", delimiter="/")).prefixes == ["~/"]


async def test_a_page_is_filled_up_when_an_object_is_deleted_meanwhile(
    tmp_path: Path, store: FilesystemObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page that is not full means the end to `scan`."""
    for key in ("a", "b", "c", "d"):
        await store.put(key, "x")
    lstat = os.lstat

    def removing(path: str, **options: int) -> os.stat_result:
        (tmp_path / "b").unlink(missing_ok=True)
        return lstat(path, **options)

    monkeypatch.setattr(os, "lstat", removing)
    listed = await store.list_objects("", limit=3)
    assert [info.key for info in listed.objects] == ["a", "c", "d"]


async def test_a_list_tells_size_time_and_version(store: FilesystemObjectStore) -> None:
    written = [await store.write(key, key * 3) for key in ("a", "b/c", "~d")]
    listed = (await store.list_objects("")).objects
    assert [(i.key, i.size, i.version, i.modified) for i in listed] == [
        (i.key, i.size, i.version, i.modified) for i in written
    ]


def test_a_base_dir_that_the_file_system_cannot_encode_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^base_dir must be a path in utf-8, not '.*\\ud800'$"):
        FilesystemStorageOptions(f"{tmp_path}/\ud800")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ("'caf\\u00e9'", "base_dir must be a path in ascii, not 'caf\\xe9'"),
        (
            "'data', portable_keys=False",
            "portable_keys=False needs file names in UTF-8, not ascii: set PYTHONUTF8=1",
        ),
        ("'data'", ""),
    ],
)
def test_file_names_of_another_encoding_are_refused_before_they_are_used(options: str, error: str) -> None:
    program = f"""
try:
    from starfish_server import FilesystemStorageOptions
    FilesystemStorageOptions({options})
except ValueError as error:
    print(str(error).encode("unicode_escape").decode("ascii"))
"""
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0"}
    ended = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=True)
    assert ended.stdout.decode().strip() == error
