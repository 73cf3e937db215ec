"""Which configurations are valid; all others are refused before anything is served."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from router.application import CONFIG, NOTES, PROFILE, client_of, make_app, one_collection, pushed, resolve
from starfish_server import MemoryObjectStore
from starfish_server.router import CollectionConfig, SyncConfig, SyncRouterOptions


def test_fields_in_camel_case_and_snake_case_are_the_same() -> None:
    snake = CollectionConfig(
        name="notes",
        storage_path="notes/{id}",
        read_roles=("public",),
        write_roles=("public",),
        max_body_bytes=10_000,
        listable=True,
    )
    assert CollectionConfig.model_validate(NOTES) == snake


def test_defaults() -> None:
    config = CollectionConfig.model_validate(PROFILE)
    assert config.allowed_mime_types == ("application/json",)
    assert (config.listable, config.pull_only, config.push_only, config.encryption) == (
        False,
        False,
        False,
        "none",
    )


@pytest.mark.parametrize(
    ("secret", "name"),
    [
        ({"remote": {"headers": {"Authorization": "hunter2"}}}, "remote"),
        ({"readRoles": {"Bearer": "hunter2"}}, "readRoles"),
    ],
)
def test_an_error_names_the_feature_and_shows_no_value(secret: dict[str, Any], name: str) -> None:
    """The credentials of a replica stand in a configuration of starfish-server 2.x."""
    with pytest.raises(ValidationError, match=rf"collections\.0\.{name}") as raised:
        SyncConfig.model_validate({"collections": [NOTES | secret]})
    assert "hunter2" not in str(raised.value)


def test_null_is_as_good_as_absent() -> None:
    """Starfish-server 2.x saves null for whatever is not set."""
    unset = {"rateLimit": None, "appendOnly": None, "pullOnly": None, "push_only": None, "listable": None}
    saved = {"version": 1, "collections": [NOTES | unset], "namespaces": None, "rateLimit": None}
    assert SyncConfig.model_validate(saved) == one_collection(listable=False)
    acme = {"acme": {"collections": [NOTES | unset], "restrictions": None}}
    loaded = SyncConfig.model_validate_json(json.dumps(saved | {"namespaces": acme}))
    assert loaded.namespaces["acme"].collections == loaded.collections


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encryption": "server"}, "the layer Encryption encrypts"),
        ({"appendOnly": True}, "appendOnly\n  Extra inputs are not permitted"),
        ({"rateLimit": {}}, "rateLimit\n  Extra inputs are not permitted"),
        ({"clientEncrypted": False}, "clientEncrypted\n  Extra inputs are not permitted"),
        ({"readRoles": None}, "readRoles\n  Field required"),
        ({"maxBodyBytes": 0}, "greater than 0"),
        ({"name": "a/b"}, "name is one key segment"),
        ({"name": ""}, "name is one key segment"),
        ({"storagePath": ""}, "storagePath is empty"),
        ({"storagePath": "/notes/{id}"}, "is not '/'-separated segments"),
        ({"storagePath": "notes//{id}"}, "is not '/'-separated segments"),
        ({"storagePath": "../{id}"}, "is not '/'-separated segments"),
        ({"storagePath": "..", "listable": False}, "is not '/'-separated segments"),
        ({"storagePath": "notes/{id:path}"}, "a segment is text with at most one {field}"),
        ({"storagePath": "notes/{a}{b}"}, "a segment is text with at most one {field}"),
        ({"storagePath": "notes/{}"}, "a segment is text with at most one {field}"),
        ({"storagePath": "notes/{id"}, "a segment is text with at most one {field}"),
        ({"storagePath": "{id}/{id}"}, "names a field twice"),
        ({"storagePath": "notes/all"}, "listable needs a field as the last segment"),
        ({"storagePath": "notes/n-{id}"}, "listable needs a field as the last segment"),
        ({"writeRoles": ["self"]}, '"self" needs {identity} in storagePath'),
        ({"readRoles": ["self", "admin"]}, '"self" needs {identity} in storagePath'),
        ({"pullOnly": True, "pushOnly": True}, "pullOnly and pushOnly together"),
        ({"allowedMimeTypes": []}, "at least 1 item"),
        ({"allowedMimeTypes": ["png"]}, "not a media type"),
        ({"allowedMimeTypes": ["image/png; q=1"]}, "not a media type"),
        ({"allowedMimeTypes": ["application/json", "image/png"]}, "application/json stands alone"),
        ({"readRoles": "public"}, "readRoles"),
    ],
)
def test_a_collection_that_cannot_be_served(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as raised:
        CollectionConfig.model_validate(NOTES | changes)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"version": 2}, "version"),
        ({"rateLimit": {}}, "Extra inputs are not permitted"),
        ({"collections": [NOTES, NOTES | {"storagePath": "x/{id}"}]}, "two collections are named 'notes'"),
        ({"collections": [NOTES, NOTES | {"name": "b", "storagePath": "notes/{x}"}]}, "share keys"),
        (
            {"collections": [NOTES, NOTES | {"name": "b", "storagePath": "notes/b", "listable": False}]},
            "share keys",
        ),
        ({"namespaces": {"a/b": {"collections": [NOTES]}}}, "a namespace's name is"),
        ({"namespaces": {"": {"collections": [NOTES]}}}, "a namespace's name is"),
        ({"namespaces": {"pull": {"collections": [NOTES]}}}, "cannot be named 'pull'"),
        ({"namespaces": {"health": {"collections": [NOTES]}}}, "cannot be named 'health'"),
        ({"namespaces": {"v1": {"collections": [NOTES]}}}, "cannot be named 'v1'"),
        ({"namespaces": {"acme": {"collections": []}}}, "at least 1 item"),
        (None, "Input should be a valid dictionary"),
        ({"namespaces": {"acme": {"collections": [NOTES, NOTES]}}}, "two collections are named"),
    ],
)
def test_a_configuration_that_cannot_be_served(config: dict[str, Any] | None, message: str) -> None:
    with pytest.raises(ValidationError) as raised:
        SyncConfig.model_validate(config)
    assert message in str(raised.value)


def test_a_configuration_does_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        CONFIG.collections[0].read_roles = ("public",)


@pytest.mark.parametrize(
    "option",
    [{"store": {}}, {"config": {"collections": []}}, {"role_resolver": None}, {"role_resolver_timeout": 0}],
)
def test_options_of_another_type_are_refused(option: dict[str, Any]) -> None:
    options: dict[str, Any] = {
        "store": MemoryObjectStore(data={}),
        "config": CONFIG,
        "role_resolver": resolve,
    }
    with pytest.raises(ValidationError, match=next(iter(option))):
        SyncRouterOptions(**options | option)


@pytest.mark.parametrize(("only", "pull", "push"), [("pullOnly", 200, 404), ("pushOnly", 404, 200)])
async def test_a_collection_serves_only_its_direction(only: str, pull: int, push: int) -> None:
    async with client_of(make_app(MemoryObjectStore(data={}), one_collection(**{only: True}))) as client:
        assert (await client.get("/pull/notes/a")).status_code == pull
        assert (await client.post("/push/notes/a", json=pushed({}))).status_code == push


@pytest.mark.parametrize("missing", ["fastapi", "pydantic"])
def test_without_the_extra_the_error_says_what_to_install(missing: str) -> None:
    code = (
        f"import sys; sys.modules[{missing!r}] = None; import starfish_server; import starfish_server.router"
    )
    run = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert run.returncode == 1
    assert "ImportError: " in run.stderr
    assert "pip install 'starfish-server[http]'" in run.stderr.splitlines()[-1]
