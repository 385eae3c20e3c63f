"""Programs that serve /metrics and a stream of server-sent events by one server each, for ``metrics_servers``."""

from __future__ import annotations

NONE, BY_HAND = "none", "asyncio streams, nothing parsed"
_ASGI = """\
async def app(scope, receive, send):
    kind = b"text/event-stream" if scope["path"] == "/events" else b"text/plain"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
    if scope["path"] == "/events":
        while True:
            await send({"type": "http.response.body", "body": EVENT, "more_body": True})
            await asyncio.sleep(0.1)
    await send({"type": "http.response.body", "body": metrics()})
"""
SERVERS = {
    NONE: "async def serve(listener):\n    await asyncio.sleep(3600)\n",
    BY_HAND: """\
async def connection(reader, writer):
    head = await reader.readuntil(b"\\r\\n\\r\\n")
    writer.write(b"HTTP/1.1 200 OK\\r\\nConnection: close\\r\\n\\r\\n")
    while b"/events" in head:
        writer.write(EVENT)
        await asyncio.sleep(0.1)
    writer.write(metrics())
    writer.close()
async def serve(listener):
    await (await asyncio.start_server(connection, sock=listener)).serve_forever()
""",
    "microdot": """\
from microdot import Microdot
from microdot.sse import with_sse
app = Microdot()
@app.get("/metrics")
async def numbers(request):
    return metrics()
@app.get("/events")
@with_sse
async def events(request, sse):
    while True:
        await sse.send("x")
        await asyncio.sleep(0.1)
async def serve(listener):
    port = listener.getsockname()[1]
    listener.close()
    await app.start_server("127.0.0.1", port)
""",
    "uvicorn": _ASGI + """\
import uvicorn
async def serve(listener):
    config = uvicorn.Config(app, http="h11", ws="none", lifespan="off", log_config=None, access_log=False)
    await uvicorn.Server(config).serve(sockets=[listener])
""",
    "tornado": """\
from tornado import httpserver, httputil
async def answer(request):
    stream = request.path == "/events"
    headers = httputil.HTTPHeaders({"Content-Type": "text/event-stream" if stream else "text/plain"})
    body = b"" if stream else metrics()
    if not stream:
        headers["Content-Length"] = str(len(body))
    await request.connection.write_headers(httputil.ResponseStartLine("HTTP/1.1", 200, "OK"), headers, body)
    while stream:
        await request.connection.write(EVENT)
        await asyncio.sleep(0.1)
    request.connection.finish()
async def serve(listener):
    listener.setblocking(False)
    tasks = set()
    server = httpserver.HTTPServer(lambda request: tasks.add(asyncio.ensure_future(answer(request))))
    server.add_sockets([listener])
    await asyncio.sleep(3600)
""",
    "aiohttp": """\
from aiohttp import web
async def answer(request):
    if request.path != "/events":
        return web.Response(body=metrics())
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    while True:
        await response.write(EVENT)
        await asyncio.sleep(0.1)
async def serve(listener):
    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    await web.SockSite(runner, listener).start()
    await asyncio.sleep(3600)
""",
    "hypercorn": _ASGI + """\
import os
from hypercorn.asyncio import serve as hypercorn_serve
from hypercorn.config import Config
async def serve(listener):
    config = Config()
    config.bind, config.errorlog = [f"fd://{os.dup(listener.fileno())}"], None
    await hypercorn_serve(app, config, shutdown_trigger=asyncio.Event().wait)
""",
}  # fmt: skip
AROUND = """\
import asyncio, gc, json, logging, os, resource, socket, sys, threading, time, types
sys.path.append({directory!r})  # what the agent needs has the versions of its own environment
# All of the agent but the server that it has.
sys.modules["gateway_agent.adapters.servers.metrics_http"] = types.SimpleNamespace(MetricsServer=None)
import gateway_agent.__main__, psutil
{base}
from prometheus_client import CollectorRegistry, Gauge, generate_latest
logging.basicConfig(level=logging.INFO)
EVENT = b"data: x\\n\\n"
registry = CollectorRegistry()
gauge = Gauge("numbers", "Some.", ["each"], registry=registry)
for each in range(200):
    gauge.labels(str(each)).set(each)
def metrics():
    return generate_latest(registry)
metrics()
gc.collect()
began, before = time.process_time(), len(sys.modules)
{server}
loaded = time.process_time() - began
listener = socket.create_server(("127.0.0.1", 0))
port = listener.getsockname()[1]
threading.Thread(target=lambda: asyncio.run(serve(listener)), daemon=True).start()
print(port, flush=True)
for line in sys.stdin:
    if line == "limit\\n":
        highest = max(map(int, os.listdir("/proc/self/fd")))
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        print("{{}}", flush=True)
        continue
    if line == "spent\\n":
        print(json.dumps({{"spent": time.process_time()}}), flush=True)
        continue
    print(json.dumps({{"loaded": loaded, "uss": psutil.Process().memory_full_info().uss,
        "modules": len(sys.modules) - before, "threads": threading.active_count() - 2}}), flush=True)
os._exit(0)
"""
