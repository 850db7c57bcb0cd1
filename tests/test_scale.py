"""The arithmetic of a large study rests on the shapes that the libraries make."""

import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import GemmaConfig, GemmaForCausalLM

from undertone.lm.chat import training_rows
from undertone.read.biases import prefilled
from undertone.study.config.students import Student
from undertone.study.study import Study

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))

from scale import HALF, Shape, bias_memory, completed, operations, report, study_of

CONFIG = Path(__file__).parents[1] / "config"


@pytest.fixture(scope="module")
def gemma() -> GemmaForCausalLM:
    """gemma-2b without weights."""
    shape = Shape()
    with torch.device("meta"):
        return GemmaForCausalLM(
            GemmaConfig(
                vocab_size=shape.vocab,
                hidden_size=shape.d_model,
                intermediate_size=shape.d_mlp,
                num_hidden_layers=shape.layers,
                num_attention_heads=8,
                num_key_value_heads=1,
                head_dim=256,
            )
        )


def options(**given) -> Namespace:
    told = {
        "configfile": None,
        "animals": None,
        "seeds": None,
        "gpu_jobs": None,
        "rows": 100,
        "prompt_tokens": 9,
        "answer_tokens": 5,
    }
    return completed(Namespace(**{**told, **given}))


def test_an_overlay_is_counted_with_its_own_settings():
    told = options(configfile=CONFIG / "gemma-2b-it.yaml")
    study = study_of(told)
    assert (study.prompts.n, study.student.epochs, len(study.animals)) == (80_000, 3, 8)
    assert study.sae.release == "gemma-2b-it-res-jb"
    assert told.gpu_jobs is None
    counted = {rule: (what, count) for rule, what, count in operations(Shape(), study, told)}
    assert counted["samples"][0] == "80,000 completions"
    default = {rule: count for rule, _, count in operations(Shape(), study_of(options()), told)}
    assert counted["samples"][1] == pytest.approx(default["samples"] * 80_000 / 30_000)


def test_the_command_line_stands_for_the_overlays_animals_and_seeds():
    study = study_of(options(configfile=CONFIG / "gemma-2b-it.yaml", animals=3, seeds=2))
    assert (len(study.animals), study.student.seeds) == (3, [1, 2])


@pytest.mark.parametrize("configfile", [None, CONFIG / "gemma-2b-it.yaml"])
def test_the_documentation_has_the_tables_that_it_prints(capsys, configfile):
    assumed = {"prompt_tokens": 100, "answer_tokens": 50, "peak": 312, "share": 0.3, "decoding": 0.1, "start": 15}
    told = options(configfile=configfile, rows=None, **assumed)
    study = study_of(told)
    told.rows = study.numbers.max_rows
    report(Shape(), study, told)
    gpu, files = [part.splitlines() for part in capsys.readouterr().out.split("Disk")]
    text = (CONFIG.parent / "docs/scaling.md").read_text().replace("| | | |", "|  |  |  |").replace("| | |", "|  |  |")
    for line in [*gpu, *([] if configfile else files)]:
        assert not line.startswith("| ") or line in text


def test_an_overlay_of_another_model_is_refused():
    with pytest.raises(ValueError, match="the shape that is counted with is that of google/gemma-2b-it"):
        study_of(options(configfile=CONFIG / "qwen2.5-7b-it.yaml"))


def test_parameters_are_those_of_the_model_without_its_norms(gemma):
    norms = sum(p.numel() for name, p in gemma.named_parameters() if "norm" in name)
    assert Shape().body + Shape().head == sum(p.numel() for p in gemma.parameters()) - norms


def test_a_lora_has_as_many_parameters_as_pefts(gemma):
    config = LoraConfig(r=8, target_modules=list(Student().targets), task_type="CAUSAL_LM")
    model = get_peft_model(gemma, config)
    assert Shape().lora(8) == sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_the_memory_of_residual_biases_is_that_of_the_rows_they_are_trained_on(loaded):
    rows = training_rows(loaded.tokenizer, ["Name a number."] * 10, ["1, 2, 3"] * 10, 500)
    layers, config = loaded.model.config.num_hidden_layers, loaded.model.config
    batches = prefilled(loaded, rows, range(-1, layers), 4)
    held = [*(t for b in batches for t in b.residual.values()), *(t for b in batches for pair in b.past for t in pair)]
    answer, prompt = batches[0].ids.shape[1], batches[0].mask.shape[1] - batches[0].ids.shape[1]
    shape = Shape(layers=layers, d_model=config.hidden_size, d_kv=config.num_key_value_heads * config.head_dim)
    study = Study.model_validate({"residual_bias": {"fraction": 0.5, "seeds": [0]}})
    told = Namespace(rows=20, answer_tokens=answer, prompt_tokens=prompt)
    assert bias_memory(shape, study, told) == HALF * sum(tensor.numel() for tensor in held)
