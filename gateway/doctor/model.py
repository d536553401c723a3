"""MODEL AND ENGINE: is the model there, and is there something that can serve it with these settings? Without I/O."""

import shlex
from collections.abc import Iterator, Mapping

from gateway import config
from gateway.assembly import engine_spec
from gateway.doctor.case import Case
from gateway.doctor.findings import BREAKS, DOUBTFUL, NOTE, Finding, found
from gateway.providers.local import commands
from gateway.providers.local.commands import CommandError, EngineName, Format, Place

_SOMEWHERE = Place(
    socket="/run/wakegate/engine.sock", port=9000, key_file="", news_fd=3, python="python", package_root=""
)
"""Where an engine could live: its command line is made to see whether it can be, and thrown away."""


INSTALL: Mapping[EngineName, str] = {
    "llama-cpp-python": "pip install 'wakegate[llama]'",
    "llama-server": "command -v llama-server",
    "vllm": "pip install vllm",
    "command": "env | grep ENGINE_COMMAND",
}


def check(case: Case) -> Iterator[Finding]:
    if case.settings.provider == "external":
        yield from _upstream(case)
        return
    if case.settings.rents:  # its model and its engine are on another machine
        return
    yield from _model(case)
    yield from _engine(case)
    yield from _context(case)


def engine_of(case: Case) -> EngineName:
    """The engine that would serve. Raises CommandError."""
    spec = engine_spec(case.settings, case.settings.served_model_name)
    return commands.choose(spec, _format(case), case.facts.installed)


def _format(case: Case) -> Format | None:
    model = case.facts.model
    if model.found is not None:
        return model.found.format
    named_so = model.text is None or "gguf" in model.text.lower()  # the demo model is one, too
    return "gguf" if named_so else None


def _model(case: Case) -> Iterator[Finding]:
    s, model = case.settings, case.facts.model
    if model.problem:
        # The folder where one would look: most names are meant to lie there.
        yield found("model-unusable", problem=model.problem, models=shlex.quote(str(s.data_dir / "models")))
    elif model.is_to_download:
        yield found("model-to-download", model=shlex.quote(model.text or ""))
    elif model.text is None and not s.engine_command:
        yield found("model-demo", DOUBTFUL if case.around.is_worker else NOTE)


def _engine(case: Case) -> Iterator[Finding]:
    spec, installed = engine_spec(case.settings, case.settings.served_model_name), case.facts.installed
    try:
        engine = engine_of(case)
    except CommandError as error:
        wanted = case.settings.engine or ("vllm" if _format(case) == "safetensors" else "llama-cpp-python")
        yield found("engine-missing", problem=str(error), cure=INSTALL[wanted])
        return
    try:
        commands.door(spec, engine)
        commands.build(spec, engine, _SOMEWHERE, case.facts.model.text or "model", installed)
    except CommandError as error:
        yield found("engine-settings", problem=str(error))
        return
    if engine == "command" and not case.facts.engine_program:
        yield found("engine-command-missing", program=shlex.quote(case.settings.engine_command[0]))


def _context(case: Case) -> Iterator[Finding]:
    s, model = case.settings, case.facts.model.found
    if model is None or model.context_length is None:
        return
    try:
        engine = engine_of(case)
    except CommandError:
        return  # told already
    by_total = engine == "llama-cpp-python" and s.ctx_size  # one request at a time: all of it is that request's
    name, wanted = ("CTX_SIZE", s.ctx_size) if by_total else ("MAX_MODEL_LEN", s.max_model_len)
    if wanted is not None and wanted > model.context_length:
        level = BREAKS if engine == "vllm" else DOUBTFUL
        yield found("context-too-long", level, name=name, wanted=wanted, model=model.name, trained=model.context_length)


def _upstream(case: Case) -> Iterator[Finding]:
    """Only what lies on this machine is looked at: whoever asks a fleet wakes it, and pays."""
    host, port = config.host_and_port(case.settings.upstream_url or "")
    if config.is_this_machine(host) and all(listener.port != port for listener in case.facts.listeners):
        yield found("upstream-silent", port=port)
