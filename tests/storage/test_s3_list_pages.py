"""A page of a list is read the same, however its XML is written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from starfish_server.checks import is_any_key
from starfish_server.storage.s3.errors import MalformedReplyError
from starfish_server.storage.s3.listing import Page, infos_of, read_key_page, read_object_page
from starfish_server.storage.s3.replies import Reply

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
    assert read_key_page(page(written)).names == [f"k{number}" for _, number in entries]


@given(
    st.lists(
        st.fixed_dictionaries(
            {},
            optional={
                "ETag": st.sampled_from(["&quot;e&quot;", "&#34;e-2&#34;", "e", "&#x22;&amp;quot;&lt;", ""]),
                "LastModified": st.sampled_from(
                    ["2026-02-03T04:05:06.789Z", "2026-02-03T04:05+02:00", "now"]
                ),
                "Size": st.sampled_from(["0", "5", " 7 ", "&#49;0", "-1", ""]),
                "StorageClass": st.sampled_from(["STANDARD", "&lt;Size&gt;3&lt;/Size&gt;", "Gl\u00e4sern"]),
            },
        ).flatmap(lambda fields: st.permutations(list(fields.items())))
    )
)
def test_objects_are_read_the_same_with_and_without_the_parser(entries: list[list[tuple[str, str]]]) -> None:
    listed = ""
    for number, entry in enumerate(entries):
        fields = "".join(f"<{name}>{text}</{name}>" for name, text in entry)
        listed += f"<Contents><Key>k{number}</Key>{fields}</Contents>"
    comment = "<!-- for the parser -->"
    infos = infos_of(read_object_page(page(listed)))
    assert infos == infos_of(read_object_page(page(comment + listed)))
    assert len(infos) == len(entries)


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
    assert read_key_page(Reply(200, {}, xml.encode())).names == ["k"]


def test_a_size_that_no_object_has_is_unknown() -> None:
    found = read_object_page(page(f"<Contents><Key>k</Key><Size>{'9' * 5000}</Size></Contents>"))
    assert infos_of(found)["k"].size is None


def test_a_key_is_decoded_once_and_only_if_the_page_says_so() -> None:
    encoded = page(PLAIN.format("a%2Bb+c%2520"), more="<EncodingType>url</EncodingType>")
    assert read_key_page(encoded).names == ["a+b c%20"]
    assert read_key_page(page(PLAIN.format("a%2Bb"))).names == ["a%2Bb"]
    assert read_key_page(page(PLAIN.format("a&amp;b"))).names == ["a&b"]


def test_keys_that_are_not_utf8_are_not_valid_and_all_others_are() -> None:
    keys = ["a", "%ff", "b", "caf%E9", "%ff", "%EF%BF%BD", "z"]
    encoded = page("".join(map(PLAIN.format, keys)), more="<EncodingType>url</EncodingType>")
    assert list(filter(is_any_key, read_key_page(encoded).names)) == ["a", "b", "\ufffd", "z"]


@pytest.mark.parametrize("truncated", ["False", "FALSE", " false\n"])
def test_a_page_says_in_any_form_that_it_is_the_last(truncated: str) -> None:
    reply = page(PLAIN.format("a"))
    reply = reply._replace(body=reply.body.replace(b">false<", f">{truncated}<".encode()))
    assert read_key_page(reply) == Page(["a"], [], None)


def test_elements_without_the_name_space_of_their_root_are_read() -> None:
    entry = "<Contents><Key>a</Key></Contents>"
    body = f"<s:L xmlns:s='http://s3'><IsTruncated>false</IsTruncated>{entry}</s:L>"
    assert read_key_page(Reply(200, {}, body.encode())).names == ["a"]


@pytest.mark.parametrize(
    "entries",
    [
        PLAIN.format(""),
        "<Contents><Size>1</Size></Contents>",
        "<Contents><Key>k</Key></Contents",
        "<Contents><Key>k</Key><Size></Key></Contents>",
        PLAIN.format("a") + "<Contents>",
    ],
)
def test_a_page_that_is_not_whole_is_an_error(entries: str) -> None:
    with pytest.raises(MalformedReplyError):
        read_key_page(page(entries))
