"""Training an SAE on stored activations: undertone, SAELens's own runner, sparsify and dictionary_learning; and the stores.

Each way is a process of its own on one thread, in turn, on the same activations in the same order, with its authors' defaults
at equal width, features per token, batch and tokens. Seconds are of CPU, of the training alone. What each SAE explains is
measured on text that none has seen. `--peers` is a folder made by
`pip install --no-deps --target FOLDER eai-sparsify==1.3.0 dictionary-learning==0.1.0 natsort schedulefree`.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from scipy.stats import chisquare
from timing import matmul_rate, parser, report, start

from undertone.lab.context_table import read_contexts
from undertone.lab.training_cost import flops
from undertone.lm.chat import Row
from undertone.lm.loading import load
from undertone.lm.points import HookPoint
from undertone.runtime.files import read_json, read_parquet
from undertone.saes.store import make_store
from undertone.saes.stored import read_shard, stored_batches
from undertone.saes.trainer import activations, fitted, untrained
from undertone.study.config.saes import Sae, Store

# Tokens of a sequence, for those that read sequences.
CONTEXT = 128
# Sequences that SAELens's cache is written in at once.
BUFFER = 128
Encode = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def main() -> None:
    options = parser(__doc__, timed=False)
    options.add_argument("--store", type=Path, default=Path("results/store/resid_post.0"), help="folder of stored activations")
    options.add_argument("--text", type=Path, default=Path("results/text.parquet"), help="text that the SAEs are measured on")
    options.add_argument("--stored", type=Path, default=Path("results/store/text.parquet"), help="text of the store")
    options.add_argument("--peers", type=Path, help="folder with the other libraries")
    options.add_argument("--tokens", type=int, default=1_000_000, help="tokens of training")
    options.add_argument("--d-sae", type=int, default=512, help="features")
    options.add_argument("--k", type=int, default=16, help="features per token")
    options.add_argument("--batch-size", type=int, default=1024, help="tokens per step")
    options.add_argument("--rounds", type=int, default=1, help="times that each way is run, in turn")
    options.add_argument("--held-out", type=int, default=50_000, help="tokens that the SAEs are measured on")
    options.add_argument("--cached", type=int, default=200_000, help="tokens that stores are compared on")
    options.add_argument("--child", help="run one way; for the benchmark itself")
    options.add_argument("--folder", type=Path, help="unfinished work; for the benchmark itself")
    told = options.parse_args()
    told.threads = told.threads or 1
    loaded = start(told)
    if told.child:
        print(json.dumps((TRAININGS | STORES)[told.child](told)))
        return
    with tempfile.TemporaryDirectory() as folder:
        told.folder = Path(folder)
        prepare(told)
        trained = {name: [child(told, name) for _ in range(told.rounds)] for name in TRAININGS}
        stores = {name: child(told, name) for name in STORES}
    d_model = read_json(told.store / "store.json")["d_model"]
    rate = matmul_rate(loaded)
    floor = told.tokens * rate / flops(told.d_sae, told.tokens, d_model)
    rows = [training_row(name, runs, told) for name, runs in trained.items()]
    what = f"SAEs of {told.d_sae} features, {told.k} per token, on {told.tokens} stored tokens of {d_model} numbers"
    columns = ["way", "version", "tokens per CPU s", "explained variance", "L0", "dead"]
    report(told, loaded, what, columns, [*rows, ["floor: 12 d_model d_sae FLOP per token", "", floor, "", "", ""]])
    print()
    columns = ["way", "tokens per CPU s", "bytes per token", "p of a uniform order", "neighbours that stay so"]
    report(told, loaded, f"stores of {told.cached} tokens", columns, [store_row(name, run) for name, run in stores.items()])


def child(told: argparse.Namespace, name: str) -> dict[str, Any]:
    """What one way measured in a process of its own, or why it could not."""
    words = [f"--{key.replace('_', '-')}={value}" for key, value in vars(told).items() if value is not None and key != "out"]
    done = subprocess.run([sys.executable, __file__, *words, f"--child={name}"], capture_output=True, text=True, check=False)
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-1][:200]}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def training_row(name: str, runs: list[dict[str, Any]], told: argparse.Namespace) -> list[Any]:
    """A row of the table of trainings."""
    if failed := [run["failed"] for run in runs if "failed" in run]:
        return [name, "", failed[0], "", "", ""]
    median = {key: statistics.median(run[key] for run in runs) for key in ("seconds", "explained", "l0", "dead")}
    return [name, runs[0]["version"], told.tokens / median["seconds"], median["explained"], median["l0"], median["dead"]]


def store_row(name: str, run: dict[str, Any]) -> list[Any]:
    """A row of the table of stores."""
    return [name, *(run[key] for key in ("rate", "bytes", "p", "neighbours"))] if "failed" not in run else [name, run["failed"]]


def prepare(told: argparse.Namespace) -> None:
    """The activations that are trained on, in one order, and those that are held out."""
    x = torch.cat([read_shard(path)[0] for path in shards(told)])[: told.tokens]
    loaded = load(told.model / "model.json")
    rows = [Row(ids, 0) for ids in read_contexts(told.text)]
    parts: Iterator[Any] = (rows[k : k + 64] for k in range(0, len(rows), 64))
    held: list[torch.Tensor] = []
    for part in activations(loaded, parts, point(told)):
        held.append(part)
        if sum(map(len, held)) >= told.held_out:
            break
    save_file({"x": x.contiguous(), "held": torch.cat(held)[: told.held_out]}, told.folder / "x.safetensors")


def point(told: argparse.Namespace) -> HookPoint:
    """The hook point of the store."""
    return HookPoint.named(read_json(told.store / "store.json")["hook_point"])


def shards(told: argparse.Namespace) -> list[Path]:
    """The files of the store."""
    return sorted(told.store.glob("*.safetensors"))


def measured(told: argparse.Namespace, name: str, train: Callable[[torch.Tensor], Encode]) -> dict[str, Any]:
    """CPU seconds of a training, and what its SAE explains of the activations that are held out."""
    data = load_file(told.folder / "x.safetensors")
    x, held = data["x"].float(), data["held"]
    begun = time.process_time()
    encode = train(x)
    seconds = time.process_time() - begun
    with torch.no_grad():
        acts, rebuilt = encode(held)
    error = (held - rebuilt).double().square().sum() / (held - held.mean(0)).double().square().sum()
    return {
        "version": version(name),
        "seconds": seconds,
        "explained": 1 - float(error),
        "l0": float((acts != 0).sum(1).double().mean()),
        "dead": float((acts == 0).all(0).double().mean()),
    }


def settings_of(told: argparse.Namespace) -> Sae:
    """The project's settings at these sizes."""
    return Sae(d_sae=told.d_sae, k=told.k, tokens=told.tokens, batch_size=told.batch_size)


def undertone(told: argparse.Namespace) -> dict[str, Any]:
    """As the project trains from a store."""

    def train(x: torch.Tensor) -> Encode:
        settings = settings_of(told)
        save_file({"x": x.half(), "token": torch.arange(len(x))}, told.folder / "0.safetensors")
        batches = stored_batches([told.folder / "0.safetensors"], settings, torch.device("cpu"))
        sae = fitted(untrained(settings, x.shape[1], SAEMetadata()), settings, batches).eval()
        return lambda held: (sae.encode(held), sae.decode(sae.encode(held)))

    from sae_lens.saes.sae import SAEMetadata

    return measured(told, "sae-lens", train)


def runner(told: argparse.Namespace) -> dict[str, Any]:
    """SAELens's `LanguageModelSAETrainingRunner` on cached activations, in its defaults but for what is equal."""
    import datasets
    from sae_lens import LanguageModelSAERunnerConfig, LanguageModelSAETrainingRunner, LoggingConfig, TopKTrainingSAEConfig

    hook = read_json(told.store / "store.json")["hook_point"]

    def train(x: torch.Tensor) -> Encode:
        cfg = LanguageModelSAERunnerConfig(
            sae=TopKTrainingSAEConfig(d_in=x.shape[1], d_sae=told.d_sae, k=told.k),
            model_name="none",
            hook_name=hook,
            dataset_path="none",
            use_cached_activations=True,
            cached_activations_path=str(told.folder / "cached"),
            context_size=CONTEXT,
            training_tokens=told.tokens // told.batch_size * told.batch_size,
            train_batch_size_tokens=told.batch_size,
            store_batch_size_prompts=told.batch_size // CONTEXT,
            n_batches_in_buffer=64,
            logger=LoggingConfig(log_to_wandb=False),
            checkpoint_path=None,
            output_path=None,
            verbose=False,
        )
        hooked = HookedNothing(load(told.model / "model.json").tokenizer)
        text = datasets.Dataset.from_dict({"tokens": [[0] * CONTEXT] * 8})
        sae = LanguageModelSAETrainingRunner(cfg, override_dataset=text, override_model=hooked).run().eval()
        return lambda held: (sae.encode(held), sae.decode(sae.encode(held)))

    x = load_file(told.folder / "x.safetensors")["x"].float()
    n = len(x) // CONTEXT
    features = datasets.Features({hook: datasets.Array2D(shape=(CONTEXT, x.shape[1]), dtype="float32")})
    rows = {hook: x[: n * CONTEXT].reshape(n, CONTEXT, -1).numpy()}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(told.folder / "cached"))
    return measured(told, "sae-lens", train)


class HookedNothing(torch.nn.Module):
    """Stands for the model, which is not run on cached activations."""

    def __init__(self, tokenizer: Any):
        super().__init__()
        self.tokenizer = tokenizer
        self.cfg = types.SimpleNamespace(device="cpu")


def sparsify(told: argparse.Namespace) -> dict[str, Any]:
    """`sparsify.Trainer` on a model that looks the activations up, in its defaults but for what is equal."""
    sys.path.append(str(told.peers))
    import datasets
    from sparsify import SaeConfig, TrainConfig, Trainer
    from transformers import PretrainedConfig, PreTrainedModel

    class Lookup(PreTrainedModel):
        config_class = PretrainedConfig

        def __init__(self, x: torch.Tensor):
            super().__init__(PretrainedConfig(hidden_size=x.shape[1], num_hidden_layers=1))
            self.layer = torch.nn.Embedding.from_pretrained(x)

        @property
        def dummy_inputs(self) -> dict[str, torch.Tensor]:
            return {"input_ids": torch.zeros(1, 4, dtype=torch.long)}

        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            return self.layer(input_ids)

    def train(x: torch.Tensor) -> Encode:
        ids = torch.arange(len(x) // CONTEXT * CONTEXT).reshape(-1, CONTEXT)
        rows = datasets.Dataset.from_dict({"input_ids": ids.numpy()}).with_format("torch")
        cfg = TrainConfig(
            SaeConfig(num_latents=told.d_sae, k=told.k),
            batch_size=told.batch_size // CONTEXT,
            hookpoints=["layer"],
            log_to_wandb=False,
            save_every=10**9,
            save_dir=str(told.folder / "sparsify"),
        )
        trainer = Trainer(cfg, rows, Lookup(x))
        trainer.fit()
        for optimizer in trainer.optimizers:
            if hasattr(optimizer, "eval"):
                optimizer.eval()  # the averaged weights, which it saves
        sae = trainer.saes["layer"]

        def encode(held: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            top, indices, _ = sae.encode(held)
            acts = torch.zeros(len(held), told.d_sae).scatter_(1, indices, top)
            return acts, sae.decode(top, indices)

        return encode

    return measured(told, "eai-sparsify", train)


def dictionary_learning(told: argparse.Namespace) -> dict[str, Any]:
    """`dictionary_learning.training.trainSAE`, in its defaults but for what is equal; without nnsight, which reads models."""
    sys.path.append(str(told.peers))
    sys.modules["nnsight"] = types.SimpleNamespace(LanguageModel=None)  # type: ignore[assignment]
    from dictionary_learning.trainers.top_k import AutoEncoderTopK, TopKTrainer
    from dictionary_learning.training import trainSAE

    def train(x: torch.Tensor) -> Encode:
        steps = told.tokens // told.batch_size
        config = {
            "trainer": TopKTrainer,
            "steps": steps,
            "warmup_steps": min(1_000, steps // 10),  # it refuses its own default of 1,000 in shorter trainings
            "activation_dim": x.shape[1],
            "dict_size": told.d_sae,
            "k": told.k,
            "layer": 0,
            "lm_name": "stored",
            "device": "cpu",
            "seed": 0,
        }
        batches = (part for part in torch.split(x, told.batch_size))
        folder = told.folder / "dictionary_learning"
        trainSAE(batches, [config], steps, save_dir=str(folder), device="cpu")
        state = torch.load(folder / "trainer_0/ae.pt", weights_only=True)
        sae = AutoEncoderTopK(x.shape[1], told.d_sae, told.k)
        sae.load_state_dict(state)
        return lambda held: (sae.encode(held), sae(held))

    return measured(told, "dictionary-learning", train)


def own_store(told: argparse.Namespace) -> dict[str, Any]:
    """The project's store."""
    text, (folder, scratch) = some_text(told), (told.folder / "store", told.folder / "scratch")
    scratch.mkdir()
    files, at = (
        [folder / f"{k:02}.safetensors" for k in range(16)],
        HookPoint.named(read_json(told.store / "store.json")["hook_point"]),
    )
    begun = time.process_time()
    make_store(told.model / "model.json", text, files, folder / "store.json", at.point, at.layer, Store(), {}, scratch)
    seconds = time.process_time() - begun
    token = torch.cat([read_shard(path)[1] for path in files]).numpy()
    size = sum(path.stat().st_size for path in files)
    return {"rate": len(token) / seconds, "bytes": size / len(token), **order(np.argsort(np.argsort(token)))}


def runners_cache(told: argparse.Namespace, dtype: str = "float16") -> dict[str, Any]:
    """SAELens's `CacheActivationsRunner`; its order is read on the disk, by the tokens of its contexts."""
    import datasets
    from sae_lens import CacheActivationsRunner, CacheActivationsRunnerConfig

    ids = [token for context in read_contexts(some_text(told)) for token in context]
    n = len(ids) // CONTEXT // BUFFER * BUFFER  # it fills whole buffers, with text that it has read where there is no more
    contexts = np.array(ids[: n * CONTEXT]).reshape(n, CONTEXT)
    at, about = point(told), read_json(told.store / "store.json")
    cfg = CacheActivationsRunnerConfig(
        dataset_path="none",
        model_name=str(told.model),
        model_class_name="AutoModelForCausalLM",
        model_batch_size=32,
        hook_name=f"model.layers.{at.layer}",
        d_in=about["d_model"],
        training_tokens=n * CONTEXT,
        context_size=CONTEXT,
        new_cached_activations_path=str(told.folder / "runner"),
        dtype=dtype,
        device="cpu",
        prepend_bos=False,
        streaming=False,
        buffer_size_gb=(BUFFER * CONTEXT + 1) * about["d_model"] * 2 / 1e9,
    )
    text = datasets.Dataset.from_dict({"tokens": contexts})
    begun = time.process_time()
    CacheActivationsRunner(cfg, override_dataset=text).run()
    seconds = time.process_time() - begun
    stored = datasets.load_from_disk(str(told.folder / "runner"))
    place = {tuple(context): k for k, context in enumerate(contexts.tolist())}
    first = np.array([place[tuple(each)] for each in np.array(stored["token_ids"]).tolist()])
    before = (first[:, None] * CONTEXT + np.arange(CONTEXT)).ravel()
    size = sum(path.stat().st_size for path in (told.folder / "runner").rglob("*.arrow"))
    return {"rate": len(before) / seconds, "bytes": size / len(before), **order(np.argsort(np.argsort(before)))}


def some_text(told: argparse.Namespace) -> Path:
    """The first contexts of the store's text, as many as hold the tokens that stores are compared on."""
    path = told.folder / "some.parquet"
    if not path.exists():
        table = read_parquet(told.stored)
        ends = table["ids"].list.len().cum_sum()
        table.filter(ends <= told.cached).write_parquet(path, row_group_size=256)
    return path


def order(before: np.ndarray) -> dict[str, float]:
    """p of a uniform order by a table of tenths before and after, and the share of neighbours that are neighbours still."""
    n = len(before)
    cells = np.zeros((10, 10))
    np.add.at(cells, (before * 10 // n, np.arange(n) * 10 // n), 1)
    stay = float((np.diff(before) == 1).mean())
    return {"p": float(chisquare(cells.ravel(), ddof=18).pvalue), "neighbours": stay}


TRAININGS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "undertone, from the store": undertone,
    "SAELens's runner": runner,
    "sparsify": sparsify,
    "dictionary_learning": dictionary_learning,
}
STORES: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "undertone's store": own_store,
    "CacheActivationsRunner": runners_cache,
}

if __name__ == "__main__":
    main()
