"""Bodies of pushes that are read the fast way mean the same as read the strict way."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from router.application import pushed
from starfish_server.router.requests import PushRequest, parse_body, parse_push
from starfish_server.router.responses import HTTPError

if TYPE_CHECKING:
    from collections.abc import Callable

_SPACE = st.sampled_from(["", "", "", " ", "\n", "\t"])
_TEXT = st.text(st.sampled_from('ab:"\\/ é\u2028🐟\x7f\x1f,{}u0'), max_size=4)
_STRING = st.builds(lambda text, ascii_: json.dumps(text, ensure_ascii=ascii_), _TEXT, st.booleans())
_KEY = st.one_of(_STRING, st.sampled_from(['"a"', '"\\u0061"', '"data"', '"__proto__"']))
_NUMBER = st.one_of(
    st.integers().map(str),
    st.floats(allow_nan=False).map(repr),
    st.integers(290, 400).map(lambda digits: "9" * digits),
    st.sampled_from(
        ["-0", "-0.0", "0e5", "1E5", "1e-999", "1e999", "-1e999", "01", "1.", ".5", "NaN", "-Infinity"]
    ),
    st.sampled_from(
        ["5e-324", "2.2250738585072011e-308", "0.1", "9007199254740993", "1e23", "18446744073709551616"]
    ),
)
_LEAF = st.one_of(_STRING, _NUMBER, st.sampled_from(["true", "false", "null"]))


def _of(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Return arrays, and objects in which a key may stand twice."""
    pair = st.builds(
        lambda key, before, after, value: key + before + ":" + after + value, _KEY, _SPACE, _SPACE, inner
    )
    return st.one_of(
        st.lists(inner, max_size=3).map(lambda values: f"[{','.join(values)}]"),
        st.lists(pair, max_size=3).map(lambda pairs: f"{{{','.join(pairs)}}}"),
    )


_VALUE = st.recursive(_LEAF, _of, max_leaves=8)
_BASE = st.one_of(st.just("null"), _STRING, _NUMBER)
_BODY = st.one_of(
    st.builds('{{"data":{{"k":{}}},"baseHash":{}}}'.format, _VALUE, _BASE),
    st.builds('{{"data": {}, "authorSignature": {}, "baseHash":{}}}'.format, _of(_VALUE), _STRING, _BASE),
    st.builds('{{"baseHash":null,"data":{},{}:{}}}'.format, _of(_VALUE), _KEY, _VALUE),
)


def outcome(parse: Callable[[bytes], PushRequest], body: bytes) -> object:
    try:
        found = parse(body)
    except HTTPError as error:
        return error.status, error.code, error.reason
    # As text: 1 == 1.0 and 0.0 == -0.0.
    return repr(found.data), found.base_hash, found.author_signature, found.hash


def strictly(body: bytes) -> PushRequest:
    return parse_body(body, PushRequest)


@settings(max_examples=500, deadline=None, derandomize=True)
@given(_BODY)
@example('{"data":{"a":{"b":1},"a":{"b":1}},"baseHash":null}')
@example('{"data":{"a":"\\"","a":"x"},"baseHash":"\\""}')
@example('{"data":{"a":1,"a":"\\u0022\\u0022"},"baseHash":null}')
@example('{"data":{"a":%s},"baseHash":null}' % ("9" * 309))
def test_both_ways_agree(body: str) -> None:
    assert outcome(parse_push, body.encode()) == outcome(strictly, body.encode())


@settings(max_examples=500, deadline=None, derandomize=True)
@given(_BODY, st.integers(0, 400), st.binary(max_size=2))
def test_both_ways_agree_about_damaged_bodies(body: str, place: int, instead: bytes) -> None:
    damaged = body.encode()[:place] + instead + body.encode()[place + 1 :]
    assert outcome(parse_push, damaged) == outcome(strictly, damaged)


@pytest.mark.parametrize("depth", [97, 98, 99, 100, 150, 250])
@pytest.mark.parametrize(("opening", "closing"), [('{"a":', "}"), ("[", "]")])
def test_both_ways_agree_about_depth(opening: str, closing: str, depth: int) -> None:
    body = json.dumps(pushed({"a": 0})).replace("0", opening * depth + "1" + closing * depth).encode()
    assert outcome(parse_push, body) == outcome(strictly, body)
