"""What the OpenAPI document says of each route: parameters, bodies, and every status it may answer with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starfish_server.router.config import JSON_TYPE
from starfish_server.router.listing import DEFAULT_LIMIT, MAX_LIMIT
from starfish_server.router.query import MAX_SAFE_INTEGER
from starfish_server.router.wire import (
    ErrorAnswer,
    Listing,
    PulledDocument,
    PushedBlob,
    PushedDocument,
    PushRequest,
)

if TYPE_CHECKING:
    from starfish_server.router.config import CollectionConfig

_SEGMENT_SCHEMA = {"type": "string", "maxLength": 255, "pattern": r"^(?!\.{1,2}$)[A-Za-z0-9._:@-]+$"}
_BYTES_SCHEMA = {"type": "string", "format": "binary"}
_ERRORS = {
    400: "A bad path segment, parameter or body.",
    401: "The caller is not known.",
    403: "The caller, or the server at its store, may not do this.",
    404: "There is no such blob.",
    409: "`baseHash` is not the current hash; or the key is in the way of another.",
    413: "The body is over the collection's limit.",
    415: "The collection does not take this type.",
    500: "The server failed.",
    503: "The store or the role resolver cannot answer now.",
    504: "The store did not answer in time; a push may or may not have been done.",
}
_EVERYWHERE = (400, 401, 403, 500, 503, 504)


class Described:
    """The `openapi` arguments of a route: `responses` and `openapi_extra`."""

    def __init__(
        self,
        ok: dict[str, Any],
        errors: tuple[int, ...],
        parameters: list[dict[str, Any]],
        body: dict[str, Any] | None = None,
        *,
        conditional: bool = False,
    ) -> None:
        self.responses: dict[int | str, dict[str, Any]] = {200: ok}
        if conditional:
            self.responses[304] = {"description": "`If-None-Match` holds the current `ETag`."}
        for status in sorted((*_EVERYWHERE, *errors)):
            self.responses[status] = {"model": ErrorAnswer, "description": _ERRORS[status]}
        self.extra: dict[str, Any] = {"parameters": parameters}
        if body is not None:
            self.extra["requestBody"] = {"required": True, "content": body}

    @property
    def statuses(self) -> frozenset[int]:
        """Every status that the route may answer with."""
        return frozenset(int(status) for status in self.responses)


def describe_pull(config: CollectionConfig) -> Described:
    """A pull of this collection."""
    parameters = [*_path(config.path.fields), _parameter("If-None-Match", {"type": "string"}, place="header")]
    if not config.holds_documents:
        ok = {"description": "The bytes, with the type they were pushed with.", "content": _blob(config)}
        return Described(ok, (404,), parameters, conditional=True)
    checkpoint = {"type": "integer", "minimum": 0, "maximum": MAX_SAFE_INTEGER, "default": 0}
    parameters.append(_parameter("checkpoint", checkpoint))
    return Described(
        {"model": PulledDocument, "description": "The document."}, (), parameters, conditional=True
    )


def describe_push(config: CollectionConfig) -> Described:
    """A push to this collection."""
    parameters = _path(config.path.fields)
    if not config.holds_documents:
        ok = {"model": PushedBlob, "description": "Stored."}
        return Described(ok, (409, 413, 415), parameters, _blob(config))
    body = {JSON_TYPE: {"schema": PushRequest.model_json_schema()}}
    ok = {"model": PushedDocument, "description": "Stored."}
    return Described(ok, (409, 413, 415), parameters, body)


def describe_list(config: CollectionConfig) -> Described:
    """A list of this collection."""
    limit = {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT}
    after = {"type": "string", "maxLength": 255, "pattern": r"^(?!\.{1,2}$)[A-Za-z0-9._:@-]*$"}
    parameters = [
        *_path(config.path.parent_fields),
        _parameter("limit", limit),
        _parameter("after", after),
    ]
    return Described({"model": Listing, "description": "One page of names."}, (), parameters)


def _path(fields: tuple[str, ...]) -> list[dict[str, Any]]:
    return [_parameter(field, _SEGMENT_SCHEMA, place="path") for field in fields]


def _parameter(name: str, schema: dict[str, Any], *, place: str = "query") -> dict[str, Any]:
    return {"name": name, "in": place, "required": place == "path", "schema": schema}


def _blob(config: CollectionConfig) -> dict[str, Any]:
    return {media_range: {"schema": _BYTES_SCHEMA} for media_range in config.allowed_mime_types}
