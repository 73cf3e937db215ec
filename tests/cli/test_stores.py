"""Stores by URL: what each one makes, and what is refused without repeating it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cli.program import starfish
from starfish_server import MemoryObjectStore, StackError, open_store

if TYPE_CHECKING:
    from servers import S3Server


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("/var/data", "FilesystemObjectStore('/var/data')"),
        ("/var/my data?#%20", "FilesystemObjectStore('/var/my data?#%20')"),
        (Path("/a:b"), "FilesystemObjectStore('/a:b')"),
        ("file:///var/data", "FilesystemObjectStore('/var/data')"),
        ("file://localhost/var/my%20data", "FilesystemObjectStore('/var/my data')"),
        ("file:///var/data?fsync=false", "FilesystemObjectStore('/var/data')"),
        (
            "s3://bucket",
            "S3ObjectStore(bucket='bucket', host='s3.eu-west-1.amazonaws.com', region='eu-west-1')",
        ),
        (
            "s3://bucket?endpoint=http://127.0.0.1:9000&region=auto",
            "S3ObjectStore(bucket='bucket', host='127.0.0.1:9000', region='auto')",
        ),
        (
            "s3://bucket/a/b/?endpoint=http://127.0.0.1:9000&region=auto",
            "Namespace(prefix='a/b/', S3ObjectStore(bucket='bucket', host='127.0.0.1:9000', region='auto'))",
        ),
    ],
)
async def test_a_url_or_path_makes_a_store(
    name: str | Path, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    store = open_store(name)
    await store.close()
    assert repr(store) == shown


async def test_a_relative_path_is_below_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for url in ("file:data", "data", "./data", "./data:2", Path("data")):
        async with open_store(url) as store:
            await store.put("k", "v")
    assert (tmp_path / "data/k").read_text() == (tmp_path / "data:2/k").read_text() == "v"


async def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In Python no shell has replaced it; a folder named "~" is no place that anyone means."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("~/data", Path("~/data")):
        assert repr(open_store(name)) == f"FilesystemObjectStore('{tmp_path}/home/data')"
    assert repr(open_store("./~")) == f"FilesystemObjectStore('{tmp_path}/~')"
    with pytest.raises(StackError, match=f"{tmp_path}/home/stack"):
        open_store("~/stack.toml")


async def test_each_memory_store_is_empty() -> None:
    async with open_store("memory:") as one, open_store("memory:") as other:
        await one.put("k", "v")
        assert await other.list_keys("") == []


async def test_the_endpoint_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9001")
    store = open_store("s3://bucket")
    await store.close()
    assert "127.0.0.1:9001" in repr(store)


async def test_a_stack_file_may_be_a_server_s(tmp_path: Path) -> None:
    path = tmp_path / "server.toml"
    path.write_text('[leaf]\ntype = "memory"\n[sync]\ncollections = []\n[auth]\n')
    assert isinstance(open_store(str(path)), MemoryObjectStore)
    assert isinstance(open_store(f"file://{path}"), MemoryObjectStore)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "http://bucket",
        "file://",
        "file://host/folder",
        "file:///folder?nonsense=1",
        "file:///folder?fsync=maybe",
        "memory:shared",
        "s3://",
        "s3://bucket?region=a&region=b",
        "s3://bucket#fragment",
        "s3://bucket/../prefix",
        "s3://bucket?endpoint=ftp://host",
        "s3://[",
    ],
)
def test_a_url_that_names_no_store_is_refused(name: str) -> None:
    with pytest.raises(StackError):
        open_store(name)


@pytest.mark.parametrize(
    "name",
    [
        "s3://AKIA:hunter2@bucket",
        "s3://hunter2@bucket/prefix",
        "s3://AKIA:hunter2",
        "s3://AKIA:hunter2\u2100",
        "s3://bucket?secret_access_key=hunter2",
        "s3://bucket?hunter2",
        "s3://bucket?access_key_id=AKIA&secret_access_key=hunter2",
        "s3://bucket?endpoint=http://user:hunter2@127.0.0.1:9000",
        "file://user:hunter2@host/folder",
    ],
)
def test_credentials_in_a_url_are_refused_and_not_repeated(name: str) -> None:
    ended = starfish("ls", name)
    assert (ended.code, ended.err.count("\n"), "hunter2" in ended.err) == (2, 1, False)


def test_a_bucket_is_used_below_its_prefix_with_keys_from_the_environment(seaweedfs: S3Server) -> None:
    bucket = seaweedfs.make_bucket()
    env = seaweedfs.environment
    assert starfish("put", f"s3://{bucket}/some/prefix", "k", env=env, stdin=b"v").code == 0
    assert starfish("ls", f"s3://{bucket}/some/prefix", env=env).out == b"k\n"
    assert starfish("ls", f"s3://{bucket}", env=env).out == b"some/prefix/k\n"


def test_without_credentials_the_error_says_what_to_set() -> None:
    ended = starfish("ls", "s3://bucket?endpoint=http://127.0.0.1:9")
    assert ended.code == 1
    assert "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or anonymous=True" in ended.err
    assert "?anonymous=true" in ended.err


def test_a_wrong_secret_is_one_line_without_it(seaweedfs: S3Server) -> None:
    env = {"AWS_ACCESS_KEY_ID": seaweedfs.access_key_id, "AWS_SECRET_ACCESS_KEY": "hunter2"}
    ended = starfish("ls", f"s3://bucket?endpoint={seaweedfs.endpoint}", env=env)
    assert (ended.code, ended.err.count("\n"), "hunter2" in ended.err) == (1, 1, False)


@pytest.mark.parametrize(
    "name", ["http://127.0.0.1:9000/bucket", "https://s3.example.com", "s3://127.0.0.1:9000/bucket"]
)
def test_the_address_of_an_s3_server_leads_to_the_option_for_it(name: str) -> None:
    ended = starfish("ls", name)
    assert (ended.code, ended.err.count("\n"), "s3://bucket?endpoint=" in ended.err) == (2, 1, True)


def test_azure_without_an_account_says_where_it_comes_from() -> None:
    ended = starfish("ls", "az://container")
    assert (ended.code, "AZURE_STORAGE_ACCOUNT_NAME" in ended.err) == (2, True)
