"""Credentials of the options, of the standard chain, and none; and that no secret is ever shown."""

from __future__ import annotations

import asyncio
import getpass
import json
import logging
import os
import signal
import sys
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from botocore.utils import ContainerMetadataFetcher

from faulty_proxy import Fault, FaultyProxy, Forward, reply, reset, s3_error
from starfish_server.errors import (
    DeleteManyError,
    StoreAccessDeniedError,
    StoreClosedError,
    StoreError,
    StoreUnavailableError,
)
from starfish_server.storage.s3 import S3ObjectStore, credentials, sessions
from waiting import eventually

if TYPE_CHECKING:
    from aiohttp import web

    from servers import S3Server

MakeS3 = Callable[..., S3ObjectStore]

CHAIN = {"access_key_id": None, "secret_access_key": None}


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No credentials but those of the test."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


async def test_credentials_are_found_in_the_environment(
    seaweedfs: S3Server, make_s3: MakeS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", seaweedfs.access_key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", seaweedfs.secret_access_key)
    store = make_s3(seaweedfs, **CHAIN)
    await store.put("k", "v")
    assert await store.get_string("k") == "v"


async def test_credentials_are_found_in_a_profile(
    seaweedfs: S3Server, make_s3: MakeS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "credentials").write_text(
        f"[there]\naws_access_key_id = {seaweedfs.access_key_id}\n"
        f"aws_secret_access_key = {seaweedfs.secret_access_key}\n"
    )
    monkeypatch.setenv("AWS_PROFILE", "there")
    assert await make_s3(seaweedfs, **CHAIN).get_string("k") is None


@pytest.fixture
def numbered_tokens(tmp_path: Path) -> Callable[[timedelta], Path]:
    """`numbered_tokens(valid)`: a credential process that gives token-1, token-2 and so on, and its runs."""

    def make(valid: timedelta) -> Path:
        program, runs = tmp_path / "credentials.py", tmp_path / "runs"
        expires = (datetime.now(UTC) + valid).isoformat()
        printed = {"Version": 1, "AccessKeyId": "AKID", "SecretAccessKey": "secret", "Expiration": expires}
        program.write_text(
            "import json\n"
            f"open({str(runs)!r}, 'a').write('x')\n"
            f"number = len(open({str(runs)!r}).read())\n"
            f"print(json.dumps({printed!r} | {{'SessionToken': f'token-{{number}}'}}))\n"
        )
        (tmp_path / "config").write_text(f"[default]\ncredential_process = {sys.executable} {program}\n")
        return runs

    return make


def expired(*tokens: str) -> Fault:
    """A service that says of these tokens that they have expired."""

    async def fault(request: web.Request, forward: Forward) -> web.StreamResponse:
        if request.headers["X-Amz-Security-Token"] in tokens:
            return await s3_error(400, "ExpiredToken")(request, forward)
        return await reply(200, "v", ETag='"e"')(request, forward)

    return fault


def tokens_sent(proxy: FaultyProxy) -> list[str]:
    return [seen.headers["X-Amz-Security-Token"] for seen in proxy.seen]


async def test_credentials_that_expire_are_refreshed_while_they_are_used(
    proxy: FaultyProxy, moto: S3Server, make_s3: MakeS3, numbered_tokens: Callable[[timedelta], Path]
) -> None:
    """Those of the credential process are always about to expire."""
    runs = numbered_tokens(timedelta(minutes=5))
    store = make_s3(moto, bucket="b", endpoint=proxy.endpoint, **CHAIN)
    proxy.fault = reply(200, "v", ETag='"e"')
    await store.get_string("k")
    before = len(runs.read_text())
    await store.get_string("k")  # which begins a refresh, and does not wait for it
    first, second = tokens_sent(proxy)
    assert first == second
    await eventually(lambda: len(runs.read_text()) > before)
    while tokens_sent(proxy)[-1] == first:
        await store.get_string("k")


async def test_credentials_that_are_valid_are_used_while_a_refresh_hangs(
    proxy: FaultyProxy, moto: S3Server, make_s3: MakeS3, tmp_path: Path
) -> None:
    expires = (datetime.now(UTC) + timedelta(minutes=5)).isoformat()
    found = {"Version": 1, "AccessKeyId": "AKID", "SecretAccessKey": "s", "SessionToken": "t"}
    program, runs, release = tmp_path / "credentials.py", tmp_path / "runs", tmp_path / "release"
    program.write_text(
        "import os, time\n"
        f"open({str(runs)!r}, 'a').write('x')\n"
        f"while len(open({str(runs)!r}).read()) > 2 and not os.path.exists({str(release)!r}):\n"
        "    time.sleep(0.01)\n"
        f"print({json.dumps(found | {'Expiration': expires})!r})\n"
    )
    (tmp_path / "config").write_text(f"[default]\ncredential_process = {sys.executable} {program}\n")
    store = make_s3(moto, bucket="b", endpoint=proxy.endpoint, **CHAIN)
    proxy.fault = reply(200, "v", ETag='"e"')
    await store.get_string("k")
    assert await asyncio.gather(*(store.get_string("k") for _ in range(10))) == ["v"] * 10
    await eventually(lambda: runs.read_text() == "xxx")
    release.touch()


@pytest.fixture
async def metadata_service(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[object]]:
    """A service of roles that hangs up; its list grows by one with each request."""
    asked: list[object] = []

    async def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(writer)
        writer.close()

    listener = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "false")
    monkeypatch.setenv("AWS_METADATA_SERVICE_TIMEOUT", "600")
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"http://127.0.0.1:{port}")
    yield asked
    listener.close()
    await listener.wait_closed()


async def test_a_look_up_that_fails_does_so_once_for_all_that_wait(
    moto: S3Server, make_s3: MakeS3, metadata_service: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(credentials, "FAILURE_SECONDS", 0.0)
    store = make_s3(moto, bucket="b", max_attempts=1, **CHAIN)
    with pytest.raises(StoreAccessDeniedError):
        await store.get_string("k")
    alone = len(metadata_service)
    gets = [store.get_string(f"k{number}") for number in range(20)]
    outcomes = await asyncio.gather(*gets, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [StoreAccessDeniedError] * 20
    assert len(metadata_service) == 2 * alone
    assert [outcome.key for outcome in outcomes if isinstance(outcome, StoreError)] == [
        f"k{number}" for number in range(20)
    ]


async def test_a_failed_look_up_stands_for_a_while(
    moto: S3Server, make_s3: MakeS3, metadata_service: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(credentials, "FAILURE_SECONDS", 60.0)
    store = make_s3(moto, bucket="b", max_attempts=1, **CHAIN)
    with pytest.raises(StoreAccessDeniedError, match="no credentials"):
        await store.get_string("k")
    asked = len(metadata_service)
    with pytest.raises(StoreAccessDeniedError, match="no credentials"):
        await store.get_string("k")
    assert len(metadata_service) == asked


async def test_a_get_that_is_cancelled_leaves_the_look_up_to_the_others(
    proxy: FaultyProxy, moto: S3Server, make_s3: MakeS3, numbered_tokens: Callable[[timedelta], Path]
) -> None:
    runs = numbered_tokens(timedelta(days=1))
    store = make_s3(moto, bucket="b", endpoint=proxy.endpoint, **CHAIN)
    proxy.fault = reply(200, "v", ETag='"e"')
    first, second = (asyncio.create_task(store.get_string("k")) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == "v"
    assert first.cancelled()
    assert runs.read_text() == "x"


async def test_close_ends_a_look_up(moto: S3Server, make_s3: MakeS3, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, end = asyncio.Event(), asyncio.Event()

    async def silent(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await end.wait()
        writer.close()

    listener = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "false")
    monkeypatch.setenv("AWS_METADATA_SERVICE_TIMEOUT", "600")
    monkeypatch.setattr(sessions, "CLOSE_GRACE_SECONDS", 600.0)
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"http://127.0.0.1:{port}")
    store = make_s3(moto, bucket="b", **CHAIN)
    get = asyncio.create_task(store.get_string("k"))
    await asked.wait()
    await store.close()
    with pytest.raises(StoreClosedError):
        await get
    end.set()
    listener.close()
    await listener.wait_closed()


async def test_close_ends_a_credential_process(moto: S3Server, make_s3: MakeS3, tmp_path: Path) -> None:
    program, begun = tmp_path / "credentials.py", tmp_path / "begun"
    program.write_text(
        f"import os, time\nopen({str(begun)!r}, 'w').write(str(os.getpid()))\ntime.sleep(60)\n"
    )
    (tmp_path / "config").write_text(f"[default]\ncredential_process = {sys.executable} {program}\n")
    store = make_s3(moto, bucket="b", **CHAIN)
    get = asyncio.create_task(store.get_string("k"))
    await eventually(lambda: begun.exists() and begun.read_text() != "")
    await store.close()
    with pytest.raises(StoreClosedError):
        await get
    await eventually(lambda: not Path(f"/proc/{begun.read_text()}").exists())


async def test_close_leaves_no_pipe_of_a_credential_process_whose_child_keeps_it_open(
    moto: S3Server, make_s3: MakeS3, tmp_path: Path
) -> None:
    program, pids = tmp_path / "credentials.py", tmp_path / "pids"
    program.write_text(
        "import os, subprocess\n"
        "child = subprocess.Popen(['sleep', '600'])\n"
        f"open({str(pids)!r}, 'w').write(f'{{os.getpid()}} {{child.pid}}\\n')\n"
    )
    (tmp_path / "config").write_text(f"[default]\ncredential_process = {sys.executable} {program}\n")
    before = open_pipes()
    store = make_s3(moto, bucket="b", **CHAIN)
    get = asyncio.create_task(store.get_string("k"))
    await eventually(lambda: pids.exists() and pids.read_text().endswith("\n"))
    parent, child = map(int, pids.read_text().split())
    try:
        await eventually(lambda: not Path(f"/proc/{parent}").exists())
        await store.close()
        with pytest.raises(StoreClosedError):
            await get
        await eventually(lambda: open_pipes() <= before)
    finally:
        os.kill(child, signal.SIGKILL)


def open_pipes() -> set[str]:
    """The pipes that this process has open."""
    folder, names = "/proc/self/fd", set()
    for name in os.listdir(folder):
        with suppress(FileNotFoundError):
            names.add(os.readlink(f"{folder}/{name}"))
    return {name for name in names if name.startswith("pipe:")}


async def test_a_profile_that_wants_an_mfa_code_is_an_error_and_asks_for_nothing(
    moto: S3Server, make_s3: MakeS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prompt(*_: object) -> str:
        raise AssertionError("it asked for the code")

    monkeypatch.setattr(getpass, "getpass", prompt)
    (tmp_path / "config").write_text(
        "[default]\nrole_arn = arn:aws:iam::123456789012:role/r\nsource_profile = s\nregion = us-east-1\n"
        "mfa_serial = arn:aws:iam::123456789012:mfa/u\n"
        "[profile s]\naws_access_key_id = AKID\naws_secret_access_key = secret\n"
    )
    with pytest.raises(StoreAccessDeniedError, match="needs an MFA code"):
        await make_s3(moto, bucket="b", **CHAIN).get_string("k")


async def test_a_credential_process_reads_nothing_from_the_terminal(
    moto: S3Server, make_s3: MakeS3, tmp_path: Path
) -> None:
    (tmp_path / "credentials.py").write_text("input()\n")
    program = f"{sys.executable} {tmp_path / 'credentials.py'}"
    (tmp_path / "config").write_text(f"[default]\ncredential_process = {program}\n")
    with pytest.raises(StoreAccessDeniedError, match="CredentialRetrievalError"):
        await make_s3(moto, bucket="b", **CHAIN).get_string("k")


async def test_a_web_identity_file_that_is_not_there_is_named(
    moto: S3Server, make_s3: MakeS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", "/nowhere/token")
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/r")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with pytest.raises(StoreAccessDeniedError, match="FileNotFoundError: '/nowhere/token'"):
        await make_s3(moto, bucket="b", **CHAIN).get_string("k")


async def test_credentials_that_the_service_says_have_expired_are_replaced(
    proxy: FaultyProxy,
    moto: S3Server,
    make_s3: MakeS3,
    numbered_tokens: Callable[[timedelta], Path],
) -> None:
    """By the clock of this machine they are good for another day."""
    numbered_tokens(timedelta(days=1))
    store = make_s3(moto, bucket="b", endpoint=proxy.endpoint, **CHAIN)
    proxy.fault = expired("token-1")
    assert [await store.get_string("k"), await store.get_string("k")] == ["v", "v"]
    assert tokens_sent(proxy) == ["token-1", "token-2", "token-2"]


async def test_credentials_that_many_requests_find_expired_are_replaced_once(
    proxy: FaultyProxy,
    moto: S3Server,
    make_s3: MakeS3,
    numbered_tokens: Callable[[timedelta], Path],
) -> None:
    runs = numbered_tokens(timedelta(days=1))
    store = make_s3(moto, bucket="b", endpoint=proxy.endpoint, **CHAIN)
    proxy.fault = expired("token-1")
    assert await asyncio.gather(*(store.get_string("k") for _ in range(10))) == ["v"] * 10
    assert runs.read_text() == "xx"


async def test_credentials_that_are_expired_however_new_are_refused_after_two_retries(
    proxy: FaultyProxy,
    moto: S3Server,
    make_s3: MakeS3,
    numbered_tokens: Callable[[timedelta], Path],
) -> None:
    numbered_tokens(timedelta(days=1))
    store = make_s3(moto, bucket="b", endpoint=proxy.endpoint, **CHAIN)
    proxy.fault = s3_error(400, "ExpiredToken")
    with pytest.raises(StoreAccessDeniedError, match="ExpiredToken"):
        await store.get_string("k")
    assert tokens_sent(proxy) == ["token-1", "token-2", "token-3"]


async def test_credentials_that_expired_early_are_replaced_for_stat_too(
    proxy: FaultyProxy, moto: S3Server, make_s3: MakeS3, numbered_tokens: Callable[[timedelta], Path]
) -> None:
    """The reply to its HEAD has no body, which would say why it was refused."""
    numbered_tokens(timedelta(days=1))
    store = make_s3(moto, bucket="b", endpoint=proxy.endpoint, **CHAIN)
    proxy.fault = expired("token-1")
    info = await store.stat("k")
    assert info and info.version == '"e"'


async def test_credentials_of_the_options_that_have_expired_are_sent_once(
    proxy: FaultyProxy, moto: S3Server, make_s3: MakeS3
) -> None:
    store = make_s3(moto, bucket="b", endpoint=proxy.endpoint, session_token="token-1")
    proxy.fault = s3_error(400, "ExpiredToken")
    with pytest.raises(StoreAccessDeniedError, match="ExpiredToken"):
        await store.get_string("k")
    assert tokens_sent(proxy) == ["token-1"]


@pytest.mark.parametrize("operation", ["get_string", "delete_many"])
async def test_a_token_that_was_refreshed_while_its_request_was_in_flight_is_not_shown(
    proxy: FaultyProxy,
    moto: S3Server,
    make_s3: MakeS3,
    numbered_tokens: Callable[[timedelta], Path],
    operation: str,
) -> None:
    """Each request refreshes these, as they are always about to expire."""
    numbered_tokens(timedelta(minutes=5))
    store = make_s3(moto, bucket="b", endpoint=proxy.endpoint, max_attempts=1, **CHAIN)
    arrived, refreshed = asyncio.Event(), asyncio.Event()

    async def repeats(request: web.Request, forward: Forward) -> web.StreamResponse:
        arrived.set()
        await refreshed.wait()
        message = f"<Code>X</Code><Message>you sent {request.headers['X-Amz-Security-Token']}</Message>"
        if request.method == "GET":
            return await reply(400, f"<Error>{message}</Error>")(request, forward)
        failed = f"<DeleteResult><Error><Key>k</Key>{message}</Error></DeleteResult>"
        return await reply(200, failed)(request, forward)

    proxy.next_faults += [repeats, reply(200, "v", ETag='"e"')]
    work = store.get_string("k") if operation == "get_string" else store.delete_many(["k"])
    first = asyncio.create_task(work)
    await arrived.wait()
    await store.get_string("other")
    refreshed.set()
    with pytest.raises(StoreError, match=r"you sent \*\*\*"):
        await first


async def test_the_chain_is_searched_once_for_many_first_requests(
    seaweedfs: S3Server, make_s3: MakeS3, tmp_path: Path
) -> None:
    printed = {
        "Version": 1,
        "AccessKeyId": seaweedfs.access_key_id,
        "SecretAccessKey": seaweedfs.secret_access_key,
    }
    program, runs = tmp_path / "credentials.py", tmp_path / "runs"
    program.write_text(f"open({str(runs)!r}, 'a').write('x')\nprint({json.dumps(printed)!r})\n")
    (tmp_path / "config").write_text(f"[default]\ncredential_process = {sys.executable} {program}\n")
    store = make_s3(seaweedfs, **CHAIN)
    await asyncio.gather(*(store.get_string("k") for _ in range(10)))
    assert runs.read_text() == "x"


async def test_a_chain_without_credentials_says_what_to_do(seaweedfs: S3Server, make_s3: MakeS3) -> None:
    with pytest.raises(StoreAccessDeniedError, match="anonymous=True") as caught:
        await make_s3(seaweedfs, bucket="b", **CHAIN).get_string("k")
    assert (caught.value.operation, caught.value.key) == ("get_string", "k")


async def test_a_chain_that_fails_is_an_error_without_its_output(
    seaweedfs: S3Server, make_s3: MakeS3, tmp_path: Path
) -> None:
    (tmp_path / "config").write_text(
        f"[default]\ncredential_process = {sys.executable} -c \"import sys; sys.exit('hunter2')\"\n"
    )
    with pytest.raises(StoreAccessDeniedError, match="CredentialRetrievalError") as caught:
        await make_s3(seaweedfs, bucket="b", **CHAIN).get_string("k")
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    "printed",
    [
        "SecretAccessKey hunter2",
        "[]",
        '{"Version": 1, "AccessKeyId": 1, "SecretAccessKey": 2}',
        '{"Version": 1, "AccessKeyId": "AKID", "SecretAccessKey": "hunter2", "Expiration": "hunter2"}',
        '{"Version": 1, "AccessKeyId": "AKID", "SecretAccessKey": "s", "SessionToken": "hunter2\\n"}',
    ],
)
async def test_a_credential_process_that_prints_no_credentials_is_an_error_without_its_output(
    proxy: FaultyProxy, seaweedfs: S3Server, make_s3: MakeS3, tmp_path: Path, printed: str
) -> None:
    (tmp_path / "credentials.py").write_text(f"print({printed!r})\n")
    (tmp_path / "config").write_text(
        f"[default]\ncredential_process = {sys.executable} {tmp_path / 'keys.py'}\n"
    )
    store = make_s3(seaweedfs, bucket="b", endpoint=proxy.endpoint, **CHAIN)
    with pytest.raises(StoreAccessDeniedError, match="standard credential chain") as caught:
        await store.get_string("k")
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)
    assert proxy.seen == []


async def test_a_credential_process_that_is_not_there_is_tried_once(
    seaweedfs: S3Server, make_s3: MakeS3, tmp_path: Path
) -> None:
    (tmp_path / "config").write_text("[default]\ncredential_process = /no/such/program\n")
    of_uvloop = type(asyncio.get_running_loop()).__module__.startswith("uvloop")  # which does not name it
    named = "FileNotFoundError" if of_uvloop else "FileNotFoundError: '/no/such/program'"
    with pytest.raises(StoreAccessDeniedError, match=named):
        await make_s3(seaweedfs, bucket="b", **CHAIN).get_string("k")


async def test_a_profile_that_is_not_there_is_named_by_the_cause(
    seaweedfs: S3Server, make_s3: MakeS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(StoreAccessDeniedError, match="ProfileNotFound") as caught:
        await make_s3(seaweedfs, bucket="b", **CHAIN).get_string("k")
    assert "nobody" in str(caught.value.__cause__)


async def test_a_service_of_roles_that_does_not_answer_is_unavailable(
    seaweedfs: S3Server, make_s3: MakeS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    (tmp_path / "config").write_text(
        "[default]\nrole_arn = arn:aws:iam::123456789012:role/r\nsource_profile = s\nregion = us-east-1\n"
        "[profile s]\naws_access_key_id = AKID\naws_secret_access_key = secret\n"
    )
    with pytest.raises(StoreUnavailableError, match="does not answer"):
        await make_s3(seaweedfs, bucket="b", max_attempts=1, **CHAIN).get_string("k")


async def test_a_write_without_credentials_to_sign_it_was_not_done(
    seaweedfs: S3Server, make_s3: MakeS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://127.0.0.1:1")
    monkeypatch.setattr(ContainerMetadataFetcher, "SLEEP_TIME", 0)
    with pytest.raises(StoreUnavailableError) as caught:
        await make_s3(seaweedfs, bucket="b", max_attempts=1, **CHAIN).put("k", "v")
    assert caught.value.undetermined is False


async def test_a_container_that_does_not_answer_is_unavailable(
    seaweedfs: S3Server, make_s3: MakeS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://127.0.0.1:1")
    monkeypatch.setattr(ContainerMetadataFetcher, "SLEEP_TIME", 0)
    with pytest.raises(StoreUnavailableError, match="does not answer"):
        await make_s3(seaweedfs, bucket="b", max_attempts=1, **CHAIN).get_string("k")


async def test_an_anonymous_store_signs_nothing(proxy: FaultyProxy, moto: S3Server, make_s3: MakeS3) -> None:
    store = make_s3(moto, bucket="b", endpoint=proxy.endpoint, anonymous=True, **CHAIN)
    proxy.fault = reply(200, "public", ETag='"e"')
    assert await store.get_string("k") == "public"
    assert not {"Authorization", "X-Amz-Date", "X-Amz-Security-Token"} & set(proxy.seen[0].headers)


async def test_an_anonymous_store_is_refused_where_credentials_are_needed(
    seaweedfs: S3Server, make_s3: MakeS3
) -> None:
    bucket = seaweedfs.make_bucket()
    with pytest.raises(StoreAccessDeniedError):
        await make_s3(seaweedfs, bucket=bucket, anonymous=True, **CHAIN).put("k", "v")


async def test_a_wrong_secret_is_refused_by_every_operation_naming_the_bucket_alone(
    seaweedfs: S3Server, make_s3: MakeS3
) -> None:
    bucket = seaweedfs.make_bucket()
    store = make_s3(seaweedfs, bucket=bucket, secret_access_key="hunter2-wrong")
    operations = (store.get_string("k"), store.put("k", "v"), store.list_keys(""), store.delete("k"))
    for operation in operations:
        with pytest.raises(StoreAccessDeniedError, match=bucket) as caught:
            await operation
        assert "hunter2" not in "".join(traceback.format_exception(caught.value))
    with pytest.raises(DeleteManyError) as failed:
        await store.delete_many(["k"])
    assert type(failed.value.failures["k"]) is StoreAccessDeniedError


async def test_a_session_token_is_sent_and_signed(
    proxy: FaultyProxy, moto: S3Server, make_s3: MakeS3
) -> None:
    store = make_s3(moto, bucket="b", endpoint=proxy.endpoint, session_token="token")
    proxy.fault = reply(200, "v", ETag='"e"')
    await store.get_string("k")
    sent = proxy.seen[0].headers
    assert sent["X-Amz-Security-Token"] == "token"
    assert "x-amz-security-token" in sent["Authorization"]


async def test_payloads_are_signed_without_tls(
    proxy: FaultyProxy, seaweedfs: S3Server, make_s3: MakeS3
) -> None:
    """SHA-256 of "v", and of nothing."""
    store = make_s3(seaweedfs, endpoint=proxy.endpoint)
    await store.put("k", "v")
    await store.get_string("k")
    assert [seen.headers["X-Amz-Content-SHA256"][:8] for seen in proxy.seen] == ["4c94485e", "e3b0c442"]


async def test_no_secret_is_in_logs_errors_or_reprs(
    proxy: FaultyProxy, moto: S3Server, make_s3: MakeS3, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever the server does: it may even repeat what it was sent."""
    caplog.set_level(logging.DEBUG)
    secrets = {"secret_access_key": "hunter2-secret", "session_token": "hunter2-token"}
    store = make_s3(moto, bucket="b", endpoint=proxy.endpoint, max_attempts=1, **secrets)
    leaky = "you sent hunter2-token and hunter2-secret"

    async def not_http(request: object, _forward: object) -> object:
        request.transport.write(b"hunter2-token hunter2-secret\r\n\r\n")  # type: ignore[attr-defined]  # a request
        request.transport.close()  # type: ignore[attr-defined]  # as above
        raise asyncio.CancelledError

    async def head_cut_short(request: object, _forward: object) -> object:
        request.transport.write(b"HTTP/1.1 200 OK\r\nX-Echo: hunter2-token\r\n")  # type: ignore[attr-defined]  # a request
        request.transport.close()  # type: ignore[attr-defined]  # as above
        raise asyncio.CancelledError

    faults = [
        s3_error(403, "AccessDenied", leaky),
        s3_error(403, "SignatureDoesNotMatch", leaky),
        s3_error(200, "InternalError", leaky),
        s3_error(418, "Teapot", leaky),
        s3_error(400, leaky),
        s3_error(403, "AccessDenied", x_amz_request_id=leaky),
        reply(307, Location="http://x/?token=hunter2-token"),
        reply(200, f"<html>{leaky}</html>"),
        reply(
            200,
            f"<DeleteResult><Error><Key>k</Key><Code>X</Code><Message>{leaky}</Message></Error></DeleteResult>",
        ),
        reset,
        not_http,
        head_cut_short,
    ]
    texts = [repr(store), str(store)]
    for fault in faults:
        proxy.fault = fault  # type: ignore[assignment]  # one of those above
        for operation in (
            store.get_string("k"),
            store.put("k", "v"),
            store.list_keys(""),
            store.delete("k"),
            store.delete_many(["k"]),
        ):
            try:
                await operation
            except StoreError as error:
                texts += [*traceback.format_exception(error), repr(error), repr(vars(error))]
                cause = error.__cause__ or error.__context__
                texts += [repr(cause), repr(getattr(cause, "__cause__", None))]
    assert len(texts) > 100
    assert [text for text in texts if "hunter2" in text] == []
    assert [record for record in caplog.records if "hunter2" in record.getMessage()] == []
