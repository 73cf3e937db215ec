"""What travels: the bodies of requests and answers, for reading them and for the OpenAPI document."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel


class _Wire(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel)


class PushRequest(_Wire):
    """A document to store in place of the one whose hash is `baseHash`.

    `baseHash` is null, or empty, where there is none yet.
    """

    data: dict[str, object]
    base_hash: str | None = None
    author_signature: str | None = None


class _Answer(_Wire):
    model_config = ConfigDict(populate_by_name=True)


class PulledDocument(_Answer):
    """A document, or the part of it that changed after the checkpoint. `hash` is that of the whole document,
    and empty if there is none. `timestamp` is the next checkpoint.
    """

    data: dict[str, object]
    hash: str
    timestamp: int
    author_pubkey: str | None = None
    author_signature: str | None = None


class PushedDocument(_Answer):
    """What a document is now. `timestamp` is the next checkpoint."""

    hash: str
    timestamp: int


class PushedBlob(_Answer):
    """The SHA-256 of the stored bytes, in hexadecimal."""

    hash: str


class Listing(_Answer):
    """Names in key order; `hasMore` says that the next page begins after the last of them."""

    items: list[str]
    has_more: bool


class Health(_Answer):
    """The process answers. `ts`: its clock, in milliseconds since 1970."""

    ok: bool = True
    ts: int


class ErrorAnswer(_Answer):
    """Why a request was not served: a short code, such as "hash_mismatch"."""

    error: str = Field(examples=["hash_mismatch"])
