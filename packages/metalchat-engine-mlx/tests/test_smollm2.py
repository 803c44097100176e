"""A real model, where METALCHAT_TEST_SMOLLM2 names the file SmolLM2-135M-Instruct.Q4_1.gguf."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from metalchat_engine import EngineSettings, GenerationRequest, JsonSchema, Message, ModelSource, Sampling
from metalchat_engine.testing import collect
from metalchat_engine_mlx import MlxEngine

FILE = Path(os.environ.get("METALCHAT_TEST_SMOLLM2", ""))
STORY = (
    "As I stepped out of the car, the sound of the engine lulled me into a trance, and I was transported to the world"
    " of the dog."
)


@pytest.mark.skipif(not FILE.is_file(), reason="METALCHAT_TEST_SMOLLM2 names no file")
def test_smollm2_tells_its_story() -> None:
    with MlxEngine().load(ModelSource(path=FILE), EngineSettings()) as model:
        answer = collect(
            model,
            GenerationRequest(
                messages=(Message.user("Write a short story about a dog."),),
                sampling=Sampling(temperature=0),
                max_tokens=48,
            ),
        )
    assert answer.finish.usage.prompt_tokens == 38
    assert answer.text.startswith(STORY)


@pytest.mark.skipif(not FILE.is_file(), reason="METALCHAT_TEST_SMOLLM2 names no file")
def test_smollm2_answers_with_json_whatever_the_seed() -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 30}, "age": {"type": "integer", "maximum": 150}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    request = GenerationRequest(
        messages=(Message.user("Describe a person as JSON."),), constraint=JsonSchema(schema=schema), max_tokens=100
    )
    with MlxEngine().load(ModelSource(path=FILE), EngineSettings()) as model:
        for seed in range(20):
            answer = collect(model, replace(request, sampling=Sampling(temperature=1, seed=seed), conversation="c"))
            value = json.loads(answer.text)
            assert (list(value), type(value["age"]), answer.finish.reason) == (["name", "age"], int, "stop")
