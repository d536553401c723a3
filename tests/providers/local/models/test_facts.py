"""What is known of a model without its weights."""

from pathlib import Path

from gateway.providers.local.models.facts import ModelFacts, facts_of
from gateway.providers.local.models.model_files import Model
from gateway.providers.local.models.shape import of_config
from tests.support.known_models import CONFIGS


def test_the_facts_of_a_model_are_those_of_its_files():
    size, config = CONFIGS["meta-llama/Llama-3.1-8B-Instruct"]
    found = Model(Path("/models/m"), "llama", "safetensors", size, shape=of_config(config))
    assert facts_of(found) == ModelFacts("llama", "safetensors", size, found.shape)
