"""`python -m gateway` is the gateway's process, as start.sh runs it; with words behind it, the command line.

Until the gateway listens nobody has an answer, so what imports do besides defining is left out here, before the first.
"""

import gc
import ssl
import sys
from collections.abc import Iterator
from contextlib import contextmanager


def main() -> int:
    gc.disable()  # modules are no garbage; looking for some again and again takes a tenth of the start
    if len(sys.argv) > 1:
        from gateway.cli import main as command_line

        gc.enable()
        return command_line()
    with no_certificates():
        import aiohttp  # noqa: F401 - for those who import it later
    from gateway.process import main as gateway

    return gateway()


@contextmanager
def no_certificates() -> Iterator[None]:
    """TLS contexts made meanwhile trust nobody.

    aiohttp makes two for its client when it is imported, and reads this machine's hundred certificates for each: 40 ms.
    None of our sessions uses them: who speaks TLS here brings a context of its own. One that forgot to would find every
    certificate wrong, never a wrong one right.
    """
    names = ("load_default_certs", "set_default_verify_paths")
    kept = {name: vars(ssl.SSLContext).get(name) for name in names}
    for name in names:
        setattr(ssl.SSLContext, name, lambda *_: None)
    try:
        yield
    finally:
        for name, method in kept.items():
            if method is None:
                delattr(ssl.SSLContext, name)  # inherited
            else:
                setattr(ssl.SSLContext, name, method)


if __name__ == "__main__":
    sys.exit(main())
