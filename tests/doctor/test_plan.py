"""How a plan is said: for people in 80 columns, for programs with what it would pass.

That it is looked at without a start: tests/commands/test_plan.py.
"""

import json

from gateway.doctor.plan import as_json, as_text
from gateway.providers.local.commands import EngineSpec
from gateway.providers.local.planning.plan import Machine, plan
from tests.support.known_models import known
from tests.support.nvml import gpus


def test_what_cannot_work_says_so_last():
    made = plan(EngineSpec(), "vllm", known("gpt-oss-20b"), Machine(gpus=gpus("T4")))
    text = as_text(known("gpt-oss-20b"), made)
    assert text.splitlines()[0] == "openai/gpt-oss-20b with vllm"
    assert "\nIt cannot work: openai/gpt-oss-20b comes in MXFP4," in text
    assert all(len(line) <= 80 for line in text.splitlines())
    assert json.loads(as_json(known("gpt-oss-20b"), made))["works"] is False


def test_programs_read_what_would_be_passed():
    made = plan(EngineSpec(), "vllm", known("Llama-3.1-8B"), Machine(gpus=gpus("L4")))
    said = json.loads(as_json(known("Llama-3.1-8B"), made))
    assert (said["works"], said["passed"]) == (True, {"max_model_len": 32768})
    assert {
        "what": "number format",
        "value": "bfloat16",
        "why": "the model's own",
        "setting": "ENGINE_ARGS=--dtype",
    } in (said["choices"])
