"""The command line of the child. Nothing is read from the environment: the gateway's own PORT or API_KEY must not
matter."""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

ALL_LAYERS = -1
"""llama-cpp-python's word for every layer."""


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for on the command line."""

    socket: Path
    model: Path
    aliases: tuple[str, ...] = ()
    context: int | None = None
    """Tokens, prompt and answer together. None: what the model was trained for, at most `CONTEXT_UNASKED`."""
    gpu_layers: int | None = None
    """None: as many as fit."""
    gpu_layers_first: int | None = None
    """Where it is found out how many fit: how many are tried first. None: all."""
    batch: int = 512
    news_fd: int | None = None
    extra: tuple[tuple[str, object], ...] = ()
    """Further arguments of llama_cpp.Llama; they win over ours."""

    @property
    def names(self) -> tuple[str, ...]:
        return self.aliases or (self.model.stem,)


CONTEXT_UNASKED = 8192


def parse(words: list[str]) -> Options:
    """Exits with 2 and a sentence on stderr when the line is wrong, as argparse does."""
    parser = argparse.ArgumentParser(prog="llama_child", description="Serve one GGUF over a unix socket.")
    parser.add_argument("--socket", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--alias", action="append", default=[], help="a name it is served under; the first one is told")
    parser.add_argument("--ctx", type=_positive)
    parser.add_argument("--gpu-layers", type=_layers, default=(None, None), metavar="N|all|auto|auto:N")
    parser.add_argument("--batch", type=_positive, default=512)
    parser.add_argument("--seqs", type=_positive, default=1, help="the package answers one request at a time: only 1")
    parser.add_argument("--news-fd", type=int, help="an inherited pipe that hears each change, one JSON line each")
    parser.add_argument(
        "--arg", type=_pair, action="append", default=[], metavar="KEY=VALUE", help="of llama_cpp.Llama"
    )
    given = parser.parse_args(words)
    if given.seqs != 1:
        parser.error("--seqs: llama-cpp-python answers one request at a time; llama-server and vllm take more")
    return Options(
        socket=given.socket,
        model=given.model,
        aliases=tuple(given.alias),
        context=given.ctx,
        gpu_layers=given.gpu_layers[0],
        gpu_layers_first=given.gpu_layers[1],
        batch=given.batch,
        news_fd=given.news_fd,
        extra=tuple(given.arg),
    )


def _positive(word: str) -> int:
    number = int(word)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def _layers(word: str) -> tuple[int | None, int | None]:
    """(how many, how many to try first)."""
    how, colon, first = word.partition(":")
    if how == "auto":
        return None, _positive(first) if colon and first != "0" else 0 if colon else None
    if word == "all":
        return ALL_LAYERS, None
    number = int(word)
    if number < ALL_LAYERS:
        raise argparse.ArgumentTypeError("must be a number of layers, all or auto")
    return number, None


def _pair(word: str) -> tuple[str, object]:
    """`flash_attn=true`, `rope_freq_base=10000`, `chat_format=chatml`: JSON where it is JSON, else the text itself."""
    key, equals, value = word.partition("=")
    if not equals or not key.isidentifier():
        raise argparse.ArgumentTypeError("must look like KEY=VALUE")
    if key in ("model_path", "verbose"):
        raise argparse.ArgumentTypeError(f"{key} is not yours to set here")
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, value
