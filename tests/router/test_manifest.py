"""`GET /config`: what it shows, to whom, and that it is off by default."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from router.application import CONFIG, as_caller, client_of, make_app, recorded
from starfish_server.router import ConfigEndpointOptions, SyncConfig

if TYPE_CHECKING:
    from fastapi import Request

NOTES, PICTURES, PROFILE, DIARY = (
    {"name": name, "maxBodyBytes": 10_000, "encryption": "none", "allowedMimeTypes": [media_type]}
    for name, media_type in [
        ("notes", "application/json"),
        ("pictures", "image/*"),
        ("profile", "application/json"),
        ("diary", "application/json"),
    ]
)
ADMINS = {"name": "keys", "storagePath": "k", "readRoles": ["admin"], "writeRoles": [], "maxBodyBytes": 9}
HIDDEN = {"collections": [ADMINS | {"pullOnly": True}], "namespaces": {"acme": {"collections": [ADMINS]}}}
SHOWN = {"name": "keys", "maxBodyBytes": 9, "encryption": "none", "allowedMimeTypes": ["application/json"]}
COLLECTION = {"readRoles": ["reader"], "writeRoles": ["writer"], "maxBodyBytes": 1}


async def shown(config: SyncConfig, auth: Any, caller: str = "", **options: Any) -> Any:
    options |= {"config_endpoint": ConfigEndpointOptions(auth=auth)}
    async with client_of(make_app(recorded(), config, **options)) as client:
        response = await client.get("/config", headers=as_caller(caller))
        assert response.headers["cache-control"] == "private, no-cache"
        assert (await client.head("/config")).status_code == 200
        return response.json()


async def test_it_is_not_served_unless_asked_for() -> None:
    async with client_of(make_app(recorded())) as client:
        assert (await client.get("/config")).status_code == 404


async def test_in_public_everybody_sees_every_collection_and_no_role_or_path() -> None:
    assert await shown(CONFIG, "public") == {
        "collections": [NOTES, PICTURES, PROFILE, DIARY],
        "namespaces": {"acme": {"collections": [NOTES, PICTURES, PROFILE]}},
    }
    assert await shown(SyncConfig.model_validate(HIDDEN), "public") == {
        "collections": [SHOWN | {"pullOnly": True}],
        "namespaces": {"acme": {"collections": [SHOWN]}},
    }


@pytest.mark.parametrize(("caller", "names"), [("", ["notes", "pictures"]), ("bob", None)])
async def test_filtered_by_role_a_caller_sees_what_it_may_use(caller: str, names: list[str] | None) -> None:
    collections = (await shown(CONFIG, "role-filtered", caller))["collections"]
    assert [one["name"] for one in collections] == (names or ["notes", "pictures", "profile", "diary"])


async def test_filtered_by_role_a_mount_without_anything_to_see_is_not_named() -> None:
    config = SyncConfig.model_validate(HIDDEN)
    assert await shown(config, "role-filtered", "bob member") == {"collections": []}
    assert "acme" in (await shown(config, "role-filtered", "bob admin"))["namespaces"]


async def test_a_role_in_the_direction_that_is_not_served_shows_nothing() -> None:
    config = SyncConfig.model_validate(
        {
            "collections": [
                COLLECTION | {"name": "a", "storagePath": "a/{id}", "pullOnly": True},
                COLLECTION | {"name": "b", "storagePath": "b/{id}", "pushOnly": True},
                COLLECTION | {"name": "c", "storagePath": "c/{id}", "pushOnly": True, "listable": True},
            ]
        }
    )
    for caller, names in (("bob reader", ["a", "c"]), ("bob writer", ["b", "c"])):
        collections = (await shown(config, "role-filtered", caller))["collections"]
        assert [one["name"] for one in collections] == names


async def test_a_resolver_that_cannot_answer_does_not_pass_for_a_server_without_collections() -> None:
    def fail(request: Request) -> None:
        raise ConnectionError("refused")

    options: dict[str, Any] = {
        "role_resolver": fail,
        "config_endpoint": ConfigEndpointOptions(auth="role-filtered"),
    }
    async with client_of(make_app(recorded(), **options)) as client:
        response = await client.get("/config")
    assert (response.status_code, response.json()) == (503, {"error": "resolver_unavailable"})


def test_other_ways_to_authorise_are_refused() -> None:
    with pytest.raises(ValueError, match="'public' or 'role-filtered'"):
        ConfigEndpointOptions.model_validate({"auth": "nobody"})
