"""The dependency directions of the package, read from its imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import starfish_server

ROOT = Path(starfish_server.__file__).parent
GATHERING = {"builder.py", "stack_file.py"}
THIRD_PARTY_HOMES = {
    "aiobotocore": ("storage/",),
    "botocore": ("storage/",),
    "aiohttp": ("storage/",),
    "yarl": ("storage/",),
    "aiofiles": ("storage/",),
    "opentelemetry": ("layers/tracing.py", "layers/metrics.py"),
    "tenacity": ("layers/retry/",),
    "cachetools": ("layers/caching/",),
    "fastapi": ("router/",),
    "starlette": ("router/",),
    "pydantic": ("router/",),
    "typer": ("cli/",),
    "rich": ("cli/",),
    "uvicorn": ("cli/",),
}
# Modules of `layers/` that are no layer, for all of them to use.
SHARED_BY_LAYERS = {
    *("base", "fields", "operations", "outcome", "printable", "record", "rethrow"),
}
FILES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))


def imported(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text())
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def own_imports(file: str) -> list[list[str]]:
    return [name.split(".")[1:] for name in imported(file) if name.startswith("starfish_server.")]


def is_public_leaf(file: str) -> bool:
    return file.startswith("storage/") and not file.endswith("__init__.py")


@pytest.mark.parametrize("file", FILES)
def test_third_party_packages_are_imported_only_at_home(file: str) -> None:
    for name in imported(file):
        package = name.split(".")[0]
        if package in THIRD_PARTY_HOMES:
            assert file.startswith(THIRD_PARTY_HOMES[package]), f"{file} imports {name}"
        else:
            assert package in sys.stdlib_module_names | {"starfish_server"}, f"{file} imports {name}"


@pytest.mark.parametrize("file", [file for file in FILES if is_public_leaf(file)])
def test_leaves_import_only_errors_options_and_other_storage(file: str) -> None:
    assert {parts[0] for parts in own_imports(file)} <= {"errors", "options", "storage"}


@pytest.mark.parametrize("file", ["errors.py", "options.py"])
def test_errors_and_options_import_nothing_of_the_package(file: str) -> None:
    assert own_imports(file) == []


@pytest.mark.parametrize("file", [f for f in FILES if f.startswith("layers/") and f != "layers/__init__.py"])
def test_layers_import_no_leaf_and_no_other_layer(file: str) -> None:
    layer = file.split("/")[1].removesuffix(".py")
    for parts in own_imports(file):
        match parts:
            case ["errors" | "options", *_] | ["storage", "base" | "checks" | "request_ids", *_]:
                pass
            case ["layers", module, *_]:
                assert module in SHARED_BY_LAYERS | {layer}, f"{file} imports layers.{module}"
            case _:
                pytest.fail(f"{file} imports {'.'.join(parts)}")


@pytest.mark.parametrize("module", sorted(SHARED_BY_LAYERS))
def test_what_layers_share_imports_no_layer(module: str) -> None:
    imports = own_imports(f"layers/{module}.py")
    assert {parts[1] for parts in imports if parts[0] == "layers"} <= SHARED_BY_LAYERS


@pytest.mark.parametrize("file", [f for f in FILES if not f.startswith(("router/", "cli/", "__init__"))])
def test_nothing_imports_router_or_command_line(file: str) -> None:
    assert not {parts[0] for parts in own_imports(file)} & {"router", "cli"}


@pytest.mark.parametrize("file", [f for f in FILES if "__init__" not in f and f not in GATHERING])
def test_only_the_builder_gathers_layers_and_leaves(file: str) -> None:
    if file.startswith(("router/", "cli/", "testing/")):
        return
    homes = {parts[0] for parts in own_imports(file)} & {"layers", "storage"}
    if homes == {"layers", "storage"}:
        shared = {"base", "checks", "request_ids"}
        leaves = [p for p in own_imports(file) if p[0] == "storage" and p[1] not in shared]
        assert leaves == [], f"{file} imports leaves and layers"


def modules_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sys.modules)"
    command = [sys.executable, "-c", code]
    return set(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())


def third_party(modules: set[str]) -> set[str]:
    return {name.split(".")[0] for name in modules} & set(THIRD_PARTY_HOMES)


def test_importing_the_package_imports_nothing_optional() -> None:
    assert third_party(modules_after("import starfish_server")) == set()


def test_importing_the_package_imports_no_leaf_and_nothing_slow_of_the_standard_library() -> None:
    modules = modules_after("import starfish_server") - modules_after("pass")
    slow = {"asyncio", "email", "hashlib", "importlib.metadata", "json", "logging", "threading", "tomllib"}
    assert modules & slow == set()
    own = {name for name in modules if name.startswith("starfish_server.")}
    assert own == {
        f"starfish_server.{name}"
        for name in (
            *("builder", "errors", "explain", "storage", "storage.base"),
            *("layers", "layers.base", "layers.operations", "layers.record"),
        )
    }


@pytest.mark.parametrize(
    ("name", "packages"),
    [
        ("layers.AccessLog", set()),
        ("layers.Authorize", set()),
        ("layers.Caching", {"cachetools"}),
        ("layers.ConcurrencyLimit", set()),
        ("layers.JsonLinesSink", set()),
        ("layers.Metrics", {"opentelemetry"}),
        ("layers.Namespace", set()),
        ("layers.ReadOnly", set()),
        ("layers.Retry", {"tenacity"}),
        ("layers.SizeLimit", set()),
        ("layers.Timeout", set()),
        ("layers.Tracing", {"opentelemetry"}),
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
