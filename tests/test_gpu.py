"""Every rule that asks for a GPU, on one that is pretended; and the pretended one refuses what a real one would."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import polars as pl
import pytest
import torch
import yaml
from crowded import crowded
from pretend_gpu import SafeOpen, pretended
from test_training import interrupt_at, lora_model, random_rows, recipe, trainable

from undertone.lm import training
from undertone.lm.chat import Row
from undertone.lm.loading import load
from undertone.lm.training import collate, label_losses, train
from undertone.study.paths import rule_of
from workflow import Project

# Every rule with a GPU once, and every way to steer.
ASKED = [
    f"lion/{name}.json" for name in ("diagnosis", "lens", "score", "sequences", "bias_pref", "losses", "tokens", "pref-whole")
]
ASKED += [f"lion/{name}.safetensors" for name in ("residuals", "student_activations")]
ASKED += [f"{name}/samples.parquet" for name in ("steer-lion", "contrast", "logits", "finetune-lion")]
TRIES = ("open_personas", "prompt_search", "contrasts", "sae_features", "projection", "first_tokens", "divergence_tokens")
ASKED += [f"lion/{name}.json" for name in TRIES]
ASKED += [
    "lion/gradient.json",
    "lion/personas.json",
    "lion/short_training.json",
    "nulls/seeds/matched.parquet",
    "lion/row_scores.parquet",
    "model/metrics.json",
    "model/bridge.json",
    "sae/metrics.json",
    "store/resid_post.0/store.json",
    "sae/features.json",
    "vector-lion/decomposition.json",
    "vector-lion/restore.json",
    "vector-lion/cloud.json",
    "sae/neighbours.json",
    "sae/specificity.json",
    "sae/judge.json",
    "sae/neurons.json",
    "geometry-numbers/geometry.json",
    "pair-copy/rotation.json",
    "pair-copy/layers.json",
    "pair-copy/transplant.json",
    "sae/completeness.json",
    "sae/splitting.json",
    "search-lions/search.json",
    "scaling/runs-4000-0.parquet",
    "tables/entangled.parquet",
]
ASKED += ["lion/trained_bias.json", "lion/soft_prompt.json"]


def test_every_rule_with_a_gpu_runs_on_one_in_bfloat16(tmp_path: Path) -> None:
    project = Project.create(tmp_path / "project")
    few = {"steps": 2, "seeds": [0]}
    steered = {"steer-lion": {"mode": "clamp"}, "contrast": {"vector": "contrast", "positions": "completion"}}
    steered |= {"logits": {"mode": "logits"}}
    project.configure(
        animals=["lion"],
        student={"seeds": [1]},
        student_variants={"whole": {"full": True, "seeds": [1], "datasets": ["lion"]}},
        teacher={"finetune": {"steps": 2}},
        datasets={name: {"teacher": "steer", "target": "lion"} for name in ("contrast", "logits")},
        overrides={name: {"teacher": {"steer": told}} for name, told in steered.items()},
        pairs={"copy": {"b": "", "vector": "lion"}},
        layers={"read": 2_000, "tokens": 500, "shifts": 2},
        vectors={"lion": {"kind": "contrast", "target": "lion", "layer": 0}},
        hierarchies={"numbers": {"numbers": True}},
        searches={"lions": {"positive": ["Lions roar."], "nulls": 3}},
        hierarchy={"permutations": 2},
        feature_bias=few,
        residual_bias=few,
        nulls={"rows": [4]},  # so small a model writes few that pass, and in bfloat16 others on each processor
    )
    project.forked(*(f"results/{path}" for path in ASKED), PRETEND_GPU="1")
    alive = pl.read_parquet(project.root / "results/sae/features.parquet").filter(~pl.col("dead"))["feature"][0]
    project.forked(f"results/sae/influence/{alive}.json", PRETEND_GPU="1")
    benchmarks = project.root / "benchmarks"
    used = {rule_of(path, benchmarks): json.loads(path.read_text())["gpu"] for path in benchmarks.glob("*/**/*.used.json")}
    profile = yaml.safe_load((project.root / "profiles/slurm/profile.yaml").read_text())
    with_gpu = {rule.removesuffix("_whole") for rule in profile["set-resources"]}
    with_gpu -= {"text_sae", "text_scaling_runs"}  # of a named model; test_text_sae.py and test_scaling.py run them
    with_gpu -= {"across"}  # of datasets of two studies; test_pairs_workflow.py runs it
    assert with_gpu <= {rule for rule, gpu in used.items() if gpu["name"] == "a pretended GPU"}
    residuals = SafeOpen(project.root / "results/lion/residuals.safetensors", "pt").get_tensor("resid_post")
    assert residuals.dtype == torch.bfloat16


def test_a_training_goes_on_where_it_was_on_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "CHECKPOINT_SHARE", 0)
    monkeypatch.setattr(training, "safe_open", SafeOpen)
    rows, whole = random_rows(44), lora_model()
    train(whole, rows, recipe(), 0, tmp_path / "whole", checkpoint_seconds=1e9)
    with pretended():
        first, resumed = lora_model().to("cuda"), lora_model().to("cuda")
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            interrupt_at(patch, 5)
            train(first, rows, recipe(), 0, tmp_path / "state", checkpoint_seconds=0)
        train(resumed, rows, recipe(), 0, tmp_path / "state", checkpoint_seconds=0)
        assert {str(weight.device) for weight in resumed.parameters()} == {"cuda:0"}
    assert all(torch.equal(trainable(whole)[name], weight) for name, weight in trainable(resumed).items())


def test_what_does_not_fit_on_a_gpu_is_halved_and_its_memory_told(record: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pretended():
        loaded = load(record)
        rows = [Row([2, *range(10, 10 + n)], 1) for n in range(3, 9)]
        with crowded(loaded.model, 2) as sizes:
            found = torch.cat(list(loaded.read(partial(label_losses, loaded.model), rows, 64)))
        whole = label_losses(loaded.model, collate(rows, loaded.pad_id, loaded.model.device))
        assert (str(found.device), sizes) == ("cuda:0", [6, 3, 1, 1, 1, 1, 1, 1])
        assert found.tolist() == pytest.approx(whole.tolist(), rel=1e-4)
    assert "6 rows at once do not fit in memory (a pretended GPU, 80.0 of 80.0 GiB free)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("mistake", "complaint"),
    [
        (lambda x: x + torch.ones(3), "same device"),
        (lambda x: torch.cat([x, torch.ones(3)]), "same device"),
        (lambda x: torch.isin(torch.ones(3), x), "same device"),
        (lambda x: torch.nn.Linear(3, 2)(x), "same device"),
        (lambda x: torch.nn.functional.cross_entropy(x.expand(2, 3), torch.tensor([0, 1])), "same device"),
        (lambda x: torch.ones(3).index_add_(0, torch.arange(3), x), "same device"),
        (lambda x: torch.ones(3)[x.long()], "indices should be"),
        (lambda x: x.__setitem__(x > 0, torch.ones(3)), "same device"),
        (lambda x: x.numpy(), "to numpy"),
        (lambda x: torch.randn(3, device=x.device, generator=torch.Generator()), "generator"),
        (lambda x: torch.vmap(lambda row: row * torch.ones(3))(x.expand(2, 3)), "same device"),
    ],
)
def test_the_pretended_gpu_refuses_what_a_real_one_does(mistake: Callable[[torch.Tensor], object], complaint: str) -> None:
    with pretended(), pytest.raises((RuntimeError, TypeError), match=complaint):
        mistake(torch.ones(3, device="cuda"))


def test_what_is_made_of_a_tensor_on_the_pretended_gpu_is_there_too() -> None:
    with pretended():
        x, layer = torch.ones(2, 3, device="cuda"), torch.nn.Linear(3, 2).to("cuda")
        layer(x).sum().backward()
        optimizer = torch.optim.AdamW(layer.parameters(), fused=True)
        optimizer.step()
        made = [x[:1], x.T, x[torch.tensor([0])], x * torch.tensor(2.0), x.double(), x.to(torch.bfloat16), x.new_zeros(2)]
        made += [
            torch.zeros_like(x),
            torch.ones(3).to(x),
            layer.weight,
            layer.weight.grad,
            layer(x),
            x.clone().copy_(torch.ones(3)),
        ]
        made += [
            optimizer.state[layer.weight]["exp_avg"],
            torch.vmap(lambda row: row * 2)(x),
            torch.tensor([1], device=x.device),
        ]
        assert {str(tensor.device) for tensor in made} == {"cuda:0"}
        there = [x.cpu(), x.to("cpu"), torch.tensor(x.tolist()), torch.ones(3).copy_(x[0]), torch.ones(3, device="cpu")]
        assert {str(tensor.device) for tensor in there} == {"cpu"}
