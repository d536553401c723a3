"""One of several workers that share a folder of logs: `log_worker.py DATA_DIR NUMBER LINES CAP`.

Says `there` when it writes its first line, and waits for a line on its standard input before it writes the others and
again before it ends: so that all are alive at once.
"""

import sys
from pathlib import Path

from gateway.records.logs import Logs
from tests.support.log_lines import FORMATS, ended, plan


def main() -> None:
    data, number, lines, cap = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    shared = plan(data, name=f"llama{number % 2}", stamp=f"20261121T14050{number}Z_worker", to="files", total_size=cap)
    logs = Logs(shared, formats=FORMATS, redact=lambda text: text)
    logs.start()
    logs.request(ended(0))
    logs.flush(20)
    print("there", flush=True)
    sys.stdin.readline()
    for count in range(1, lines):
        logs.request(ended(count))
        if count % 1000 == 0:
            logs.flush(20)
    logs.flush(20)
    logs.say(f"facts {logs.facts().dropped_lines}")
    print("done", flush=True)
    sys.stdin.readline()
    assert logs.close(20)


if __name__ == "__main__":
    main()
