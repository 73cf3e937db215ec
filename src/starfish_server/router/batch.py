"""`/batch/pull`: several documents in one request, each admitted and pulled as by a request of its own."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

from fastapi import Request, Response  # noqa: TC002 - FastAPI reads the annotations
from pydantic import BaseModel, ConfigDict, Field

from starfish_server.router.auth import PUBLIC, AuthResult
from starfish_server.router.config import JSON_TYPE
from starfish_server.router.documents import MISSING, canonical_json, pulled
from starfish_server.router.requests import (
    accepted_type,
    checked_key,
    parse_body,
    read_body,
    refuse_parameters,
)
from starfish_server.router.responses import (
    BATCH_PULL,
    HTTPError,
    JSONResponse,
    PulledBatch,
    errors,
    logged_error,
    to_json,
)
from starfish_server.router.routes import UNSUPPORTED, DocumentCollection, add_route, described

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from fastapi import APIRouter

    from starfish_server.router.routes import Collection

MAX_DOCUMENTS = 100
MAX_CHARACTERS = 32 * 2**20  # stored, of all documents of one response
_MAX_BODY_BYTES = 2**18
_IN_FLIGHT = 8
_UNSUPPORTED = (*UNSUPPORTED, "appendParams", "checkpoint")
_Name = Annotated[str, Field(min_length=1)]


class BatchRequest(BaseModel):
    """The documents to pull.

    collections: names of collections.
    params: by collection, the values of the fields of its path, for each document of it. `identity` can be
        left out, and then is the caller. A collection without any is one document.
    """

    model_config = ConfigDict(extra="forbid")

    collections: tuple[_Name, ...] = Field(min_length=1)
    params: dict[_Name, tuple[dict[str, str], ...]] = Field(default_factory=dict)

    def documents(self) -> dict[str, tuple[dict[str, str], ...]]:
        """Return by collection the values of each document; raise a 400 for more than `MAX_DOCUMENTS`."""
        whole: tuple[dict[str, str], ...] = ({},)
        asked = dict.fromkeys(self.collections, whole) | self.params
        if sum(map(len, asked.values())) > MAX_DOCUMENTS or len(asked) > MAX_DOCUMENTS:
            raise HTTPError(400, "too_many_documents", f"the limit is {MAX_DOCUMENTS}")
        return asked


@dataclass
class _Pull:
    """One request. `caller` is an error, which was logged, if the caller could not be found."""

    request: Request
    slots: asyncio.Semaphore
    caller: AuthResult | HTTPError = field(default_factory=lambda: HTTPError(401, "unauthorized"))
    characters: int = 0


class BatchPull:
    """The routes of a mount, or of the root, that pull from any of its collections of documents."""

    def __init__(self, collections: Iterable[Collection], namespace: str | None) -> None:
        self._namespace = namespace
        self._collections = {
            collection.config.name: collection
            for collection in collections
            if isinstance(collection, DocumentCollection) and not collection.config.push_only
        }

    def add_to(self, router: APIRouter) -> None:
        """Add `GET` and `POST /batch/pull`."""
        prefix = "" if self._namespace is None else f"{self._namespace}/"
        schema = BatchRequest.model_json_schema()
        responses = described("The documents.", model=PulledBatch) | errors(400, "default")
        names, params = schema["properties"]["collections"], schema["properties"]["params"]
        parameters = [
            {"name": "collections", "in": "query", "required": True, "schema": names, "explode": False},
            {"name": "params", "in": "query", "content": {JSON_TYPE: {"schema": params}}},
        ]
        body = {"required": True, "content": {JSON_TYPE: {"schema": schema}}}
        for method, handler, name, extra, more in (
            ("GET", self.pull_query, "batch_pull", {"parameters": parameters}, {}),
            ("POST", self.pull_body, "post_batch_pull", {"requestBody": body}, errors(413, 415)),
        ):
            add_route(
                router,
                method,
                f"/{prefix}batch/pull",
                handler,
                name=BATCH_PULL,
                operation_id=prefix + name,
                tags=["batch"],
                responses=responses | more,
                openapi_extra=extra,
            )

    async def pull_query(self, request: Request) -> Response:
        """Return the documents that the query names."""
        refuse_parameters(request, _UNSUPPORTED)
        names = [name for name in ",".join(request.query_params.getlist("collections")).split(",") if name]
        if not names:
            raise HTTPError(400, "invalid_collections", "no collection is named")
        params = ",".join(request.query_params.getlist("params")) or "{}"
        try:
            # Checked as the body of a POST would be, duplicate keys and depth included.
            body = f'{{"collections": {canonical_json(names)}, "params": {params}}}'.encode()
            asked = parse_body(body, BatchRequest)
        except HTTPError as error:
            raise HTTPError(400, "invalid_params", error.reason) from None
        return await self._pull(request, asked.documents())

    async def pull_body(self, request: Request) -> Response:
        """Return the documents that the body names, which may be more than fit into a URL."""
        refuse_parameters(request, _UNSUPPORTED)
        accepted_type(request, (JSON_TYPE,))
        asked = parse_body(await read_body(request, _MAX_BODY_BYTES), BatchRequest)
        return await self._pull(request, asked.documents())

    async def _pull(self, request: Request, asked: Mapping[str, Sequence[dict[str, str]]]) -> Response:
        pull = _Pull(request, asyncio.Semaphore(_IN_FLIGHT))
        for name in asked.keys() & self._collections.keys():
            collection = self._collections[name]
            if PUBLIC not in collection.config.read_roles:
                try:  # once, because a resolver may accept the same credentials only once
                    pull.caller = await collection.authenticator.find_caller(request)
                except Exception as error:  # noqa: BLE001 - public collections are pulled nevertheless
                    pull.caller = logged_error(request.scope, error)
                break
        async with asyncio.TaskGroup() as group:
            tasks = {
                name: [group.create_task(self._entry(pull, name, params)) for params in documents]
                for name, documents in asked.items()
            }
        entries = [
            b"%s:[%s]" % (canonical_json(name).encode(), b",".join([task.result() for task in of_name]))
            for name, of_name in tasks.items()
        ]
        content = b'{"collections":{%s}}' % b",".join(entries)
        return JSONResponse(content, headers={"Cache-Control": "private, no-cache"})

    async def _entry(self, pull: _Pull, name: str, params: dict[str, str]) -> bytes:
        """Return a pulled document, or the error of this document alone, as JSON.

        As objects, a document can take twenty times the memory, so not all of them are kept as objects.
        """
        try:
            async with pull.slots:
                return await self._document(pull, name, params)
        except Exception as error:  # noqa: BLE001 - nothing but its code may reach the client
            scope = pull.request.scope
            logged = logged_error({**scope, "path": f"{scope['path']} of {name}"}, error)
            return to_json({"error": logged.code})

    async def _document(self, pull: _Pull, name: str, params: dict[str, str]) -> bytes:
        collection = self._collections.get(name)
        if collection is None:
            raise HTTPError(404, "not_found", "no such collection of documents that can be pulled")
        path, roles = collection.config.path, collection.config.read_roles
        caller = None
        if PUBLIC not in roles:
            if isinstance(pull.caller, HTTPError):
                return to_json({"error": pull.caller.code})
            caller = pull.caller
            if "identity" in path.fields:
                params = {"identity": caller.identity} | params
        context = collection.context("pull", params, roles, caller)
        key = checked_key(path, params)
        stored = await collection.store.get_string(key, context=context)
        if stored is None:
            return MISSING
        pull.characters += len(stored)
        if pull.characters > MAX_CHARACTERS:
            raise HTTPError(413, "too_large", "the response would be too large; pull this document by itself")
        return pulled(stored)[0]
