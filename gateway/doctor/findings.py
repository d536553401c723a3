"""Every finding that the doctor may have: its code, how bad it is, what it says, why it matters, what to type. Pure.

The codes are promises: people match on them in `wakegate doctor --json` (docs/reference/doctor.md is generated from
`CATALOGUE`). Words stand here, decisions in the checks; a check makes one with `found(code, name=value, …)`.
"""

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    BREAKS = "breaks"
    """It would not serve, or would cost money that nobody meant to spend."""
    DOUBTFUL = "doubtful"
    """It works, and was probably not meant, or will not work for long."""
    NOTE = "note"
    """Good to know. Nothing is wrong."""


BREAKS, DOUBTFUL, NOTE = Level.BREAKS, Level.DOUBTFUL, Level.NOTE

THEMES = (
    "settings",
    "gateway",
    "ports",
    "storage",
    "renting",
    "model",
    "GPU",
    "platform",
    "exposure",
    "runtime",
    "traffic",
)
"""In the order in which findings of the same level are shown."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What is the same for every finding with this code. Names in braces are filled in by `found`."""

    theme: str
    levels: tuple[Level, ...]
    """The usual one first; others where it depends."""
    what: str
    why: str
    cure: str
    """One line to paste into a shell."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found on this machine."""

    code: str
    level: Level
    what: str
    why: str
    cure: str

    @property
    def theme(self) -> str:
        return CATALOGUE[self.code].theme

    @property
    def rank(self) -> tuple[int, int]:
        """The most important first."""
        return list(Level).index(self.level), THEMES.index(self.theme)

    def __repr__(self) -> str:
        return f"<Finding {self.level} {self.code}: {self.what}>"


def found(code: str, level: Level | None = None, /, **values: object) -> Finding:
    """A finding in the words of the catalogue. Raises LookupError for a code, a level or a value that is not there."""
    kind = CATALOGUE[code]
    if level is not None and level not in kind.levels:
        raise LookupError(f"{code} is never {level}")
    texts = (text.format(**values) for text in (kind.what, kind.why, kind.cure))
    return Finding(code, level or kind.levels[0], *texts)


def _kind(theme: str, *levels: Level, what: str, why: str, cure: str) -> Kind:
    return Kind(theme, levels, what, why, cure)


CATALOGUE: dict[str, Kind] = {
    # --- settings
    "setting-wrong": _kind(
        "settings", BREAKS,
        what="{problem}",
        why="The gateway ends with exit code 2 before it listens.",
        cure="{cure}",
    ),
    "setting-doubtful": _kind(
        "settings", DOUBTFUL,
        what="{warning}",
        why="It works, and may not be what was meant; the gateway warns about it at each start.",
        cure="./start.sh 2>&1 | grep -m 20 warning:",
    ),
    # --- the gateway that runs here already
    "gateway-runs": _kind(
        "gateway", NOTE,
        what="A WakeGate runs here already on port {port}, state {state}.",
        why="That is why the port is taken. What is said below about settings is about this shell's, not about its.",
        cure="curl -sk {url}/health",
    ),
    "gateway-failed": _kind(
        "gateway", BREAKS,
        what="The running gateway's engine has failed: {reason}",
        why="Requests are answered 503 start_failed. It is tried again, after a pause, when a request comes.",
        cure="tail -n 40 {logs}/*_engine.txt",
    ),
    "gateway-cannot-rent": _kind(
        "gateway", BREAKS,
        what="The running gateway rents nothing: {reason}",
        why="Callers are refused with that sentence. It is tried again, after a pause, when one comes.",
        cure="wakegate status",
    ),
    "gateway-stuck": _kind(
        "gateway", BREAKS,
        what="A WakeGate runs on port {port} and does not answer: {detail}.",
        why="Callers hang, and the platform goes on paying for a worker that does nothing.",
        cure="kill -TERM {pid}",
    ),
    "gateway-starting": _kind(
        "gateway", NOTE,
        what="The running gateway is not ready: {state}.",
        why="Callers are held meanwhile.",
        cure="curl -sk {url}/health",
    ),
    # --- ports
    "port-taken": _kind(
        "ports", BREAKS,
        what="{name}: port {port} is taken by {who}.",
        why="It cannot be listened on, so the start ends with exit code 2.",
        cure="export {name}={free}",
    ),
    "port-needs-right": _kind(
        "ports", BREAKS,
        what="{name}: port {port} is below {lowest}, and this user may not listen there.",
        why="The start ends with exit code 2.",
        cure="export {name}={free}",
    ),
    "host-not-here": _kind(
        "ports", BREAKS,
        what="HOST: {host} is no address of this machine ({problem}).",
        why="Neither port can be listened on, so the start ends with exit code 2.",
        cure="export HOST=0.0.0.0",
    ),
    "host-loopback": _kind(
        "ports", BREAKS, DOUBTFUL,
        what="Both ports listen on {host} only, inside a container.",
        why="Nobody outside reaches them, the platform's probe included: the worker never counts as healthy.",
        cure="export HOST=0.0.0.0",
    ),
    "health-port-silent": _kind(
        "ports", BREAKS,
        what="The gateway runs, and its health port {port} does not answer ({detail}).",
        why="The platform takes the worker for dead, and replaces it again and again.",
        cure="curl -i http://127.0.0.1:{port}/ping",
    ),
    "metrics-port-silent": _kind(
        "ports", DOUBTFUL,
        what="The gateway runs, and nothing listens on METRICS_PORT {port}.",
        why="It was started with other settings than this shell has, and Prometheus sees nothing.",
        cure="curl -s http://127.0.0.1:{port}/metrics",
    ),
    # --- storage
    "data-dir-unwritable": _kind(
        "storage", BREAKS,
        what="DATA_DIR: {path} cannot be written ({problem}).",
        why="No first key can be kept, no model downloaded, and the logs are lost.",
        cure="{cure}",
    ),
    "data-dir-hangs": _kind(
        "storage", BREAKS,
        what="DATA_DIR: {path} did not answer within {seconds:g} s.",
        why="A network volume that hangs lets starts hang: the model and the keys lie there.",
        cure="timeout 10 ls {path}",
    ),
    "data-dir-on-layer": _kind(
        "storage", BREAKS, DOUBTFUL,
        what="DATA_DIR: {path} lies on the container's own layer ({kind}), not on a volume.",
        why="All of it is lost when the container goes: each cold start downloads the model again, at the GPU's price, "
        "and no log outlives the worker.",
        cure="export DATA_DIR={volume}",
    ),
    "data-dir-in-memory": _kind(
        "storage", DOUBTFUL,
        what="DATA_DIR: {path} lies in memory ({kind}).",
        why="Models and logs take memory from the engine, and are gone at the next start.",
        cure="export DATA_DIR={volume}",
    ),
    "data-dir-on-network": _kind(
        "storage", NOTE,
        what="DATA_DIR: {path} is a network file system ({kind}).",
        why="Fine for models, logs and keys. A model loads as fast as the network is, and others may write there, too.",
        cure="df -hT {path}",
    ),
    "disk-full": _kind(
        "storage", BREAKS,
        what="DATA_DIR: {path} has {free} left.",
        why="Logs are dropped, no key can be made and no model downloaded.",
        cure="du -xh {path} | sort -h | tail -n 20",
    ),
    "disk-nearly-full": _kind(
        "storage", DOUBTFUL,
        what="DATA_DIR: {path} has {free} left of {size}.",
        why="Logs may grow to LOG_TOTAL_SIZE ({logs}) over all workers on this volume.",
        cure="du -xh {path} | sort -h | tail -n 20",
    ),
    "disk-too-small": _kind(
        "storage", DOUBTFUL,
        what="{model} has to be downloaded, is about {needed} by its name, and {path} has {free} left.",
        why="The download would end with a full disk, after it has cost its time.",
        cure="df -h {path}",
    ),
    "volume-clock": _kind(
        "storage", DOUBTFUL,
        what="The clock of {path}'s server and this machine's are {seconds:.0f} s apart.",
        why="The age of log files is told wrongly: they are rotated and deleted too early or too late.",
        cure="timedatectl status",
    ),
    "run-folder-missing": _kind(
        "storage", BREAKS,
        what="None of {places} can be written.",
        why="Both processes need a private folder there, for status and sockets; without it the start ends.",
        cure="docker run --tmpfs /tmp …",
    ),
    # --- model and engine
    "rents": _kind(
        "renting", NOTE,
        what="It rents from {provider}: at most {budget}; IDLE_TIMEOUT is {idle}, MAX_RUNTIME {longest}.",
        why="Whether the key, the balance and the machine are right is not asked here: this command calls no vendor.",
        cure="wakegate rehearse --real --up-to 0.05",
    ),
    "rent-without-budget": _kind(
        "renting", BREAKS,
        what="MONTHLY_BUDGET is 0.",
        why="Nothing is ever rented: every caller is answered 429 insufficient_quota.",
        cure="export MONTHLY_BUDGET=20",
    ),
    "rent-budget-small": _kind(
        "renting", BREAKS,
        what="MONTHLY_BUDGET is {budget}, and one start at HOURLY_PRICE needs {needed}.",
        why="START_MAX, a minute of use and BUDGET_GRACE are reserved before each start: every caller is answered 429.",
        cure="export START_MAX=10m",
    ),
    "rent-unlimited": _kind(
        "renting", DOUBTFUL,
        what="MONTHLY_BUDGET is unlimited.",
        why="What is spent is counted, and nothing ends it: only the vendor's own balance does.",
        cure="export MONTHLY_BUDGET=20",
    ),
    "rent-left": _kind(
        "renting", DOUBTFUL,
        what="ON_EXIT is leave: what is rented goes on when the gateway ends.",
        why="Unless another one takes it over it costs until its lease is over, and a bare engine knows no lease.",
        cure="export ON_EXIT=stop",
    ),
    "rent-unheard": _kind(
        "renting", NOTE,
        what="ALERT_URL is not set.",
        why="That something will not stop, the vendor refuses the key, or 95 % of the budget, stands in the log only.",
        cure="export ALERT_URL=https://hooks.slack.com/services/…",
    ),
    "model-unusable": _kind(
        "model", BREAKS,
        what="MODEL: {problem}",
        why="The gateway would run and answer 503 start_failed to every request.",
        cure="ls -l {models}",
    ),
    "model-to-download": _kind(
        "model", NOTE,
        what="MODEL: {model} is not on this disk yet.",
        why="The first start downloads it, and takes as long as that takes. Do it before a GPU is paid for.",
        cure="wakegate pull {model}",
    ),
    "model-demo": _kind(
        "model", NOTE, DOUBTFUL,
        what="MODEL is not set: the demo model answers, and talks nonsense.",
        why="Good for a first try; a rented GPU would be paid for nothing.",
        cure="export MODEL=Qwen/Qwen3-0.6B-GGUF:Q8_0",
    ),
    "context-too-long": _kind(
        "model", BREAKS, DOUBTFUL,
        what="{name} is {wanted}, and {model} was trained for {trained} tokens.",
        why="vLLM refuses to start; llama.cpp starts, and its answers beyond that length are poor.",
        cure="export {name}={trained}",
    ),
    "engine-missing": _kind(
        "model", BREAKS,
        what="{problem}",
        why="Nothing here can serve the model: every request is answered 503 start_failed.",
        cure="{cure}",
    ),
    "engine-settings": _kind(
        "model", BREAKS,
        what="{problem}",
        why="The engine's command line cannot be made of these settings: every start fails.",
        cure="env | grep -E '^(WAKEGATE_)?(ENGINE|CTX|MAX_(MODEL|NUM))'",
    ),
    "engine-command-missing": _kind(
        "model", BREAKS,
        what="ENGINE_COMMAND: {program} is not on PATH, or may not be run.",
        why="Every start fails.",
        cure="command -v {program}",
    ),
    "upstream-silent": _kind(
        "model", DOUBTFUL,
        what="UPSTREAM_URL: nothing listens on port {port} of this machine.",
        why="Requests wait for it, and are answered 503 until it is there.",
        cure="ss -ltn 'sport = :{port}'",
    ),
    # --- GPU
    "gpu-not-visible": _kind(
        "GPU", BREAKS,
        what="This machine should have a GPU ({sign}), and NVIDIA's driver shows none ({problem}).",
        why="The model would run on the CPU, some fifty times slower, while the GPU is paid for.",
        cure="nvidia-smi",
    ),
    "gpu-missing": _kind(
        "GPU", NOTE, DOUBTFUL,
        what="No GPU is seen; {model} has {size}.",
        why="On a CPU that is a few tokens a second at best, and minutes for a long prompt.",
        cure="nvidia-smi",
    ),
    "gpu-too-small": _kind(
        "GPU", BREAKS, DOUBTFUL,
        what="{model} has {size} of weights, and the GPUs have {memory} ({gpus}).",
        why="vLLM, or llama.cpp with N_GPU_LAYERS=all, ends at once: out of memory. With N_GPU_LAYERS=auto a part runs "
        "on the CPU, and that sets the pace.",
        cure="export MODEL={smaller}",
    ),
    "gpu-tight": _kind(
        "GPU", DOUBTFUL,
        what="{model} needs about {needed} with room for {tokens} tokens, and the GPUs have {memory} ({gpus}).",
        why="It may load and then run out of memory at a long prompt. (A rough reckoning.)",
        cure="export {cure}",
    ),
    "gpu-memory-taken": _kind(
        "GPU", DOUBTFUL,
        what="Of {memory} of GPU memory {free} is free, and no WakeGate runs here.",
        why="Another program holds it; the model will not fit beside it.",
        cure="nvidia-smi --query-compute-apps=pid,name,used_memory --format=csv",
    ),
    "gpu-unused": _kind(
        "GPU", DOUBTFUL,
        what="N_GPU_LAYERS is 0, and there is a GPU ({gpus}).",
        why="The model runs on the CPU, and the GPU is paid for.",
        cure="export N_GPU_LAYERS=auto",
    ),
    "engine-without-cuda": _kind(
        "GPU", BREAKS, DOUBTFUL,
        what="{engine} was built without CUDA, and there is a GPU ({gpus}).",
        why="The model runs on the CPU, some fifty times slower, while the GPU is paid for.",
        cure="{cure}",
    ),
    "cuda-driver-too-old": _kind(
        "GPU", BREAKS, DOUBTFUL,
        what="{engine} was built for CUDA {wanted}, and the driver ({driver}) goes up to {has}.",
        why="Another major version does not load at all; a newer minor one works, except for code that the driver has "
        "to compile (\"unsupported toolchain\").",
        cure="nvidia-smi | grep 'CUDA Version'",
    ),
    "gpu-too-old": _kind(
        "GPU", BREAKS,
        what="{model} is in MXFP4, and {gpu} has compute capability {has}.",
        why="vLLM needs 8.0 (A100, RTX 30 and newer) for it and refuses to start; llama.cpp serves it from a GGUF.",
        cure="export MODEL=ggml-org/gpt-oss-20b-GGUF",
    ),
    "plan-doubtful": _kind(
        "GPU", DOUBTFUL,
        what="{warning}",
        why="What is set does not go with this machine, by the model's own files.",
        cure="wakegate plan",
    ),
    "plan": _kind(
        "GPU", NOTE,
        what="{model} would be started with {engine} so: {choices}.",
        why="It is chosen anew at each start, by the model's own files and what is free then.",
        cure="wakegate plan",
    ),
    # --- platforms
    "runpod-ports-unset": _kind(
        "platform", BREAKS,
        what="{names} not set in the endpoint's environment.",
        why="RunPod's load balancer goes by these two alone, and takes 80 otherwise: workers run, none is ever ready, "
        "and each request hangs for 2 minutes.",
        cure="export PORT={port} PORT_HEALTH={health}",
    ),
    "runpod-ports-differ": _kind(
        "platform", BREAKS,
        what="The endpoint's environment says {name}={told}, and the gateway listens on {port}.",
        why="RunPod's load balancer reads the former: it asks where nobody answers.",
        cure="export {name}={port}",
    ),
    "runpod-ports-exposed": _kind(
        "platform", NOTE,
        what="Both ports must also be exposed in the endpoint: {port}/http and {health}/http.",
        why="That cannot be seen from inside. Without it: 502 after 8 minutes, or a worker that is never ready.",
        cure="curl -s https://api.runpod.io/v2/serverless/{endpoint} "
        "-H \"Authorization: Bearer $RUNPOD_API_KEY\" | grep -o '\"ports\":[^]]*'",
    ),
    "runpod-authorization": _kind(
        "platform", NOTE,
        what="`Authorization` belongs to RunPod's edge here: it wants a RunPod key. {ours}",
        why="A key of ours in that header is answered 401 by RunPod, before the worker hears of it.",
        cure="curl {url}/v1/models -H \"Authorization: Bearer $RUNPOD_API_KEY\"{header}",
    ),
    "runpod-idle-endpoint": _kind(
        "platform", NOTE, DOUBTFUL,
        what="RunPod lowers an endpoint without requests to 2 workers after 3 days, and to 0 after 7 days. {seen}",
        why="It stays at 0 until somebody raises it by hand: requests are then answered 400.",
        cure="curl -X PATCH https://api.runpod.io/v2/serverless/{endpoint} "
        "-H \"Authorization: Bearer $RUNPOD_API_KEY\" -H 'Content-Type: application/json' "
        "-d '{{\"workers\": {{\"max\": 3}}}}'",
    ),
    "runpod-slow-start": _kind(
        "platform", BREAKS,
        what="Starts on this volume took up to {seconds:.0f} s, and HEALTH_MODE is strict.",
        why="RunPod answers waiting requests 400 after 2 minutes, which no SDK tries again. In mode hold the gateway "
        "takes them, and keeps them waiting itself.",
        cure="export HEALTH_MODE=hold",
    ),
    "runpod-init-timeout": _kind(
        "platform", BREAKS,
        what="Starts on this volume took up to {seconds:.0f} s, and RunPod gives a worker {allowed:.0f} s.",
        why="Slower workers are marked unhealthy and ended, and paid for all the same.",
        cure="export RUNPOD_INIT_TIMEOUT={wanted}",
    ),
    "runpod-pod-proxy": _kind(
        "platform", NOTE,
        what="RunPod's proxy in front of a pod is public, asks for no key, and ends an answer after 100 s of silence.",
        why="Streams are held by comments, other answers for at most {hold} s. Whoever knows the pod's id reaches "
        "every exposed port.",
        cure="curl {url}/health",
    ),
    "pod-without-gpu": _kind(
        "platform", BREAKS,
        what="This pod was started with 0 GPUs.",
        why="The host's GPUs were rented to others while it was stopped. Only a new pod gets one.",
        cure="curl -s https://api.runpod.io/v2/pods/{pod} -H \"Authorization: Bearer $RUNPOD_API_KEY\"",
    ),
    "vast-port-unmapped": _kind(
        "platform", BREAKS,
        what="PORT {port} is not among the ports that {platform} passes on ({mapped}).",
        why="Nobody outside reaches the gateway.",
        cure="{cure}",
    ),
    "identity-port": _kind(
        "platform", NOTE, BREAKS,
        what="Port {asked} was asked for as an identity port and became {outside}; PORT is {port}.",
        why="A port from 70000 on has the same number inside and outside: the program must listen on that number.",
        cure="export PORT={outside}",
    ),
    "vast-plain-http": _kind(
        "platform", DOUBTFUL,
        what="Nothing on Vast speaks TLS for us, and TLS_CERT is not set.",
        why="Keys, prompts and answers cross the internet in the clear.",
        cure="openssl req -x509 -newkey rsa:2048 -nodes -days 365 -subj /CN={host} -addext subjectAltName=IP:{host} "
        "-keyout key.pem -out cert.pem && export TLS_CERT=$PWD/cert.pem TLS_KEY=$PWD/key.pem",
    ),
    "modal-proxy-auth": _kind(
        "platform", NOTE, DOUBTFUL,
        what="A Modal web server is public unless it has requires_proxy_auth=True. {keys}",
        why="Each request of a stranger starts a container that is paid for. With it, callers send Modal-Key and "
        "Modal-Secret beside our own key.",
        cure="curl $URL/health -H \"Modal-Key: $MODAL_KEY\" -H \"Modal-Secret: $MODAL_SECRET\"",
    ),
    # --- exposure
    "fallback": _kind(
        "exposure", NOTE,
        what="Requests leave for {host} and are asked there as {model}: {when}; {limit}.",
        why="COLD_START=fallback or FALLBACK_ON says so. Who must not leave says X-Wakegate-Fallback: never.",
        cure="curl -sS {url}/models -H \"Authorization: Bearer $FALLBACK_API_KEY\"",
    ),
    "fallback-without-limit": _kind(
        "exposure", DOUBTFUL,
        what="Nothing bounds what the fallback at {host} may cost.",
        why="Whoever has a key can have it paid for as much as they ask, for as long as the GPU wakes.",
        cure="{cure}",
    ),
    "fallback-without-key": _kind(
        "exposure", DOUBTFUL,
        what="The fallback at {host} is asked without a key.",
        why="APIs that are paid per token refuse that; callers are held then, as without a fallback.",
        cure="export FALLBACK_API_KEY_FILE=/run/secrets/fallback",
    ),
    "engine-open": _kind(
        "exposure", BREAKS, DOUBTFUL,
        what="{engine} listens on {address} port {port}, beside the gateway, and answers {routes} without a key.",
        why="Whoever reaches that port uses the GPU for nothing, past keys, limits and the idle clock.",
        cure="ss -ltnp 'sport = :{port}'",
    ),
    "engine-beside": _kind(
        "exposure", DOUBTFUL,
        what="{engine} listens on {address} port {port}, beside the gateway.",
        why="Keys and limits do not hold for its requests, and they are not counted as activity.",
        cure="ss -ltnp 'sport = :{port}'",
    ),
    "keys-off": _kind(
        "exposure", BREAKS, DOUBTFUL,
        what="AUTH_ENABLED is false, and the gateway listens on {where}.",
        why="Anybody who reaches it uses the model, and keeps the GPU awake.",
        cure="export AUTH_ENABLED=true API_KEY=$(openssl rand -hex 24)",
    ),
    "key-missing": _kind(
        "exposure", BREAKS,
        what="No key is configured, and this is one of several workers ({platform}).",
        why="A key that one worker makes opens that worker only, so the start ends with exit code 2.",
        cure="export API_KEY=$(openssl rand -hex 24)",
    ),
    "key-short": _kind(
        "exposure", DOUBTFUL,
        what="{name} has fewer than {least} characters.",
        why="Short keys are guessed.",
        cure="export {name}=$(openssl rand -hex 24)",
    ),
    "keys-file-wrong": _kind(
        "exposure", BREAKS,
        what="API_KEYS_FILE: {problem}",
        why="Nobody gets in by it: the start ends with exit code 2, and a running gateway keeps the keys it had.",
        cure="wakegate keys check",
    ),
    "keys-file-doubtful": _kind(
        "exposure", DOUBTFUL,
        what="API_KEYS_FILE: {doubt}",
        why="The keys in it are used all the same.",
        cure="chmod 600 {path}",
    ),
    "keys-in-clear": _kind(
        "exposure", DOUBTFUL,
        what="API_KEYS_FILE: {path} holds keys in clear text.",
        why="Whoever reads the volume has them. A hash is enough for the gateway.",
        cure="wakegate keys import {path}",
    ),
    "key-expired": _kind(
        "exposure", NOTE,
        what="API_KEYS_FILE: {names} expired.",
        why="Their callers get 401.",
        cure="wakegate keys list",
    ),
    "metrics-open": _kind(
        "exposure", DOUBTFUL, NOTE,
        what="/metrics on port {port} asks for no key, and {who} reaches it.",
        why="It tells when the model is used, and how much.",
        cure="export METRICS_AUTH_ENABLED=true",
    ),
    "metrics-in-clear": _kind(
        "exposure", DOUBTFUL,
        what="METRICS_PORT {port} speaks no TLS, and the internet reaches it.",
        why="Prometheus sends its key there in the clear; TLS_CERT is for PORT only. Without METRICS_PORT /metrics is "
        "there, too.",
        cure="unset METRICS_PORT",
    ),
    "secret-readable": _kind(
        "exposure", DOUBTFUL,
        what="{path} may be read by other users of this machine (mode {mode:04o}).",
        why="There are keys in it.",
        cure="chmod 600 {path}",
    ),
    "tls-unusable": _kind(
        "exposure", BREAKS,
        what="{problem}",
        why="No connection can be made: the start ends with exit code 2.",
        cure="openssl x509 -noout -subject -dates -in {path}",
    ),
    "tls-expired": _kind(
        "exposure", BREAKS,
        what="{warning}",
        why="Callers refuse the connection.",
        cure="openssl x509 -noout -subject -dates -in {path}",
    ),
    "tls-expiring": _kind(
        "exposure", DOUBTFUL,
        what="TLS_CERT: the certificate ends in {days:.0f} days, on {ends}.",
        why="Callers will refuse the connection. A renewed file is read while the gateway runs.",
        cure="openssl x509 -noout -subject -dates -in {path}",
    ),
    # --- runtime
    "aiohttp-old": _kind(
        "runtime", BREAKS,
        what="aiohttp {version} is installed; {floor} is the oldest without known holes.",
        why="The gateway refuses to start.",
        cure="pip install 'aiohttp>={floor},<{ceiling}'",
    ),
    "aiohttp-new": _kind(
        "runtime", DOUBTFUL,
        what="aiohttp {version} is installed; nothing from {ceiling} on was tested.",
        why="WakeGate replaces parts of it, which may have moved.",
        cure="pip install 'aiohttp>={floor},<{ceiling}'",
    ),
    "aiohttp-pure": _kind(
        "runtime", BREAKS,
        what="aiohttp runs without its compiled parser ({cause}).",
        why="The other one lets broken requests through, so the gateway refuses to start.",
        cure="{cure}",
    ),
    "python-unsupported": _kind(
        "runtime", BREAKS,
        what="This is Python {version}; 3.11 to 3.14 are supported.",
        why="Packages have no wheels for it, and nothing was tested.",
        cure="uv python install 3.13",
    ),
    "python-optimized": _kind(
        "runtime", DOUBTFUL,
        what="Python runs without assertions (PYTHONOPTIMIZE or -O).",
        why="aiohttp has parts that then loop for ever (CVE-2025-69227).",
        cure="unset PYTHONOPTIMIZE",
    ),
    "python-without-pgo": _kind(
        "runtime", NOTE,
        what="This Python was built without profile-guided optimization.",
        why="Each request costs more CPU than it needs to. Debian's, uv's and the python: images' have it.",
        cure="uv python install 3.13",
    ),
    "uvloop-missing": _kind(
        "runtime", NOTE,
        what="uvloop is not installed.",
        why="Each chunk of a stream costs a little more CPU.",
        cure="pip install uvloop",
    ),
    "open-files": _kind(
        "runtime", DOUBTFUL, NOTE,
        what="{limit} files may be open, which is enough for {room} connections; MAX_CONNECTIONS is {wanted}.",
        why="Each caller takes two: its own, and one to the engine. Beyond that, connections fail.",
        cure="{cure}",
    ),
    "clock-wrong": _kind(
        "runtime", BREAKS,
        what="The clock says {year}.",
        why="No TLS connection can be made, keys with an expiry are judged wrongly, logs sort wrongly.",
        cure="date -u",
    ),
    "clock-unsynchronised": _kind(
        "runtime", NOTE,
        what="The kernel says that its clock is not synchronised.",
        why="Keys expire, and logs of several workers compare, by a clock that may drift.",
        cure="timedatectl status",
    ),
    "memory-too-small": _kind(
        "runtime", BREAKS, DOUBTFUL,
        what="{model} has {size}, and {memory} of memory may be used.",
        why="On the CPU it is killed while it loads, or crawls. (vLLM and N_GPU_LAYERS=all load through memory, too.)",
        cure="free -h",
    ),
    "queue-memory": _kind(
        "runtime", DOUBTFUL,
        what="MAX_QUEUE_BYTES is {queue}, of {memory} of memory, of which the model takes {model}.",
        why="Waiting callers' bodies and the engine together may get everything killed.",
        cure="export MAX_QUEUE_BYTES={better}",
    ),
    # --- traffic
    "monitor": _kind(
        "traffic", BREAKS, DOUBTFUL,
        what="{who} asks {route} every {every}, {count} times in a row: that looks like a monitor.",
        why="Each of these is a request: it wakes the engine or keeps it awake, day and night, and that is paid for. "
        "Probes belong on the health port, which wakes nothing.",
        cure="{cure}",
    ),
    "monitor-of-pages": _kind(
        "traffic", BREAKS, DOUBTFUL,
        what="{page} on PORT was asked for {count} times, about every {every}: that looks like a monitor.",
        why="No engine wakes for it, but the platform counts it as a request at its edge: workers start and stay for "
        "it, and are paid for.",
        cure="{cure}",
    ),
    "idle-too-short": _kind(
        "traffic", DOUBTFUL,
        what="Requests come every {gap} (median), and IDLE_TIMEOUT is {idle}: about {starts} cold starts a day.",
        why="Most callers wait for a start. Longer idle time costs GPU hours instead; weigh the two.",
        cure="export IDLE_TIMEOUT={better}",
    ),
    # --- the doctor itself
    "unchecked": _kind(
        "settings", NOTE,
        what="{what} could not be looked at: {problem}.",
        why="What it would show is not known.",
        cure="wakegate doctor",
    ),
}  # fmt: skip
