"""`make release-check`: everything that must pass before a release, part by part, and a summary. CI runs it.

All tests run on the Python of `.venv`. Each other Python of the machine, the lowest versions of the
dependencies, and uvloop get those that may differ there. The parts that are named as arguments run alone. The
environment variable TESTS selects what pytest runs in them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from docs.snippets import ROOT, first_example

if TYPE_CHECKING:
    from collections.abc import Callable

ENVIRONMENTS = ROOT / ".venv-release"
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
OWN = f"{sys.version_info.major}.{sys.version_info.minor}"
# What depends neither on the Python nor on the versions of dependencies: processes that are killed and race,
# the public package, packaging, figures and texts.
ONCE = (
    "tests/cli/test_page.py",
    "tests/docs/test_api_page.py",
    "tests/docs/test_deploy.py",
    "tests/docs/test_features.py",
    "tests/docs/test_figures.py",
    "tests/docs/test_logging_page.py",
    "tests/docs/test_reference.py",
    "tests/docs/test_scale_page.py",
    "tests/docs/test_site.py",
    "tests/docs/test_tables.py",
    "tests/public",
    "tests/reliability/test_lost_updates.py",
    "tests/reliability/test_lost_updates_over_http.py",
    "tests/reliability/test_mirror.py",
    "tests/reliability/test_one_creator.py",
    "tests/reliability/test_shared_cache_races.py",
    "tests/reliability/test_soak.py",
    "tests/reliability/test_tampering.py",
    "tests/storage/test_filesystem_crash.py",
    "tests/test_demo.py",
    "tests/test_package.py",
    "tests/typing",
)
_DEVELOPMENT = f"{ROOT / 'pyproject.toml'}:dev"


def parts() -> dict[str, Callable[[], None]]:
    """Return each part's name and check."""
    found = {version: python for version in PYTHONS if (python := find_python(version))}
    others = {version: python for version, python in found.items() if version != OWN}
    return {
        "test": partial(run, "make", "test"),
        "docs": partial(run, "make", "docs"),
        "package": check_package,
        **{f"python{version}": partial(check_python, version, python) for version, python in others.items()},
        "lowest": partial(check_lowest, found.get(PYTHONS[0], sys.executable)),
        "uvloop": partial(run_tests, sys.executable, "--uvloop"),
    }


def find_python(version: str) -> str | None:
    """Return the program that is this version of Python: one on the path that runs, or one of pyenv's."""
    pyenv = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser() / "versions"
    for program in (shutil.which(f"python{version}"), *map(str, pyenv.glob(f"{version}.*/bin/python"))):
        # A shim of pyenv is on the path for versions that are not enabled, too.
        if program and subprocess.run([program, "-c", ""], capture_output=True).returncode == 0:
            return program
    return None


def check_package() -> None:
    """Install the wheel and the sdist in new environments and run the README's first example there."""
    script, expected = first_example()
    with tempfile.TemporaryDirectory() as folder:
        run(sys.executable, "-m", "hatchling", "build", "-d", folder)
        (wheel,), (sdist,) = Path(folder).glob("*.whl"), Path(folder).glob("*.tar.gz")
        bare = make_environment("bare", sys.executable, str(wheel))
        run(bare, "-c", "import starfish_server.layers, starfish_server.testing", cwd=folder)
        for name, package in (("sdist", sdist), ("wheel", wheel)):
            python = make_environment(name, sys.executable, f"{package}[all]")
            printed = subprocess.check_output([python, "-c", script], cwd=folder, text=True)
            if printed != expected:
                raise ValueError(f"the README's first example printed {printed!r}, not {expected!r}")
            run(python.with_name("starfish"), "doctor", "memory:", cwd=folder)


def check_python(version: str, program: str) -> None:
    """Run the tests on another Python, in an environment of its own."""
    run_tests(make_environment(version, program, "--editable", f"{ROOT}[all]", "--group", _DEVELOPMENT))


def check_lowest(program: str) -> None:
    """Run the tests with the lowest version of each run-time dependency that pyproject.toml allows.

    Without the extra `metrics`, whose FastAPI needs later versions of what the others need.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {
        name: lines
        for name, lines in project["optional-dependencies"].items()
        if name not in ("all", "metrics")
    }
    requirements = project["dependencies"] + [line for lines in extras.values() for line in lines]
    ENVIRONMENTS.mkdir(exist_ok=True)
    lowest = ENVIRONMENTS / "lowest.txt"
    lowest.write_text("".join(f"{line.replace('>=', '==', 1)}\n" for line in requirements))
    packages = ("--editable", f"{ROOT}[{','.join(extras)}]", "--group", _DEVELOPMENT)
    run_tests(make_environment("lowest", program, *packages, "--constraint", str(lowest)))


def run_tests(python: str | Path, *options: str) -> None:
    """Run the tests of this folder, without `benchmarks` and those of `ONCE`."""
    left_out = [f"--ignore={path}" for path in ONCE]
    tests = os.environ.get("TESTS", "tests").split()
    run(python, "-m", "pytest", "--numprocesses", "2", "--dist", "loadfile", *left_out, *options, *tests)


def make_environment(name: str, program: str, *packages: str) -> Path:
    """Make a new environment with these packages and return its Python."""
    run(program, "-m", "venv", "--clear", ENVIRONMENTS / name)
    python = ENVIRONMENTS / name / "bin" / "python"
    pip = (python, "-m", "pip", "--quiet", "--disable-pip-version-check", "install")
    run(*pip, "--upgrade", "pip>=25.1")
    run(*pip, *packages)
    return python


def run(*command: str | Path, cwd: str | Path = ROOT) -> None:
    print("+", *command, flush=True)
    subprocess.run(command, cwd=cwd, check=True)


def main(names: list[str]) -> int:
    """Run the parts, all of them by default; return 1 if one failed."""
    known = parts()
    if unknown := set(names) - set(known):
        print(f"no such part: {', '.join(unknown)}; there are {', '.join(known)}", file=sys.stderr)
        return 2
    outcomes = []
    for name in names or known:
        began = time.monotonic()
        try:
            known[name]()
            outcome = "passed"
        except (subprocess.CalledProcessError, ValueError) as error:
            outcome = f"FAILED: {error}"
        outcomes.append((name, time.monotonic() - began, outcome))
    for name, seconds, outcome in outcomes:
        print(f"{name:12} {seconds:6.0f} s  {outcome}")
    for version in PYTHONS:
        if version != OWN and f"python{version}" not in known:
            print(f"{f'python{version}':12} skipped   not on this machine")
    return int(any(outcome != "passed" for _, _, outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
