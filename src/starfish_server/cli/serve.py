"""`starfish serve`."""

import asyncio
import socket
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer


def serve(
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", metavar="FILE", help="TOML: the stack, [sync] and [[auth.token]]."),
    ] = None,
    host: Annotated[
        str, typer.Option("--host", metavar="ADDRESS", help="Address to listen on.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", metavar="NUMBER", min=0, max=65535, help="Port; 0 for any free one.")
    ] = 8000,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            metavar="COUNT",
            min=1,
            max=256,
            help="Worker processes, under a parent that starts, replaces and ends them. By default a single "
            "process without a parent.",
        ),
    ] = None,
    access_log: Annotated[
        bool, typer.Option("--access-log", help="Print each request on stdout as one line of JSON.")
    ] = False,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            "--metrics-port",
            metavar="NUMBER",
            min=0,
            max=65535,
            help="Port of GET /metrics for Prometheus; each further worker has the next one. Needs the extra "
            "`metrics`, and a Metrics layer in the stack.",
        ),
    ] = None,
) -> int:
    """Serve collections over HTTP.

    Without --config: files under ./starfish-data, an audit log in ./audit.jsonl, and a collection of notes
    for two callers, whose tokens are printed. After SIGTERM or Ctrl-C, requests in flight get up to 10
    seconds to finish; then the store and its audit log are closed. A second signal ends the process
    immediately. With --workers, SIGHUP replaces the workers one after another without losing a request, and
    a worker that dies is started again. Needs the extra `http` as well.
    """
    from starfish_server.cli.server import Settings, run
    from starfish_server.cli.server import serve as serve_here
    from starfish_server.cli.serving import embedded_notice
    from starfish_server.cli.workers import Workers

    listeners = [_listen(host, port)]
    if metrics_port is not None:
        listeners += [_listen(host, metrics_port and metrics_port + number) for number in range(workers or 1)]
    url, *metrics_urls = map(_url, listeners)
    # The descriptors belong to the server from here on.
    descriptor, *metrics = [each.detach() for each in listeners]
    notice = embedded_notice(workers=workers is not None) if config is None else []
    settings = Settings(
        config=None if config is None else str(config),
        listener=descriptor,
        access_log=access_log,
        workers=workers is not None,
    )

    def started() -> None:
        places = [f"Metrics on {each}/metrics" for each in metrics_urls]
        for text in (*notice, *places, f"Running on {url} (Ctrl-C to stop)"):
            sys.stderr.write(f"{text}\n")
        sys.stderr.flush()

    if workers is None:
        alone = replace(settings, metrics=next(iter(metrics), None))
        return run(serve_here(alone, started))
    return asyncio.run(Workers(settings, workers, metrics).run(started))


def _listen(host: str, port: int) -> socket.socket:
    if not host:
        raise typer.BadParameter("--host is empty; every address is --host 0.0.0.0")
    try:
        return socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=2048
        )
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", error)
        raise OSError(f"cannot listen on {host} port {port}: {reason}") from error


def _url(listener: socket.socket) -> str:
    address, port = listener.getsockname()[:2]
    return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"
