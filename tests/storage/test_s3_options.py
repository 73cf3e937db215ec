"""What `S3StorageOptions` accepts, shows and hides, and where requests go."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from typing import Any

import botocore.session
import pytest

from starfish_server.storage.s3 import S3ObjectStore, S3StorageOptions
from starfish_server.storage.s3.address import Address

KEYS: dict[str, Any] = {"access_key_id": "AKID", "secret_access_key": "hunter2-secret"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"bucket": ""},
        {"bucket": "a/b"},
        {"bucket": ".."},
        {"bucket": "a b"},
        {"bucket": "b\n"},
        {"region": ""},
        {"region": "us-east-1/"},
        {"region": "auto"},
        {"access_key_id": "AKID"},
        {"secret_access_key": "secret"},
        {"session_token": "token"},
        {"access_key_id": "", "secret_access_key": "s"},
        KEYS | {"secret_access_key": "secret\n"},
        KEYS | {"anonymous": True},
        {"endpoint": "localhost:9000"},
        {"endpoint": "ftp://localhost"},
        {"endpoint": "http://"},
        {"endpoint": ""},
        {"endpoint": "http://localhost:99999"},
        {"endpoint": "http://user:pass@localhost:9000"},
        {"endpoint": "http://localhost:9000/?a=b"},
        {"endpoint": "http://local host"},
        {"endpoint": "http://local\\host"},
        {"endpoint": "http://local<host>"},
        {"endpoint": "http://a..b"},
        {"endpoint": f"http://{'a' * 64}.example"},
        {"addressing_style": "host"},
        {"max_connections": 0},
        {"max_attempts": 0},
        {"connect_timeout": 0},
        {"read_timeout": -1.0},
        {"read_timeout": float("nan")},
        {"read_timeout": float("inf")},
    ],
)
def test_options_that_cannot_work_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        S3StorageOptions(**{"bucket": "b"} | wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_attempts": 2.5},
        {"max_connections": True},
        {"read_timeout": "5"},
        {"verify": None},
        {"verify_bodies": "no"},
    ],
)
def test_options_of_the_wrong_type_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        S3StorageOptions(**{"bucket": "b"} | wrong)


def test_a_bucket_in_place_of_options_is_refused() -> None:
    with pytest.raises(TypeError, match=r"S3ObjectStore takes S3StorageOptions\(bucket=\.\.\.\), not str"):
        S3ObjectStore("b")  # type: ignore[arg-type]  # that is the test


def test_a_refused_endpoint_is_not_repeated_in_the_error() -> None:
    with pytest.raises(ValueError, match="must not hold credentials") as caught:
        S3StorageOptions(bucket="b", endpoint="http://user:hunter2@localhost")
    assert "hunter2" not in str(caught.value)


def test_a_virtual_address_needs_a_bucket_that_fits_a_host_name() -> None:
    options = S3StorageOptions(bucket="Under_score", addressing_style="virtual")
    with pytest.raises(ValueError, match="addressing_style='virtual'"):
        S3ObjectStore(options)


def test_certificates_that_are_not_there_are_refused() -> None:
    with pytest.raises(ValueError, match=r"verify='/nowhere/ca\.pem'"):
        S3ObjectStore(S3StorageOptions(bucket="b", verify="/nowhere/ca.pem"))


def test_options_with_a_secret_show_it_nowhere_and_are_not_pickled() -> None:
    options = S3StorageOptions(bucket="b", session_token="hunter2-token", **KEYS)
    store = S3ObjectStore(options)
    shown = repr(options) + str(options) + repr(store) + str(store)
    assert "hunter2" not in shown
    for refuse in (pickle.dumps, copy.copy, copy.deepcopy):
        for held in (options, store):
            with pytest.raises(TypeError, match="not pickled"):
                refuse(held)


def test_options_without_a_secret_survive_pickle() -> None:
    options = S3StorageOptions(bucket="b", region="eu-west-1")
    assert pickle.loads(pickle.dumps(options)) == options


def test_options_are_frozen_and_can_be_varied() -> None:
    options = S3StorageOptions(bucket="b", **KEYS)
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.bucket = "c"  # type: ignore[misc]  # what the test is about
    assert dataclasses.replace(options, bucket="c").secret_access_key == "hunter2-secret"


@pytest.mark.parametrize(
    ("changes", "url"),
    [
        ({}, "https://b.s3.us-east-1.amazonaws.com/k"),
        ({"region": "cn-north-1"}, "https://b.s3.cn-north-1.amazonaws.com.cn/k"),
        ({"region": "eusc-de-east-1"}, "https://b.s3.eusc-de-east-1.amazonaws.eu/k"),
        ({"region": "us-new-9"}, "https://b.s3.us-new-9.amazonaws.com/k"),
        ({"bucket": "with.dot"}, "https://s3.us-east-1.amazonaws.com/with.dot/k"),
        ({"addressing_style": "path"}, "https://s3.us-east-1.amazonaws.com/b/k"),
        ({"endpoint": "https://s3.amazonaws.com"}, "https://b.s3.amazonaws.com/k"),
        ({"endpoint": "http://localhost:9000/"}, "http://localhost:9000/b/k"),
        ({"endpoint": "https://[::1]:443"}, "https://[::1]/b/k"),
        ({"endpoint": "https://x.supabase.co/storage/v1/s3"}, "https://x.supabase.co/storage/v1/s3/b/k"),
        (
            {"endpoint": "https://0123.r2.cloudflarestorage.com", "region": "auto"},
            "https://0123.r2.cloudflarestorage.com/b/k",
        ),
        (
            {"endpoint": "https://fly.storage.tigris.dev", "region": "auto"},
            "https://b.fly.storage.tigris.dev/k",
        ),
        (
            {"endpoint": "https://play.min.io", "addressing_style": "virtual"},
            "https://b.play.min.io/k",
        ),
        ({"endpoint": "https://evilamazonaws.com"}, "https://evilamazonaws.com/b/k"),
    ],
)
def test_requests_go_to_the_address_that_the_service_expects(changes: dict[str, Any], url: str) -> None:
    address = Address.of(S3StorageOptions(**{"bucket": "b"} | changes))
    assert str(address.url(address.target("k", ""))) == url


def test_the_default_endpoint_of_every_region_is_the_one_of_botocore() -> None:
    session = botocore.session.Session()
    names = session.get_available_regions
    regions = [region for each in session.get_available_partitions() for region in names("s3", each)]
    assert len(regions) > 35
    for region in regions:
        client = session.create_client(
            "s3", region_name=region, aws_access_key_id="a", aws_secret_access_key="b"
        )
        address = Address.of(S3StorageOptions(bucket="b", region=region))
        assert client.meta.endpoint_url in (f"https://{address.host}", "https://s3.amazonaws.com")
        assert address.is_aws


@pytest.mark.parametrize(
    ("endpoint", "host"),
    [
        (None, "s3.eu-west-1.amazonaws.com"),
        ("https://s3.amazonaws.com", "s3.eu-west-1.amazonaws.com"),
        ("https://s3.dualstack.us-east-1.amazonaws.com", "s3.dualstack.eu-west-1.amazonaws.com"),
    ],
)
def test_a_bucket_in_another_region_has_another_address(endpoint: str | None, host: str) -> None:
    moved = Address.of(S3StorageOptions(bucket="b", endpoint=endpoint)).moved_to("eu-west-1")
    assert (moved.host, moved.region) == (host, "eu-west-1")
