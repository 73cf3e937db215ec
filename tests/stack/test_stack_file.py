"""`load_stack`: TOML in, the same stack as a builder's out; errors point at the line."""

from __future__ import annotations

import gc
import re
import sys
from typing import TYPE_CHECKING

import pytest

from starfish_server import AbstractObjectStore, MemoryObjectStore, StackError, explain, load_stack
from starfish_server.layers import Layer, verify_audit_log

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


def register(
    folder: Path, monkeypatch: pytest.MonkeyPatch, group: str, entry_point: str, **modules: str
) -> None:
    """Install a package with one entry point and `modules`, until the end of the test."""
    package = folder / "own-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: own\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text(f"[starfish_server.{group}]\n{entry_point}\n")
    for name, code in modules.items():
        (folder / f"{name}.py").write_text(code)
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(folder)


@pytest.mark.parametrize(
    ("change", "line", "message"),
    [
        (('type = "Retry"', 'type = "Retrying"'), 13, "unknown type 'Retrying'; did you mean 'Retry'?"),
        (("attempts = 5", "attemps = 5"), 14, "unknown option 'attemps'; did you mean 'attempts'?"),
        (("attempts = 5", "attempts = 0"), 14, "attempts must be 1 or more, not 0"),
        (("attempts = 5", 'attempts = "5"'), 14, "attempts must be an int, not str"),
        (
            ('bucket = "objects"', 'buckets = "objects"'),
            23,
            "unknown option 'buckets'; did you mean 'bucket'?",
        ),
        (('bucket = "objects"\n', ""), 21, "bucket must be a name of letters"),
        (
            ('type = "s3"', 'type = "s4"'),
            22,
            "unknown type 's4'; expected one of filesystem, memory, obstore, s3",
        ),
        (
            ('type = "s3"\n', 'type = "cloud"\n'),
            22,
            "unknown type 'cloud'; expected one of filesystem, memory, ",
        ),
        (('type = "s3"\n', "type = 3\n"), 22, "unknown type 3; expected one of filesystem, memory, "),
        (('type = "s3"\n', ""), 21, "no type; expected one of filesystem, memory, "),
        (("${SECRET}", "${NO_SUCH_VARIABLE}"), 26, "'NO_SUCH_VARIABLE' is not set"),
        (('"JsonLinesSink"', '"JsonSink"'), 6, "unknown type 'JsonSink'; did you mean 'JsonLinesSink'?"),
        (("path = ", "file = "), 6, "unknown option 'file'; expected one of path, max_bytes, "),
        (('", path = "${LOG_FOLDER}/audit.jsonl', ""), 6, "JsonLinesSink needs the option 'path'"),
        (('"RetryBudget"', '"RetryBudget", ratio = -1'), 15, "ratio"),
        (("actions =", "wrong.actions ="), 5, "unknown option 'wrong'; expected one of sink, actions, "),
    ],
)
def test_an_error_points_at_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: tuple[str, str], line: int, message: str
) -> None:
    for name in ("KEY_ID", "SECRET"):
        monkeypatch.setenv(name, "s3cr3t")
    monkeypatch.setenv("LOG_FOLDER", str(tmp_path))
    assert change[0] in STACK
    with pytest.raises(StackError, match=re.escape(message)) as caught:
        loaded(tmp_path, STACK.replace(*change))
    assert str(caught.value).startswith(f"{tmp_path}/stack.toml:{line}: ")
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"stack.toml: a stack needs a \[leaf\]"),
        ("leaf = 7", r"stack.toml:1: a stack needs a \[leaf\]"),
        ('[leaf]\ntype="memory"\n[layers]', r"stack.toml:3: unknown: 'layers'; did you mean 'layer'\?"),
        (
            '[leaf]\ntype="memory"\n[[layers]]\n[[layers]]',
            r"stack.toml:3: unknown: 'layers'; did you mean 'layer'\?",
        ),
        (
            'tested=1\n[leaf]\ntype="memory"',
            "stack.toml:1: unknown: 'tested'; expected one of leaf, layer, check_order",
        ),
        ('[leaf]\ntype="memory"\n[layer]', r"stack.toml:3: layers are written as \[\[layer\]\]"),
        ('check_order=1\n[leaf]\ntype="memory"', "stack.toml:1: check_order must be true or false"),
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


@pytest.mark.parametrize(
    "layer",
    [
        '[[layer]]\ntype = "Namespace"\nprefix = """\n[[layer]]\nwrong = 1\n"""\n\nwrong = 1\n',
        '[[ "layer" ]]\ntype = "Caching"\nvary_by = [\n  "roles",\n  # wrong = 1\n]\n# more\n"wrong" = 1\n',
        '[[layer]]\ntype = "AccessLog"\n[layer.sink]\ntype = "JsonLinesSink"\npath = "x"\n\n\nwrong = 1\n',
        '[[layer]]\r\ntype = "Namespace"\r\nprefix = "t/"\r\n\r\n\r\n\r\n\r\n wrong.deep = """\r\n"""\r\n',
    ],
    ids=["text of several lines", "array of several lines", "table", "ends of lines of Windows"],
)
def test_the_line_is_right_however_the_file_is_written(tmp_path: Path, layer: str) -> None:
    with pytest.raises(StackError, match=r"stack\.toml:10: unknown option 'wrong'"):
        loaded(tmp_path, f'[leaf]\ntype = "memory"\n{layer}')


def test_a_mapping_whose_names_are_not_text_is_a_stack_error() -> None:
    leaf = {"type": "memory"}
    with pytest.raises(StackError, match="stack: unknown: 5; expected one of leaf"):
        load_stack({"leaf": leaf, 5: 1, "x": 2})  # type: ignore[dict-item]  # that is the test
    with pytest.raises(StackError, match="stack: unknown option 5; expected one of data"):
        load_stack({"leaf": leaf | {5: 1}})


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("def (:", "SyntaxError: invalid syntax"),
        ("raise RuntimeError('no GPU')", "RuntimeError: no GPU"),
        ("import os; os.environ['NOT_SET']", "KeyError: 'NOT_SET'"),
        ("import missing_module", "No module named 'missing_module'"),
        ("", "module 'own_leaves' has no attribute 'Own'"),
        ("Own = '/'", "'/' is not a callable object"),
        ("def Own(): return 5", "own does not make a store"),
        ("def Own(): raise LookupError('gone')", "LookupError: gone"),
    ],
)
def test_a_type_that_cannot_be_made_is_a_stack_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, message: str
) -> None:
    register(tmp_path, monkeypatch, "leaves", "own = own_leaves:Own", own_leaves=module)
    with pytest.raises(StackError, match=rf"stack\.toml:[12]: {re.escape(message)}"):
        loaded(tmp_path, '[leaf]\ntype = "own"\n')


BACKUP = """
from starfish_server.layers import Layer

class Backup(Layer):
    def __init__(self, inner, backup, *, more=()):
        super().__init__(inner, backup, *more)
"""

NESTED = """\
[[layer]]
type = "Backup"

[layer.backup.leaf]
type = "memory"
data = {k = "${KEPT}"}

[[layer.backup.layer]]
type = "Timeout"
seconds = 5.0

[[layer.more]]
leaf = {type = "memory"}

[[layer.more]]
[layer.more.leaf]
type = "filesystem"
base_dir = "${FOLDER}"
[[layer.more.layer]]
type = "ReadOnly"

[leaf]
type = "memory"
"""


@pytest.fixture
def backup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Register `Backup`, a layer over several stores."""
    monkeypatch.setenv("KEPT", "v")
    monkeypatch.setenv("FOLDER", str(tmp_path))
    register(tmp_path, monkeypatch, "layers", "Backup = own_layers:Backup", own_layers=BACKUP)


@pytest.mark.usefixtures("backup")
async def test_an_option_can_be_a_stack_or_a_list_of_stacks(tmp_path: Path) -> None:
    async with loaded(tmp_path, NESTED) as store:
        assert isinstance(store, Layer)
        assert [type(inner).__name__ for inner in store.inners] == [
            "MemoryObjectStore",
            "Timeout",
            "MemoryObjectStore",
            "ReadOnly",
        ]
        assert await store.inners[1].get_string("k") == "v"


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("replicas = 5", "'replicas' must be an array, not int"),
        ('replicas = "ab"', "'replicas' must be an array, not str"),
        ('replicas.leaf.type = "memory"', "'replicas' must be an array, not MemoryObjectStore"),
    ],
)
def test_an_option_for_several_stores_must_be_an_array(tmp_path: Path, option: str, message: str) -> None:
    with pytest.raises(StackError, match=f"toml:5: {message}$"):
        loaded(tmp_path, f'[leaf]\ntype = "memory"\n[[layer]]\ntype = "Mirror"\n{option}\n')


@pytest.mark.parametrize("data", ['"x"', '["x"]', "5"])
def test_the_data_of_a_memory_leaf_must_be_a_table(tmp_path: Path, data: str) -> None:
    with pytest.raises(StackError, match=r"toml:3: data must be a dict or another MutableMapping, not \w+$"):
        loaded(tmp_path, f'[leaf]\ntype = "memory"\ndata = {data}\n')


@pytest.mark.parametrize(
    ("value", "kind"), [("5", "int"), ("[1]", "list"), ("{a = 1}", "dict"), ("2020-01-01", "date")]
)
def test_the_data_of_a_memory_leaf_must_be_text(tmp_path: Path, value: str, kind: str) -> None:
    with pytest.raises(StackError) as raised:
        loaded(tmp_path, f'[leaf]\ntype = "memory"\n[leaf.data]\na = "fine"\n"notes/1.json" = {value}\n')
    reason = f'data[\'notes/1.json\'] must be str or bytes, not {kind}: put text in quotes, as in "a.b" = "5"'
    assert str(raised.value) == f"{tmp_path}/stack.toml:3: {reason}"


def test_a_folder_that_is_not_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StackError, match=r"toml:3: base_dir must be a str or a PathLike of str, not date$"):
        loaded(tmp_path, '[leaf]\ntype = "filesystem"\nbase_dir = 2020-01-01\n')


@pytest.mark.usefixtures("backup")
@pytest.mark.parametrize(
    ("change", "line", "message"),
    [
        (("seconds = 5.0", "seconds = 0.0"), 10, "seconds must be over 0, not 0.0"),
        (('"Timeout"', '"Timeouts"'), 9, "unknown type 'Timeouts'; did you mean 'Timeout'?"),
        (("base_dir", "bas_dir"), 18, "unknown option 'bas_dir'; did you mean 'base_dir'?"),
        (('type = "ReadOnly"', "types = 1"), 19, "no type; expected one of AccessLog, "),
        (("${FOLDER}", "${NO_FOLDER}"), 18, "the environment variable 'NO_FOLDER' is not set"),
        (("[[layer.more.layer]]", "[layer.more.layer]"), 19, "layers are written as [[layer]]"),
        (("[[layer.more.layer]]", "[[layer.more.layers]]"), 19, "unknown: 'layers'; did you mean 'layer'?"),
    ],
)
def test_an_error_in_a_stack_inside_points_at_its_line(
    tmp_path: Path, change: tuple[str, str], line: int, message: str
) -> None:
    assert change[0] in NESTED
    with pytest.raises(StackError, match=re.escape(message)) as caught:
        loaded(tmp_path, NESTED.replace(*change))
    assert str(caught.value).startswith(f"{tmp_path}/stack.toml:{line}: ")


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


def test_a_stack_that_was_refused_does_not_keep_its_audit_log(tmp_path: Path) -> None:
    sink = f'sink = {{type = "JsonLinesSink", path = "{tmp_path}/audit.jsonl"}}\n'
    text = f'[[layer]]\ntype = "AccessLog"\n{sink}[leaf]\ntype = "memory"\n'
    with pytest.raises(StackError, match="Timeout stands outside AccessLog"):
        loaded(tmp_path, f'[[layer]]\ntype = "Timeout"\n{text}')
    gc.collect()  # the error held the sink
    assert "JsonLinesSink" in repr(loaded(tmp_path, text))


def test_a_missing_file_is_a_stack_error(tmp_path: Path) -> None:
    with pytest.raises(StackError) as caught:
        load_stack(tmp_path / "missing.toml")
    assert str(caught.value) == f"{tmp_path}/missing.toml: No such file or directory"


@pytest.mark.parametrize(("layer", "option"), [("Tracing", "tracer_provider"), ("Metrics", "meter_provider")])
def test_an_object_written_as_text_is_a_stack_error(tmp_path: Path, layer: str, option: str) -> None:
    text = f'[leaf]\ntype = "memory"\n[[layer]]\ntype = "{layer}"\n{option} = "mine"\n'
    with pytest.raises(StackError, match=r"stack\.toml:3: "):
        loaded(tmp_path, text)


def test_a_wrong_order_is_refused_and_can_be_allowed(tmp_path: Path) -> None:
    text = '[[layer]]\ntype = "Timeout"\n[[layer]]\ntype = "Retry"\n[leaf]\ntype = "memory"\n'
    with pytest.raises(StackError, match=r"stack.toml:1: Timeout stands outside Retry") as caught:
        loaded(tmp_path, text)
    assert str(caught.value).endswith("(The option check_order turns this check off.)")
    assert "Timeout" in repr(loaded(tmp_path, f"check_order = false\n{text}"))


async def test_another_package_can_register_a_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "from starfish_server.layers import Layer\nclass Loud(Layer):\n    pass\n"
    register(tmp_path, monkeypatch, "layers", "Loud = loud_layers:Loud", loud_layers=code)
    store = loaded(tmp_path, '[[layer]]\ntype = "Loud"\n[leaf]\ntype = "memory"\n')
    assert repr(store) == f"Loud({MemoryObjectStore()!r})"


def test_a_name_registered_twice_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(tmp_path, monkeypatch, "layers", "Retry = evil:Retry")
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


def test_layers_that_keep_a_backend_in_bounds_are_written_in_toml(tmp_path: Path) -> None:
    text = """
        [[layer]]
        type = "RateLimit"
        rate = 10
        burst = 20
        by = "params.team"

        [[layer]]
        type = "Fallback"

        [layer.backup.leaf]
        type = "memory"

        [[layer.backup.layer]]
        type = "CircuitBreaker"
        probes = 1

        [[layer]]
        type = "Hedge"
        delay = "p99"
        budget = 0.1

        [[layer]]
        type = "CircuitBreaker"
        open_seconds = 5

        [leaf]
        type = "memory"
    """
    shown = explain(loaded(tmp_path, text))
    for title in (
        "RateLimit(rate=10.0, burst=20, by='params.team')",
        "Hedge(delay='p99', budget=0.1)",
        "window=30.0, open_seconds=5.0, probes=3)",
        "window=30.0, open_seconds=10.0, probes=1)",
    ):
        assert title in shown


def test_a_long_dotted_key_is_a_stack_error(tmp_path: Path) -> None:
    with pytest.raises(StackError, match=r"stack\.toml: tables are nested too deep"):
        loaded(tmp_path, '[leaf]\ntype = "memory"\ndata' + ".a" * 3_000 + " = 1\n")


def test_a_mapping_that_holds_itself_is_a_stack_error() -> None:
    data: dict[str, object] = {}
    data["a"] = data
    with pytest.raises(StackError, match="stack: tables are nested too deep"):
        load_stack({"leaf": {"type": "memory", "data": data}})


def test_too_many_layers_are_a_stack_error() -> None:
    with pytest.raises(StackError, match="stack: tables are nested too deep"):
        load_stack({"leaf": {"type": "memory"}, "layer": [{"type": "ReadOnly"}] * 1_500})


def test_a_table_nested_too_deep_is_a_stack_error(tmp_path: Path) -> None:
    with pytest.raises(StackError, match=r"stack\.toml"):
        loaded(tmp_path, f"leaf = {'[' * 5000}{']' * 5000}\n")
