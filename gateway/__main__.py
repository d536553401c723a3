"""`python -m gateway` is the gateway's process, as start.sh runs it; with words behind it, the command line.

Until the gateway listens nobody has an answer, so what imports do besides defining is left out here, before the first.
"""

import gc
import signal
import sys


def main() -> int:
    gc.disable()  # modules are no garbage; looking for some again and again takes a tenth of the start
    if len(sys.argv) > 1:
        from gateway.cli import main as command_line

        gc.enable()
        return command_line()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(
            signal.SIGINT, signal.SIG_DFL
        )  # Ctrl-C while it imports ends it, as TERM does: without a traceback
    from gateway.process import main as gateway

    return gateway()


if __name__ == "__main__":
    sys.exit(main())
