"""What an SDK for Python hears: all calls at once, by a client as people make it, told as JSON.

    python -I -S sdk_python.py FOLDER < calls.json

FOLDER holds the SDK; nothing of this project or its environment is there. A call is `{"id", "url", "dialect", "stream",
"headers"}`; what came of it is `{"text", "thought", "waits"}`, for an error also `{"error", "status", …}`.

`waits` are the seconds that the SDK decided to wait before it came back. It really waits a fiftieth of a second, unless
CLOCK=real: what it decides is the SDK's own, and a minute twice would be nobody's test.
"""

import asyncio
import contextlib
import contextvars
import json
import os
import sys
from types import SimpleNamespace

sys.path.insert(0, sys.argv[1])
try:
    import openai as sdk
    from openai import _base_client
except ImportError:
    import anthropic as sdk
    from anthropic import _base_client

KEY = "sk-test-0123456789abcdef"
HELLO = [{"role": "user", "content": "Hello"}]
REAL = os.environ.get("CLOCK") == "real"
waits = contextvars.ContextVar("waits")
thought = contextvars.ContextVar("thought")
"""What came as reasoning."""
its_own = _base_client.anyio


async def sleep(delay):
    waits.get().append(delay)
    await its_own.sleep(delay if REAL else 0.02)


# The one place where it waits for its next try; everything else of anyio is as it was.
_base_client.anyio = SimpleNamespace(**{name: getattr(its_own, name) for name in dir(its_own)} | {"sleep": sleep})


async def chat(client, stream, headers, heard):
    answer = await client.chat.completions.create(model="served", messages=HELLO, stream=stream, extra_headers=headers)
    if not stream:
        heard.append(answer.choices[0].message.content)
        return
    async for chunk in answer:
        for choice in chunk.choices:
            heard.append(choice.delta.content or "")
            thought.get().append(getattr(choice.delta, "reasoning_content", None) or "")


async def langchain(client, stream, headers, heard):
    from langchain_openai import ChatOpenAI

    base = str(client.base_url)
    model = ChatOpenAI(model="served", base_url=base, api_key=KEY, default_headers=headers, use_responses_api=False)
    if not stream:
        heard.append((await model.ainvoke("Hello")).content)
        return
    async for chunk in model.astream("Hello"):
        heard.append(chunk.content)


async def litellm(client, stream, headers, heard):
    from litellm import acompletion

    answer = await acompletion(
        model="openai/served",
        api_base=str(client.base_url),
        api_key=KEY,
        messages=HELLO,
        stream=stream,
        extra_headers=headers,
    )
    if not stream:
        heard.append(answer.choices[0].message.content)
        return
    async for chunk in answer:
        heard.extend(choice.delta.content or "" for choice in chunk.choices)


async def responses(client, stream, headers, heard):
    answer = await client.responses.create(model="served", input="Hello", stream=stream, extra_headers=headers)
    if not stream:
        heard.append(answer.output_text)
        return
    async for event in answer:
        if event.type == "response.output_text.delta":
            heard.append(event.delta)
        elif event.type == "error":  # of OpenAI's own dialect: an event, which the SDK for Python raises or shows
            raise Told(event.code, event.message)


async def messages(client, stream, headers, heard):
    answer = await client.messages.create(
        model="served", max_tokens=8, messages=HELLO, stream=stream, extra_headers=headers
    )
    if not stream:
        heard.append(answer.content[0].text)
        return
    async for event in answer:
        if event.type == "content_block_delta":
            heard.append(event.delta.text)


class Told(Exception):
    """An error that came as an event and was not raised."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


async def call(client, asked):
    waits.set([])
    thought.set([])
    heard = []
    said = {"id": asked["id"], "waits": waits.get()}
    base = asked["url"] if sdk.__name__ == "anthropic" else asked["url"] + "/v1"
    try:
        await globals()[asked["dialect"]](client.copy(base_url=base), asked["stream"], asked.get("headers"), heard)
    except Exception as error:  # whatever it raises is what its caller hears
        status = getattr(error, "status_code", None)
        said |= {"error": type(error).__name__, "message": str(error)}
        said["status"] = None if status == 200 else status  # Anthropic's: of an error in a stream
        said["code"] = getattr(error, "code", None) or code_in(getattr(error, "body", None))
    return said | {"text": "".join(heard), "thought": "".join(thought.get())}


def code_in(body):
    """Anthropic's SDK keeps the error as it came."""
    with contextlib.suppress(AttributeError, KeyError, TypeError):
        return body["error"]["code"]
    return None


async def main():
    # Made for each call, they would make TLS ready for each; copies share what one is made of.
    kind = sdk.AsyncAnthropic if sdk.__name__ == "anthropic" else sdk.AsyncOpenAI
    ours, sys.stdout = sys.stdout, sys.stderr  # LiteLLM asks for feedback
    # Its own, but for connecting: while it imports, a machine may be busy for longer than its five seconds.
    timeout = sdk.Timeout(600, connect=60)
    async with kind(api_key=KEY, timeout=timeout) as client:
        said = await asyncio.gather(*(call(client, asked) for asked in json.load(sys.stdin)))
    print(json.dumps(said), file=ours)


asyncio.run(main())
