"""`python -m gateway` is the gateway's process, as start.sh runs it; with words behind it, the command line."""

import sys


def main() -> int:
    if len(sys.argv) > 1:
        from gateway.cli import main as command_line

        return command_line()
    from gateway.process import main as gateway

    return gateway()


if __name__ == "__main__":
    sys.exit(main())
