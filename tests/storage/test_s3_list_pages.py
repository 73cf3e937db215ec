"""A page of a list is read the same, however its XML is written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from starfish_server.storage.s3.replies import MalformedReplyError, Reply, read_list_page

SPACE = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
PLAIN = "<Contents><Key>{}</Key><ETag>&quot;e&quot;</ETag><Size>1</Size></Contents>"
OWNED = "<Contents><Key>{}</Key><Owner><ID>o</ID></Owner><Size>1</Size></Contents>"
LATE = "<Contents>\n <Size>1</Size>\n <Key>{}</Key>\n</Contents>"
CDATA = "<Contents><Key><![CDATA[{}]]></Key></Contents>"
COMMENTED = "<!-- <Contents><Key>no</Key></Contents> --><Contents><Key>{}</Key></Contents>"


def page(entries: str, *, head: str = f"<ListBucketResult {SPACE}>", more: str = "") -> Reply:
    body = f"<?xml version='1.0'?>{head}<IsTruncated>false</IsTruncated>{more}{entries}</ListBucketResult>"
    return Reply(200, {}, body.encode())


@given(st.lists(st.tuples(st.sampled_from([PLAIN, OWNED, LATE, CDATA, COMMENTED]), st.integers(0, 99))))
def test_keys_come_in_the_order_of_the_page(entries: list[tuple[str, int]]) -> None:
    written = "".join(entry.format(f"k{number}") for entry, number in entries)
    assert read_list_page(page(written)).keys == [f"k{number}" for _, number in entries]


@pytest.mark.parametrize(
    "head", ["<ListBucketResult>", f"<a:ListBucketResult {SPACE.replace('=', ':a=', 1)}>"]
)
def test_a_page_may_use_another_or_no_name_space(head: str) -> None:
    prefix = "a:" if head.startswith("<a:") else ""
    entry = PLAIN.format("k")
    xml = f"{head}<IsTruncated>false</IsTruncated>{entry}</ListBucketResult>"
    if prefix:
        xml = xml.replace("</", "</a:").replace("<I", "<a:I").replace("<C", "<a:C").replace("<K", "<a:K")
        xml = xml.replace("<E", "<a:E").replace("<S", "<a:S")
    assert read_list_page(Reply(200, {}, xml.encode())).keys == ["k"]


def test_a_key_is_decoded_once_and_only_if_the_page_says_so() -> None:
    encoded = page(PLAIN.format("a%2Bb+c%2520"), more="<EncodingType>url</EncodingType>")
    assert read_list_page(encoded).keys == ["a+b c%20"]
    assert read_list_page(page(PLAIN.format("a%2Bb"))).keys == ["a%2Bb"]
    assert read_list_page(page(PLAIN.format("a&amp;b"))).keys == ["a&b"]


@pytest.mark.parametrize(
    "entries",
    [
        PLAIN.format(""),
        "<Contents><Size>1</Size></Contents>",
        "<Contents><Key>k</Key></Contents",
        "<Contents><Key>k</Key><Size></Key></Contents>",
        PLAIN.format("a") + "<Contents>",
        PLAIN.format("%ff") + "<EncodingType>url</EncodingType>",
    ],
)
def test_a_page_that_is_not_whole_is_an_error(entries: str) -> None:
    with pytest.raises(MalformedReplyError):
        read_list_page(page(entries))
