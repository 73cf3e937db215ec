"""How far this machine's clock is from that of a store's server."""

from __future__ import annotations

import asyncio
import time
import urllib.error
import urllib.request
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from starfish_server.builder import stores_of

if TYPE_CHECKING:
    from starfish_server.storage.base import AbstractObjectStore

_TIMEOUT = 5.0


async def clock_skew(store: AbstractObjectStore) -> float | None:
    """Seconds, to about one, that the server is ahead; None for a store without a server that tells.

    Asked of the leaf's `endpoint`, without credentials: any answer, a refusal too, has a Date.
    """
    *_, leaf = stores_of(store)
    endpoint = getattr(leaf, "endpoint", None)
    return await asyncio.to_thread(_skew_of, endpoint) if isinstance(endpoint, str) else None


def _skew_of(endpoint: str) -> float | None:
    request = urllib.request.Request(endpoint, method="HEAD")  # noqa: S310 - the options allow http(s) alone
    began = time.time()
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as reply:  # noqa: S310 - as above
            date = reply.headers["Date"]
    except urllib.error.HTTPError as error:
        with error:
            date = error.headers["Date"]
    except OSError:
        return None
    # The header has whole seconds: on average it says half a second too little.
    return parsedate_to_datetime(date).timestamp() + 0.5 - (began + time.time()) / 2 if date else None
