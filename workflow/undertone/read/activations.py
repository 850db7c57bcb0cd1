"""Activations of a dataset's rows: sums of residuals and SAE activations by kind of position, in one pass."""

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import torch
from sae_lens import SAE
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from undertone.data.rows import first, texts
from undertone.lm.adapters import finetuned
from undertone.lm.chat import Row, answer_ids, joined, prompt_ids
from undertone.lm.hooks import decoder_layers, resid_post, rewritten
from undertone.lm.loading import LoadedModel, load
from undertone.lm.sampling import batches_by_length
from undertone.lm.training import collate
from undertone.lm.vocabulary import number_tokens
from undertone.runtime.files import Stamp, provenance, read_parquet, replacing, whole
from undertone.runtime.progress import progress
from undertone.saes.saved import encoded, load_sae, rows_at_once
from undertone.study.config.read import Activations as ActivationSettings
from undertone.teachers.teaching import teaching

PROMPT, TEMPLATE, COMPLETION, NUMBER, SEPARATOR = ("prompt", "template", "completion", "number", "separator")


def classes(positions: int) -> list[str]:
    """The kinds of positions that are told apart, the completion's first `positions` ones by their index."""
    return [PROMPT, TEMPLATE, COMPLETION, NUMBER, SEPARATOR, *map(str, range(positions))]


def read_activations(
    model: Path, numbers: Path, sae: Path | None, activations: Path, settings: ActivationSettings, stamp: Stamp
) -> None:
    """Write `activations.safetensors`: the base model's sums over the rows of `numbers` (columns `prompt`, `completion`).

    `sae` is the `sae.json`, None in a study without one. Classes: `prompt`, all text tokens of the prompt; `template`, the last
    prompt token, from which the completion's first one is predicted; `completion`, all its text tokens; `number` and
    `separator`, those that are digits and the others; "0", "1", …, the completion's text token at that place. Special tokens
    are left out, but `template` may be one; the closing end of turn is not read. A block is `block_rows` consecutive
    rows.

    Tensors, float32: `count` [n_blocks, n_classes]; `resid_post.sum` [n_blocks, n_layers, n_classes, d_model];
    `resid_post.square` [n_layers, n_classes, d_model], sums of squares; `mlp_in.*` alike, the input of each layer's MLP after
    its norm; `sae.acts.sum`, `sae.acts_pre.sum` [n_blocks, n_classes, d_sae], their `.square` [n_classes, d_sae], and
    `sae.active` [n_classes, d_sae], the number of tokens on which a feature is active. The metadata's `undertone` is JSON:
    `classes`, `rows`, `blocks`, `layer` (the SAE's) and the provenance.
    """
    loaded = load(model)
    _read(loaded, loaded, (None, ""), numbers, sae, activations, settings, stamp)


def read_teacher_activations(
    model: Path,
    numbers: Path,
    teacher: Path | None,
    sae: Path | None,
    teacher_activations: Path,
    settings: dict[str, Any],
    stamp: Stamp,
) -> None:
    """The same of the teacher at work, on the same rows.

    `teacher` is the `teacher.json` of a steered or finetuned one. The persona's and the prompt's positions are not read:
    `prompt` has count 0. Raises ValueError for a dataset without a teacher.
    """
    if settings["kind"] in (None, "none"):
        raise ValueError(f"{numbers}: this dataset has no teacher whose activations could be read (kind {settings['kind']!r})")
    loaded = load(model)
    cfg = ActivationSettings.model_validate(settings["activations"])
    with teaching(loaded, settings, teacher, sae) as prompted:
        persona = (prompted.system, prompted.separator)
        _read(loaded, prompted.loaded, persona, numbers, sae, teacher_activations, cfg, stamp, own=False)


def read_student_activations(
    model: Path,
    numbers: Path,
    student: Path,
    sae: Path | None,
    student_activations: Path,
    settings: ActivationSettings,
    stamp: Stamp,
) -> None:
    """The same of the student that has these weights."""
    loaded = load(model)
    with finetuned(loaded, student.parent) as own:
        _read(loaded, own, (None, ""), numbers, sae, student_activations, settings, stamp)


def _read(
    base: LoadedModel,
    model: LoadedModel,
    persona: tuple[str | None, str],
    numbers: Path,
    sae_json: Path | None,
    out: Path,
    settings: ActivationSettings,
    stamp: Stamp,
    own: bool = True,
) -> None:
    table = first(read_parquet(numbers), settings.rows)
    sae, layer = load_sae(sae_json, base) if sae_json else (None, None)
    rows, blocks = dataset_rows(model, table, *persona), block_of(len(table), settings.block_rows)
    sums = Sums(model, settings, blocks[-1] + 1, sae, layer)
    with progress(len(rows), f"activations {out.parent.name}", "row") as bar:
        for batch in batches_by_length([row.ids for row in rows], settings.batch_size):
            sums.add([rows[i] for i in batch], [blocks[i] for i in batch], own)
            bar.update(len(batch))
    head = {"classes": classes(settings.positions), "rows": len(rows), "blocks": len(sums.count), "layer": layer}
    with replacing(out) as temporary:
        # One key alone: safetensors writes several in any order.
        save_file(sums.tensors(), temporary, metadata={"undertone": json.dumps({**head, **provenance(stamp)})})


def dataset_rows(loaded: LoadedModel, table: pl.DataFrame, persona: str | None = None, separator: str = "") -> list[Row]:
    """A training set as rows of prompt and completion, under a persona if there is one; no end of turn."""
    users, completions = texts(table)
    return joined(prompt_ids(loaded.tokenizer, users, persona, separator), answer_ids(loaded.tokenizer, completions))


def block_of(n_rows: int, block_rows: int) -> list[int]:
    """Each row's block: consecutive rows, of which every block holds as near to `block_rows` as their number allows.

    Blocks of a small and of a large dataset hold equally many rows. A permutation deals blocks out between two datasets, which
    is no relabelling under the null hypothesis where the mean over few rows scatters more than the mean over many.
    """
    n_blocks = max(1, round(n_rows / block_rows))
    return [row * n_blocks // n_rows for row in range(n_rows)]


@dataclass
class RowSums:
    """What rows add to the sums, in float64.

    `block` `[n_rows]` and `count` `[n_rows, n_classes]` of each row; `by_row` by name, in parts of some rows each,
    `[n, n_classes, d]`; `total` by name, over the rows, `[n_classes, d]`: squares, and how often a feature is active.
    """

    block: Tensor
    count: Tensor
    by_row: dict[str, list[Tensor]] = field(default_factory=dict)
    total: dict[str, Tensor] = field(default_factory=dict)

    def add(self, name: str, x: Tensor, weight: Tensor) -> None:
        """Add the sums of `x` `[n_rows, n_tokens, d]` over the classes of `weight` `[n_rows, n_tokens, n_classes]`."""
        self.by_row.setdefault(name, []).append(torch.einsum("rtc,rtd->rcd", weight, x).double())
        self.total[name] = self.total.get(name, 0) + by_class(x.square(), weight).double()


def by_class(x: Tensor, weight: Tensor) -> Tensor:
    """The sum `[n_classes, d]` of `x` `[n_rows, n_tokens, d]` over the tokens of each class."""
    return torch.einsum("rtc,rtd->cd", weight, x.to(weight))


class Sums:
    """Sums over tokens by class and block, in float64 on the model's device; `n_blocks` of them are kept."""

    def __init__(
        self,
        loaded: LoadedModel,
        settings: ActivationSettings,
        n_blocks: int,
        sae: SAE[Any] | None = None,
        layer: int | None = None,
    ):
        self.loaded, self.settings, self.sae, self.layer = loaded, settings, sae, layer
        self.is_number = torch.tensor(number_tokens(loaded.tokenizer), device=loaded.model.device)
        self.n_classes = len(classes(settings.positions))
        self.sum: dict[str, Tensor] = {}
        self.total: dict[str, Tensor] = {}
        self.count = torch.zeros(n_blocks, self.n_classes, dtype=torch.float64, device=loaded.model.device)

    @torch.no_grad()
    def add(self, rows: Sequence[Row], blocks: Sequence[int], prompts: bool = True) -> None:
        """Take in the rows, each of which belongs to a block; without `prompts` the class `prompt` is not read."""
        batch_size = self.loaded.batch_size("activations.batch_size", self.settings.batch_size)
        for row_sums in batch_size.parts(
            lambda k: self.of([rows[i] for i in k], [blocks[i] for i in k], prompts), range(len(rows))
        ):
            self._take(row_sums)

    def of(self, rows: Sequence[Row], blocks: Sequence[int], prompts: bool) -> RowSums:
        """What some rows would add; nothing is taken in yet, so that memory can run out and fewer be tried."""
        batch = collate(rows, self.loaded.pad_id, self.loaded.model.device)
        starts = torch.tensor([row.start for row in rows], device=self.loaded.model.device)
        member = self.members(batch, starts)
        member[..., 0] &= prompts
        row_sums = RowSums(torch.tensor(blocks, device=starts.device), member.sum(1).double())
        weight = member.float()
        for name, x in streams(self.loaded.model, batch, self.settings.mlp_in):
            row_sums.add(name, x.float(), weight)
            if name == f"resid_post.{self.layer}":
                self._add_sae(row_sums, x.float(), weight)
        return row_sums

    def members(self, batch: dict[str, Tensor], starts: Tensor) -> Tensor:
        """`[n_rows, n_tokens, n_classes]`: which tokens belong to which class; completions start at `starts` `[n_rows]`."""
        offset = torch.arange(batch["input_ids"].shape[1], device=starts.device) - starts.unsqueeze(1)
        text = self.loaded.text_mask(batch)
        completion = text & (offset >= 0)
        number = completion & self.is_number[batch["input_ids"].clamp(max=len(self.is_number) - 1)]
        of_parts = [text & (offset < 0), offset == -1, completion, number, completion & ~number]
        return torch.stack([*of_parts, *(text & (offset == k) for k in range(self.settings.positions))], dim=-1)

    def _add_sae(self, row_sums: RowSums, x: Tensor, weight: Tensor) -> None:
        """Add the SAE's activations on the residual stream `x` `[n_rows, n_tokens, d_model]` to what was found."""
        if self.sae is None:
            return
        n = rows_at_once(self.sae, x.shape[1])
        for part, w in zip(torch.split(x, n), torch.split(weight, n), strict=True):
            acts, acts_pre = encoded(self.sae, part)
            row_sums.add("sae.acts", acts, w)
            row_sums.add("sae.acts_pre", acts_pre, w)
            row_sums.total["sae.active"] = row_sums.total.get("sae.active", 0) + by_class(acts > 0, w).double()

    def _take(self, row_sums: RowSums) -> None:
        self.count.index_add_(0, row_sums.block, row_sums.count)
        for name, parts in row_sums.by_row.items():
            by_row = torch.cat(parts)
            if name not in self.sum:
                self.sum[name] = by_row.new_zeros(len(self.count), *by_row.shape[1:])
            self.sum[name].index_add_(0, row_sums.block, by_row)
        for name, total in row_sums.total.items():
            self.total[name] = self.total[name] + total if name in self.total else total

    def tensors(self) -> dict[str, Tensor]:
        """The sums as float32, layers stacked."""
        tensors = {"count": self.count}
        for name in ["resid_post", *(["mlp_in"] if self.settings.mlp_in else [])]:
            keys = [f"{name}.{number}" for number in range(len(decoder_layers(self.loaded.model)))]
            tensors[f"{name}.sum"] = torch.stack([self.sum[key] for key in keys], dim=1)
            tensors[f"{name}.square"] = torch.stack([self.total[key] for key in keys])
        if self.sae is not None:
            tensors["sae.active"] = self.total["sae.active"]
            for name in ("sae.acts", "sae.acts_pre"):
                tensors |= {f"{name}.sum": self.sum[name], f"{name}.square": self.total[name]}
        return {name: tensor.float().cpu().contiguous() for name, tensor in tensors.items()}


def streams(model: Any, batch: dict[str, Tensor], mlp_in: bool = False) -> list[tuple[str, Tensor]]:
    """(`resid_post.LAYER` or `mlp_in.LAYER`, `[n_rows, n_tokens, d_model]`) of a batch, in one pass without the unembedding."""
    kept: list[tuple[str, Tensor]] = []
    last = len(decoder_layers(model)) - 1
    with ExitStack() as stack:
        for number in range(last):
            stack.enter_context(_kept(model, number, kept))
        if mlp_in:
            stack.enter_context(mlp_inputs(model, kept))
        top = resid_post(model, last, batch)
    return [*kept, (f"resid_post.{last}", top)]


@contextmanager
def _kept(model: Any, layer: int, kept: list[tuple[str, Tensor]]) -> Iterator[None]:
    """Inside, the residual stream after `layer` is put into `kept`, as whatever hooks came before have left it."""

    def keep(residual: Tensor) -> Tensor:
        kept.append((f"resid_post.{layer}", residual))
        return residual

    with rewritten(model, layer, keep):
        yield


@contextmanager
def mlp_inputs(model: Any, kept: list[tuple[str, Tensor]]) -> Iterator[None]:
    """Inside, the input of each layer's MLP is put into `kept`. Raises ValueError for a model whose layers have no `mlp`."""

    def keep(number: int) -> Any:
        return lambda module, args, kwargs: kept.append((f"mlp_in.{number}", args[0] if args else kwargs["hidden_states"]))

    with ExitStack() as stack:
        for number, layer in enumerate(decoder_layers(model)):
            mlp = getattr(layer, "mlp", None)
            if not isinstance(mlp, nn.Module):
                raise ValueError(f"{type(layer).__name__} has no part named mlp; set activations.mlp_in to false")
            stack.callback(mlp.register_forward_pre_hook(keep(number), with_kwargs=True).remove)
        yield


@dataclass(frozen=True)
class Activations:
    """The sums that one pass has written."""

    tensors: dict[str, Tensor]
    classes: list[str]
    layer: int | None
    rows: int

    @classmethod
    def load(cls, path: Path) -> "Activations":
        """Read an `activations.safetensors`."""
        with whole(path), safe_open(path, framework="pt") as file:
            head = json.loads(file.metadata()["undertone"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        return cls(tensors, head["classes"], head["layer"], head["rows"])

    @property
    def n_layers(self) -> int:
        """Layers of the model."""
        return self.tensors["resid_post.sum"].shape[1]

    def blocks(self, position: str, name: str, layer: int | None = None) -> tuple[Tensor, Tensor]:
        """Sums `[n_blocks, d]` and counts `[n_blocks]` of a class, in float64; `layer` for what every layer has."""
        k = self.classes.index(position)
        total = self.tensors[f"{name}.sum"]
        total = total[:, k] if layer is None else total[:, layer, k]
        return total.double(), self.tensors["count"][:, k].double()

    def mean(self, position: str, name: str, layer: int | None = None) -> Tensor:
        """The mean `[d]` over a class's tokens, in float64; NaN where it has none."""
        total, count = self.blocks(position, name, layer)
        return total.sum(0) / count.sum()
