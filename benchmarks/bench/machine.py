"""On what a run was made: machine, file system, Python and versions."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from bench.registry import NEWEST, ROOT, python_of

if TYPE_CHECKING:
    from collections.abc import Sequence

PEERS = (
    "starfish-server",
    "obstore",
    "opendal",
    "aiobotocore",
    "s3fs",
    "py-key-value-aio",
    "aiohttp",
    "zarr",
    "pyarrow",
)
_VERSIONS = """if True:
    import importlib.metadata, json, sys
    names = {each.name.lower(): each.version for each in importlib.metadata.distributions()}
    print(json.dumps({name: names[name] for name in sys.argv[1:] if name in names}))
"""


def describe(folder: str) -> dict[str, str]:
    """Facts to print above the figures; `folder` is where files are written."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": _commit(),
        "CPU": f"{_cpu_model()}, {len(os.sched_getaffinity(0))} cores",
        "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "file system": _file_system(folder),
        "load before the run": f"{os.getloadavg()[0]:.2f}",
        "Python": platform.python_version(),
        "newest Python": _newest(),
        "peers": _peers(),
    }


def spin() -> float:
    """Return the seconds that a fixed amount of work takes, which grow when the machine does other work."""
    started = time.perf_counter()
    for _ in range(3_000_000):
        pass
    return time.perf_counter() - started


def noise_of(spins: Sequence[float]) -> str:
    """Return what spins before, between and after rows say about the machine."""
    milliseconds = [each * 1e3 for each in spins]
    return (
        f"{milliseconds[0]:.0f} ms before, {milliseconds[-1]:.0f} ms after, "
        f"{min(milliseconds):.0f} to {max(milliseconds):.0f} ms in all, median {median(milliseconds):.0f} ms"
    )


def _cpu_model() -> str:
    found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    return found[1] if found else platform.machine()


def _commit() -> str:
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    found = subprocess.run(command, check=False, capture_output=True, text=True)
    return found.stdout.strip() or "unknown"


def _file_system(folder: str) -> str:
    """Type of the mount that holds the folder, and whether it keeps content types as extended attributes."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    path = os.path.realpath(folder)
    below = [mount for mount in mounts if path == mount[1] or path.startswith(mount[1].rstrip("/") + "/")]
    kind = max(below, key=lambda mount: len(mount[1]))[2]
    try:
        os.setxattr(folder, "user.bench", b"1")
    except OSError:
        return f"{kind}, without extended attributes"
    return f"{kind}, with extended attributes"


def _newest() -> str:
    python = python_of(NEWEST)
    if python is None:
        return "not installed"
    return subprocess.run([python, "--version"], check=True, capture_output=True, text=True).stdout.split()[1]


def _peers() -> str:
    found: dict[str, str] = {}
    for python in sorted((ROOT / ".venv-peers").glob("*/bin/python")):
        if str(python) == python_of(NEWEST):
            continue
        command = [str(python), "-c", _VERSIONS, *PEERS]
        answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found |= dict(re.findall(r'"([^"]+)": "([^"]+)"', answer))
    return ", ".join(f"{name} {version}" for name, version in sorted(found.items())) or "none installed"
