"""Every setting, once: its name, its type, its default and one sentence. A value made from a mapping.

`load(environ, …)` reads the environment, `.env` and the TOML file, in this order, and returns a frozen `Settings`, or
raises `SettingsError` with everything that is wrong, one line each. Nothing here looks at the machine: files are read
by a function that is handed in, and defaults that depend on where we run are filled in by `surroundings.settle`.

To add a setting: one field in `Settings`, and run scripts/make_reference.py, which writes docs/reference/settings.md
from this file. A setting that does nothing must not exist. No message repeats a value that may be a secret.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Annotated, Any, Literal, cast
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, SecretStr, ValidationError

from gateway import kinds
from gateway.kinds import Kind, shown

PREFIX = "WAKEGATE_"
KEY_LENGTH = 16
"""Characters. A shorter key is warned about."""


class SettingsError(Exception):
    """Something in the settings is wrong. `problems` has one line for each thing, fit for a console; `warnings` are
    those that there were besides: a mistyped name is often what is behind a problem."""

    def __init__(self, problems: Iterable[str], warnings: Iterable[str] = ()) -> None:
        self.problems = tuple(problems)
        self.warnings = tuple(warnings)
        super().__init__("\n".join(self.problems))


# --- The settings -----------------------------------------------------------------------------------------------------


def _group(title: str) -> Callable[..., Any]:
    """The settings of one group: `setting(default, sentence)`, and for some:

    aliases: other names that mean the same. unset: what the reference says instead of the default, where that depends.
    """

    def setting(default: object, sentence: str, *, aliases: tuple[str, ...] = (), unset: str = "") -> Any:
        extra: dict[str, Any] = {"group": title, "aliases": list(aliases), "unset": unset}
        return Field(default, description=sentence, json_schema_extra=extra)

    return setting


_places = _group("Places")
_logs = _group("Logs")
_compute = _group("Compute")
_engine = _group("Engine")
_model = _group("Model")
_lifecycle = _group("Lifecycle")
_waiting = _group("Waiting")
_admission = _group("Admission")
_limits = _group("Limits")
_keys = _group("Keys")
_money = _group("Money")
_runpod = _group("RunPod")
_vast = _group("Vast")

Seconds = Annotated[float, kinds.SPAN]
Wait = Annotated[float, kinds.SPAN_OR_ZERO]
Port = Annotated[int, kinds.PORT]
Bytes = Annotated[int, kinds.SIZE]
Switch = Annotated[bool, kinds.SWITCH]
Secret = Annotated[SecretStr | None, kinds.SECRET]
Words = Annotated[tuple[str, ...], kinds.COMMAND]
MaybeCount = Annotated[int | None, kinds.COUNT]
MaybeMoney = Annotated[int | None, kinds.MONEY]


HealthMode = Annotated[Literal["auto", "strict", "hold", "always"], kinds.one_of("auto", "strict", "hold", "always")]
LogLevel = Annotated[Literal["debug", "info", "warning", "error"], kinds.one_of("debug", "info", "warning", "error")]
ProviderNames = Annotated[str, kinds.PROVIDERS]
OnExit = Annotated[Literal["stop", "leave"], kinds.one_of("stop", "leave")]
Strategy = Annotated[Literal["resume", "recreate"] | None, kinds.one_of("resume", "recreate")]
Connect = Annotated[Literal["proxy", "tcp"], kinds.one_of("proxy", "tcp")]
EngineName = Annotated[
    Literal["llama-cpp-python", "llama-server", "vllm", "command"] | None,
    kinds.one_of("llama-cpp-python", "llama-server", "vllm", "command"),
]
IdleAction = Annotated[Literal["auto", "sleep", "stop"], kinds.one_of("auto", "sleep", "stop")]
LogFormat = Annotated[Literal["text", "json"], kinds.one_of("text", "json")]
LogTo = Annotated[Literal["both", "console", "files"], kinds.one_of("both", "console", "files")]
ColdStart = Annotated[Literal["hold", "reject", "fallback"], kinds.one_of("hold", "reject", "fallback")]
FallbackOn = Annotated[tuple[str, ...], kinds.some_of("no_capacity", "budget", "start_failed", "queue_full")]
LoadingText = Annotated[Literal["off", "reasoning"], kinds.one_of("off", "reasoning")]
ModelCheck = Annotated[Literal["any", "strict"], kinds.one_of("any", "strict")]


class Settings(BaseModel):
    """All settings. Frozen. Made by `load`, then made final by `surroundings.settle`.

    None means off, not known or never, as the field's sentence says. Times are seconds, sizes are bytes. A default that
    depends on the surroundings stands here in its plainest form, and its reference text in `unset`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    host: Annotated[str, kinds.HOST] = _places(
        "0.0.0.0",  # noqa: S104 - callers come from outside; without keys it is 127.0.0.1, see unset
        "The address both ports listen on.",
        unset="`0.0.0.0`; `127.0.0.1` when keys are off outside a container",
    )
    port: Port = _places(8000, "The port for callers.")
    port_health: Port = _places(8001, "The port for health checks, a process of its own.")
    health_check_path: Annotated[str, kinds.PATH] = _places(
        "/ping", "A further path on `PORT_HEALTH` that answers as `/ping` does."
    )
    health_mode: HealthMode = _places(
        "auto",
        "What `/ping` says: *strict* 204 during the first start, 200 while requests can be served or would wake "
        "the engine, else 503; *hold* 200 as soon as the gateway listens; *always* 200.",
        unset="`auto`: strict; hold with `COLD_START=fallback`, and on RunPod's load balancer when starts take longer "
        "than 90 s",
    )
    data_dir: Annotated[Path, kinds.FOLDER] = _places(
        Path("data"),
        "Where models, logs, keys and state are kept.",
        unset="`/runpod-volume` or `/workspace` inside RunPod or Vast where it is writable, `/data` in a container "
        "that has it, `./data` of a checkout, else `~/.local/share/wakegate`",
    )
    tls_cert: Annotated[Path | None, kinds.FILE] = _places(
        None,
        "A certificate chain in PEM: `PORT` then speaks TLS itself. Read again when the file changes. *self*: one of "
        "its own, which is made once; the console says its fingerprint, for whoever rents this machine.",
    )
    tls_key: Annotated[Path | None, kinds.FILE] = _places(
        None, "The private key of `TLS_CERT` in PEM.", unset="in `TLS_CERT`'s file"
    )
    trusted_proxies: Annotated[tuple[str, ...], kinds.NETWORKS] = _places(
        (),
        "Addresses of proxies in front whose `X-Forwarded-For` and `X-Forwarded-Proto` are believed; *private* is "
        "every network that is not public.",
    )
    allowed_paths: Annotated[tuple[str, ...], kinds.PATHS] = _places(
        (), "Further exact paths that are passed to the engine, with a key. Engines leave many of theirs unprotected."
    )

    log_name: Annotated[str, kinds.LOG_NAME] = _logs(
        "llama", "The folder under `DATA_DIR/logs` that this gateway's logs go to."
    )
    log_level: LogLevel = _logs("info", "How much is logged.")
    log_format: LogFormat = _logs("text", "How a line looks: `name=value` for people, or one JSON object.")
    log_to: LogTo = _logs(
        "both", "Where lines go: the console, files under `DATA_DIR/logs`, or both. The start is told on both."
    )
    log_max_size: Bytes = _logs(20 * 1024**2, "A log file is rotated when it is this large, the engine's too.")
    log_rotate_every: Seconds = _logs(86400.0, "A log file is rotated when it is this old.")
    log_total_size: Bytes = _logs(
        500 * 1024**2,
        "What all logs on this volume may take, of every boot and worker; the oldest go first, never a live one.",
    )

    provider: ProviderNames = _compute(
        "local",
        "Where the engine runs: *local* is a child process of the gateway, *external* is something that already runs. "
        "*runpod-pod* and *vast* rent a GPU when a request comes, and give it back; a list of them is tried in order, "
        "the cheapest first where both say a price.",
        unset="`local`; `external` when only `UPSTREAM_URL` is set",
    )
    upstream_url: Annotated[str | None, kinds.URL] = _compute(
        None, "Where the external upstream answers, never this gateway itself.", aliases=("VLLM_API_URL",)
    )
    upstream_api_key: Secret = _compute(
        None,
        "The key that the upstream asks for; one that is rented must ask for one. `VLLM_API_KEY` means this unless the "
        "provider is local.",
    )
    allow_plain_http: Switch = _compute(False, "Whether keys and prompts may go to a public address without TLS.")
    tls_fingerprint: Annotated[str | None, kinds.FINGERPRINT] = _compute(
        None,
        "The SHA-256 fingerprint of the certificate that the upstream must show, instead of one that is signed: a "
        "WakeGate worker prints its own.",
    )
    allow_custom_vendor_url: Switch = _compute(
        False, "Whether a vendor's API may be at another address than the vendor's own or loopback; it gets the key."
    )

    engine: EngineName = _engine(
        None,
        "The program that serves the model.",
        unset="from the model's format and what is installed; `command` when `ENGINE_COMMAND` is set",
    )
    engine_command: Words = _engine(
        (),
        "The engine's command line, run without a shell; `{port}`, `{host}`, `{socket}`, `{model}` and "
        "`{api_key_file}` are filled in.",
    )
    engine_stop_command: Words = _engine((), "A command that stops the engine, where ending its processes does not.")
    engine_health_path: Annotated[str | None, kinds.PATH] = _engine(
        None, "The path that says 200 once the engine serves.", unset="as the engine has it"
    )
    engine_env: Annotated[tuple[tuple[str, str], ...], kinds.PAIRS] = _engine(
        (), "Variables for the engine's environment, which otherwise holds only a short list of ours."
    )
    engine_args: Words = _engine((), "Arguments added to the engine's command line, after ours.")

    model: Annotated[str | None, kinds.TEXT] = _model(
        None,
        "A path, a file or folder under `DATA_DIR/models`, or a Hub id: `org/name`, `org/name:Q4_K_M`, "
        "`org/name:file.gguf`, with `@revision`, or `hf.co/…`.",
        aliases=("MODEL_NAME", "MODEL_PATH", "MODEL_REPO"),
        unset="a tiny demo model that talks nonsense",
    )
    served_model_name: Annotated[tuple[str, ...], kinds.NAMES] = _model(
        (),
        "The names that callers know the model by; the first is shown.",
        aliases=("OPENAI_SERVED_MODEL_NAME_OVERRIDE",),
        unset="from `MODEL`",
    )
    base_path: Annotated[Path | None, kinds.FOLDER] = _model(
        None, "A further folder to look into for models, where worker-vllm kept them."
    )
    model_check: ModelCheck = _model(
        "any", "Whether a request for an unknown model is served all the same (*any*) or answered 404 (*strict*)."
    )
    max_model_len: MaybeCount = _model(None, "Tokens in one request, prompt and answer.", unset="from the model")
    ctx_size: Annotated[int | None, kinds.COUNT_OR_ZERO] = _model(
        None,
        "Tokens in all, over all slots, for llama.cpp; 0 is what the model was trained with.",
        aliases=("CTX", "N_CTX"),
        unset="from the model and `MAX_MODEL_LEN`",
    )
    n_gpu_layers: Annotated[int | Literal["auto", "all"], kinds.LAYERS] = _model(
        "auto", "Layers that llama.cpp puts on the GPU.", aliases=("NGL", "GPU_LAYERS")
    )
    gpu_memory_utilization: Annotated[float | None, kinds.SHARE] = _model(
        None, "The share of GPU memory that vLLM takes.", unset="vLLM's own"
    )
    max_num_seqs: MaybeCount = _model(
        None,
        "Requests that the engine works on at once (llama.cpp's slots, vLLM's sequences).",
        unset="the engine's own",
    )
    show_loading_progress: Switch = _model(
        True,
        "Whether the console and the log tell how far a start is: on a terminal in a line that moves, elsewhere in one "
        "line per 5 %. `/health`, the metrics and those who wait know it in any case.",
    )
    hf_token: Secret = _model(
        None, "A Hugging Face token, for models that ask for one.", aliases=("HUGGING_FACE_HUB_TOKEN",)
    )

    warmup: Annotated[bool | Path, kinds.WARMUP] = _lifecycle(
        False,
        "Whether one token goes through the model before it counts as ready, so that the first caller does not wait "
        "for what an engine does only then. A file holds what callers begin with: its text is sent as the system "
        "message, or, if it is named `.json`, as the body of a whole chat request.",
    )
    read_ahead: Switch = _lifecycle(
        True,
        "Whether the model's files are read into the page cache while the engine still starts, where they fit into the "
        "memory that is free.",
    )
    wake_on_start: Switch = _lifecycle(
        True,
        "Whether the engine is started with the gateway, before anybody asks.",
        unset="`true`; `false` for what is rented, and with `WAKE_AFTER`",
    )
    start_timeout: Seconds = _lifecycle(600.0, "A start that makes no progress for this long has failed.")
    start_max: Seconds = _lifecycle(1800.0, "A start that takes longer than this in all has failed.")
    idle_timeout: Annotated[float | None, kinds.SPAN_OR_NEVER] = _lifecycle(
        900.0,
        "The engine is stopped, and its memory or the rented GPU given back, after this long without a request; 0 is "
        "at once, and wrong for what is rented. `INACTIVITY_LIMIT_MINUTES` counts minutes.",
        aliases=("INACTIVITY_LIMIT", "INACTIVITY_LIMIT_MINUTES"),
        unset="`15m`; `10m` for what is rented; `never` inside a platform's worker and for an external upstream",
    )
    idle_action: IdleAction = _lifecycle(
        "auto",
        "What happens to an idle engine. *stop* ends it. *sleep* keeps vLLM's process, which gives its GPU memory back "
        "until somebody comes. *auto* sleeps where vLLM can, and the machine's memory can hold the weights meanwhile.",
    )
    drain_timeout: Wait = _lifecycle(
        25.0,
        "How long a shutdown may take in all, running answers and a local engine included.",
        unset="`25s`; `8s` in a container whose platform does not say how long it waits",
    )

    cold_start: ColdStart = _waiting(
        "hold",
        "What happens to a request that comes while nothing serves: *hold* it until the start succeeds or fails, "
        "*reject* it at once, with `Retry-After`, while the start goes on, or let the *fallback* answer it meanwhile.",
    )
    hold_grace: Wait = _waiting(
        10.0,
        "How long a streaming caller waits for a plain status before the stream is opened and held by comments; "
        "never longer than `HEARTBEAT_INTERVAL`.",
    )
    hold_max: Annotated[float | None, kinds.SPAN_OR_AUTO] = _waiting(
        None,
        "How long a caller whose answer does not stream is held, in line and for the start together.",
        unset="`auto`: 85 s behind a known edge, else what the caller can wait, at most 280 s",
    )
    heartbeat_interval: Seconds = _waiting(15.0, "A held stream hears a comment at least this often.")
    loading_text: LoadingText = _waiting(
        "off",
        "Whether held chat streams also carry how far the start is where chat pages show it: *reasoning* says it as "
        "`reasoning_content`.",
    )

    fallback_url: Annotated[str | None, kinds.BASE_URL] = _waiting(
        None, "The base URL of an OpenAI-compatible API that answers in the GPU's place, where that was asked for."
    )
    fallback_api_key: Secret = _waiting(None, "The key that the fallback asks for.")
    fallback_model: Annotated[str | None, kinds.TEXT] = _waiting(
        None, "What the model is called there. Callers see the name that they asked for."
    )
    fallback_on: FallbackOn = _waiting(
        (),
        "When else the fallback answers, instead of a refusal: *queue_full*, *start_failed*, and, where compute is "
        "rented, *no_capacity* and *budget*.",
    )
    fallback_price_in: MaybeMoney = _waiting(None, "Dollars for a million tokens of prompts there.")
    fallback_price_out: MaybeMoney = _waiting(None, "Dollars for a million tokens of answers there.")
    fallback_max_spend: MaybeMoney = _waiting(
        None, "Dollars that the fallback may cost in a calendar month (UTC); needs both prices.", unset="no limit"
    )
    wake_after: Annotated[tuple[int, float] | None, kinds.OFTEN] = _waiting(
        None,
        "The GPU is woken only when so many requests came in this time; the fallback answers until then. Needs "
        "`COLD_START=fallback`.",
        unset="by each request",
    )

    max_concurrent_requests: MaybeCount = _admission(
        None,
        "Requests passed to the engine at once; others wait in line.",
        aliases=("MAX_CONCURRENCY", "RUNPOD_MAX_CONCURRENCY"),
        unset="what the engine says it can do, 2000 where nothing says it",
    )
    max_queue_size: Annotated[int | None, kinds.COUNT_OR_ZERO] = _admission(
        None, "Requests that may wait in line.", unset="256, and at least 4 for each that runs at once"
    )
    max_queue_bytes: Bytes = _admission(
        256 * 1024**2, "Bytes of request bodies that may be held at once.", unset="20 % of memory"
    )
    queue_timeout: Seconds = _admission(300.0, "The longest wait in line.")
    max_request_body_size: Bytes = _admission(30 * 1024**2, "The largest request body.")
    max_connections: Annotated[int, kinds.COUNT] = _admission(
        2000, "Callers' connections that may be open at once.", unset="`2000`, less where too few files may be open"
    )

    connect_timeout: Seconds = _limits(10.0, "The longest wait for a connection to the engine.")
    first_byte_timeout: Seconds = _limits(900.0, "The longest wait for the first byte of a streamed answer.")
    answer_timeout: Seconds = _limits(3600.0, "The longest wait for an answer that does not stream.")
    stream_idle_timeout: Seconds = _limits(600.0, "The longest silence of the engine in the middle of a stream.")
    write_timeout: Seconds = _limits(60.0, "A caller who reads nothing for this long is dropped.")
    max_output_tokens: MaybeCount = _limits(
        None,
        "The most tokens that one answer may have: a request that asks for more is refused, one that does not say is "
        "given this many.",
    )
    max_request_seconds: Annotated[float | None, kinds.SPAN_OR_OFF] = _limits(
        None,
        "The longest that one request may take in all, its wait for the engine and its whole stream included.",
        unset="`off`; `1h` for what is rented",
    )
    max_response_size: Annotated[int | None, kinds.SIZE_OR_OFF] = _limits(
        None, "The largest answer of the engine that is not a stream."
    )
    cancel_on_disconnect: Switch = _limits(
        True,
        "Whether the engine is told when a caller leaves. `false` spares engines that misbehave then: they finish, and "
        "their slot is taken until they have.",
    )
    media_hosts: Annotated[tuple[str, ...], kinds.MEDIA_HOSTS] = _limits(
        (), "Hosts that `https:` media in a request may come from; `data:` always passes."
    )
    media_fetch: Switch = _limits(
        False,
        "Whether `https:` images of other hosts are fetched by the gateway (public addresses only, at most 20 MB) and "
        "handed to the engine inline, instead of being refused.",
    )
    refuse_fields: Annotated[tuple[str, ...], kinds.FIELDS] = _limits(
        (
            "n_discard",
            "chat_parser",
            "prompt_embeds",
            "chat_template",
            "chat_template_kwargs.chat_template",
            "chat_template_kwargs.tokenize",
            "logits_processors",
            "guided_decoding_backend",
            "api_base",
            "base_url",
            "api_key",
            "user_config",
            "kv_transfer_params",
        ),
        "Fields of a request that are answered 400, because they can harm an engine; a dot reaches into an object. "
        "A plain list replaces this one, `+name` and `-name` change it, `none` refuses nothing.",
    )

    auth_enabled: Annotated[bool | None, kinds.SWITCH_AUTO] = _keys(
        None,
        "Whether callers need a key. `false` is a decision; with *auto* and no key configured a first key is made, "
        "where no platform asks for one of its own.",
    )
    api_key: Secret = _keys(None, "The key that callers send. `VLLM_API_KEY` means this when the provider is local.")
    api_keys_file: Annotated[Path | None, kinds.FILE] = _keys(
        None,
        "A file of keys, with a name, a hash and limits for each (`wakegate keys`). Read again when it changes.",
        aliases=("AUTH_KEYS_FILE",),
    )
    admin_key: Secret = _keys(None, "The key that also shows what an engine said when it failed.")
    metrics_auth_enabled: Annotated[bool | None, kinds.SWITCH_AUTO] = _keys(
        None,
        "Whether `/metrics` needs a key.",
        unset="`auto`: open, closed where a public edge such as RunPod's proxy is seen",
    )
    metrics_port: Annotated[int | None, kinds.PORT] = _keys(
        None, "A port of its own for `/metrics`, which is then not on `PORT`."
    )
    metrics_key_names: Switch = _keys(False, "Whether requests are also counted by the name of their key.")
    cors_origins: Annotated[tuple[str, ...], kinds.ORIGINS] = _keys(
        (), "Web pages that may call from a browser: their origins. `*` needs keys."
    )

    monthly_budget: Annotated[int | Literal["unlimited"] | None, kinds.BUDGET] = _money(
        None,
        "Dollars that rented compute, its disks and the fallback may cost in a calendar month (UTC). Renting needs it; "
        "*unlimited* must be typed.",
    )
    budget_grace: Wait = _money(
        60.0, "How long running answers may go on once the budget is reached; it is inside the budget."
    )
    hourly_price: Annotated[int | None, kinds.MONEY] = _money(
        None,
        "Dollars that an hour of the running engine costs: what `monthly_spend` of a key is counted by. What is rented "
        "is counted by the vendor's price, or by this one where it is higher or the vendor gives none.",
    )
    storage_price: Annotated[int, kinds.MONEY] = _money(
        200_000, "Dollars that a GB of a stopped machine's disk costs in a month."
    )
    max_runtime: Seconds = _money(
        43200.0, "The longest that rented compute runs at a stretch, whatever the traffic; then it is stopped."
    )
    on_exit: OnExit = _money(
        "stop",
        "What happens to what is rented when the gateway ends: *stop* waits up to 30 s beyond `DRAIN_TIMEOUT` for the "
        "vendor to confirm it; *leave* is for a successor.",
    )
    self_stop_after: Annotated[float | None, kinds.SPAN_OR_NEVER] = _money(
        1800.0,
        "A worker in a rented machine that has never heard of a controller stops that machine after this long without "
        "an authenticated request; *never* is for one that somebody rented by hand to run on.",
    )
    warm_schedule: Annotated[tuple[str, ...], kinds.SCHEDULE] = _money(
        (), "When the engine is kept up without being asked, such as `Mon-Fri 08:30-18:00 Europe/Berlin`."
    )
    state_url: Annotated[str | None, kinds.STATE_URL] = _money(
        None,
        "Where the ledger is kept: a file (`sqlite:///path`, never on a network file system), or a durable Redis that "
        "several gateways share.",
        unset="`wakegate.sqlite` in `DATA_DIR/state`",
    )
    alert_url: Annotated[str | None, kinds.WEB_HOOK] = _money(
        None,
        "Where to post, as JSON, what somebody should know at once: 50, 80 and 95 % of the budget, an instance that "
        "does not stop, a vendor that refuses the key, an orphan that was found.",
    )
    count_tokens: Switch = _money(
        False,
        "Whether the engine is asked to count the tokens of each stream (`stream_options.include_usage`), for limits, "
        "metrics and log lines; who did not ask for the count does not see it.",
    )

    runpod_api_key: Secret = _runpod(
        None, "The key of the RunPod account that pays, with the right to start and stop pods."
    )
    runpod_pod_id: Annotated[str | None, kinds.VENDOR_ID] = _runpod(
        None,
        "The pod that is started and stopped. Inside a RunPod pod this name and the key's mean that pod itself; there "
        "the target is called `WAKEGATE_RUNPOD_POD_ID`, and its key `WAKEGATE_RUNPOD_API_KEY`.",
    )
    runpod_pod_spec: Annotated[str | None, kinds.SPEC] = _runpod(
        None,
        "The pod that is created with each start and terminated at the end: the body of RunPod's `POST /pods` as JSON, "
        "or a file with it.",
    )
    runpod_strategy: Strategy = _runpod(
        None,
        "How a pod comes: *resume* starts the one that exists, *recreate* creates one each time, from a list of GPUs "
        "and data centres.",
        unset="`recreate` when there is a spec, else `resume`",
    )
    runpod_pod_port: Port = _runpod(8000, "The port inside the pod that answers.")
    runpod_connect: Connect = _runpod(
        "proxy", "How the pod is reached: RunPod's *proxy*, which ends a silent answer after 100 s, or *tcp*."
    )
    runpod_api_url: Annotated[str, kinds.VENDOR_URL] = _runpod("https://api.runpod.io/v2", "RunPod's API.")
    runpod_proxy_url: Annotated[str, kinds.PROXY_URL] = _runpod(
        "https://{pod_id}-{port}.proxy.runpod.net", "Where RunPod's proxy answers for a pod."
    )

    vast_api_key: Secret = _vast(None, "The key of the Vast.ai account that pays.")
    vast_instance_id: Annotated[str | None, kinds.VENDOR_ID] = _vast(None, "The instance that is started and stopped.")
    vast_port: Port = _vast(8000, "The port inside the instance that answers.")
    vast_api_url: Annotated[str, kinds.VENDOR_URL] = _vast("https://console.vast.ai/api/v0", "Vast's API.")

    _warnings: tuple[str, ...] = PrivateAttr(default=())

    @property
    def warnings(self) -> tuple[str, ...]:
        """One line for each thing that works and was probably not meant. No secret in any."""
        return self._warnings

    def given(self, field: str) -> bool:
        """Whether somebody set it, so that a default must not replace it."""
        return field in self.model_fields_set

    def changed(self, changes: Mapping[str, object], warnings: Iterable[str] = ()) -> "Settings":
        """A copy with other values, and with further warnings. The values are taken as they are."""
        copy = self.model_copy(update=dict(changes))
        copy._warnings = (*self._warnings, *warnings)
        return copy

    @property
    def providers(self) -> tuple[str, ...]:
        """The names in `PROVIDER`, in order."""
        return tuple(self.provider.split(","))

    @property
    def rents(self) -> bool:
        """Whether starting it costs money."""
        return self.providers[0] in kinds.RENTED

    @property
    def has_fallback(self) -> bool:
        """Whether somebody else may answer at all."""
        return self.cold_start == "fallback" or bool(self.fallback_on)

    def queue_size(self, slots: int) -> int:
        """MAX_QUEUE_SIZE; where nobody set it, it grows with what runs at once."""
        return max(256, 4 * slots) if self.max_queue_size is None else self.max_queue_size

    def secrets(self) -> tuple[str, ...]:
        """Every secret's text, longest first, for whoever must keep them out of logs."""
        values = {
            value.get_secret_value() if isinstance(value, SecretStr) else value
            for setting in SETTINGS.values()
            if (setting.secret or setting.confidential) and (value := getattr(self, setting.field)) is not None
        }
        return tuple(sorted(values, key=len, reverse=True))

    def __repr__(self) -> str:
        """What differs from the defaults, and no secrets."""
        parts = [
            f"{f}={'…' if SETTINGS[f].kind.hidden else repr(getattr(self, f))}" for f in sorted(self.model_fields_set)
        ]
        return f"Settings({', '.join(parts)})"

    __str__ = __repr__


@dataclass(frozen=True, slots=True)
class Setting:
    """What is known of one setting, for messages and for the reference."""

    field: str
    group: str
    kind: Kind
    default: object
    unset: str
    sentence: str
    aliases: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.field.upper()

    @property
    def secret(self) -> bool:
        return self.kind is kinds.SECRET

    @property
    def confidential(self) -> bool:
        """A URL that may hold a password or is itself the secret."""
        return self.kind in (kinds.WEB_HOOK, kinds.STATE_URL)

    @property
    def names(self) -> tuple[str, ...]:
        """Every name that it is read from, without the prefix; a secret's files come last."""
        plain = (self.name, *self.aliases)
        return (*plain, *(f"{name}_FILE" for name in plain)) if self.secret else plain


def _settings() -> Iterator[Setting]:
    for field, info in Settings.model_fields.items():
        extra = cast(dict[str, Any], info.json_schema_extra)
        kind = next(item for item in info.metadata if isinstance(item, Kind))
        sentence = info.description or ""
        yield Setting(field, extra["group"], kind, info.default, extra["unset"], sentence, tuple(extra["aliases"]))


SETTINGS: dict[str, Setting] = {setting.field: setting for setting in _settings()}
"""By field, in the order of the groups."""

VLLM_KEYS = ("VLLM_API_KEY", "VLLM_API_KEY_FILE")
"""The one name whose meaning depends: what worker-vllm asks its callers for, and what others send to it."""

NAMES_TO_FIELD: dict[str, str] = {name: setting.field for setting in SETTINGS.values() for name in setting.names}

THE_MACHINES_OWN = frozenset({"RUNPOD_POD_ID", "RUNPOD_API_KEY"})
"""Inside a RunPod pod these are what RunPod says of the pod itself, and not what somebody wants started."""

INTERNAL_NAMES = frozenset(
    f"{PREFIX}{name}"
    for name in ("RUN_DIR", "BOOT", "DEMO_MODEL", "PYTHON", "WHEEL_CACHE", "ENV_FILE", "CONFIG", "TLS_PAIR")
)
"""What start.sh, the gateway and the health server tell each other, what a controller hands to a worker that it
creates, and the two names of files."""


# --- Names that people bring ------------------------------------------------------------------------------------------

FOREIGN: dict[str, tuple[str, ...]] = {
    # llama.cpp
    "LLAMA_ARG_MODEL": ("MODEL",),
    "LLAMA_ARG_HF_REPO": ("MODEL",),
    "LLAMA_ARG_ALIAS": ("SERVED_MODEL_NAME",),
    "LLAMA_ARG_CTX_SIZE": ("CTX_SIZE",),
    "LLAMA_ARG_N_GPU_LAYERS": ("N_GPU_LAYERS",),
    "LLAMA_ARG_N_PARALLEL": ("MAX_NUM_SEQS",),
    "LLAMA_ARG_HOST": ("HOST",),
    "LLAMA_ARG_PORT": ("PORT",),
    "LLAMA_ARG_SLEEP_IDLE_SECONDS": ("IDLE_TIMEOUT",),
    "LLAMA_API_KEY": ("API_KEY",),
    "MODEL_ALIAS": ("SERVED_MODEL_NAME",),
    # worker-vllm, vLLM and TGI
    "MODEL_ID": ("MODEL",),
    "MODEL_REVISION": ("MODEL",),
    "VLLM_STARTUP_TIMEOUT": ("START_TIMEOUT",),
    "TENSOR_PARALLEL_SIZE": ("ENGINE_ARGS",),
    "PIPELINE_PARALLEL_SIZE": ("ENGINE_ARGS",),
    "QUANTIZATION": ("ENGINE_ARGS",),
    "DTYPE": ("ENGINE_ARGS",),
    "TRUST_REMOTE_CODE": ("ENGINE_ARGS",),
    "ENFORCE_EAGER": ("ENGINE_ARGS",),
    "KV_CACHE_DTYPE": ("ENGINE_ARGS",),
    "ENABLE_PREFIX_CACHING": ("ENGINE_ARGS",),
    "ENABLE_AUTO_TOOL_CHOICE": ("ENGINE_ARGS",),
    "TOOL_CALL_PARSER": ("ENGINE_ARGS",),
    "REASONING_PARSER": ("ENGINE_ARGS",),
    "CUSTOM_CHAT_TEMPLATE": ("ENGINE_ARGS",),
    # Ollama
    "OLLAMA_HOST": ("HOST", "PORT"),
    "OLLAMA_MODELS": ("DATA_DIR",),
    "OLLAMA_KEEP_ALIVE": ("IDLE_TIMEOUT",),
    "OLLAMA_CONTEXT_LENGTH": ("CTX_SIZE",),
    "OLLAMA_NUM_PARALLEL": ("MAX_NUM_SEQS",),
    "OLLAMA_MAX_QUEUE": ("MAX_QUEUE_SIZE",),
    "OLLAMA_LOAD_TIMEOUT": ("START_TIMEOUT",),
    "OLLAMA_DEBUG": ("LOG_LEVEL",),
    # the two-port and the on-demand guides
    "HEALTH_PORT": ("PORT_HEALTH",),
    "GATEWAY_PORT": ("PORT",),
    "MODELS_DIR": ("DATA_DIR",),
    "LOG_DIR": ("DATA_DIR",),
    "WORKER_TYPE": ("LOG_NAME",),
    "EXTRA_ARGS": ("ENGINE_ARGS",),
    "BACKEND_URL": ("UPSTREAM_URL",),
    "BACKEND_API_KEY": ("UPSTREAM_API_KEY",),
    "INACTIVITY_TIMEOUT": ("IDLE_TIMEOUT",),
    "INACTIVITY_MINUTES": ("INACTIVITY_LIMIT_MINUTES",),
}
"""Names of other programs, and what the same thing is called here. All of them are ignored."""

_SERVICE_LINK = re.compile(r".*_(SERVICE_(HOST|PORT)(_.*)?|PORT_[0-9]+_(TCP|UDP|SCTP)(_.*)?)")


def _is_service_link(name: str, value: str) -> bool:
    """Kubernetes gives every pod such names for every service: one called `wakegate` brings WAKEGATE_PORT=tcp://…."""
    return bool(_SERVICE_LINK.fullmatch(name)) or (
        name.endswith("_PORT") and value.startswith(("tcp://", "udp://", "sctp://"))
    )


def _one_slip(a: str, b: str) -> bool:
    """Whether one letter too many, too few, wrong, or two swapped make the difference."""
    if a == b or abs(len(a) - len(b)) > 1:
        return False
    start = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    rest_a, rest_b = a[start:], b[start:]
    if len(a) == len(b):
        return rest_a[1:] == rest_b[1:] or (rest_a[1::-1] == rest_b[:2] and rest_a[2:] == rest_b[2:])
    return rest_a[1:] == rest_b if len(a) > len(b) else rest_a == rest_b[1:]


_ORDINARY = frozenset({"LOGNAME"})
"""One slip from a name of ours, and meant: POSIX has LOGNAME for the user's name."""


def _mistyped(name: str) -> str | None:
    """The known name that an ordinary variable's name was probably meant to be. Careful: most are other programs'."""
    if name in _ORDINARY:
        return None
    words = sorted(name.split("_"))
    for known in NAMES_TO_FIELD:
        if len(known) >= 6 and (_one_slip(name, known) or ("_" in known and sorted(known.split("_")) == words)):
            return known
    return None


def _suggestion(name: str, known: Iterable[str]) -> str:
    import difflib  # only for somebody who has mistyped something

    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.75)
    return f"; did you mean {close[0]}?" if close else ""


# --- Reading ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class File:
    """What a file holds, and whether its owner is us or root."""

    text: str
    trusted: bool = True


ReadFile = Callable[[Path], File]
"""Raises OSError, or UnicodeDecodeError for something that is not text. `surroundings.read_file` is the real one."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """One value as somebody wrote it, and where."""

    name: str
    value: object
    place: str = ""

    @property
    def label(self) -> str:
        return f"{self.name} ({self.place})" if self.place else self.name

    @property
    def is_set(self) -> bool:
        """An empty text is not a value."""
        return self.value is not None and str(self.value).strip() != ""


_Layer = dict[str, _Entry]
"""By upper-case name without the prefix."""


class _Reader:
    """Collects values and everything that is wrong with them, so that all of it is told at once. Used once."""

    def __init__(self, read: ReadFile) -> None:
        self._read = read
        self.problems: list[str] = []
        self.warnings: list[str] = []
        self.failed: set[str] = set()
        """Fields that are wrong, and left at their defaults so that the rest can be checked."""

    # files

    def text_of(self, path: Path, who: str, *, may_be_missing: bool = False) -> File | None:
        try:
            return self._read(path)
        except (FileNotFoundError, NotADirectoryError) as error:
            if not may_be_missing:
                self.problems.append(f"{who}: {shown(str(path))} cannot be read: {error.strerror}")
        except UnicodeDecodeError:
            self.problems.append(f"{who}: {shown(str(path))} is not text in UTF-8")
        except OSError as error:
            self.problems.append(f"{who}: {shown(str(path))} cannot be read: {error.strerror or type(error).__name__}")
        return None

    def dotenv(self, path: Path, *, asked_for: bool) -> list[_Entry]:
        """`.env` beside start.sh may be missing and, when it is a stranger's, is left alone."""
        file = self.text_of(path, f"{PREFIX}ENV_FILE" if asked_for else ".env", may_be_missing=not asked_for)
        if file is None:
            return []
        if not file.trusted:
            line = f"{shown(str(path))} is not read: its owner is neither this user nor root"
            if asked_for:
                self.problems.append(f"{PREFIX}ENV_FILE: {line}")
            else:
                self.warnings.append(line)
            return []
        return self._dotenv_entries(file.text, path.name)

    def _dotenv_entries(self, text: str, name: str) -> list[_Entry]:
        from dotenv.parser import parse_stream  # only where there is such a file

        entries = []
        for binding in parse_stream(StringIO(text.removeprefix("\ufeff"))):
            original = binding.original
            # The parser gives blank lines before a binding to that binding.
            lead = len(original.string) - len(original.string.lstrip())
            place = f"{name} line {original.line + original.string[:lead].count(chr(10))}"
            if binding.error:
                self.problems.append(f"{place}: not a line of the form NAME=value")
            elif binding.key is not None and binding.value is not None:
                entries.append(_Entry(binding.key, binding.value, place))
        return entries

    def toml(self, path: Path) -> _Layer:
        import tomllib  # only where there is such a file

        file = self.text_of(path, "WAKEGATE_CONFIG")
        if file is None:
            return {}
        try:
            table = tomllib.loads(file.text.removeprefix("\ufeff"))
        except tomllib.TOMLDecodeError as error:
            self.problems.append(f"{path.name}: not TOML: {error}")
            return {}
        layer: _Layer = {}
        known = {name.lower(): name for name in (*NAMES_TO_FIELD, *VLLM_KEYS)}
        for key, value in table.items():
            entry = _Entry(key, value, _line_of(key, file.text, path.name))
            if key in known:
                layer[known[key]] = entry
            else:
                self.problems.append(f"{entry.label}: no such setting{_suggestion(key.lower(), known)}")
        return layer

    # names

    def strangers(self, entries: Iterable[_Entry]) -> None:
        """Warns about names that look as if they were meant for us."""
        entries = list(entries)
        names = {entry.name for entry in entries if entry.is_set}
        for entry in entries:
            plain = entry.name.removeprefix(PREFIX)
            if plain in NAMES_TO_FIELD or plain in VLLM_KEYS or entry.name in INTERNAL_NAMES:
                continue
            if plain != entry.name:
                meant = _suggestion(entry.name, (PREFIX + name for name in NAMES_TO_FIELD))
                self.warnings.append(f"{entry.label}: no such setting{meant}")
            elif entry.name in FOREIGN:
                ours = FOREIGN[entry.name]
                if not any(name in names or PREFIX + name in names for name in ours):
                    self.warnings.append(f"{entry.label} is not read here; here it is called {' and '.join(ours)}")
            elif entry.name.startswith("LLAMA_ARG_"):
                self.warnings.append(
                    f"{entry.label} is not read here, nor by the engine; here it is called ENGINE_ARGS"
                )
            elif (known := _mistyped(entry.name)) is not None:
                self.warnings.append(f"{entry.label} is not a setting; did you mean {known}?")

    # values

    def choose(self, setting: Setting, names: tuple[str, ...], layers: Iterable[_Layer]) -> _Entry | None:
        """The first place that has it, under any of its names, which must agree there."""
        for layer in layers:
            told = [self._told(setting, layer[name]) for name in names if name in layer and layer[name].is_set]
            if not told:
                continue
            known = [entry for entry in told if entry is not None]
            values = {_comparable(setting, entry) for entry in known}
            if len(values) > 1:
                self.problems.append(f"{' and '.join(entry.label for entry in known)} disagree; set only one of them")
            if len(known) == len(told) and len(values) == 1:
                return known[0]
            self.failed.add(setting.field)
            return None
        return None

    def _told(self, setting: Setting, entry: _Entry) -> _Entry | None:
        """The entry with the value that counts: a secret's file is read, minutes become seconds."""
        upper = entry.name.upper()
        if setting.secret and upper.endswith("_FILE"):
            file = self.text_of(Path(str(entry.value)), entry.label)
            if file is None:
                return None
            if not (text := file.text.removeprefix("\ufeff").strip()):
                self.problems.append(f"{entry.label}: {shown(str(entry.value))} is empty")
                return None
            return _Entry(entry.name, text, entry.place)
        if upper.endswith("_MINUTES") and re.fullmatch(r"[0-9]+(\.[0-9]+)?", str(entry.value).strip()):
            return _Entry(entry.name, f"{str(entry.value).strip()}m", entry.place)
        return entry


def _comparable(setting: Setting, entry: _Entry) -> str:
    """Values that mean the same compare equal, however they are written."""
    try:
        value = setting.kind.read(entry.value)
    except ValueError:
        value = entry.value
    return repr(value.get_secret_value() if isinstance(value, SecretStr) else value)


def _line_of(key: str, text: str, name: str) -> str:
    match = re.search(rf"^[ \t]*(\[+[ \t]*)?[\"']?{re.escape(key)}[\"']?[ \t]*[=.\]]", text, re.MULTILINE)
    return f"{name} line {text.count(chr(10), 0, match.start()) + 1}" if match else name


def load(environ: Mapping[str, str], *, read: ReadFile, dotenv: Path | None = None) -> Settings:
    """The settings that these places give, not yet settled. Raises SettingsError with all that is wrong.

    `dotenv` is the `.env` beside start.sh, where there is a start.sh. Names with the prefix come before those without,
    which other programs use as well; then the environment comes before `.env`, and `.env` before the TOML file.
    """
    reader = _Reader(read)
    inside_pod = any(environ.get(name) for name in ("RUNPOD_DC_ID", "RUNPOD_POD_HOSTNAME"))
    outside = [
        _Entry(name, value)
        for name, value in environ.items()
        if not _is_service_link(name, value) and not (inside_pod and name in THE_MACHINES_OWN)
    ]
    asked = environ.get(f"{PREFIX}ENV_FILE", "").strip()
    path = Path(asked) if asked else dotenv
    inside = reader.dotenv(path, asked_for=bool(asked)) if path else []
    layers = [_prefixed(outside), _prefixed(inside), _plain(outside), _plain(inside)]
    config = next(
        (str(layer["CONFIG"].value) for layer in layers[:2] if layer.get("CONFIG", _NOTHING).value), ""
    ).strip()
    layers.append(reader.toml(Path(config)) if config else {})
    reader.strangers([*outside, *inside])

    chosen = _choose_all(reader, layers)
    settings = _build(reader, chosen)
    reader.problems += [line for fields, line in _contradictions(settings) if not reader.failed.intersection(fields)]
    if reader.problems:
        raise SettingsError(dict.fromkeys(reader.problems), dict.fromkeys(reader.warnings))
    return settings.changed({}, dict.fromkeys([*reader.warnings, *_doubts(settings)]))


_NOTHING = _Entry("", "")


def _prefixed(entries: Iterable[_Entry]) -> _Layer:
    return {e.name.removeprefix(PREFIX): e for e in entries if e.name.startswith(PREFIX)}


def _plain(entries: Iterable[_Entry]) -> _Layer:
    return {e.name: e for e in entries if not e.name.startswith(PREFIX)}


def _choose_all(reader: _Reader, layers: list[_Layer]) -> dict[str, _Entry]:
    """Which entry each setting takes. Where the engine runs comes first: it decides whose key VLLM_API_KEY is."""
    chosen: dict[str, _Entry] = {}
    first = ("provider", "upstream_url")
    for field in (*first, *(field for field in SETTINGS if field not in first)):
        names = SETTINGS[field].names
        if field == ("api_key" if _is_local(chosen) else "upstream_api_key"):
            names += VLLM_KEYS
        entry = reader.choose(SETTINGS[field], names, layers)
        if entry is not None:
            chosen[field] = entry
    return chosen


def _is_local(chosen: Mapping[str, _Entry]) -> bool:
    if "provider" in chosen:
        return str(chosen["provider"].value).strip().lower() == "local"
    return "upstream_url" not in chosen


def _build(reader: _Reader, chosen: Mapping[str, _Entry]) -> Settings:
    """The settings, without the values that are wrong: those are the reader's problems now."""
    values: dict[str, Any] = {field: entry.value for field, entry in chosen.items()}
    values.setdefault("provider", "local" if _is_local(chosen) else "external")
    if "engine_command" in values:
        values.setdefault("engine", "command")
    found: list[tuple[str, str]] = []
    try:
        return Settings(**values)
    except ValidationError as error:
        # Not raised from: pydantic's error holds the values.
        for item in error.errors(include_url=False, include_input=False):
            found.append((str(item["loc"][0]), str(item.get("ctx", {}).get("error", ""))))
    for field, detail in found:
        reader.problems.append(_complaint(SETTINGS[field], chosen[field], detail))
        reader.failed.add(field)
    return Settings(**{field: value for field, value in values.items() if field not in reader.failed})


def _complaint(setting: Setting, entry: _Entry, detail: str) -> str:
    line = f"{entry.label}: {setting.kind.complaint(entry.value, detail)}"
    if entry.name in ("HOST", "PORT") and not entry.place:
        line += f" (if {entry.name} is another program's, set {PREFIX}{entry.name})"
    return line


# --- What must fit together -------------------------------------------------------------------------------------------

_LOCAL_SUFFIXES = (".local", ".internal", ".localhost", ".home.arpa", ".lan", ".svc")


def is_public(host: str) -> bool:
    """Whether a host is, by its name or address, one that is reached over the open internet."""
    address = kinds.address_of(host)
    if address is not None:
        mapped = getattr(address, "ipv4_mapped", None)
        return bool((mapped or address).is_global)
    name = host.lower().rstrip(".")
    return "." in name and not name.endswith(_LOCAL_SUFFIXES)


_FLEETS = ("api.runpod.ai", "modal.run")


def sleeps_by_itself(host: str) -> bool:
    """Whether it is a fleet's address, behind which machines are started, and billed, for whoever knocks."""
    name = host.lower().rstrip(".")
    return any(name == fleet or name.endswith(f".{fleet}") for fleet in _FLEETS)


def is_this_machine(host: str) -> bool:
    """Loopback, by any of its names, or the address that means all of ours."""
    address = kinds.address_of(host)
    if address is None:
        name = host.lower().rstrip(".")
        return name == "localhost" or name.endswith(".localhost")
    mapped = getattr(address, "ipv4_mapped", None) or address
    return bool(mapped.is_loopback or mapped.is_unspecified)


def host_and_port(url: str) -> tuple[str, int]:
    """Of a URL in the normal form of `upstream_url` or `fallback_url`."""
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


DEV_PATHS = frozenset(
    {
        "/sleep", "/wake_up", "/is_sleeping", "/release_kv_cache_memory", "/collective_rpc", "/server_info",
        "/pause", "/resume", "/is_paused", "/abort_requests", "/get_world_size",
        "/init_weight_transfer_engine", "/shutdown_weight_transfer_engine", "/start_weight_update",
        "/start_draft_weight_update", "/update_weights", "/finish_weight_update", "/update_weight_version",
        "/weight_info", "/weight_checker",
    }
)  # fmt: skip
"""vLLM's development routes, which come with those that its sleep is ordered by (0.32): whoever reaches them can do
anything with it, or make it hang. Not here: those that only empty a cache, `/reset_prefix_cache` and the like."""


def _contradictions(settings: Settings) -> Iterator[tuple[tuple[str, ...], str]]:
    """What cannot be, with the fields it is about."""
    s = settings
    if s.port == s.port_health != 0:
        yield ("port", "port_health"), f"PORT and PORT_HEALTH are both {s.port}; allowed: two different ports"
    if s.metrics_port and s.metrics_port in (s.port, s.port_health):
        yield (
            ("metrics_port", "port", "port_health"),
            f"METRICS_PORT: {s.metrics_port} is one of the other two ports; allowed: a port of its own",
        )
    if s.tls_key is not None and s.tls_cert is None:
        yield ("tls_cert", "tls_key"), "TLS_CERT: not set, and TLS_KEY needs it; allowed: a file with the certificate"
    if s.tls_key is not None and s.tls_cert == Path("self"):
        yield ("tls_cert", "tls_key"), "TLS_KEY: set, and TLS_CERT=self brings a key of its own; allowed: not set"
    if "*" in s.cors_origins and s.auth_enabled is False:
        yield (
            ("cors_origins", "auth_enabled"),
            "CORS_ORIGINS: * while keys are off would let every web page use this gateway; allowed: the pages' origins",
        )
    if s.provider == "external" and s.upstream_url is None:
        yield (
            ("provider", "upstream_url"),
            "UPSTREAM_URL: not set, and PROVIDER=external needs it; allowed: " + kinds.URL.allowed,
        )
    if s.idle_action == "sleep" and (s.provider != "local" or s.engine not in (None, "vllm")):
        yield (
            ("idle_action", "provider", "engine"),
            "IDLE_ACTION: sleep, and only a local vLLM can be put to sleep; allowed: auto or stop",
        )
    if taken := sorted(DEV_PATHS & set(s.allowed_paths)):
        yield (
            ("allowed_paths",),
            f"ALLOWED_PATHS: {taken[0]} is for the gateway alone; allowed: paths that answer callers",
        )
    if s.engine == "command" and not s.engine_command:
        yield (
            ("engine", "engine_command"),
            f"ENGINE_COMMAND: not set, and ENGINE=command needs it; allowed: {kinds.COMMAND.allowed}",
        )
    if s.upstream_url is not None:
        yield from _url_contradictions(s, "upstream_url", s.upstream_url, "the upstream's own address", "keys")
    yield from _fallback_contradictions(s)
    yield from _vendor_url_contradictions(s)
    if s.rents:
        yield from _renting_contradictions(s)


VENDORS_OWN = {"runpod_api_url": "runpod.io", "vast_api_url": "vast.ai", "runpod_proxy_url": "runpod.net"}
"""The hosts that a vendor's key, or a prompt, may go to without being asked twice: these and those below them."""


def _vendor_url_contradictions(s: Settings) -> Iterator[tuple[tuple[str, ...], str]]:
    for field, own in VENDORS_OWN.items():
        url = str(getattr(s, field)).replace("{pod_id}", "x").replace("{port}", str(s.runpod_pod_port))
        host = host_and_port(url)[0].lower().rstrip(".")
        if is_this_machine(host):
            if s.rents and host_and_port(url)[1] in (s.port, s.port_health):
                yield (
                    (field, "port", "port_health"),
                    f"{field.upper()}: {shown(getattr(s, field))} is this gateway itself; "
                    "allowed: the vendor's own address",
                )
            continue
        is_own = host == own or host.endswith(f".{own}")
        if not is_own and not s.allow_custom_vendor_url:
            yield (
                (field, "allow_custom_vendor_url"),
                f"{field.upper()}: {shown(getattr(s, field))} is not at {own}, and would get the key or what is asked; "
                "allowed: the vendor's own address, loopback, or ALLOW_CUSTOM_VENDOR_URL=true",
            )
        elif url.startswith("http://") and (is_own or (is_public(host) and not s.allow_plain_http)):
            yield (
                (field, "allow_plain_http"),
                f"{field.upper()}: {shown(getattr(s, field))} would send the key in the clear; allowed: https://",
            )


def _renting_contradictions(s: Settings) -> Iterator[tuple[tuple[str, ...], str]]:
    """What nobody should rent without: who pays, how much, what exactly, and who may ask for it."""

    def needed(field: str, why: str, allowed: str) -> tuple[tuple[str, ...], str]:
        return (field, "provider"), f"{field.upper()}: not set, and {why}; allowed: {allowed}"

    rented = f"PROVIDER={s.provider} rents"
    if s.monthly_budget is None:
        yield needed("monthly_budget", f"{rented} with your card", kinds.BUDGET.allowed)
    if s.upstream_api_key is None:
        yield needed(
            "upstream_api_key",
            f"{rented} something that anybody on the internet can reach",
            "a key that the rented engine asks for (its own API_KEY or --api-key)",
        )
    if s.auth_enabled is False:
        yield (
            ("auth_enabled", "provider"),
            f"AUTH_ENABLED: false, and {rented} for whoever asks; allowed: API_KEY or API_KEYS_FILE",
        )
    elif s.api_key is None and s.api_keys_file is None:
        yield needed("api_key", f"{rented} for whoever asks", "a key for callers, or API_KEYS_FILE")
    if s.idle_timeout == 0:
        yield (
            ("idle_timeout", "provider"),
            "IDLE_TIMEOUT: 0 would stop what is rented before its first answer; allowed: 60s or more, or never",
        )
    if s.upstream_url is not None:
        yield (
            ("upstream_url", "provider"),
            f"UPSTREAM_URL: {shown(s.upstream_url)}, and PROVIDER={s.provider} finds out itself; allowed: not set",
        )
    if "runpod-pod" in s.providers:
        yield from _runpod_contradictions(s)
    if "vast" in s.providers:
        why = "PROVIDER=vast needs it"
        if s.vast_api_key is None:
            yield needed("vast_api_key", why, "a key from https://cloud.vast.ai/manage-keys/")
        if s.vast_instance_id is None:
            yield needed("vast_instance_id", why, "the id of an instance of yours, as `vastai show instances` has it")
        elif not s.vast_instance_id.isdecimal():
            yield (
                ("vast_instance_id",),
                f"VAST_INSTANCE_ID: {shown(s.vast_instance_id)} is not an instance's number; allowed: digits, as "
                "`vastai show instances` has it",
            )
        if not s.allow_plain_http and s.tls_fingerprint is None:
            yield (
                ("vast_instance_id", "allow_plain_http", "tls_fingerprint", "provider"),
                "TLS_FINGERPRINT: not set, and Vast's ports have no TLS: keys and prompts would cross the internet in "
                "the clear; allowed: the fingerprint that a WakeGate worker prints, or ALLOW_PLAIN_HTTP=true",
            )


def _runpod_contradictions(s: Settings) -> Iterator[tuple[tuple[str, ...], str]]:
    if s.runpod_api_key is None:
        yield (
            ("runpod_api_key", "provider"),
            "RUNPOD_API_KEY: not set, and PROVIDER=runpod-pod needs it; allowed: a key from RunPod's settings page",
        )
    if s.runpod_pod_id is None and s.runpod_pod_spec is None:
        yield (
            ("runpod_pod_id", "runpod_pod_spec", "provider"),
            "RUNPOD_POD_ID: not set, and RUNPOD_POD_SPEC neither; allowed: the id of a pod of yours, or what to create",
        )
    elif s.runpod_strategy == "resume" and s.runpod_pod_id is None:
        yield (
            ("runpod_strategy", "runpod_pod_id"),
            "RUNPOD_POD_ID: not set, and RUNPOD_STRATEGY=resume needs it; allowed: the id of a pod of yours",
        )
    elif s.runpod_strategy == "recreate" and s.runpod_pod_spec is None:
        yield (
            ("runpod_strategy", "runpod_pod_spec"),
            "RUNPOD_POD_SPEC: not set, and RUNPOD_STRATEGY=recreate needs it; allowed: " + kinds.SPEC.allowed,
        )
    resumes = s.runpod_pod_spec is None or s.runpod_strategy == "resume"  # what is created is handed a certificate
    if s.runpod_connect == "tcp" and resumes and not s.allow_plain_http and s.tls_fingerprint is None:
        yield (
            ("runpod_connect", "allow_plain_http", "tls_fingerprint"),
            "RUNPOD_CONNECT: tcp has no TLS of RunPod's: keys and prompts would cross the internet in the clear; "
            "allowed: proxy, TLS_FINGERPRINT with a WakeGate worker, or ALLOW_PLAIN_HTTP=true",
        )


def _url_contradictions(
    s: Settings, field: str, url: str, allowed: str, whose: str
) -> Iterator[tuple[tuple[str, ...], str]]:
    """What no request may be sent to: ourselves, and, in the clear, the internet."""
    host, port = host_and_port(url)
    if port in (s.port, s.port_health) and (is_this_machine(host) or host == s.host):
        yield (
            (field, "port", "port_health", "host"),
            f"{field.upper()}: {shown(url)} is this gateway itself; allowed: {allowed}",
        )
    if url.startswith("http://") and is_public(host) and not s.allow_plain_http:
        yield (
            (field, "allow_plain_http"),
            f"{field.upper()}: {shown(url)} would send {whose} and prompts over the internet in the clear; "
            "allowed: https://, or ALLOW_PLAIN_HTTP=true",
        )


def _fallback_contradictions(s: Settings) -> Iterator[tuple[tuple[str, ...], str]]:
    why = "COLD_START=fallback" if s.cold_start == "fallback" else "FALLBACK_ON"
    for field in ("fallback_url", "fallback_model"):
        if s.has_fallback and getattr(s, field) is None:
            yield (
                ("cold_start", "fallback_on", field),
                f"{field.upper()}: not set, and {why} needs it; allowed: {SETTINGS[field].kind.allowed}",
            )
    if s.wake_after is not None and s.cold_start != "fallback":
        yield (
            ("wake_after", "cold_start"),
            "WAKE_AFTER: whoever comes before the GPU is woken would have no answer; allowed: with COLD_START=fallback",
        )
    if s.fallback_max_spend is not None and None in (s.fallback_price_in, s.fallback_price_out):
        yield (
            ("fallback_max_spend", "fallback_price_in", "fallback_price_out"),
            "FALLBACK_MAX_SPEND: nothing can be counted without prices; allowed: with FALLBACK_PRICE_IN and "
            "FALLBACK_PRICE_OUT",
        )
    if s.fallback_url is not None:
        yield from _url_contradictions(s, "fallback_url", s.fallback_url, "another API's address", "its key")


def _doubts(settings: Settings) -> Iterator[str]:
    """What works, and was probably not meant."""
    s = settings
    for name, key in (("API_KEY", s.api_key), ("ADMIN_KEY", s.admin_key)):
        if key is not None and len(key.get_secret_value()) < KEY_LENGTH:
            yield f"{name} has fewer than {KEY_LENGTH} characters; a key that nobody guesses is longer"
    if s.api_key is not None and s.admin_key is not None and s.api_key == s.admin_key:
        yield "ADMIN_KEY is the same as API_KEY: every caller is an admin"
    if s.auth_enabled is False and (s.api_key is not None or s.api_keys_file is not None):
        name = "API_KEY" if s.api_key is not None else "API_KEYS_FILE"
        yield f"{name} is set, and nobody is asked for a key: AUTH_ENABLED is false"
    if s.provider == "local" and s.upstream_url is not None:
        yield "UPSTREAM_URL is not used: PROVIDER is local"
    if s.provider == "external" and s.upstream_url is not None and sleeps_by_itself(host_and_port(s.upstream_url)[0]):
        yield (
            f"UPSTREAM_URL: {shown(s.upstream_url)} scales to zero by itself; being looked at every 15 s keeps it "
            "awake, and is paid for"
        )
    if s.engine not in (None, "command") and s.engine_command:
        yield f"ENGINE_COMMAND is not used: ENGINE is {s.engine}"
    if any(word.startswith("--sleep-idle-seconds") for word in s.engine_args):
        yield "ENGINE_ARGS: --sleep-idle-seconds can crash llama-server (CVE-2026-43631); IDLE_TIMEOUT stops it instead"
    if s.log_total_size < 3 * s.log_max_size:
        yield "LOG_TOTAL_SIZE is less than three times LOG_MAX_SIZE: hardly anything is kept beside the live files"
    if s.fallback_url is not None and not s.has_fallback:
        yield "FALLBACK_URL is not used: COLD_START is not fallback, and FALLBACK_ON names no case"
    if None not in (s.fallback_url, s.upstream_url) and host_and_port(str(s.fallback_url)) == host_and_port(
        str(s.upstream_url)
    ):
        yield "FALLBACK_URL is where UPSTREAM_URL is: what does not serve there does not answer in its place, either"
    if (s.fallback_price_in is None) != (s.fallback_price_out is None):
        yield "FALLBACK_PRICE_IN and FALLBACK_PRICE_OUT count only together; one of them is not set"
    if s.monthly_budget is not None and not s.rents:
        yield f"MONTHLY_BUDGET is not used: PROVIDER={s.provider} rents nothing"
    if s.rents and s.monthly_budget == 0:
        yield "MONTHLY_BUDGET is 0: nothing is ever rented, and every caller is told that the budget is too small"
    if s.rents and s.idle_timeout is None and s.given("idle_timeout"):
        yield "IDLE_TIMEOUT is never: what is rented runs until MAX_RUNTIME or the budget ends it"
    if s.rents and s.wake_on_start and s.given("wake_on_start"):
        yield "WAKE_ON_START is true: each start of this gateway rents, whether somebody asks or not"
    if s.start_timeout > s.start_max:
        yield "START_TIMEOUT is longer than START_MAX, which ends a start first"
