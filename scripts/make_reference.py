"""Write the pages of docs/reference/ from the code: settings, command line, errors, log lines, metrics, findings, and
why engines do not start.

python scripts/make_reference.py          write them
python scripts/make_reference.py --check  exit 1 when one is not up to date
"""

import sys
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from string import Formatter
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # run as a script, from anywhere, without being installed

import typer  # noqa: E402

from gateway import kinds  # noqa: E402
from gateway.cli import app  # noqa: E402
from gateway.config import FOREIGN, SETTINGS, Setting  # noqa: E402
from gateway.doctor import findings  # noqa: E402
from gateway.errors import CATALOGUE, RETRY_AFTER_MAX, Refusal  # noqa: E402
from gateway.policy.lifecycle.states import State  # noqa: E402
from gateway.providers.local.ends.endings import LESS_MEMORY  # noqa: E402
from gateway.providers.local.ends.reasons import CAUSES  # noqa: E402
from gateway.providers.local.models import model_error  # noqa: E402
from gateway.providers.local.models.models import AS_ON_THE_HUB, DAMAGED_HERE  # noqa: E402
from gateway.records import metrics  # noqa: E402
from gateway.records.lines import FIELDS  # noqa: E402
from gateway.records.series import LONGEST_LABEL  # noqa: E402

REFERENCE = ROOT / "docs" / "reference"

SETTINGS_OPENING = """\
# Settings

<!-- Generated from gateway/config.py by scripts/make_reference.py. Change it there. -->

Everything has a default: `./start.sh` alone runs. A setting is looked for in this order, and the first place that has
it is believed:

1. the environment,
2. the file `.env` beside start.sh, or the one that `WAKEGATE_ENV_FILE` names (only if its owner is you or root),
3. the TOML file that `WAKEGATE_CONFIG` names, with the same names in lower case,
4. the default.

`WAKEGATE_PORT` means the same as `PORT`, and so for each name; it comes before the short name wherever both stand, also
before a short name in the environment when it stands in `.env`. Use it where other programs read the short name, too.

* An empty value is no value.
* A name with `_FILE` behind it reads a **secret** from a file: `API_KEY_FILE=/run/secrets/key`.
* Where a setting has several names, two that disagree end the start.
* Yes or no is `true`, `false`, `1`, `0`, `yes`, `no`, `on` or `off`.
* Times are seconds, or such as `90s`, `10m`, `2h`, `1h30m`, `1d`, `500ms`.
* Sizes are bytes, or such as `10M` (a million each), `30MiB` (1024 × 1024 each).
* Lists have commas between, or are JSON: `a,b` or `["a", "b"]`. In TOML they are arrays.
* In `.env` a `$` is a `$`: nothing is filled in.

What is wrong is told all at once, one line each, and the exit code is 2. What looks mistyped is warned about.
"""

ERRORS_OPENING = f"""\
# Errors

<!-- Generated from gateway/errors.py by scripts/make_reference.py. Change it there. -->

Every error that the gateway itself answers has this shape, which the OpenAI SDKs read, and says what to do:

```json
{{"error": {{"message": "…", "type": "…", "param": null, "code": "…"}}}}
```

`code` is stable; match on it. `X-Request-Id` is always there, and the log has the same one. `Retry-After` is at most
{RETRY_AFTER_MAX} seconds. `x-should-retry` tells the OpenAI SDKs what a retry is worth: `true` where it costs nothing \
and may succeed,
`false` where it cannot. Errors of the engine itself pass as they are when they are JSON.

When a stream has begun, the status is out already: an error then comes as an event in the stream, in the form that the
route has for it, and the connection ends without `[DONE]`.
"""

LINES_OPENING = """\
# Log lines

<!-- Generated from gateway/records/lines.py by scripts/make_reference.py. Change it there. -->

When a request for the engine ends, one line says what became of it. `wakegate logs` shows and filters them
([how](../how-to/troubleshooting.md#what-happened-who-asked-what-it-cost)). Probes and pages have none.

With `LOG_FORMAT=text` a line is a time and `name=value`:

```text
2026-11-21T14:05:06.123Z request=wk-7f3a key=alice route=/v1/chat/completions model=qwen status=200 outcome=answered …
```

With `LOG_FORMAT=json` it is one object with the same names, `at` (the time) and `"kind": "request"`; seconds and sizes
are numbers.

* Times are UTC. In text, seconds have an `s` behind them.
* What is empty or not known is left out.
* A text that is not plain (a model's name with a blank in it) is a JSON string, in quotes.
* No key, no prompt and no answer stands in any line.

All other lines are a time and a sentence; as JSON `at`, `"kind": "happening"`, `level` and `message`.
"""


def lines_page() -> str:
    """The whole of docs/reference/log-lines.md."""
    rows = ((code(field.name), field.sort, field.sentence) for field in FIELDS.values())
    return f"{LINES_OPENING}\n{table(('name', 'what it is', 'meaning'), rows)}"


METRICS_OPENING = f"""\
# Metrics

<!-- Generated from gateway/records/metrics.py by scripts/make_reference.py. Change it there. -->

What stands at `/metrics`, for Prometheus ([how to scrape it](../how-to/prometheus.md)). A scrape is no activity: it
wakes nothing and keeps nothing awake.

Counters begin at zero with each start of the gateway, as Prometheus expects. What nobody knows is not on the page:
there is no last activity before the first request, and no progress where an engine tells none.

Every label has few values. Upstreams, routes, models and keys are those of the configuration, never a caller's text;
when there are too many, or one comes that is unknown, it is counted as `other`. A name longer than {LONGEST_LABEL}
characters is cut. The page is at most {metrics.LARGEST_PAGE // 1024} KiB: what does not fit is left out, the last of
this list first, and `wakegate_metrics_left_out` says how many are.
"""


DOCTOR_OPENING = """\
# What `wakegate doctor` finds

<!-- Generated from gateway/doctor/findings.py by scripts/make_reference.py. Change it there. -->

Every finding has a stable code: match on it in `wakegate doctor --json`. How to use it:
[have the installation looked at](../how-to/doctor.md).

A finding **breaks** when the gateway would not serve, or would cost money that nobody meant to spend; then the exit
code is 1. **doubtful** works and was probably not meant. A **note** is good to know. Where a finding has two levels, it
depends on the place: on a rented worker more breaks than at home. Words in *italics* are filled in.
"""


def doctor_page() -> str:
    """The whole of docs/reference/doctor.md."""
    parts = [DOCTOR_OPENING]
    for theme in findings.THEMES:
        rows = (doctor_row(name, kind) for name, kind in findings.CATALOGUE.items() if kind.theme == theme)
        title = f"## {theme[0].upper()}{theme[1:]}\n"
        parts += [title, table(("code", "level", "what it says", "why it matters", "what to type"), rows)]
    return "\n".join(parts)


def doctor_row(name: str, kind: findings.Kind) -> tuple[str, ...]:
    cure = filled(kind.cure, "<{}>")
    shown = "as it depends" if kind.cure == "{cure}" else code(cure)
    return code(name), ", ".join(kind.levels), filled(kind.what, "*{}*"), filled(kind.why, "*{}*"), shown


def filled(template: str, mark: str) -> str:
    """A template with the names of its values, marked, in their places."""
    return "".join(text + (mark.format(name) if name else "") for text, name, _, _ in Formatter().parse(template))


def settings_page() -> str:
    """The whole of docs/reference/settings.md."""
    parts = [SETTINGS_OPENING]
    for group, settings in groupby(SETTINGS.values(), key=lambda setting: setting.group):
        parts += [f"## {group}\n", table(("setting", "default", "allowed", "what it is"), map(setting_row, settings))]
    parts += [
        "## Names that are something else here\n",
        "Other programs read these, or older guides used them. They do nothing here, and the gateway says so:\n",
        table(("there", "here"), ((code(theirs), ", ".join(map(code, ours))) for theirs, ours in FOREIGN.items())),
    ]
    return "\n".join(parts)


def setting_row(setting: Setting) -> tuple[str, ...]:
    return code(setting.name), default_of(setting), setting.kind.allowed, " ".join(sentences(setting))


def default_of(setting: Setting) -> str:
    """What holds when nobody sets it, as one would write it."""
    if setting.unset:
        return setting.unset
    if setting.default is None and setting.kind not in (kinds.SWITCH_AUTO, kinds.SPAN_OR_AUTO, kinds.SPAN_OR_NEVER):
        return "not set"
    if setting.default == ():
        return "none"
    # One word of a list per code span: a table's column is as wide as its longest word.
    return ", ".join(code(word) for word in setting.kind.spell(setting.default).split(","))


def sentences(setting: Setting) -> Iterator[str]:
    yield setting.sentence
    names = setting.aliases
    if names:
        yield f"Also read as {', '.join(map(code, names))}."
    if setting.secret:
        yield "A secret."


def errors_page() -> str:
    """The whole of docs/reference/errors.md."""
    rows = map(error_row, sorted(CATALOGUE, key=lambda name: CATALOGUE[name].status))
    return f"{ERRORS_OPENING}\n{table(('status', 'code', 'type', '`x-should-retry`', 'meaning'), rows)}"


def error_row(name: str) -> tuple[str, ...]:
    kind = CATALOGUE[name]
    retry = dict(Refusal(name, "").head()).get("x-should-retry")
    closes = " The connection ends after it." if kind.close else ""
    return str(kind.status), code(name), code(kind.type), code(retry) if retry else "not sent", kind.meaning + closes


def metrics_page() -> str:
    """The whole of docs/reference/metrics.md."""
    rows = [
        (code(each.name), each.kind, ", ".join(map(code, each.labels)), each.meaning)
        for each in metrics.Metrics().described
    ]
    words = (
        ("`outcome` of requests", metrics.OUTCOMES),
        ("`outcome` of starts", metrics.START_OUTCOMES),
        ("`phase` of starts", metrics.PHASES),
        ("`reason` of engine ends", metrics.ENDS),
        ("`reason` of auth failures", metrics.AUTH_FAILURES),
        ("`what` of reloads", metrics.RELOADED),
        ("`call` to a vendor", metrics.CALLS),
        ("`outcome` of such a call", metrics.CALL_OUTCOMES),
        ("`state`", tuple(State)),
    )
    buckets = (
        ("wakegate_time_to_first_byte_seconds", metrics.FIRST_BYTE_BUCKETS),
        ("wakegate_request_duration_seconds", metrics.TOOK_BUCKETS),
        ("wakegate_queue_wait_seconds", metrics.WAIT_BUCKETS),
        ("wakegate_wake_wait_seconds", metrics.WAIT_BUCKETS),
        ("wakegate_cold_start_seconds", metrics.START_BUCKETS),
        ("wakegate_output_tokens_per_second", metrics.SPEED_BUCKETS),
    )
    return "\n".join(
        [
            METRICS_OPENING,
            table(("name", "type", "labels", "what it is"), rows),
            "## Words of the labels\n",
            "`code` is one of [our errors](errors.md), or the engine's own status (`400`, `4xx`, …).\n",
            table(("label", "words"), ((label, ", ".join(map(code, said))) for label, said in words)),
            "## Buckets\n",
            table(
                ("histogram", "at most"), ((code(name), ", ".join(f"{b:g}" for b in said)) for name, said in buckets)
            ),
        ]
    )


FAILURES_OPENING = """\
# Why an engine does not start

<!-- Generated from gateway/providers/local/ by scripts/make_reference.py. Change it there. -->

When a start fails, one sentence says why: in the log, in `/health` (`reason`), and in the error `start_failed` that
everybody gets who waits. It says what to set. The engine's own words, which may name paths, stand below it in the log,
and in `/health` for the admin key.

A failure that **another try** cannot mend is tried once, and those who wait are told at once. Others are tried three
times in a row, with a pause that grows. After that nothing is started for a minute, then for two, up to a quarter of an
hour; the first request after such a pause starts it again, whatever the reason was. Change what the sentence names, and
restart the gateway where it is a setting.
"""

FAILURES_KILLED = f"""\
## It was killed

The kernel counts the processes that it kills because memory runs out. Where that count can be read and has grown, the
sentence says so for sure; where it has not, somebody else sent the signal; where nobody counts, it says *probably*.

* *The engine was killed …, because memory ran out: {LESS_MEMORY}.*
* *The engine was killed by signal 9 …, probably because memory ran out: …*
* *The engine was killed by signal 9 …, and not for memory: somebody on this machine did it.*

All of these are tried again.

## Its files are damaged

When an engine calls a file of the model damaged, and the file came from the Hub, all of it is read and compared with
the checksum that the Hub has for it. What is damaged in `DATA_DIR` is removed and downloaded again with the next try;
what is damaged in a cache of somebody else is left there and passed over.

* *{DAMAGED_HERE}*
* *{AS_ON_THE_HUB}*
"""


def failures_page() -> str:
    """The whole of docs/reference/start-failures.md."""
    printed = ((cause.what, cause.do, "no" if cause.lasting else "yes") for cause in CAUSES.values())
    models = (
        (*sentence.removesuffix(".").split(": ", 1), "yes" if kind in model_error.PASSING else "no")
        if ": " in sentence
        else (sentence.removesuffix("."), "see the log", "yes" if kind in model_error.PASSING else "no")
        for kind, sentence in model_error.FOR_CALLERS.items()
    )
    head = ("what it says", "what to do", "another try")
    return "\n".join(
        [
            FAILURES_OPENING,
            "## What the engine complained of\n",
            table(head, printed),
            "## The model is not found, or not usable\n",
            "Found out before any engine is started; the log has the whole sentence, with paths.\n",
            table(head, models),
            FAILURES_KILLED,
        ]
    )


CLI_OPENING = """\
# The command line

<!-- Generated from gateway/cli.py and gateway/commands/ by scripts/make_reference.py. Change it there. -->

In a clone the command is `.venv/bin/wakegate`; the first `./start.sh` puts it there. In the image it is `wakegate`
(`docker exec my-worker wakegate doctor`), beside the systemd service `/opt/wakegate/.venv/bin/wakegate`. It works from
any folder.

It reads [the settings](settings.md) as the gateway does, from the environment and from `.env` beside `start.sh`. Type
it as the user that the gateway runs as, or it may not be able to read what the gateway wrote.

What a program or a pipe is to have goes to standard output, everything else to standard error. The exit code is 0 when
all went well and 2 when the line itself cannot be understood; what else it can be stands with each command. `--help`
says the same as this page.
"""


def cli_page() -> str:
    """The whole of docs/reference/cli.md."""
    return "\n".join([CLI_OPENING, *cli_parts("wakegate", typer.main.get_command(app), "#")])


def cli_parts(name: str, command: Any, heading: str) -> Iterator[str]:
    """Each subcommand with its help and values, and then those below it."""
    for word, each in getattr(command, "commands", {}).items():
        called = f"{name} {word}"
        yield f"{heading}# {called}\n"
        if not hasattr(each, "commands"):
            options = " [OPTIONS]" if any(not is_argument(value) for value in each.params) else ""
            words = (v.metavar if v.required else f"[{v.metavar}]" for v in each.params if is_argument(v))
            yield f"```text\n{' '.join([called + options, *words])}\n```\n"
        yield f"{each.help.strip()}\n"
        if each.params:
            yield table(("option", "default", "what it is"), map(cli_row, each.params))
        yield from cli_parts(called, each, f"{heading}#")


def is_argument(value: Any) -> bool:
    return bool(value.param_type_name == "argument")


def cli_row(value: Any) -> tuple[str, ...]:
    if is_argument(value):
        return code(value.metavar), "must be given" if value.required else "not given", value.help
    spelled = ", ".join(f"{name} {value.metavar}" if value.metavar else name for name in value.opts)
    if isinstance(value.show_default, str):
        default = value.show_default
    elif value.is_flag or value.default in (None, ""):
        default = "no" if value.is_flag else "not given"
    else:
        default = code(str(value.default))
    return code(spelled), default, value.help + (" May be given more than once." if value.multiple else "")


def code(text: str) -> str:
    return f"`{text}`"


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A Markdown table; a bar in a cell would end the cell."""
    lines = [line(head), "|" + "---|" * len(head)]
    return "\n".join([*lines, *(line(cell.replace("|", "\\|") for cell in row) for row in rows)]) + "\n"


def line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


PAGES = {
    REFERENCE / "settings.md": settings_page,
    REFERENCE / "cli.md": cli_page,
    REFERENCE / "errors.md": errors_page,
    REFERENCE / "log-lines.md": lines_page,
    REFERENCE / "doctor.md": doctor_page,
    REFERENCE / "metrics.md": metrics_page,
    REFERENCE / "start-failures.md": failures_page,
}


def main(arguments: list[str]) -> int:
    stale = [path for path, page in PAGES.items() if not path.exists() or path.read_text(encoding="utf-8") != page()]
    if "--check" in arguments:
        for path in stale:
            print(f"{path.relative_to(ROOT)} is not up to date: run python scripts/make_reference.py", file=sys.stderr)
        return 1 if stale else 0
    for path in stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(PAGES[path](), encoding="utf-8")
        print(f"wrote {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
