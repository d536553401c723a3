"""Model and engine."""

from dataclasses import replace
from pathlib import Path

from gateway.doctor.case import Facts, Listener, ModelSeen
from gateway.doctor.findings import BREAKS, DOUBTFUL, NOTE
from gateway.doctor.model import check
from gateway.providers.local.commands import Installed
from tests.support.doctoring import SERVERLESS, case, codes, gguf, only

VLLM = Installed(vllm="/usr/bin/vllm")
HERE = Facts(model=ModelSeen("m.gguf", gguf(context_length=4096)))


def test_a_model_that_is_here_with_its_engine_is_nothing_to_say() -> None:
    assert codes(check(case(HERE, MODEL="m.gguf"))) == []


def test_the_demo_model_is_a_note_at_home_and_doubtful_where_a_gpu_is_paid_for() -> None:
    assert only(check(case()), "model-demo").level is NOTE
    assert only(check(case(around=SERVERLESS)), "model-demo").level is DOUBTFUL


def test_a_model_that_is_wrong_says_so_in_its_own_sentence() -> None:
    facts = Facts(model=ModelSeen("m.gguf", problem="m.gguf is cut off: it has 5 of 9 bytes."))
    said = only(check(case(facts, MODEL="m.gguf", DATA_DIR="/data")), "model-unusable")
    assert said.level is BREAKS
    assert said.what == "MODEL: m.gguf is cut off: it has 5 of 9 bytes." and said.cure == "ls -l /data/models"


def test_a_model_of_the_hub_that_is_not_here_is_a_note() -> None:
    said = only(check(case(Facts(model=ModelSeen("org/name:Q4_K_M")), MODEL="org/name:Q4_K_M")), "model-to-download")
    assert said.level is NOTE and said.cure == "wakegate pull org/name:Q4_K_M"


def test_no_engine_for_the_models_format() -> None:
    safetensors = gguf(format="safetensors", path=Path("/data/models/m"))
    said = only(check(case(replace(HERE, model=ModelSeen("m", safetensors)), MODEL="m")), "engine-missing")
    assert said.level is BREAKS and "vllm is not on PATH" in said.what and said.cure == "pip install vllm"
    assert codes(check(case(replace(HERE, installed=VLLM), MODEL="m.gguf"))) == ["engine-missing"]
    assert codes(check(case(replace(HERE, installed=Installed()), MODEL="m.gguf"))) == ["engine-missing"]


def test_an_engine_that_is_asked_for_and_not_installed() -> None:
    said = only(check(case(HERE, MODEL="m.gguf", ENGINE="llama-server")), "engine-missing")
    assert "ENGINE=llama-server is not installed on PATH" in said.what


def test_settings_of_which_no_command_line_can_be_made() -> None:
    server = replace(HERE, installed=Installed(llama_server="/usr/bin/llama-server"))
    wrong = case(server, MODEL="m.gguf", CTX_SIZE="4096", MAX_MODEL_LEN="4096", MAX_NUM_SEQS="4")
    assert "CTX_SIZE=4096 is not enough" in only(check(wrong), "engine-settings").what
    nowhere = case(ENGINE_COMMAND="my-engine --model {model}", MODEL="m")
    assert "must say where the engine listens" in only(check(nowhere), "engine-settings").what


def test_a_command_of_ones_own_that_is_not_there() -> None:
    mine = {"ENGINE_COMMAND": "my-engine --port {port}"}
    said = only(check(case(Facts(engine_program=False), **mine)), "engine-command-missing")
    assert said.level is BREAKS and said.cure == "command -v my-engine"
    assert codes(check(case(**mine))) == []


def test_a_context_longer_than_the_models_stops_vllm_and_spoils_llama_cpp() -> None:
    model = ModelSeen("m", gguf(format="safetensors", context_length=4096))
    said = only(check(case(Facts(model=model, installed=VLLM), MODEL="m", MAX_MODEL_LEN="8192")), "context-too-long")
    assert said.level is BREAKS and said.cure == "export MAX_MODEL_LEN=4096"
    said = only(check(case(HERE, MODEL="m.gguf", CTX_SIZE="8192")), "context-too-long")
    assert said.level is DOUBTFUL and said.what.startswith("CTX_SIZE is 8192")


def test_an_upstream_on_this_machine_on_whose_port_nobody_listens() -> None:
    here = {"UPSTREAM_URL": "http://127.0.0.1:9000"}
    assert codes(check(case(**here))) == ["upstream-silent"]
    assert codes(check(case(Facts(listeners=(Listener("127.0.0.1", 9000),)), **here))) == []


def test_an_upstream_elsewhere_is_left_alone() -> None:
    assert codes(check(case(UPSTREAM_URL="https://ep42.api.runpod.ai"))) == []
