"""A gateway from where the command line stands: it listens in a run folder, and says what a test has it say."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gateway.orders import address_of, socket_name


@contextmanager
def gateway(folder: Path, port: int = 8000, *answers: bytes) -> Iterator[list[bytes]]:
    """Something that listens, and says this to each who asks. Yields what it was asked."""
    folder.mkdir(mode=0o700, exist_ok=True)
    asked: list[bytes] = []
    with socket.socket(socket.AF_UNIX) as listener:
        with address_of(folder / socket_name(port)) as address:
            listener.bind(address)
        listener.listen()

        def serve() -> None:
            while True:
                try:
                    there, _ = listener.accept()
                except OSError:
                    return
                with there, there.makefile("rb") as lines, suppress(ConnectionError):
                    if question := lines.readline():
                        asked.append(question)
                        there.sendall(b"".join(answers))

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield asked
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
