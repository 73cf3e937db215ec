"""Two clients of the public SDK share a document. Runs in the SDK's environment, with a URL and a token."""

import asyncio
import json
import sys

import httpx
from starfish_sdk import ConflictError, StarfishClient, SyncManager
from starfish_sdk.config import fetch_server_config


def both(mine: dict[str, object], theirs: dict[str, object]) -> dict[str, object]:
    return theirs | mine


async def main(url: str, token: str) -> dict[str, object]:
    # The one way to send a bearer token that every version of the SDK has.
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(headers=headers, timeout=None) as http:
        client = StarfishClient(url, client=http)
        paths = ("/pull/notes/alice", "/push/notes/alice")
        phone, laptop = SyncManager(client, *paths, on_conflict=both), SyncManager(client, *paths)
        seen: dict[str, object] = {"empty": (await phone.pull()).data}
        first = await phone.push({"title": "on the phone", "tags": ["a"]})
        seen["pulled"] = (await laptop.pull()).data
        await laptop.push({**laptop.data, "city": "Bonn"})
        await phone.push({**phone.data, "title": "again on the phone"})  # on a base that is replaced by now
        await laptop.pull()
        seen["resolved"] = [laptop.data, phone.data, laptop.hash == phone.hash]
        try:
            await client.push(paths[1], {"title": "too late"}, first["hash"])
        except ConflictError as error:
            seen["conflict"] = json.loads(str(error).partition(": ")[2])
        seen["current"] = (await client.pull(paths[0])).hash
        config = await fetch_server_config(url, headers)
        seen["config"] = [(one.name, one.max_body_bytes) for one in config.collections]
        if hasattr(client, "batch_pull"):
            seen["batch"] = await client.batch_pull(["notes"], params={"notes": [{}, {"identity": "bob"}]})
    return seen


sys.stdout.write(json.dumps(asyncio.run(main(*sys.argv[1:]))))
