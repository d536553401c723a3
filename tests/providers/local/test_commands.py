"""Settings in, command lines out, for each engine in its own words."""

import itertools
from dataclasses import replace

import pytest

from gateway.providers.local import commands
from gateway.providers.local.commands import CommandError, EngineName, EngineSpec, Format, Installed, Place

PLACE = Place(
    socket="/run/w/engine.sock", port=4711, key_file="/run/w/key", news_fd=7, python="/py", package_root="/src"
)
ALL = Installed(llama_cpp=True, llama_server="/bin/llama-server", vllm="/bin/vllm")
MODEL = "/models/a.gguf"


def argv(engine: EngineName, **settings: object) -> list[str]:
    return list(commands.build(EngineSpec(**settings), engine, PLACE, MODEL, ALL).argv)  # type: ignore[arg-type]


def words_after(line: list[str], flag: str) -> list[str]:
    """Every value of a flag."""
    return [value for name, value in itertools.pairwise(line) if name == flag]


# --- llama-cpp-python ---


def test_our_child_gets_everything_by_its_arguments() -> None:
    line = argv("llama-cpp-python", served_names=("a", "b"), ctx_size=4096, n_gpu_layers="all")
    assert line == [
        "/py", "-P", "-m", "gateway.providers.local.llama_child", "--socket", PLACE.socket, "--model", MODEL,
        "--alias", "a", "--alias", "b", "--ctx", "4096", "--gpu-layers", "all", "--news-fd", "7",
    ]  # fmt: skip


def test_our_child_is_told_how_many_layers_to_begin_with_where_nobody_chose() -> None:
    arguments = pytest.importorskip("gateway.providers.local.llama_child.arguments")
    line = argv("llama-cpp-python", gpu_layers_first=23)
    options = arguments.parse(line[4:])
    assert (options.gpu_layers, options.gpu_layers_first) == (None, 23)
    assert arguments.parse(argv("llama-cpp-python", gpu_layers_first=0)[4:]).gpu_layers_first == 0
    chosen = arguments.parse(argv("llama-cpp-python", gpu_layers_first=23, n_gpu_layers="40")[4:])
    assert (chosen.gpu_layers, chosen.gpu_layers_first) == (40, None)


def test_our_child_finds_its_package_in_a_checkout() -> None:
    launch = commands.build(EngineSpec(), "llama-cpp-python", PLACE, MODEL, ALL)
    assert launch.needed_env == {"PYTHONPATH": "/src"}


def test_our_child_understands_its_own_options() -> None:
    """The two halves are written apart: this line is parsed by the child's own parser."""
    arguments = pytest.importorskip("gateway.providers.local.llama_child.arguments")
    line = argv(
        "llama-cpp-python", served_names=("a",), max_model_len=512, engine_args=("--n-batch", "64", "verbosity=2")
    )
    options = arguments.parse(line[4:])
    assert (str(options.socket), str(options.model), options.aliases) == (PLACE.socket, MODEL, ("a",))
    assert (options.context, options.gpu_layers, options.news_fd) == (512, None, 7)
    assert options.extra == (("n_batch", 64), ("verbosity", 2))


def test_the_package_takes_one_request_so_all_the_context_is_its() -> None:
    assert words_after(argv("llama-cpp-python", max_model_len=2048), "--ctx") == ["2048"]
    assert words_after(argv("llama-cpp-python", max_model_len=2048, ctx_size=8192), "--ctx") == ["8192"]
    assert words_after(argv("llama-cpp-python"), "--ctx") == []


def test_the_package_cannot_answer_several_at_once() -> None:
    with pytest.raises(CommandError, match="MAX_NUM_SEQS=4: llama-cpp-python answers one request at a time"):
        argv("llama-cpp-python", max_num_seqs=4)


@pytest.mark.parametrize(
    "words, expected",
    [
        (("n_batch=512",), ["n_batch=512"]),
        (("--n_batch", "512"), ["n_batch=512"]),
        (("--n-batch=512",), ["n_batch=512"]),
        (("--flash-attn", "--rope-freq-base", "1e4"), ["flash_attn=true", "rope_freq_base=1e4"]),
        (("--flash-attn", "n_batch=64"), ["flash_attn=true", "n_batch=64"]),
    ],
)
def test_the_packages_parameters_are_named_as_people_name_them(words: tuple[str, ...], expected: list[str]) -> None:
    assert words_after(argv("llama-cpp-python", engine_args=words), "--arg") == expected


def test_a_word_that_names_no_parameter_is_an_error() -> None:
    with pytest.raises(CommandError, match="not '512'"):
        argv("llama-cpp-python", engine_args=("512",))


# --- llama-server ---


def test_llama_server_listens_on_the_socket_and_shows_nothing_else() -> None:
    line = argv("llama-server", served_names=("a", "b"), n_gpu_layers="33", engine_args=("--flash-attn", "on"))
    assert line == [
        "/bin/llama-server", "--model", MODEL, "--host", PLACE.socket, "--no-webui", "--no-slots", "--metrics",
        "--jinja", "--n-gpu-layers", "33", "--alias", "a,b", "--flash-attn", "on",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "settings, context, slots",
    [
        ({}, [], []),
        ({"ctx_size": 8192}, ["8192"], []),
        ({"max_num_seqs": 4}, [], ["4"]),
        ({"ctx_size": 8192, "max_num_seqs": 4}, ["8192"], ["4"]),
        ({"max_model_len": 2048}, ["2048"], ["1"]),
        ({"max_model_len": 2048, "max_num_seqs": 4}, ["8192"], ["4"]),
        ({"max_model_len": 2048, "ctx_size": 8192}, ["8192"], ["4"]),
        ({"max_model_len": 2048, "ctx_size": 9000, "max_num_seqs": 4}, ["9000"], ["4"]),
    ],
)
def test_llama_servers_context_is_divided_among_its_slots(
    settings: dict[str, int], context: list[str], slots: list[str]
) -> None:
    """MAX_MODEL_LEN is per request; -c is the sum."""
    line = argv("llama-server", **settings)
    assert (words_after(line, "--ctx-size"), words_after(line, "--parallel")) == (context, slots)


def test_a_context_that_is_too_small_for_its_requests_is_an_error() -> None:
    with pytest.raises(CommandError, match="CTX_SIZE=4096 is not enough for MAX_MODEL_LEN=2048 times 4"):
        argv("llama-server", max_model_len=2048, ctx_size=4096, max_num_seqs=4)


def test_llama_server_has_embeddings_only_when_asked_for() -> None:
    plain = commands.traits(EngineSpec(), "llama-server").routes
    asked = commands.traits(EngineSpec(engine_args=("--embeddings", "--pooling", "mean")), "llama-server").routes
    assert plain is not None and "/v1/embeddings" not in plain
    assert asked == plain | {"/v1/embeddings"}


# --- vLLM ---


def test_what_a_plan_chose_for_vllm_is_passed_before_engine_args_which_win() -> None:
    words = ("--dtype", "auto")
    line = argv("vllm", longest=True, tensor_parallel=2, dtype="half", engine_args=words)
    assert words_after(line, "--max-model-len") == ["auto"]
    assert words_after(line, "--tensor-parallel-size") == ["2"]
    assert words_after(line, "--dtype") == ["half", "auto"]
    assert words_after(argv("vllm", longest=True, max_model_len=4096), "--max-model-len") == ["4096"]
    assert not {"--max-model-len", "--tensor-parallel-size", "--dtype"} & set(argv("vllm"))


def test_vllm_has_its_own_words() -> None:
    line = argv(
        "vllm", served_names=("a", "b"), max_model_len=8192, gpu_memory_utilization=0.9, max_num_seqs=64,
        ctx_size=1, engine_args=("--enforce-eager",),
    )  # fmt: skip
    assert line == [
        "/bin/vllm", "serve", MODEL, "--uds", PLACE.socket, "--served-model-name", "a", "b", "--max-model-len", "8192",
        "--gpu-memory-utilization", "0.9", "--max-num-seqs", "64", "--enforce-eager",
    ]  # fmt: skip


def test_vllm_is_made_able_to_sleep_where_it_is_to_and_can() -> None:
    launch = commands.build(EngineSpec(idle_action="auto"), "vllm", PLACE, MODEL, replace(ALL, cuda=True))
    assert launch.argv == ("/bin/vllm", "serve", MODEL, "--uds", PLACE.socket, "--enable-sleep-mode")
    assert launch.needed_env == {"VLLM_SERVER_DEV_MODE": "1"}


@pytest.mark.parametrize(
    ("spec", "engine", "cuda"),
    [
        (EngineSpec(), "vllm", True),
        (EngineSpec(idle_action="sleep"), "vllm", False),
        (EngineSpec(idle_action="sleep"), "llama-server", True),
        (EngineSpec(idle_action="sleep", engine_args=("--uds", "/somewhere/else.sock")), "vllm", True),
        (EngineSpec(idle_action="sleep", engine_args=("--port=8000",)), "vllm", True),
        (EngineSpec(idle_action="auto", engine_args=("--no-enable_sleep_mode",)), "vllm", True),
    ],
)
def test_an_engine_that_cannot_sleep_gets_no_routes_for_it(spec: EngineSpec, engine: EngineName, cuda: bool) -> None:
    """They let whoever reaches them do anything; so above all not where it listens elsewhere than at our socket."""
    launch = commands.build(spec, engine, PLACE, MODEL, replace(ALL, cuda=cuda))
    assert "--enable-sleep-mode" not in launch.argv
    assert not launch.needed_env


# --- ENGINE_COMMAND ---


def test_a_command_is_split_without_a_shell_and_filled() -> None:
    line = argv("command", engine_command="serve '{model}' --bind={host}:{port} -k {api_key_file} '$HOME; rm' {}")
    assert line == ["serve", MODEL, "--bind=127.0.0.1:4711", "-k", "/run/w/key", "$HOME; rm", "{}"]


def test_a_model_path_with_blanks_stays_one_word() -> None:
    launch = commands.build(EngineSpec(engine_command="serve {model} {port}"), "command", PLACE, "/a b.gguf", ALL)
    assert launch.argv == ("serve", "/a b.gguf", "4711")


def test_json_in_a_command_is_no_placeholder() -> None:
    assert argv("command", engine_command="""serve {port} --kwargs '{"a": {"b": 1}}'""")[-1] == '{"a": {"b": 1}}'


def test_engine_env_is_filled_too() -> None:
    """Ollama takes its address from nowhere else."""
    spec = EngineSpec(engine_command="ollama serve", engine_env={"OLLAMA_HOST": "{host}:{port}", "J": "{odd}"})
    assert commands.door(spec, "command") == "port"
    launch = commands.build(spec, "command", PLACE, None, ALL)
    assert launch.wanted_env == {"OLLAMA_HOST": "127.0.0.1:4711", "J": "{odd}"}


def test_the_stop_command_is_filled_too() -> None:
    spec = EngineSpec(engine_command="serve {port}", stop_command="docker stop 'wg {port}'")
    assert commands.build(spec, "command", PLACE, None, ALL).stop_argv == ("docker", "stop", "wg 4711")


def test_the_door_follows_from_the_placeholder() -> None:
    assert commands.door(EngineSpec(engine_command="x {port}"), "command") == "port"
    assert commands.door(EngineSpec(engine_command="x {socket}"), None) == "socket"
    assert commands.door(EngineSpec(), None) == "socket"
    assert commands.door(EngineSpec(), "vllm") == "socket"


@pytest.mark.parametrize(
    "command, sentence",
    [
        ("serve", r"must say where the engine listens, with \{port\} or with \{socket\}"),
        ("serve {port} {socket}", "must say where the engine listens"),
        ("serve {prot}", r"unknown placeholder \{prot\}; there are \{port\} \{host\} \{socket\}"),
    ],
)
def test_a_command_that_does_not_say_where_it_listens_is_an_error(command: str, sentence: str) -> None:
    with pytest.raises(CommandError, match=sentence):
        commands.door(EngineSpec(engine_command=command), "command")


@pytest.mark.parametrize(
    "settings, sentence",
    [
        ({"engine_command": "serve 'open {port}"}, "ENGINE_COMMAND cannot be split into words: No closing quotation"),
        ({"engine_command": "s {port}", "stop_command": "kill {pid}"}, r"ENGINE_STOP_COMMAND has an unknown .*\{pid\}"),
        ({"engine_command": "s {port} {model}"}, r"ENGINE_COMMAND uses \{model\}, and MODEL is not set"),
    ],
)
def test_a_command_that_cannot_be_built_is_one_sentence(settings: dict[str, str], sentence: str) -> None:
    with pytest.raises(CommandError, match=sentence):
        commands.build(EngineSpec(**settings), "command", PLACE, None, ALL)  # type: ignore[arg-type]


def test_a_socket_path_that_the_kernel_cannot_hold_is_an_error() -> None:
    with pytest.raises(CommandError, match="too long for a unix socket"):
        commands.build(EngineSpec(), "vllm", replace(PLACE, socket="/" + "x" * 107), MODEL, ALL)


# --- Which engine ---


@pytest.mark.parametrize(
    "format, installed, expected",
    [
        ("gguf", ALL, "llama-cpp-python"),
        ("gguf", Installed(llama_server="/l", vllm="/v"), "llama-server"),
        ("safetensors", ALL, "vllm"),
        (None, ALL, "llama-cpp-python"),
        (None, Installed(vllm="/v"), "vllm"),
    ],
)
def test_the_engine_follows_from_the_models_format(
    format: Format | None, installed: Installed, expected: EngineName
) -> None:
    assert commands.choose(EngineSpec(), format, installed) == expected


def test_several_requests_at_once_ask_for_llama_server_where_there_is_one() -> None:
    assert commands.choose(EngineSpec(max_num_seqs=4), "gguf", ALL) == "llama-server"


def test_a_command_is_an_engine_without_being_named() -> None:
    assert commands.choose(EngineSpec(engine_command="x {port}"), "gguf", ALL) == "command"


@pytest.mark.parametrize(
    "spec, format, installed, sentence",
    [
        (EngineSpec(), "gguf", Installed(), "install llama-cpp-python .* or put llama-server on PATH"),
        (EngineSpec(), "gguf", Installed(vllm="/v"), "No engine is installed for a GGUF model"),
        (EngineSpec(), "safetensors", Installed(llama_cpp=True), "which vLLM reads, and vllm is not on PATH"),
        (EngineSpec(engine="vllm"), "gguf", Installed(llama_cpp=True), "ENGINE=vllm is not installed on PATH"),
        (EngineSpec(engine="llama-server"), "safetensors", ALL, "reads GGUF files"),
        (EngineSpec(engine="command"), None, ALL, "ENGINE=command needs ENGINE_COMMAND"),
    ],
)
def test_when_nothing_fits_one_sentence_says_what_would(
    spec: EngineSpec, format: Format | None, installed: Installed, sentence: str
) -> None:
    with pytest.raises(CommandError, match=sentence):
        commands.choose(spec, format, installed)


# --- What is known beforehand ---


@pytest.mark.parametrize(
    "engine, settings, concurrency",
    [
        ("llama-cpp-python", {}, 1),
        ("llama-server", {}, None),
        ("llama-server", {"max_num_seqs": 8}, 8),
        ("llama-server", {"max_model_len": 100, "ctx_size": 350}, 3),
        ("vllm", {}, None),
        ("vllm", {"max_num_seqs": 64}, 64),
        ("command", {"max_num_seqs": 2}, 2),
    ],
)
def test_how_many_requests_it_takes_at_once(
    engine: EngineName, settings: dict[str, int], concurrency: int | None
) -> None:
    assert commands.traits(EngineSpec(**settings), engine).concurrency == concurrency  # type: ignore[arg-type]


def test_the_health_path_that_was_set_is_the_only_one_asked() -> None:
    assert commands.traits(EngineSpec(health_path="/openapi.json"), "command").health == ("/openapi.json",)
