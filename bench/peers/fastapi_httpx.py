"""The other proxy that one writes first: FastAPI, httpx and uvicorn.

    python bench/peers/fastapi_httpx.py PORT ENGINE_PORT

To be measured beside the gateway, not to be used.
"""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import Response, StreamingResponse

KEPT = ("authorization", "content-type", "accept")


def proxy_to(engine: str) -> FastAPI:
    client = httpx.AsyncClient(base_url=engine, timeout=None, limits=httpx.Limits(max_connections=None))

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with client:
            yield

    app = FastAPI(lifespan=lifespan)

    @app.api_route("/{path:path}", methods=["GET", "POST"])
    async def proxy(path: str, request: Request) -> Response:
        headers = {name: value for name, value in request.headers.items() if name in KEPT}
        asked = client.build_request(request.method, f"/{path}", headers=headers, content=await request.body())
        answer = await client.send(asked, stream=True)
        kind = answer.headers.get("content-type", "application/octet-stream")
        if not kind.startswith("text/event-stream"):
            body = await answer.aread()
            await answer.aclose()
            return Response(body, answer.status_code, media_type=kind)

        async def events() -> AsyncIterator[bytes]:
            try:
                async for data in answer.aiter_raw():
                    yield data
            finally:
                await answer.aclose()

        return StreamingResponse(events(), answer.status_code, media_type=kind)

    return app


if __name__ == "__main__":
    app = proxy_to(f"http://127.0.0.1:{sys.argv[2]}")
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", access_log=False)
