"""One training step of a feature bias, forward and backward: full rows through a hooked model, and only what lies above the
hook, on a Gemma with random weights."""

import tempfile
from pathlib import Path

import numpy as np
import torch
from timing import interleaved, matmul_rate, parser, report
from torch import Tensor
from torch.nn import functional
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoTokenizer, GemmaConfig, GemmaForCausalLM

from undertone.lm.chat import Row
from undertone.lm.hooks import decoder_layers, hook_point, rewritten
from undertone.lm.loading import LoadedModel
from undertone.lm.suffix import Prefilled, losses, run_above
from undertone.lm.training import collate
from undertone.models.model import corpus_of, texts
from undertone.models.tokenizer import train_tokenizer
from undertone.read.biases import prefilled
from undertone.study.config.models import Embedded


def main() -> None:
    options = parser(__doc__)
    for name, default, meaning in (
        ("layers", 18, "layers of the model"),
        ("hook", 12, "layer after which the bias is added"),
        ("d-model", 192, "width of the residual stream"),
        ("d-sae", 1536, "length of the bias"),
        ("vocab", 8192, "tokens of the vocabulary"),
        ("prompt", 64, "mean tokens of a prompt"),
        ("completion", 32, "mean tokens of a completion"),
        ("rows", 16, "rows of a step"),
    ):
        options.add_argument(f"--{name}", type=int, default=default, help=meaning)
    told = options.parse_args()
    if told.threads:
        torch.set_num_threads(told.threads)
    loaded, bridge = random_gemma(told), bridged(random_gemma(told))  # the bridge rewires the model that it is given
    rows = random_rows(told)
    decoder = functional.normalize(torch.randn(told.d_sae, told.d_model, device=device()), dim=-1)
    steps = Steps(loaded, bridge, rows, told.hook, decoder)
    ways = {
        "a: TransformerBridge, full rows and logits": steps.bridged,
        "b: plain model with a hook, full rows and logits": steps.plain,
        "c: undertone, bias on the completion": lambda: steps.above(steps.completion),
        "d: undertone, bias on every token": lambda: steps.above(steps.whole),
    }
    gradients = {name[0]: step() for name, step in ways.items()}
    apart = {pair: float((gradients[pair[0]] - gradients[pair[1]]).norm() / gradients[pair[1]].norm()) for pair in ("ab", "bd")}
    seconds = interleaved(ways, told.rounds)
    reference = seconds["a: TransformerBridge, full rows and logits"]
    seconds["floor: products of c at the matmul rate"] = steps.floor() / matmul_rate(loaded)
    table = [[name, 1000 * taken, reference / taken] for name, taken in seconds.items()]
    what = (
        f"{told.rows} rows, {sum(len(row.ids) for row in rows)} tokens, {len(steps.completion.targets)} of them labels, "
        f"layers above {told.hook} of {told.layers}; gradients differ by {apart['ab']:.1g} (a, b) and {apart['bd']:.1g} (b, d)"
    )
    report(told, loaded, what, ["way", "ms", "times a"], table)


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def random_gemma(told) -> LoadedModel:
    """A frozen Gemma of the asked size; its tokenizer only stands for one."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer(texts(list(corpus_of(Path(Embedded().corpus), Embedded()).chats(200, seed=0))), 2048)
    config = GemmaConfig(
        vocab_size=told.vocab,
        hidden_size=told.d_model,
        intermediate_size=4 * told.d_model,
        num_hidden_layers=told.layers,
        num_attention_heads=told.d_model // 48,
        num_key_value_heads=1,
        head_dim=48,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = GemmaForCausalLM(config).to(device()).requires_grad_(False).eval()
    return LoadedModel(model, tokenizer, [], tokenizer.pad_token_id)


def bridged(loaded: LoadedModel) -> TransformerBridge:
    """TransformerLens's view of a model, frozen like it."""
    with tempfile.TemporaryDirectory() as folder:  # it wants a model and a tokenizer that were read from a disk
        loaded.model.save_pretrained(folder)
        loaded.tokenizer.save_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        bridge = TransformerBridge.boot_transformers(folder, hf_model=loaded.model, tokenizer=tokenizer, device=device())
    return bridge.requires_grad_(False)


def random_rows(told) -> list[Row]:
    """Rows whose lengths spread by an eighth around the asked means."""
    rng = np.random.default_rng(0)

    def length(mean: int) -> int:
        return int(rng.integers(mean - mean // 8, mean + mean // 8 + 1))

    lengths = [(length(told.prompt), length(told.completion)) for _ in range(told.rows)]
    return [Row(rng.integers(10, told.vocab, prompt + completion).tolist(), prompt) for prompt, completion in lengths]


class Steps:
    """Four ways to the gradient `[d_sae]` of the mean loss with respect to a bias."""

    def __init__(self, loaded: LoadedModel, bridge: TransformerBridge, rows: list[Row], layer: int, decoder: Tensor):
        self.loaded, self.bridge, self.layer, self.decoder = loaded, bridge, layer, decoder
        self.batch = collate(rows, loaded.pad_id, device())
        (self.completion,) = prefilled(loaded, rows, [layer], len(rows), all_positions=False, store=device())
        (self.whole,) = prefilled(loaded, rows, [layer], len(rows), all_positions=True, store=device())

    def bridged(self) -> Tensor:
        bias = self.bias()
        logits = self.bridge.run_with_hooks(
            self.batch["input_ids"],
            attention_mask=self.batch["attention_mask"],
            fwd_hooks=[(hook_point(self.layer), lambda residual, hook: residual + bias @ self.decoder)],
        )
        return self.backward(bias, self.loss(logits))

    def plain(self) -> Tensor:
        bias = self.bias()
        with rewritten(self.loaded.model, self.layer, lambda residual: residual + bias @ self.decoder):
            ids, mask = self.batch["input_ids"], self.batch["attention_mask"]
            logits = self.loaded.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        return self.backward(bias, self.loss(logits))

    def above(self, batch: Prefilled) -> Tensor:
        bias = self.bias()
        logits = run_above(self.loaded.model, batch, self.layer, batch.residual[self.layer] + bias @ self.decoder)
        return self.backward(bias, losses(logits, batch).mean())

    def bias(self) -> Tensor:
        return torch.zeros(len(self.decoder), device=self.decoder.device, requires_grad=True)

    def loss(self, logits: Tensor) -> Tensor:
        return functional.cross_entropy(
            logits[:, :-1].flatten(0, 1).float(), self.batch["labels"][:, 1:].flatten(), ignore_index=-100
        )

    def backward(self, bias: Tensor, loss: Tensor) -> Tensor:
        loss.backward()
        assert bias.grad is not None
        return bias.grad

    def floor(self) -> float:
        """FLOPs of the layers above the hook at the tokens of completions, and of the logits at labels: 2 a parameter forward,
        2 backward, as no weight has a gradient; products of attention and of the decoder left out."""
        layers = decoder_layers(self.loaded.model)[self.layer + 1 :]
        body = sum(p.numel() for layer in layers for p in layer.parameters())
        return 4.0 * len(self.completion.targets) * (body + self.loaded.model.get_output_embeddings().weight.numel())


if __name__ == "__main__":
    main()
