"""Twenty clients on four `starfish serve` processes push one document by the protocol: no push is lost."""

from __future__ import annotations

import asyncio
import re
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import httpx
import pytest

from cli.program import running

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from servers import S3Server

SERVERS = 4
CLIENTS = 5  # of each server
PATH = "notes/counter"
SETTINGS = """
[[layer]]
type = "Caching"
ttl = 3600.0

[[layer]]
type = "Retry"

[[layer]]
type = "Timeout"

[[sync.collections]]
name = "notes"
storagePath = "notes/{id}"
readRoles = ["public"]
writeRoles = ["public"]
maxBodyBytes = 10000
"""


def leaf_of(leaf: str, folder: Path, server: S3Server) -> tuple[str, dict[str, str]]:
    """The `[leaf]` of a stack file, and the environment that its variables come from."""
    if leaf == "filesystem":
        return f'type = "filesystem"\nbase_dir = "{folder / "objects"}"\nfsync = false\n', {}
    text = f'type = "s3"\nbucket = "{server.make_bucket()}"\nendpoint = "{server.endpoint}"\n'
    secret = {"COUNTER_SECRET": server.secret_access_key}
    return (
        f'{text}access_key_id = "{server.access_key_id}"\nsecret_access_key = "${{COUNTER_SECRET}}"\n',
        secret,
    )


def address_of(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    for line in process.stderr:
        if address := re.search(r"http://[\d.]+:\d+", line):
            return address[0]
    raise AssertionError("it ended")


async def count(client: httpx.AsyncClient, pushes: int) -> None:
    """Add one, `pushes` times over; begin anew with a pull whenever another client was faster."""
    for _ in range(pushes):
        while True:
            pulled = (await client.get(f"/pull/{PATH}")).raise_for_status().json()
            data = {"count": pulled["data"].get("count", 0) + 1}
            pushed = await client.post(
                f"/push/{PATH}", json={"data": data, "baseHash": pulled["hash"] or None}
            )
            if pushed.status_code == 200:
                break
            assert pushed.status_code in (409, 503), pushed.text


@pytest.mark.timeout(600)
@pytest.mark.parametrize("leaf", ["filesystem", "s3"])
async def test_no_push_is_lost_between_servers(
    leaf: str, tmp_path: Path, seaweedfs: S3Server, full: bool
) -> None:
    pushes = 10 if full else 1
    table, secret = leaf_of(leaf, tmp_path, seaweedfs)
    (tmp_path / "serve.toml").write_text(f"[leaf]\n{table}{SETTINGS}")
    async with AsyncExitStack() as closing:
        processes = [
            closing.enter_context(
                running("serve", "--config", "serve.toml", "--port", "0", cwd=tmp_path, env=secret)
            )
            for _ in range(SERVERS)
        ]
        addresses = [await asyncio.to_thread(address_of, process) for process in processes]
        clients = [
            await closing.enter_async_context(httpx.AsyncClient(base_url=address, timeout=60.0))
            for address in addresses
        ]
        await asyncio.gather(*(count(client, pushes) for client in clients for _ in range(CLIENTS)))
        await count(clients[0], 1)  # so that this server has seen the last of the others
        pulled = (await clients[0].get(f"/pull/{PATH}")).json()
    assert pulled["data"] == {"count": SERVERS * CLIENTS * pushes + 1}
