"""``python -m tests.lab.apiserver [--address A] [--port P] [--token-file FILE] [--socket PATH]``: until SIGTERM.

Beside the API it has ``/_faults``: ``POST`` sets, ``DELETE`` takes away what is to go wrong (:class:`Faults`);
``POST /_drop`` ends every watch, ``POST /_compact`` forgets the history, ``GET /_requests`` counts what was asked,
``GET /_traffic`` what each agent costs (:class:`Traffic`).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from aiohttp import web

from .memory import Memory
from .server import Server
from .upstream import Upstream


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="tests.lab.apiserver", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--address", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=6443)
    parser.add_argument(
        "--token-file", type=Path, help="only who bears this token is answered; read at each request"
    )
    parser.add_argument("--socket", type=Path, help="a unix socket on which nobody needs a token")
    parser.add_argument(
        "--upstream", type=Path, metavar="SOCKET", help="a real server, which has the objects"
    )
    options = parser.parse_args()
    origin = Upstream(options.upstream) if options.upstream else Memory()
    app = Server(origin, options.token_file).app()

    async def start(_: web.Application) -> None:
        await origin.start()

    async def close(_: web.Application) -> None:
        await origin.close()

    app.on_startup.append(start)
    app.on_cleanup.append(close)
    web.run_app(
        app,
        host=options.address,
        port=options.port,
        path=[str(options.socket)] if options.socket else None,
        print=lambda _: print("ready", flush=True),  # when it listens
        handler_cancellation=True,
        shutdown_timeout=0.1,
    )


if __name__ == "__main__":
    main()
