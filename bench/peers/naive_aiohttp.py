"""A proxy as one writes it first: web.Application, ClientSession, `iter_any` and `write`, on uvloop where there is one.

    python bench/peers/naive_aiohttp.py PORT ENGINE_PORT

To be measured beside the gateway, not to be used: it loses answers of engines that close their connections early.
"""

import sys
from collections.abc import AsyncIterator

import aiohttp
from aiohttp import web

ENGINE = web.AppKey("engine", str)
SESSION = web.AppKey("session", aiohttp.ClientSession)
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "host"}


async def session(app: web.Application) -> AsyncIterator[None]:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(
        connector=connector, auto_decompress=False, timeout=aiohttp.ClientTimeout(total=None)
    ) as opened:
        app[SESSION] = opened
        yield


async def proxy(request: web.Request) -> web.StreamResponse:
    headers = [(name, value) for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP]
    async with request.app[SESSION].request(
        request.method,
        request.app[ENGINE] + request.raw_path,
        headers=headers,
        data=request.content if request.can_read_body else None,
        allow_redirects=False,
    ) as answer:
        kept = [(name, value) for name, value in answer.headers.items() if name.lower() not in HOP_BY_HOP]
        if answer.content_type != "text/event-stream":
            return web.Response(status=answer.status, headers=kept, body=await answer.read())
        response = web.StreamResponse(status=answer.status, headers=kept)
        await response.prepare(request)
        async for data in answer.content.iter_any():
            await response.write(data)
        await response.write_eof()
        return response


def main() -> None:
    try:
        import uvloop

        uvloop.install()
    except ImportError:
        pass  # asyncio's own loop does
    app = web.Application(client_max_size=1 << 30)
    app[ENGINE] = f"http://127.0.0.1:{sys.argv[2]}"
    app.cleanup_ctx.append(session)
    app.router.add_route("*", "/{path:.*}", proxy)
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None, access_log=None)


if __name__ == "__main__":
    main()
