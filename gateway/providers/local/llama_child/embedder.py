"""Embeddings from the model that is already loaded: a second, small context on the same weights, made when first asked.

A context of its own cannot disturb the chat's, in whatever order they come, and the chat keeps its cache. It starts
small and is made again, larger, when a longer input comes: a sequence must fit into one batch, and that is what the
memory is for (docs/adr/0005).
"""

from collections.abc import Sequence
from typing import Any

from llama_cpp import _internals
from llama_cpp import llama_cpp as native

from .brake import Brake
from .refusals import Refusal

SMALLEST = 512


class Embedder:
    """Belongs to one model and lives in the engine's thread."""

    def __init__(
        self, model: _internals.LlamaModel, metadata: dict[str, str], brake: Brake, limit: int, like: Any
    ) -> None:
        self._model, self._brake, self._like = model, brake, like
        self._limit = min(limit, model.n_ctx_train())
        # Chat models name no pooling. llama.cpp would then give one vector per token; OpenAI's shape has one per input.
        named = any(key.endswith(".pooling_type") and value not in ("0", "") for key, value in metadata.items())
        self._pooling = native.LLAMA_POOLING_TYPE_UNSPECIFIED if named else native.LLAMA_POOLING_TYPE_MEAN
        self._size = 0
        self._context: _internals.LlamaContext | None = None
        self._batch: _internals.LlamaBatch | None = None

    def tokens(self, text: str) -> list[int]:
        return [int(token) for token in self._model.tokenize(text.encode(), add_bos=True, special=False)]

    def must_fit(self, tokens: int, param: str, sure: str = "") -> None:
        if tokens > self._limit:
            raise Refusal(
                f"This model embeds at most {self._limit} tokens at once, and this input has {sure}{tokens}.",
                param=param,
                code="context_length_exceeded",
            )

    def embed(self, tokens: Sequence[int], param: str) -> list[float]:
        """One vector, as the model gives it: not normalised, as the package's own server does it."""
        if not tokens:
            raise Refusal("An empty input has no embedding.", param=param)
        self.must_fit(len(tokens), param)
        self._brake.check()
        context, batch = self._fitting(len(tokens))
        context.kv_cache_clear()
        batch.reset()
        batch.add_sequence(tokens, 0, True)
        try:
            context.decode(batch)
        except RuntimeError:
            self._brake.check()
            raise
        vector = native.llama_get_embeddings_seq(context.ctx, 0)
        if not vector:
            raise Refusal("This model gives no embeddings.", code="route_not_supported", status=501)
        return [float(value) for value in vector[: self._model.n_embd()]]

    def _fitting(self, tokens: int) -> tuple[_internals.LlamaContext, _internals.LlamaBatch]:
        if self._context is None or self._batch is None or tokens > self._size:
            self.close()
            size = max(SMALLEST, 1 << (tokens - 1).bit_length())
            self._make(min(size, max(self._limit, 1)))
        assert self._context is not None and self._batch is not None  # noqa: S101  made just above
        return self._context, self._batch

    def _make(self, size: int) -> None:
        params = native.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = size
        params.n_seq_max = 1
        params.embeddings = True
        params.pooling_type = self._pooling
        # Not its flash attention: llama.cpp's own choice (auto) needs a tenth of the memory here.
        for name in ("n_threads", "n_threads_batch", "offload_kqv", "op_offload"):
            setattr(params, name, getattr(self._like, name))
        try:
            self._context = _internals.LlamaContext(model=self._model, params=params, verbose=False)
        except ValueError:
            raise Refusal(
                f"There is no memory left for embeddings of {size} tokens beside this model.",
                code="insufficient_memory",
                status=503,
                kind="server_error",
            ) from None
        callback = native.ggml_abort_callback(self._brake.callback)
        native.llama_set_abort_callback(self._context.ctx, callback, self._brake.data)
        self._batch = _internals.LlamaBatch(n_tokens=size, embd=0, n_seq_max=1, verbose=False)
        self._size = size

    def close(self) -> None:
        """Gives the memory back; the next input makes it anew."""
        for part in (self._batch, self._context):
            if part is not None:
                part.close()
        self._batch = self._context = None
        self._size = 0

    def __repr__(self) -> str:
        return f"<Embedder {self._size} of {self._limit} tokens>"
