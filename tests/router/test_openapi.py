"""The OpenAPI document describes every response, whatever is sent."""

from __future__ import annotations

from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, settings

from router.application import NOTES, PICTURES, PROFILE, make_app
from starfish_server import MemoryObjectStore
from starfish_server.router import (
    AuthResult,
    ConfigEndpointOptions,
    SyncConfig,
    SyncRouterOptions,
    sync_application,
)

# A limit is nothing that a schema can say.
LARGE = {"maxBodyBytes": 2**20}
CONFIG = SyncConfig.model_validate(
    {
        "collections": [
            NOTES | LARGE,
            PICTURES | LARGE,
            PROFILE | LARGE | {"readRoles": ["member"], "writeRoles": ["self", "member"]},
        ],
        "namespaces": {"acme": {"collections": [NOTES | LARGE]}},
    }
)
APP = sync_application(
    SyncRouterOptions(
        store=MemoryObjectStore(data={}),
        config=CONFIG,
        role_resolver=lambda request: AuthResult("alice", ["member"]),
        config_endpoint=ConfigEndpointOptions(auth="role-filtered"),
    )
)
# Nor can a schema say whether a version or a range exists.
ACCEPTED = ["2xx", "3xx", 401, 403, 404, 409, 412, 416]
CHECKS = {"positive_data_acceptance": {"expected-statuses": ACCEPTED}}
schema = schemathesis.openapi.from_asgi(
    "/openapi.json", APP, config=schemathesis.Config.from_dict({"checks": CHECKS})
)


@schema.parametrize()
@settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_every_answer_is_described(case: schemathesis.Case[Any]) -> None:
    case.call_and_validate()


def test_every_route_of_the_configuration_is_described() -> None:
    assert sorted(APP.openapi()["paths"]) == [
        "/acme/batch/pull",
        "/acme/list/notes",
        "/acme/pull/notes/{id}",
        "/acme/push/notes/{id}",
        "/batch/pull",
        "/config",
        "/health",
        "/list/notes",
        "/pull/notes/{id}",
        "/pull/pictures/{id}",
        "/pull/users/{identity}/profile",
        "/push/notes/{id}",
        "/push/pictures/{id}",
        "/push/users/{identity}/profile",
        "/ready",
    ]


def test_collections_whose_names_meet_have_ids_of_their_own() -> None:
    def named(name: str) -> dict[str, object]:
        return {"collections": [NOTES | {"name": name}]}

    mounts = {"tenant_a": named("b"), "tenant": named("a_b"), "pull_tenant": named("b")}
    config = SyncConfig.model_validate(named("tenant_a_b") | {"namespaces": mounts})
    paths = make_app(MemoryObjectStore(data={}), config).openapi()["paths"].values()
    ids = [operation["operationId"] for path in paths for operation in path.values()]
    assert len(ids) == len(set(ids)) == 4 * 3 + 4 * 2 + 2
