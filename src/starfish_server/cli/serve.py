"""`starfish serve`."""

import signal
import socket
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from starfish_server.cli.output import ExitCode, one_line, print_error
from starfish_server.lifecycle import GracefulShutdown, GracefulShutdownOptions

_DRAIN_SECONDS = 10


async def serve(
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
) -> int:
    """Serve collections over HTTP.

    Without --config: files under ./starfish-data, an audit log in ./audit.jsonl, and a collection of notes
    for two callers, whose tokens are printed. After SIGTERM or Ctrl-C, requests in flight get up to 10
    seconds to finish; then the store and its audit log are closed. A second signal ends the process
    immediately. Needs the extra `http` as well.
    """
    import uvicorn

    from starfish_server.cli.serving import configured, embedded
    from starfish_server.router.application import sync_application

    serving = embedded() if config is None else configured(config)
    options = GracefulShutdownOptions(stores=[serving.options.store])
    shutdown = GracefulShutdown(options)
    try:
        listener = _listen(host, port)
        server = uvicorn.Server(
            uvicorn.Config(
                sync_application(serving.options),
                lifespan="off",
                access_log=False,
                timeout_graceful_shutdown=_DRAIN_SECONDS,
            )
        )
        # The shutdown hands the first signal to the server, and ends the process at the second one. By itself
        # the server would swallow the second, and raise both again when it has ended.
        server.capture_signals = nullcontext  # type: ignore[assignment]  # as above
        for number in options.signals:
            signal.signal(number, server.handle_exit)
        shutdown.register()
        address, port = listener.getsockname()[:2]
        place = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        for text in (*serving.notice, f"Running on http://{place} (Ctrl-C to stop)"):
            sys.stderr.write(f"{text}\n")
        await server.serve([listener])
    finally:
        result = await shutdown.shutdown()
        shutdown.unregister()
    for failure in result.failures:
        print_error(f"{failure.step}: {one_line(failure.error)}")
    return ExitCode.OK if result.ok else ExitCode.FAILED


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=2048
        )
    except OSError as error:
        raise OSError(f"cannot listen on {host} port {port}: {error.strerror}") from error
