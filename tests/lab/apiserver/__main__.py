"""``python -m tests.lab.apiserver [--address A] [--port P] [--token-file FILE] [--socket PATH]``: until SIGTERM.

Beside the API it has ``/_faults``: ``POST`` sets, ``DELETE`` takes away what is to go wrong (:class:`Faults`);
``POST /_drop`` ends every watch, ``POST /_compact`` forgets the history, ``GET /_requests`` counts what was asked.
"""

from __future__ import annotations

import argparse
import ssl
from pathlib import Path

from aiohttp import web

from .server import Server


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
    parser.add_argument("--certificate", type=Path, help="with its key; else it is plain HTTP")
    options = parser.parse_args()
    context = None
    if options.certificate is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(options.certificate)
    server = Server(options.token_file)
    app = server.app()

    async def ready(_: web.Application) -> None:
        print("ready", flush=True)

    app.on_startup.append(ready)
    web.run_app(
        app,
        host=options.address,
        port=options.port,
        path=[str(options.socket)] if options.socket else None,
        ssl_context=context,
        print=None,
        shutdown_timeout=0.1,
    )


if __name__ == "__main__":
    main()
