"""llama_cpp.Llama with what a server needs: a brake, true counts, log probabilities that cost nothing until asked for.

Everything here runs in the engine's thread. The package does the work; only the places where it evaluates, samples and
turns tokens into text are stepped into.
"""

import ctypes
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import llama_cpp
import numpy as np
from llama_cpp import llama_cpp as native
from llama_cpp.llama_tokenizer import LlamaTokenizer

from .brake import Brake
from .embedder import Embedder
from .refusals import Refusal

PIECE = 256
"""Bytes that one token's text may have before it is asked for a second time."""


@dataclass(slots=True)
class Chosen:
    """One token of the answer with its log probability, and the likeliest ones in its place."""

    token: int
    logprob: float
    likeliest: list[tuple[int, float]]


@dataclass(slots=True)
class Tally:
    """What one request used, counted where it happens."""

    prompt: int = 0
    answer: int = 0
    top: int | None = None
    """How many likeliest tokens are wanted with each one; None: no log probabilities."""
    chosen: list[Chosen] = field(default_factory=list)

    def usage(self) -> dict[str, int]:
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.answer,
            "total_tokens": self.prompt + self.answer,
        }


class Pieces(dict[int, bytes]):
    """The text of each token, read once."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        super().__init__()
        self._read = read

    def __missing__(self, token: int) -> bytes:
        self[token] = piece = self._read(token)
        return piece


class Model(llama_cpp.Llama):
    """One loaded model with its context. `progress(ratio)` hears native loading; False from it gives up."""

    _n_ctx: int
    n_tokens: int

    def __init__(
        self, path: str, *, brake: Brake, progress: Callable[[float], bool], trained_only: bool, **arguments: Any
    ) -> None:
        self._progress = native.llama_progress_callback(lambda ratio, _: progress(ratio))
        self._brake = brake
        self._pieces = Pieces(self._read_piece)
        self._embedder: Embedder | None = None
        self.tally = Tally()
        # verbose: otherwise the package sends our stderr to /dev/null while it loads, the last words of a crash
        # included.
        super().__init__(path, verbose=True, **arguments)
        self.verbose = False
        native.llama_set_abort_callback(self.ctx, native.ggml_abort_callback(brake.callback), brake.data)
        if "chat_format" not in arguments and "chat_template.default" in self._chat_handlers:
            # The model's own template (sandboxed by the package), not the look-alike that the package guesses from it:
            # those drop tools.
            self.chat_format = "chat_template.default"
        if trained_only:
            self._n_ctx = min(self._n_ctx, self._model.n_ctx_train())

    @property
    def model_params(self) -> native.llama_model_params:
        return self._model_params

    @model_params.setter
    def model_params(self, params: native.llama_model_params) -> None:
        """The package makes these and loads with them in one go; this is the only moment to ask for progress."""
        params.progress_callback = self._progress
        self._model_params = params

    @property
    def limit(self) -> int:
        """Tokens, prompt and answer together."""
        return int(self._n_ctx)

    @property
    def vocabulary(self) -> int:
        return int(self._n_vocab)

    @property
    def can_generate(self) -> bool:
        """False for encoders (BERT and the like): they only embed."""
        return self._ctx.memory is not None and bool(native.llama_model_has_decoder(self.model))

    @property
    def embedder(self) -> Embedder:
        if self._embedder is None:
            self._embedder = Embedder(self._model, self.metadata, self._brake, self.limit, self.context_params)
        return self._embedder

    @contextmanager
    def counting(self, top: int | None) -> Iterator[Tally]:
        """One request: counts from here on, with the `top` likeliest tokens for each chosen one."""
        self.tally = Tally(top=top)
        if top is not None:
            # The package may answer a repeated prompt from the last logits: have them computed again.
            self._requires_eval = True
        try:
            yield self.tally
        finally:
            self.tally = Tally()

    @cached_property
    def longest_token(self) -> int:
        """Bytes of text that one token stands for at most; 0: any number (an unknown word, in other vocabularies)."""
        vocabulary = self._model.vocab
        if native.llama_vocab_type(vocabulary) not in (native.LLAMA_VOCAB_TYPE_SPM, native.LLAMA_VOCAB_TYPE_BPE):
            return 0
        # As the vocabulary spells it, with its escapes: never shorter than the text.
        return max(len(native.llama_vocab_get_text(vocabulary, token)) for token in range(self.vocabulary))

    def least_tokens(self, text: bytes) -> int:
        """How many tokens this text has at least, known without cutting it. Native code takes minutes to cut a few
        megabytes (its time grows with the square of the length); nothing stops it, and everybody waits behind it."""
        return -(-len(text) // self.longest_token) if self.longest_token else 0

    def tokenize(self, text: bytes, add_bos: bool = True, special: bool = False) -> list[int]:
        least = self.least_tokens(text)
        if least > self.limit:
            # In the package's words, which answers.py knows.
            raise ValueError(f"Requested tokens (at least {least}) exceed context window of {self.limit}")
        return list(super().tokenize(text, add_bos, special))

    def generate(self, tokens: Sequence[int], *args: Any, **kwargs: Any) -> Generator[int, Sequence[int] | None, None]:
        if not tokens:
            raise Refusal("The prompt is empty: this model needs at least one token to begin with.", param="prompt")
        tally = self.tally
        tally.prompt = len(tokens)
        for token in super().generate(tokens, *args, **kwargs):
            if not native.llama_vocab_is_eog(self._model.vocab, token):
                tally.answer += 1
            yield token

    def eval(self, tokens: Sequence[int]) -> None:
        """In blocks of n_batch, with a look at the brake before each: that is what stops a prefill on a GPU."""
        try:
            for start in range(0, len(tokens), self.n_batch):
                self._brake.check()
                super().eval(tokens[start : start + self.n_batch])
        except BaseException:
            self._forget_unfinished()
            self._brake.check()  # native code says only that it was stopped; this says why
            raise

    def _forget_unfinished(self) -> None:
        """After a stop in mid-block: what was finished before stays usable (the next turn of a chat begins with it),
        its logits do not. State that cannot be cut back (recurrent layers) is dropped."""
        self._requires_eval = True
        whole = self._is_recurrent or self._is_hybrid
        if whole or not self._ctx.kv_cache_seq_rm(-1, self.n_tokens, -1):
            self._ctx.kv_cache_clear()
            self.n_tokens = 0

    def sample(self, *args: Any, **kwargs: Any) -> int:
        token = int(super().sample(*args, **kwargs))
        if self.tally.top is not None and not native.llama_vocab_is_eog(self._model.vocab, token):
            self.tally.chosen.append(self._weigh(token, self.tally.top))
        return token

    def _weigh(self, token: int, top: int) -> Chosen:
        """From the raw logits of the last position, as the package does with logits_all (which keeps them for every
        position of the context: gigabytes)."""
        row = np.ctypeslib.as_array(self._ctx.get_logits_ith(-1), shape=(self.vocabulary,)).copy()
        logprobs = llama_cpp.Llama.logits_to_logprobs(row)
        best = np.argpartition(logprobs, -top)[-top:] if top else np.empty(0, np.int64)
        best = best[np.argsort(-logprobs[best], kind="stable")]
        return Chosen(token, float(logprobs[token]), [(int(each), float(logprobs[each])) for each in best])

    def piece(self, token: int) -> bytes:
        """The text of one token."""
        return self._pieces[token]

    def _read_piece(self, token: int, size: int = PIECE) -> bytes:
        buffer = ctypes.create_string_buffer(size)
        length = native.llama_token_to_piece(self._model.vocab, token, buffer, size, 0, False)
        return self._read_piece(token, -length) if length < 0 else buffer.raw[:length]

    def detokenize(self, tokens: list[int], prev_tokens: list[int] | None = None, special: bool = False) -> bytes:
        """The same bytes as the package's. It asks for the whole answer's text again after each token: from memory,
        that is fifty times quicker than through ctypes, token by token (docs/adr/0002)."""
        if special or type(self.tokenizer_) is not LlamaTokenizer:
            return bytes(super().detokenize(tokens, prev_tokens, special))
        text = b"".join(map(self._pieces.__getitem__, tokens))
        return text[1:] if tokens and tokens[0] == self.token_bos() and text[:1] == b" " else text

    def __repr__(self) -> str:
        return f"<Model {self.limit} tokens of context, {self.n_tokens} held>"


def listen_to_native(keep: Callable[[int, str], None]) -> None:
    """Native log lines go to `keep(level, text)` instead of the package's own printing."""

    def hear(level: int, text: bytes, _: object) -> None:
        keep(level, text.decode("utf-8", "replace"))

    callback = native.llama_log_callback(hear)
    _LISTENERS.append(callback)
    native.llama_log_set(callback, ctypes.c_void_p(0))


_LISTENERS: list[object] = []
"""Native code holds no reference; one that is collected would be a crash."""


def say(text: str) -> None:
    print(text.rstrip("\n"), file=sys.stderr, flush=True)
