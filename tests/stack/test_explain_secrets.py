"""`explain` shows no secret that a layer's settings or a leaf's `repr` hold, whatever their form."""

from __future__ import annotations

from typing import Any

import pytest

from starfish_server import MemoryObjectStore, explain
from starfish_server.layers import Layer


def explained(settings: dict[str, Any]) -> str:
    """Return how `explain` shows these settings of a layer."""

    class Own(Layer):
        def settings(self) -> dict[str, object]:
            return settings

    return explain(Own(MemoryObjectStore(data={}))).splitlines()[0]


@pytest.mark.parametrize(
    "name",
    [
        *("key", "api_key", "api_keys", "encryption_key_id_and_value", "hashKey", "passwd", "db_password"),
        *("pwd", "auth", "Authorization", "authentication", "session_token", "Set-Cookie", "signature"),
        *("private", "hmac"),
    ],
)
@pytest.mark.parametrize("value", ["v4lue", ["v4lue"], {"a": ("v4lue",)}, b"v4lue", 7_654_321])
def test_a_secret_by_its_name_is_masked(name: str, value: object) -> None:
    assert explained({name: value}) == f"Own({name}=***)"
    assert explained({"options": [{name: value}]}) == f"Own(options=[{{{name!r}: ***}}])"


@pytest.mark.parametrize("name", ["record_key", "region", "author", "prefix", "monitor"])
def test_other_settings_are_shown(name: str) -> None:
    assert explained({name: "v4lue"}) == f"Own({name}='v4lue')"


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "text",
    ["key" * 10_000, "a" * 30_000, "://a:" + "1" * 30_000, "key='" * 5_000, "://a:b" * 50_000],
    ids=lambda text: text[:6],
)
def test_a_long_text_does_not_hold_explain(text: str) -> None:
    explained({"text": text})


@pytest.mark.parametrize("value", [True, False, None])
def test_a_switch_is_shown_whatever_its_name(value: object) -> None:
    assert explained({"portable_keys": value}) == f"Own(portable_keys={value!r})"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("redis://u:S3@h:6379/0", "redis://***@h:6379/0"),
        ("redis://:S3@h", "redis://***@h"),
        ("https://S3@h/x", "https://***@h/x"),
        ("redis://u:S3/?#'S3@h", "redis://***@h"),
        ("redis://u:S3@S3/S3@h", "redis://***@h"),
        ("http://127.0.0.1:9000/a@b", "http://127.0.0.1:9000/a@b"),
        ("http://h/x?sig=S3&page=2", "http://h/x?sig=***&page=2"),
        ("https://h/?X-Amz-Signature=S3", "https://h/?X-Amz-Signature=***"),
        ("host=h password=S3 dbname=d", "host=h password=*** dbname=d"),
        ("Authorization: Bearer S3", "Authorization: ***"),
        ("AccountName=a;AccountKey=S3;Suffix=x", "AccountName=a;AccountKey=***;Suffix=x"),
        ("tenants/{namespace}/", "tenants/{namespace}/"),
    ],
)
def test_a_secret_in_a_text_is_masked(text: str, shown: str) -> None:
    assert explained({"url": text}) == f"Own(url={shown!r})"
    assert explained({"urls": (text, [text])}) == f"Own(urls=({shown!r}, [{shown!r}]))"


def test_a_secret_in_the_repr_of_a_part_is_masked() -> None:
    class Options:
        def __repr__(self) -> str:
            return "Options(token='S3 and \\'S3', host='h', headers={'x-api-key': \"S3\"}, use_auth=True)"

    assert explained({"options": Options()}) == (
        "Own(options=Options(token=***, host='h', headers={'x-api-key': ***}, use_auth=True))"
    )


def test_a_secret_in_the_repr_of_a_leaf_is_masked() -> None:
    class Leaf(MemoryObjectStore):
        def __repr__(self) -> str:
            return "Leaf('redis://u:S3@h', password='S3')"

    assert explain(Leaf()).splitlines()[0] == "Leaf('redis://***@h', password=***)"
