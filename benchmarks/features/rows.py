"""The rows of the table of features, and the packages that it compares."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Peer:
    """A column: the module with its probes, and the environment that they run in."""

    module: str
    title: str
    environment: str


@dataclass(frozen=True)
class Row:
    """A feature; `name` is that of its probe in the modules of `features/peers`.

    Where a module has no such probe, nothing in the package may be named like `names`, a regular expression.
    """

    name: str
    group: str
    title: str
    tried: str
    names: str
    absent: str = "no"  # the cell where nothing is


PEERS = (
    Peer("ours", "this library", ""),
    Peer("opendal", "OpenDAL", "shared"),
    Peer("obstore", "obstore", "shared"),
    Peer("py_key_value", "py-key-value", "shared"),
    Peer("s3fs", "fsspec, s3fs", "shared"),
    Peer("starfish_2_3", "starfish-server 2.3", "starfish"),
)

ROWS = (
    Row(
        "retries",
        "failures",
        "retries of transient failures",
        "The first two replies to a read are 503.",
        "retr(y|ies)",
    ),
    Row(
        "resume",
        "",
        "a broken read resumes where it broke",
        "The connection breaks after 1 MiB of 4 MiB; the next request asks for the rest.",
        "range|offset|resume",
    ),
    Row(
        "timeout",
        "",
        "time limit for each attempt",
        "The first reply never comes, and the second does.",
        "timeout",
    ),
    Row("breaker", "", "circuit breaker", "After some failures nothing is sent any more.", "breaker"),
    Row("hedge", "", "hedged reads", "The first request hangs; a second one answers meanwhile.", "hedg"),
    Row(
        "fallback",
        "",
        "reads from a backup in an outage",
        "The first store is down, the second has the object.",
        "fallback|failover|backup",
    ),
    Row("mirror", "", "writes to replicas", "One write arrives in two stores.", "mirror|replica"),
    Row(
        "concurrency",
        "limits",
        "limit of concurrent requests",
        "Six reads at once under a limit of two.",
        "concurren|in_flight|semaphore",
    ),
    Row(
        "rate",
        "",
        "rate limit per tenant",
        "Three calls of one tenant and one of another, with two allowed.",
        "rate_?limit|throttl",
    ),
    Row(
        "tenants",
        "tenants",
        "key prefix per tenant, chosen per call",
        "Two tenants put the same key through one store, and each reads its own.",
        "tenant|namespace|prefix",
    ),
    Row(
        "audit",
        "",
        "audit record with the identity",
        "A write and a read leave records that name the caller.",
        "audit|access_?log",
    ),
    Row("tracing", "", "OpenTelemetry spans", "A read makes a span.", "opentelemetry|otel|tracer|tracing"),
    Row(
        "cache",
        "bodies",
        "read cache, coherent with own writes",
        "Read, write, read: the second one is new.",
        "cach(e|ing)",
    ),
    Row(
        "encryption",
        "",
        "client-side encryption, bound to the key",
        "What is stored is not readable, and is refused under another key.",
        "encrypt|cipher",
    ),
    Row(
        "compression",
        "",
        "compression",
        "A compressible body takes less than half of its size in the store.",
        "compress|gzip|zstd",
    ),
    Row("ranges", "", "range reads", "64 bytes of 4 MiB; the request has a Range header.", "range|offset"),
    Row(
        "streams",
        "",
        "streams both ways in bounded memory",
        "192 MiB are written and read in chunks with less than 96 MiB more memory.",
        "stream|chunk",
    ),
    Row(
        "create",
        "objects",
        "create only if absent",
        "Of eight concurrent creates of one key, one succeeds.",
        "^if_|_if_|not_exist|exclusive|^mode$",
    ),
    Row(
        "update",
        "",
        "write only over a known version",
        "Of eight concurrent updates of one version, one succeeds.",
        "^if_|e_?tag|version",
    ),
    Row(
        "listing",
        "",
        "lists in byte order, starting after a key",
        "On S3 a.b and a0 follow a-b; on files a.b, a/b and a0 do.",
        "start_after|offset|cursor",
    ),
    Row(
        "signed_url",
        "",
        "signed URLs",
        "The URL gives the object to a client without credentials.",
        "signed_?url|presign|^sign$",
    ),
    Row(
        "wrapping",
        "composition",
        "wrapping keeps what the store can do",
        "List, read a range and create only if absent through two wrappers or layers.",
        "layer|wrapper",
        "no layers",
    ),
    Row(
        "order",
        "",
        "a harmful order of layers refused",
        "Two layers are put together so that one undoes or doubles the other.",
        "layer|wrapper",
        "no layers",
    ),
    Row(
        "own_leaf",
        "",
        "own backend in Python",
        "A class over a dict, with the methods that it needs, is used.",
        "",
    ),
    Row("interface", "", "interface", "Bytes are stored and read through each kind of call.", ""),
    Row(
        "backends",
        "",
        "backends included",
        "Counted in the installed package; many need others.",
        "",
    ),
)
