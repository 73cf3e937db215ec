"""`load_stack`: TOML in, the same stack as a builder's out; errors point at the line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from starfish_server import AbstractObjectStore, MemoryObjectStore, StackError, load_stack
from starfish_server.layers import verify_audit_log

if TYPE_CHECKING:
    from pathlib import Path

STACK = """\
check_order = true

[[layer]]
type = "AccessLog"
actions = ["push"]
sink = {type = "JsonLinesSink", path = "${LOG_FOLDER}/audit.jsonl"}

[[layer]]
type = "Namespace"
prefix = "tenants/{namespace}/"

[[layer]]
type = "Retry"
attempts = 5
budget = {type = "RetryBudget"}

[[layer]]
type = "Timeout"
seconds = 5.0

[leaf]
type = "s3"
bucket = "objects"
endpoint = "http://127.0.0.1:9000"
access_key_id = "${KEY_ID}"
secret_access_key = "${SECRET}"
"""


def loaded(folder: Path, text: str) -> AbstractObjectStore:
    path = folder / "stack.toml"
    path.write_text(text)
    return load_stack(path)


async def test_builds_the_stack_that_the_file_describes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY_ID", "id")
    monkeypatch.setenv("SECRET", "s3cr3t")
    monkeypatch.setenv("LOG_FOLDER", str(tmp_path))
    store = loaded(tmp_path, STACK)
    shown = repr(store)
    assert [
        shown.index(name) for name in ("AccessLog", "Namespace", "Retry", "Timeout", "S3ObjectStore")
    ] == sorted(shown.index(name) for name in ("AccessLog", "Namespace", "Retry", "Timeout", "S3ObjectStore"))
    assert "s3cr3t" not in shown
    await store.close()


async def test_a_file_leaf_works(tmp_path: Path) -> None:
    async with loaded(tmp_path, f'[leaf]\ntype = "filesystem"\nbase_dir = "{tmp_path}/data"\n') as store:
        await store.put("k", "v")
    assert (tmp_path / "data" / "k").read_text() == "v"


@pytest.mark.parametrize(
    ("change", "line", "message"),
    [
        (('type = "Retry"', 'type = "Retrying"'), 13, "unknown type 'Retrying'; there are AccessLog"),
        (('type = "Retry"', 'type = "Retri"'), 13, r"did you mean 'Retry'\?"),
        (("attempts = 5", "attemps = 5"), 14, "unknown option 'attemps'; there are attempts"),
        (("attempts = 5", "attemps = 5"), 14, r"did you mean 'attempts'\?"),
        (("attempts = 5", "attempts = 0"), 14, "attempts"),
        (("attempts = 5", 'attempts = "5"'), 14, "attempts"),
        (('bucket = "objects"', 'buckets = "objects"'), 23, "unknown option 'buckets'"),
        (('bucket = "objects"\n', ""), 21, "the option 'bucket' is missing"),
        (('prefix = "tenants/{namespace}/"\n', ""), 8, "the option 'prefix' is missing"),
        (("path = ", "paht = "), 6, r"unknown option 'paht'; .*did you mean 'path'\?"),
        ((', path = "${LOG_FOLDER}/audit.jsonl"', ""), 6, "the option 'path' is missing"),
        (('type = "s3"', 'type = "s4"'), 22, "unknown type 's4'; there are filesystem, memory, s3"),
        (('type = "s3"\n', ""), 21, "no type"),
        (("${SECRET}", "${NO_SUCH_VARIABLE}"), 26, "'NO_SUCH_VARIABLE' is not set"),
        (('"JsonLinesSink"', '"JsonSink"'), 6, "unknown type 'JsonSink'"),
        (("actions =", "wrong.actions ="), 5, "unknown option 'wrong'"),
    ],
)
def test_an_error_points_at_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: tuple[str, str], line: int, message: str
) -> None:
    for name in ("KEY_ID", "SECRET"):
        monkeypatch.setenv(name, "s3cr3t")
    monkeypatch.setenv("LOG_FOLDER", str(tmp_path))
    assert change[0] in STACK
    with pytest.raises(StackError, match=message) as caught:
        loaded(tmp_path, STACK.replace(*change))
    assert str(caught.value).startswith(f"{tmp_path}/stack.toml:{line}: ")
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"stack.toml: a stack needs a \[leaf\]"),
        ("leaf = 7", r"stack.toml:1: a stack needs a \[leaf\]"),
        ('[leaf]\ntype="memory"\n[layers]', "stack.toml:3: unknown table 'layers'"),
        ('[leaf]\ntype="memory"\n[[layers]]\n[[layers]]', "stack.toml:3: unknown table 'layers'"),
        ('checked=1\n[leaf]\ntype="memory"', "stack.toml:1: unknown table 'checked'"),
        ('[leaf]\ntype="memory"\n[layer]', r"stack.toml:3: layers are written as \[\[layer\]\]"),
        ('check_order=1\n[leaf]\ntype="memory"', "stack.toml:1: check_order is true or false"),
        ("[leaf\n", "stack.toml: .*line 1"),
    ],
)
def test_a_file_of_another_shape_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(StackError, match=message):
        loaded(tmp_path, text)


@pytest.mark.parametrize("separator", ["\u2028", "\x85"])
def test_only_the_line_ends_of_toml_count_as_lines(tmp_path: Path, separator: str) -> None:
    text = f'[leaf]\ntype = "memory"\n[[layer]]\ntype = "Namespace"\nprefix = "{separator}"\n'
    with pytest.raises(StackError, match=r"stack\.toml:6: unknown option 'wrong'"):
        loaded(tmp_path, text + "wrong = 1\n")


@pytest.mark.parametrize("name", ["", "MY-VARIABLE", "MY VARIABLE"])
def test_a_malformed_variable_is_refused(tmp_path: Path, name: str) -> None:
    text = f'[leaf]\ntype = "filesystem"\nbase_dir = "{tmp_path}/${{{name}}}"\n'
    with pytest.raises(StackError, match=f"stack.toml:3: the environment variable '{name}' is not set"):
        loaded(tmp_path, text)


def test_a_table_nested_too_deep_is_a_stack_error(tmp_path: Path) -> None:
    with pytest.raises(StackError, match=r"stack\.toml"):
        loaded(tmp_path, f"leaf = {'[' * 5000}{']' * 5000}\n")


def test_what_a_cache_varies_by_is_written_as_an_array(tmp_path: Path) -> None:
    layer = '[[layer]]\ntype = "Caching"\nvary_by = ["namespace", "roles"]\n'
    assert "vary_by=('namespace', 'roles')" in repr(loaded(tmp_path, f'{layer}[leaf]\ntype = "memory"\n'))


async def test_the_key_of_an_audit_chain_comes_from_a_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUDIT_KEY", "sixteen bytes or more")
    log = tmp_path / "audit.jsonl"
    sink = f'{{type = "JsonLinesSink", path = "{log}", chain = true, key = "${{AUDIT_KEY}}"}}'
    text = f'[[layer]]\ntype = "AccessLog"\nsink = {sink}\n[leaf]\ntype = "memory"\n'
    async with loaded(tmp_path, text) as store:
        await store.get_string("k")
    verified = verify_audit_log(log, key=b"sixteen bytes or more")
    assert (verified.ok, verified.lines) == (True, 1)


def test_a_missing_file_is_a_stack_error(tmp_path: Path) -> None:
    with pytest.raises(StackError) as caught:
        load_stack(tmp_path / "missing.toml")
    assert str(caught.value) == f"{tmp_path}/missing.toml: No such file or directory"


@pytest.mark.parametrize(("layer", "option"), [("Tracing", "tracer_provider"), ("Metrics", "meter_provider")])
def test_an_object_written_as_text_is_a_stack_error(tmp_path: Path, layer: str, option: str) -> None:
    text = f'[leaf]\ntype = "memory"\n[[layer]]\ntype = "{layer}"\n{option} = "mine"\n'
    with pytest.raises(StackError, match=r"stack\.toml:[35]: "):
        loaded(tmp_path, text)


def test_a_wrong_order_is_refused_and_can_be_allowed(tmp_path: Path) -> None:
    text = '[[layer]]\ntype = "Timeout"\n[[layer]]\ntype = "Retry"\n[leaf]\ntype = "memory"\n'
    with pytest.raises(StackError, match=r"stack.toml:1: Timeout stands outside Retry") as caught:
        loaded(tmp_path, text)
    assert str(caught.value).endswith("(check_order = false turns this check off.)")
    assert "Timeout" in repr(loaded(tmp_path, f"check_order = false\n{text}"))


async def test_another_package_can_register_a_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "loud-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: loud\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[starfish_server.layers]\nLoud = loud_layers:Loud\n")
    (tmp_path / "loud_layers.py").write_text(
        "from starfish_server.layers import Layer\nclass Loud(Layer):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    store = loaded(tmp_path, '[[layer]]\ntype = "Loud"\n[leaf]\ntype = "memory"\n')
    assert repr(store) == f"Loud({MemoryObjectStore()!r})"


def test_a_name_registered_twice_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "evil-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: evil\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[starfish_server.layers]\nRetry = evil:Retry\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(StackError, match="'Retry' is registered more than once"):
        loaded(tmp_path, '[[layer]]\ntype = "Retry"\n[leaf]\ntype = "memory"\n')


async def test_a_mapping_of_the_same_shape_works_and_variables_are_filled_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TENANT", "t1")
    layers = [{"type": "Namespace", "prefix": "x-${TENANT}/"}]
    data: dict[str, str] = {}
    store = load_stack({"leaf": {"type": "memory", "data": data}, "layer": layers})
    await store.put("k", "v")
    assert await store.list_keys("") == ["k"]


def test_two_dollar_signs_are_one() -> None:
    with pytest.raises(StackError, match="unknown context field 'TENANT'"):
        load_stack({"leaf": {"type": "memory"}, "layer": [{"type": "Namespace", "prefix": "$${TENANT}/"}]})
