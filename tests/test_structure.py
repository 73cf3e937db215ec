"""The dependency directions of the package, read from its imports."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import starfish_server
from starfish_server.context import StoreContext
from starfish_server.layers import Layer
from starfish_server.operations import OPERATIONS
from starfish_server.storage.base import AbstractObjectStore
from starfish_server.storage.leaf import Leaf

ROOT = Path(starfish_server.__file__).parent
FILES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))

# Third-party packages and the only places that may import them.
HOMES = {
    "aiobotocore": ("storage/s3/",),
    "botocore": ("storage/s3/",),
    "aiohttp": ("storage/s3/",),
    "yarl": ("storage/s3/",),
    "aiofiles": ("adapters/fsspec",),
    "anyio": ("router/",),
    "opentelemetry": ("layers/tracing.py", "layers/metrics.py", "router/application.py", "cli/server.py"),
    "prometheus_client": ("cli/server.py",),
    "tenacity": ("layers/retry", "storage/s3/"),
    "cachetools": ("layers/caching",),
    "backports": ("layers/compression/",),
    "compression": ("layers/compression/",),  # of the standard library from Python 3.14 on
    "cryptography": ("layers/encryption/", "layers/caching/redis.py"),
    "fastapi": ("router/",),
    "starlette": ("router/",),
    "pydantic": ("router/",),
    "pydantic_core": ("router/",),
    "typer": ("cli/",),
    "rich": ("cli/",),
    "uvicorn": ("cli/",),
    "fsspec": ("adapters/fsspec",),
    "zarr": ("adapters/zarr.py",),
    "obstore": ("storage/obstore/",),
    "redis": ("redis/",),
}

# The parts of the package, each with those it may import. A part that is not here may import all of them.
KERNEL = {
    *("context", "errors", "frozen", "objects", "operations"),
    *("checks", "chunks", "gather", "printable", "forks", "logs", "threads"),
}
ALLOWED = {
    "errors": set(),
    "context": {"errors", "frozen"},
    "frozen": set(),
    "objects": {"frozen"},
    "printable": set(),
    "logs": {"errors", "printable"},
    "forks": set(),
    "chunks": set(),
    "gather": {"chunks"},
    "threads": {"errors"},
    "checks": {"errors", "objects", "printable"},
    "operations": {"errors", "context", "chunks", "objects"},
    "storage/base": KERNEL,
    "storage": KERNEL | {"storage/base", "storage"},
    "audit": KERNEL,
    "bulk": KERNEL | {"storage/base"},
    "redis": KERNEL,
    "layers": KERNEL | {"storage/base", "bulk", "layers", "audit", "redis"},
    "builder": KERNEL | {"storage/base", "layers"},
    "explain": KERNEL | {"storage/base", "layers"},
    "lifecycle": {"logs"},
}
# Modules of `layers/` that are not layers, for all of them to use.
SHARED_BY_LAYERS = {"base", "copy_error", "deadline", "fields", "outcome", "streams", "transform"}


def part_of(path: str) -> str:
    """Name the part that a file or a dotted module belongs to."""
    path = path.removesuffix(".py").removesuffix("/__init__")
    base = tuple(
        f"storage/{name}" for name in ("base", "context_keyword", "derived", "leaf", "named_methods")
    )
    return "storage/base" if path in base else path.split("/", 1)[0]


def imported(file: str) -> set[str]:
    """Return the modules that a file imports when it runs, at its top or inside a function."""
    nodes: list[ast.AST] = [ast.parse((ROOT / file).read_text())]
    names: set[str] = set()
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        nodes += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively"
            assert node.module is not None
            names.add(node.module)
    return names


def own_imports(file: str) -> set[str]:
    prefix = "starfish_server."
    return {name.removeprefix(prefix).replace(".", "/") for name in imported(file) if name.startswith(prefix)}


@pytest.mark.parametrize("file", FILES)
def test_third_party_packages_are_imported_only_at_home(file: str) -> None:
    for name in imported(file):
        package = name.split(".")[0]
        if package in HOMES:
            assert file.startswith(HOMES[package]), f"{file} imports {name}"
        else:
            assert package in sys.stdlib_module_names | {"starfish_server"}, f"{file} imports {name}"


def test_only_a_safe_logger_logs() -> None:
    """Except in `LoggingSink`, whose errors are those of a sink."""
    direct = [file for file in FILES if "getLogger(" in (ROOT / file).read_text()]
    assert direct == ["audit/sinks.py", "logs.py"]


@pytest.mark.parametrize("file", [file for file in FILES if part_of(file) in ALLOWED])
def test_each_part_imports_only_what_stands_below_it(file: str) -> None:
    part = part_of(file)
    parts = {part_of(module) for module in own_imports(file)}
    assert parts <= ALLOWED[part] | {part}, f"{file} imports {parts - ALLOWED[part] - {part}}"


@pytest.mark.parametrize("file", [f for f in FILES if f.startswith("storage/") and f.count("/") > 1])
def test_leaves_import_no_other_leaf(file: str) -> None:
    leaf = file.split("/")[1]
    for module in own_imports(file):
        if part_of(module) == "storage":
            assert module.split("/")[1] == leaf, f"{file} imports {module}"


@pytest.mark.parametrize("file", [f for f in FILES if f.startswith("layers/") and f != "layers/__init__.py"])
def test_layers_import_no_other_layer(file: str) -> None:
    layer = file.split("/")[1].removesuffix(".py")
    for module in own_imports(file):
        if part_of(module) == "layers":
            assert module.split("/")[1] in SHARED_BY_LAYERS | {layer}, f"{file} imports {module}"


def test_every_operation_is_a_method_of_layers_and_leaves() -> None:
    assert set(OPERATIONS) - vars(AbstractObjectStore).keys() == set()
    assert Layer.__abstractmethods__ == Leaf.__abstractmethods__ == frozenset()


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_calls_its_method_with_all_its_fields(name: str) -> None:
    parameters = inspect.signature(getattr(AbstractObjectStore, name)).parameters
    by_name = {each for each, parameter in parameters.items() if parameter.kind is parameter.KEYWORD_ONLY}
    by_place = [each for each in parameters if each not in by_name]
    calls: list[tuple[tuple[object, ...], dict[str, object]]] = []

    def method(*args: object, **options: object) -> None:
        calls.append((args, options))

    given: dict[str, Any] = {each: [each] for each in parameters if each != "self"}
    given["context"] = StoreContext("profile", {}, "alice", (), "pull")
    operation: Any = OPERATIONS[name](*given.values())
    operation.send(SimpleNamespace(**{name: method}))
    assert calls == [(tuple(given[each] for each in by_place[1:]), {each: given[each] for each in by_name})]


@pytest.mark.parametrize("file", [f for f in FILES if part_of(f) not in {"router", "cli", "__init__"}])
def test_nothing_imports_router_or_command_line(file: str) -> None:
    assert not {part_of(module) for module in own_imports(file)} & {"router", "cli"}


def modules_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sys.modules)"
    command = [sys.executable, "-c", code]
    return set(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())


def third_party(modules: set[str]) -> set[str]:
    return {name.split(".")[0] for name in modules} & set(HOMES)


def test_importing_the_package_imports_nothing_optional() -> None:
    assert third_party(modules_after("import starfish_server")) == set()


def test_importing_the_package_imports_no_leaf_and_nothing_slow_of_the_standard_library() -> None:
    modules = modules_after("import starfish_server") - modules_after("pass")
    slow = {"asyncio", "email", "hashlib", "importlib.metadata", "json", "logging", "threading", "tomllib"}
    assert modules & slow == set()
    leaves = {name for name in modules if name.startswith("starfish_server.storage.")}
    no_leaves = ("base", "context_keyword", "derived", "named_methods")
    assert leaves <= {f"starfish_server.storage.{name}" for name in no_leaves}


def test_the_command_line_works_without_the_packages_of_layers() -> None:
    of_layers = {package for package, homes in HOMES.items() if homes[0].startswith("layers/")}
    assert third_party(modules_after("import starfish_server.cli.app")) & of_layers == set()


@pytest.mark.parametrize(
    ("name", "packages"),
    [
        ("layers.AccessLog", set()),
        ("layers.Authorize", set()),
        ("layers.Caching", {"cachetools"}),
        ("layers.CircuitBreaker", set()),
        ("layers.Compression", set()),
        ("layers.ConcurrencyLimit", set()),
        ("layers.Encryption", {"cryptography"}),
        ("layers.Fallback", set()),
        ("layers.Hedge", set()),
        ("layers.JsonLinesSink", set()),
        ("layers.Metrics", {"opentelemetry"}),
        ("layers.Mirror", set()),
        ("layers.Namespace", set()),
        ("layers.RateLimit", set()),
        ("layers.ReadOnly", set()),
        # redis imports the last two by itself, where they are installed.
        ("layers.RedisCache", {"cachetools", "redis", "cryptography", "opentelemetry"}),
        ("layers.RedisLimits", {"redis", "cryptography", "opentelemetry"}),
        ("layers.Retry", {"tenacity"}),
        ("layers.SizeLimit", set()),
        ("layers.Timeout", set()),
        ("layers.Tracing", {"opentelemetry"}),
        ("layers.Transform", set()),
        ("CustomObjectStore", set()),
        ("FilesystemObjectStore", {"aiofiles"}),
        ("GracefulShutdown", set()),
        ("MemoryObjectStore", set()),
        ("load_stack", set()),
    ],
)
def test_a_name_imports_only_its_own_packages(name: str, packages: set[str]) -> None:
    assert third_party(modules_after(f"import starfish_server.layers; starfish_server.{name}")) <= packages


def test_every_name_of_the_root_is_there_and_listed() -> None:
    assert set(starfish_server.__all__) <= set(dir(starfish_server))
    names: dict[str, object] = {}
    exec("from starfish_server import *", names)
    assert set(starfish_server.__all__) <= set(names)
    assert callable(names["explain"])  # and not the module of that name


def test_the_root_tells_the_version_of_the_distribution() -> None:
    assert metadata.version("starfish-server") == starfish_server.__version__
    assert "__version__" in dir(starfish_server)


def test_names_of_the_router_come_from_the_root_lazily() -> None:
    code = """if True:
        import sys
        import starfish_server
        assert "fastapi" not in sys.modules
        from starfish_server import CollectionConfig, SyncConfig
        assert "fastapi" in sys.modules
        assert all(hasattr(starfish_server, name) for name in starfish_server.__all__)
    """
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_one_layer_imports_no_other_layers_packages() -> None:
    code = "import sys; from starfish_server.layers import Namespace; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    packages = {name.split(".")[0] for name in modules.split()}
    assert packages & {"tenacity", "cachetools", "opentelemetry", "fastapi", "aiobotocore"} == set()
