"""`starfish serve`."""

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from starfish_server.cli.exit_codes import ExitCode
from starfish_server.cli.output import complain, one_line
from starfish_server.lifecycle import GracefulShutdown, GracefulShutdownOptions

if TYPE_CHECKING:
    from starfish_server.cli.serving import Serving

_DRAIN_SECONDS = 10


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
) -> int:
    """Serve collections over HTTP.

    Without --config: files under ./starfish-data, an audit log in ./audit.jsonl, and a collection of notes
    for two callers, whose tokens are printed. SIGTERM or Ctrl-C finishes the requests under way, for up to 10
    seconds, then closes the store and its audit log. Needs the extra `http` as well.
    """
    from starfish_server.cli.serving import configured, embedded

    serving = embedded() if config is None else configured(config)
    for text in serving.notice:
        sys.stderr.write(f"{text}\n")
    return asyncio.run(_serve(serving, host, port))


async def _serve(serving: "Serving", host: str, port: int) -> int:
    import uvicorn

    from starfish_server.router.application import sync_application

    shutdown = GracefulShutdown(GracefulShutdownOptions(stores=[serving.options.store]))
    shutdown.register()
    try:
        server = uvicorn.Server(
            uvicorn.Config(
                sync_application(serving.options),
                host=host,
                port=port,
                lifespan="off",
                access_log=False,
                timeout_graceful_shutdown=_DRAIN_SECONDS,
            )
        )
        try:
            await server.serve()
        except SystemExit:  # how uvicorn ends where it cannot listen, which it has logged
            return ExitCode.FAILED
    finally:
        result = await shutdown.shutdown()
        shutdown.unregister()
    for failure in result.failures:
        complain(f"{failure.step}: {one_line(failure.error)}")
    return ExitCode.OK if result.ok else ExitCode.FAILED
