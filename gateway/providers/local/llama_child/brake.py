"""The flag that stops the engine in the middle of its work.

llama.cpp asks an abort callback before each node of its graph (docs/adr/0002). A Python function there would take the
interpreter lock some hundred times per token. `strlen` is a C function that is there already, takes a pointer and
answers non-zero exactly when the first byte is not zero: so the flag is a two-byte string, and pulling the brake writes
one byte. On backends that never ask (CUDA) Python looks at the same flag between batches and between tokens.
"""

import ctypes


class CallerLeft(Exception):
    """The work was stopped because nobody wants its answer any more. Not a fault."""


class Brake:
    """Pulled from any thread; looked at by the engine's thread and by native code. Released only by the engine."""

    def __init__(self) -> None:
        self._flag = ctypes.create_string_buffer(2)  # "" or "\x01"; the second byte always ends the string

    @property
    def callback(self) -> int:
        """The address of a C function `bool (*)(void *)` that never holds the interpreter lock."""
        address = ctypes.cast(ctypes.CDLL(None).strlen, ctypes.c_void_p).value
        if address is None:
            raise LookupError("the C library has no strlen")
        return address

    @property
    def data(self) -> ctypes.c_void_p:
        """What native code hands to the callback. Valid while this object lives."""
        return ctypes.cast(self._flag, ctypes.c_void_p)

    @property
    def pulled(self) -> bool:
        return self._flag.raw[0] != 0

    def pull(self) -> None:
        self._flag[0] = b"\x01"

    def release(self) -> None:
        self._flag[0] = b"\x00"

    def check(self) -> None:
        if self.pulled:
            raise CallerLeft

    def __repr__(self) -> str:
        return f"<Brake {'pulled' if self.pulled else 'free'}>"
