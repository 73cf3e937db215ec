"""stat, url, du, ls --long and --folders, and keys of any text."""

from __future__ import annotations

import json
import os
import urllib.request
from typing import TYPE_CHECKING

import pytest

from cli.program import starfish, starfish_on_a_terminal

if TYPE_CHECKING:
    from pathlib import Path

    from servers import S3Server


@pytest.fixture
def store(tmp_path: Path) -> str:
    for key, body in [("a/b/1", "1"), ("a/2", "22"), ("a/3", "333"), ("c.txt", "4444")]:
        path = tmp_path / "data" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(body)
        os.utime(path, (1e9, 1e9))
    return f"file://{tmp_path}/data"


def test_a_long_list_has_size_time_and_type(store: str) -> None:
    size, modified, _, key = starfish("ls", store, "c", "--long").out.decode().rstrip("\n").split("\t")
    assert (size, modified, key) == ("4", "2001-09-09T01:46:40Z", "c.txt")
    told = json.loads(starfish("ls", store, "c", "-l", "--json").out)
    assert (told["key"], told["size"], told["modified"]) == ("c.txt", 4, "2001-09-09T01:46:40+00:00")


def test_a_long_list_is_aligned_on_a_terminal(store: str, tmp_path: Path) -> None:
    lines = starfish_on_a_terminal("ls", "data", "-l", cwd=tmp_path).out.decode().splitlines()
    columns = {line.find(key) for line, key in zip(lines, ("a/2", "a/3", "a/b/1", "c.txt"), strict=False)}
    assert len(columns) == 1


def test_folders_are_listed_instead_of_what_is_in_them(store: str) -> None:
    assert starfish("ls", store, "--folders").out == b"a/\nc.txt\n"
    assert starfish("ls", store, "a/", "--folders").out == b"a/2\na/3\na/b/\n"
    assert starfish("ls", store, "-f", "--limit", "1", "--json").out == b'{"folder": "a/"}\n'
    assert starfish("ls", store, "-f", "--start-after", "a/").out == b"c.txt\n"


def test_bytes_and_objects_are_counted_per_folder(store: str) -> None:
    assert starfish("du", store).out == b"6\t3\ta/\n10\t4\t(all)\n"
    assert starfish("du", store, "a/").out == b"1\t1\ta/b/\n6\t3\ta/\n"
    assert starfish("du", store, "--depth", "2").out == b"1\t1\ta/b/\n6\t3\ta/\n10\t4\t(all)\n"
    assert json.loads(starfish("du", store, "--depth", "0", "--json").out) == {
        "folder": "",
        "bytes": 10,
        "objects": 4,
    }


def test_what_is_left_out_of_the_count_is_named(store: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "data/fifo")
    ended = starfish("du", store)
    assert (ended.code, ended.err.startswith("starfish: left out: fifo: ")) == (1, True)


def test_stat_shows_what_is_known(store: str) -> None:
    starfish("put", store, "page.html", "--cache-control", "no-cache", stdin=b"page")
    shown = starfish("stat", store, "page.html").out.decode().splitlines()
    assert {"size\t4", "content_type\ttext/html", "cache_control\tno-cache"} <= set(shown)
    told = json.loads(starfish("stat", store, "page.html", "--json").out)
    assert (told["size"], told["content_type"], told["metadata"]) == (4, "text/html", {})
    missing = starfish("stat", store, "missing")
    assert (missing.code, missing.err) == (3, "starfish: no such object: missing\n")


def test_a_signed_url_reads_the_object(seaweedfs: S3Server) -> None:
    env = seaweedfs.environment
    bucket = f"s3://{seaweedfs.make_bucket()}/below"
    starfish("put", bucket, "k", env=env, stdin=b"body")
    made = starfish("url", bucket, "k", "--expires", "60", env=env)
    assert made.code == 0
    with urllib.request.urlopen(made.out.decode().strip(), timeout=30) as reply:
        assert reply.read() == b"body"
    put = json.loads(starfish("url", bucket, "k", "--method", "put", "--json", env=env).out)
    assert (put["method"], put["expires"]) == ("PUT", 900)


def test_a_store_without_signed_urls_says_so(store: str) -> None:
    ended = starfish("url", store, "c.txt")
    assert (ended.code, ended.out, ended.err.count("\n")) == (1, b"", 1)
    assert "this store has no signed URLs" in ended.err


def test_a_url_to_read_with_a_content_type_is_a_usage_error(store: str) -> None:
    ended = starfish("url", store, "k", "--content-type", "text/plain")
    assert (ended.code, ended.out) == (2, b"")
    assert "--content-type is for --method put" in ended.err


@pytest.mark.parametrize("options", [("--method", "DELETE"), ("--expires", "0"), ("--expires", "604801")])
def test_a_url_of_another_method_or_time_is_a_usage_error(store: str, options: tuple[str, str]) -> None:
    assert starfish("url", store, "k", *options).code == 2


def test_keys_of_any_text_go_in_and_out(tmp_path: Path) -> None:
    store, other = (f"file://{tmp_path}/{name}?portable_keys=false" for name in ("from", "to"))
    keys = ["a=b/c d", "gr\u00fc\u00df", "\u202eright to left"]
    for key in keys:
        assert starfish("put", store, key, stdin=key.encode()).code == 0
    copied = starfish("cp", store, other)
    assert (copied.code, copied.err) == (0, "")
    listed = starfish("ls", other)
    lines = listed.out.decode().splitlines()
    assert (listed.code, lines[:2], lines[2].isprintable()) == (0, keys[:2], True)
    assert [json.loads(line)["key"] for line in starfish("ls", other, "--json").out.splitlines()] == keys
    assert starfish("ls", other, "a=b/c ").out == b"a=b/c d\n"
    assert starfish("get", other, keys[2]).out == keys[2].encode()
    assert starfish("put", f"file://{tmp_path}/from", "c d").code == 2


def test_the_error_of_an_invalid_key_names_the_option_that_allows_it(tmp_path: Path) -> None:
    ended = starfish("put", "data", "c d", cwd=tmp_path)
    assert (ended.code, "encode_key" in ended.err) == (2, False)
    assert ended.err.endswith(
        "; portable_keys=false in the store's URL or stack file allows other characters, as in "
        "'file:data?portable_keys=false'\n"
    )
    assert starfish("put", "file:data?portable_keys=false", "c d", cwd=tmp_path).code == 0


def test_memory_takes_portable_keys_as_its_only_option() -> None:
    assert starfish("put", "memory:?portable_keys=false", "c d").code == 0
    assert starfish("put", "memory:", "c d").code == 2
    assert starfish("put", "memory:?fsync=false", "k").code == 2


def test_keys_of_any_text_below_a_namespace(tmp_path: Path) -> None:
    (tmp_path / "stack.toml").write_text(
        '[leaf]\ntype = "filesystem"\nbase_dir = "data"\nportable_keys = false\n'
        '[[layer]]\ntype = "Namespace"\nprefix = "tenant/"\n'
    )
    assert starfish("put", "stack.toml", "c d/e", cwd=tmp_path).code == 0
    listed = starfish("ls", "stack.toml", "c d", cwd=tmp_path)
    assert (listed.code, listed.out, listed.err) == (0, b"c d/e\n", "")
