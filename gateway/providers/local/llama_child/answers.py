"""One request on the model, in the engine's thread: the package's answers, made whole where OpenAI's clients need more.

Each function is a generator: one piece for a whole answer, many for a stream. Added to what the package gives: usage in
streams, log probabilities without its gigabytes, tool calls that SDKs can put together, the truth about why one ended.
"""

import base64
import json
import re
import secrets
from collections.abc import Iterator
from typing import Any

import jinja2
import llama_cpp
import numpy as np

from . import grammars
from .model import Chosen, Model, Tally
from .parameters import Chat, Completion, Embedding, Generation
from .refusals import Refusal, too_long

Answer = dict[str, Any]
TOO_LONG = re.compile(r"Requested tokens \(((?:at least )?\d+)\) exceed context window")


def chat(model: Model, ask: Chat, name: str) -> Iterator[Answer]:
    _must_generate(model)
    words = _words(model, ask.how, name)
    if ask.tool is not None:
        # Made by the package from the same schema; made here first because it falls back silently when it cannot.
        grammars.from_schema(model._model.vocab, ask.tool["function"]["parameters"], "tools")
        words["tool_choice"] = {"type": "function", "function": {"name": ask.tool["function"]["name"]}}
    with model.counting(ask.how.top) as tally:
        try:
            given = model.create_chat_completion(messages=ask.messages, tools=ask.tools, **words)
            if isinstance(given, dict):
                yield _chat_answer(model, given, ask, tally)
            else:
                yield from _chat_chunks(model, given, ask, tally)
        except ValueError as error:
            raise _refusal(error, model, "messages") from error
        except (jinja2.TemplateError, TypeError, KeyError) as error:
            # Templates are programs by the model's makers: they raise whatever they meet, always about the messages.
            if not _from_template(error):
                raise
            raise Refusal(
                f"This model's chat template cannot read these messages ({type(error).__name__}).", param="messages"
            ) from error


def completion(model: Model, ask: Completion, name: str) -> Iterator[Answer]:
    _must_generate(model)
    if isinstance(ask.prompt, list):
        _must_know(model, ask.prompt, "prompt")
    words = _words(model, ask.how, name)
    with model.counting(ask.how.top) as tally:
        try:
            given = model.create_completion(prompt=ask.prompt, **words)
            if isinstance(given, dict):
                if ask.echo:
                    # By us: the package adds a list of tokens to a string.
                    given["choices"][0]["text"] = _read(model, ask.prompt) + given["choices"][0]["text"]
                given["choices"][0]["logprobs"] = _completion_logprobs(model, tally.chosen, 0, tally)
                yield given
            else:
                yield from _completion_chunks(model, given, ask, tally)
        except ValueError as error:
            raise _refusal(error, model, "prompt") from error


def embeddings(model: Model, ask: Embedding, name: str) -> Iterator[Answer]:
    embedder, used, data = model.embedder, 0, []
    for at, given in enumerate(ask.inputs):
        param = "input" if len(ask.inputs) == 1 else f"input[{at}]"
        if isinstance(given, str):
            embedder.must_fit(model.least_tokens(given.encode()), param, "at least ")
        tokens = embedder.tokens(given) if isinstance(given, str) else given
        _must_know(model, tokens, param)
        vector: object = embedder.embed(tokens, param)
        if ask.base64:
            vector = base64.b64encode(np.asarray(vector, "<f4").tobytes()).decode()
        data.append({"object": "embedding", "embedding": vector, "index": at})
        used += len(tokens)
    yield {
        "object": "list",
        "data": data,
        "model": ask.model or name,
        "usage": {"prompt_tokens": used, "total_tokens": used},
    }


def _words(model: Model, how: Generation, name: str) -> Answer:
    """The package's own words for what was asked."""
    vocabulary, grammar = model._model.vocab, None
    if how.schema is not None:
        grammar = grammars.from_schema(vocabulary, how.schema, "response_format")
    elif how.json:
        grammar = grammars.any_object(vocabulary)
    elif how.grammar is not None:
        grammar = grammars.from_text(vocabulary, how.grammar)
    seed = how.sampling["seed"]
    return {
        **how.sampling,
        # Without one, the package would draw from a row that is the same after every start.
        "seed": secrets.randbits(32) if seed is None else seed & 0xFFFFFFFF,
        "max_tokens": how.max_tokens,
        "stream": how.stream,
        "model": how.model or name,
        "grammar": grammar,
        "logits_processor": _processors(model, how),
    }


def _processors(model: Model, how: Generation) -> llama_cpp.LogitsProcessorList | None:
    """Built here: the package loses all of them when there are two kinds."""
    made: list[Any] = []
    if how.bias:
        ids, values = _biases(model, how)

        def lean(_: Any, scores: Any) -> Any:
            scores = np.copy(scores)
            scores[ids] += values
            return scores

        made.append(lean)
    if how.min_tokens:
        made.append(llama_cpp.MinTokensLogitsProcessor(how.min_tokens, model.token_eos()))
    return llama_cpp.LogitsProcessorList(made) if made else None


def _biases(model: Model, how: Generation) -> tuple[list[int], list[float]]:
    found: dict[int, float] = {}
    for key, value in how.bias.items():
        if how.bias_by_text:
            found |= dict.fromkeys(model.tokenize(key.encode(), add_bos=False, special=True), value)
        elif key.isdecimal() and int(key) < model.vocabulary:
            found[int(key)] = value
        else:
            raise Refusal("`logit_bias`: one of its keys is no token of this model.", param="logit_bias")
    return list(found), list(found.values())


def _chat_answer(model: Model, answer: Answer, ask: Chat, tally: Tally) -> Answer:
    choice = answer["choices"][0]
    choice["logprobs"] = _chat_logprobs(model, tally.chosen, tally)
    if ask.tool is not None:
        message = choice["message"]
        message.pop("tool_calls" if ask.functions else "function_call", None)
        text = (
            message["function_call"]["arguments"]
            if ask.functions
            else message["tool_calls"][0]["function"]["arguments"]
        )
        choice["finish_reason"] = _tool_ending(text, ask)
    return answer


def _chat_chunks(model: Model, chunks: Iterator[Any], ask: Chat, tally: Tally) -> Iterator[Answer]:
    shown, head, called = 0, {}, ""
    for chunk in chunks:
        choice, delta = chunk["choices"][0], chunk["choices"][0]["delta"]
        if ask.tool is not None:
            called += _tidy_call(delta, ask, first=not called)
            if choice["finish_reason"] is not None:
                choice["finish_reason"] = _tool_ending(called, ask)
        if tally.top is not None and delta.get("content"):
            count = _covered(model, tally, shown, delta["content"])
            choice["logprobs"] = _chat_logprobs(model, tally.chosen[shown : shown + count], tally)
            shown += count
        else:
            choice["logprobs"] = None
        head = {key: chunk[key] for key in ("id", "object", "created", "model")}
        yield chunk
    if ask.how.include_usage and head:
        yield {**head, "choices": [], "usage": tally.usage()}


def _completion_chunks(model: Model, chunks: Iterator[Any], ask: Completion, tally: Tally) -> Iterator[Answer]:
    shown, offset, head = 0, 0, {}
    for chunk in chunks:
        choice = chunk["choices"][0]
        if tally.top is not None and choice["text"]:
            count = _covered(model, tally, shown, choice["text"])
            choice["logprobs"] = _completion_logprobs(model, tally.chosen[shown : shown + count], offset, tally)
            shown += count
        offset += len(choice["text"])
        head = {key: chunk[key] for key in ("id", "object", "created", "model")}
        yield chunk
    if ask.how.include_usage and head:
        yield {**head, "choices": [], "usage": tally.usage()}


def _tidy_call(delta: Answer, ask: Chat, *, first: bool) -> str:
    """The arguments in this chunk. SDKs join the strings of all chunks: id, type and name may come once only, and the
    package sends them with each one, with nulls for what is not there."""
    calls, old = delta.get("tool_calls"), delta.get("function_call")
    text = str(calls[0]["function"]["arguments"]) if calls else ""
    if calls and not first:
        for key in ("id", "type"):
            calls[0].pop(key, None)
        calls[0]["function"].pop("name", None)
        if old:
            old.pop("name", None)
    delta.pop("tool_calls" if ask.functions else "function_call", None)
    keep = "content" if delta.get("role") else None  # null beside the role, as OpenAI's first chunk has it
    for key in [key for key, value in delta.items() if value is None and key != keep]:
        del delta[key]
    return text


def _tool_ending(arguments: str, ask: Chat) -> str:
    """The package says tool_calls even when the tokens ran out in the middle of the arguments."""
    try:
        json.loads(arguments)
    except ValueError:
        return "length"
    return "function_call" if ask.functions else "tool_calls"


def _covered(model: Model, tally: Tally, shown: int, text: str) -> int:
    """How many of the chosen tokens this text is made of: a character may take several tokens."""
    wanted, had = len(text.encode()), 0
    for count, chosen in enumerate(tally.chosen[shown:], start=1):
        had += len(model.piece(chosen.token))
        if had >= wanted:
            return count
    return len(tally.chosen) - shown


def _chat_logprobs(model: Model, chosen: list[Chosen], tally: Tally) -> Answer | None:
    if tally.top is None:
        return None

    def entry(token: int, logprob: float) -> Answer:
        piece = model.piece(token)
        return {"token": piece.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(piece)}

    content = [
        {**entry(each.token, each.logprob), "top_logprobs": [entry(*other) for other in each.likeliest]}
        for each in chosen
    ]
    return {"content": content, "refusal": None}


def _completion_logprobs(model: Model, chosen: list[Chosen], offset: int, tally: Tally) -> Answer | None:
    if tally.top is None:
        return None

    def text(token: int) -> str:
        return model.piece(token).decode("utf-8", "ignore")

    texts = [text(each.token) for each in chosen]
    offsets = [offset + sum(map(len, texts[:at])) for at in range(len(texts))]
    top = [
        {model.piece(token).decode("utf-8", "ignore"): logprob for token, logprob in each.likeliest}
        | {own: each.logprob}
        for own, each in zip(texts, chosen, strict=True)
    ]
    return {
        "tokens": texts,
        "text_offset": offsets,
        "token_logprobs": [each.logprob for each in chosen],
        "top_logprobs": top,
    }


def _read(model: Model, prompt: str | list[int]) -> str:
    return prompt if isinstance(prompt, str) else model.detokenize(prompt).decode("utf-8", "replace")


def _must_generate(model: Model) -> None:
    if not model.can_generate:
        raise Refusal("This model gives embeddings only.", code="route_not_supported", status=404)


def _must_know(model: Model, tokens: list[int], param: str) -> None:
    if any(token >= model.vocabulary for token in tokens):
        raise Refusal(f"A token is not one of this model's {model.vocabulary}.", param=param)


def _refusal(error: ValueError, model: Model, param: str) -> Exception:
    """The package's ValueErrors: a prompt that is too long, and what a template says of the messages."""
    if found := TOO_LONG.search(str(error)):
        return too_long(found[1], model.limit, param)
    if _from_template(error):
        said = " ".join(str(error).split())[:200]
        return Refusal(f"This model's chat template refuses these messages: {said}", param=param)
    return error


def _from_template(error: BaseException) -> bool:
    """Whether it was raised while the template ran: its frames are the template's own."""
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename in ("<template>", "<unknown>") or "jinja2" in trace.tb_frame.f_globals.get(
            "__name__", ""
        ):
            return True
        trace = trace.tb_next
    return False
