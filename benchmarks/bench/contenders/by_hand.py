"""The floor of S3: requests signed by hand over one aiohttp session, replies read as they come."""

from __future__ import annotations

import asyncio
import base64
import functools
import hashlib
import hmac
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit
from xml.etree import ElementTree as ET

import aiohttp
from yarl import URL

from bench.objects import REGION, Bucket, Folder, Objects

if TYPE_CHECKING:
    from collections.abc import Mapping

BATCH = 1000
NOTHING = hashlib.sha256(b"").hexdigest()
NAMESPACE = "{http://s3.amazonaws.com/doc/2006-03-01/}"


async def open_objects(place: Bucket | Folder) -> Objects:
    if isinstance(place, Folder):
        raise NotImplementedError("the floor of files is in system_calls.py")
    connector = aiohttp.TCPConnector(limit=place.connections)
    session = aiohttp.ClientSession(connector=connector, auto_decompress=False)
    requests = SignedRequests(place, session)
    return Objects(
        get=requests.get,
        put=requests.put,
        read=requests.read,
        stat=requests.stat,
        get_bytes=requests.get,
        put_bytes=requests.put,
        list_all=requests.list_all,
        delete_many=requests.delete_many,
        close=session.close,
    )


class SignedRequests:
    """Requests to one bucket by AWS Signature Version 4, as the specification describes it."""

    def __init__(self, bucket: Bucket, session: aiohttp.ClientSession) -> None:
        self._bucket = bucket
        self._session = session
        self._host = urlsplit(bucket.endpoint).netloc
        self._signing_key = functools.lru_cache(1)(self._key_of_the_day)

    async def get(self, key: str) -> bytes:
        return await self._send("GET", key)

    async def put(self, key: str, body: bytes) -> None:
        await self._send("PUT", key, body=body)

    async def read(self, key: str, start: int, stop: int) -> bytes:
        return await self._send("GET", key, extra={"Range": f"bytes={start}-{stop - 1}"})

    async def stat(self, key: str) -> int:
        url, headers = self._request("HEAD", key)
        async with self._session.head(url, headers=headers) as reply:
            return int(reply.headers["Content-Length"])

    async def list_all(self, prefix: str) -> int:
        query = {"list-type": "2", "prefix": prefix}
        keys: list[str] = []
        while True:
            page = ET.fromstring(await self._send("GET", "", query))
            keys += [element.text or "" for element in page.iter(f"{NAMESPACE}Key")]
            token = page.findtext(f"{NAMESPACE}NextContinuationToken")
            if not token:
                return len(keys)
            query["continuation-token"] = token

    async def delete_many(self, keys: list[str]) -> None:
        batches = (keys[start : start + BATCH] for start in range(0, len(keys), BATCH))
        await asyncio.gather(*map(self._delete_batch, batches))

    async def _delete_batch(self, keys: list[str]) -> None:
        objects = "".join(f"<Object><Key>{key}</Key></Object>" for key in keys)
        body = f"<Delete><Quiet>true</Quiet>{objects}</Delete>".encode()
        md5 = base64.b64encode(hashlib.md5(body).digest()).decode()
        reply = await self._send("POST", "", {"delete": ""}, body, {"Content-MD5": md5})
        assert b"<Error>" not in reply

    async def _send(
        self,
        method: str,
        key: str,
        query: Mapping[str, str] | None = None,
        body: bytes = b"",
        extra: Mapping[str, str] | None = None,
    ) -> bytes:
        url, headers = self._request(method, key, query, body)
        headers |= extra or {}
        async with self._session.request(method, url, data=body or None, headers=headers) as reply:
            content = await reply.read()
        if reply.status >= 300:
            raise RuntimeError(f"{method} {url} answered {reply.status}: {content[:500]!r}")
        return content

    def _request(
        self, method: str, key: str, query: Mapping[str, str] | None = None, body: bytes = b""
    ) -> tuple[URL, dict[str, str]]:
        """Return the URL and the signed headers."""
        path = quote(f"/{self._bucket.name}/{key}" if key else f"/{self._bucket.name}", "/-_.~")
        search = "&".join(f"{n}={quote(v, '-_.~')}" for n, v in sorted(query.items())) if query else ""
        url = URL(f"{self._bucket.endpoint}{path}{'?' if search else ''}{search}", encoded=True)
        return url, self._signed(method, path, search, body)

    def _signed(self, method: str, path: str, search: str, body: bytes) -> dict[str, str]:
        payload = hashlib.sha256(body).hexdigest() if body else NOTHING
        time = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        day = time[:8]
        names = "host;x-amz-content-sha256;x-amz-date"
        canonical = (
            f"{method}\n{path}\n{search}\nhost:{self._host}\nx-amz-content-sha256:{payload}\n"
            f"x-amz-date:{time}\n\n{names}\n{payload}"
        )
        scope = f"{day}/{REGION}/s3/aws4_request"
        text = f"AWS4-HMAC-SHA256\n{time}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        signature = hmac.digest(self._signing_key(day), text.encode(), "sha256").hex()
        credential = f"{self._bucket.access_key_id}/{scope}"
        return {
            "x-amz-content-sha256": payload,
            "x-amz-date": time,
            "Authorization": (
                f"AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={names}, Signature={signature}"
            ),
        }

    def _key_of_the_day(self, day: str) -> bytes:
        key = f"AWS4{self._bucket.secret_access_key}".encode()
        for part in (day, REGION, "s3", "aws4_request"):
            key = hmac.digest(key, part.encode(), "sha256")
        return key
