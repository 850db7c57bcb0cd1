"""Settings of the SAE."""

from typing import Literal, Self

from pydantic import model_validator

from undertone.study.config.bounds import MAX_BATCH, MAX_LAYERS, MAX_LR, MAX_ROWS, MAX_SEED
from undertone.study.validation import Section, setting


class Sae(Section):
    """The sparse autoencoder of the study's hook point, the residual stream after one layer."""

    release: str | None = setting(None, "release of SAELens's registry; null: a folder, or one trained on the embedded model")
    id: str | None = setting(None, "SAE of that release")
    folder: str | None = setting(None, "folder with an SAE in SAELens's format", "path")
    layer: int = setting(
        1,
        "layer whose resid_post the SAE is trained on, or a folder's SAE without a hook name reads",
        "",
        ge=0,
        le=MAX_LAYERS,
    )
    architecture: Literal["standard", "topk", "batchtopk", "jumprelu"] = setting("topk", "architecture of the trained SAE")
    d_sae: int = setting(512, "dictionary size of the trained SAE", "features", ge=1, le=MAX_ROWS)
    k: int = setting(16, "topk, batchtopk: active features", "features per token", ge=1, le=MAX_ROWS)
    l1_coefficient: float = setting(2.0, "standard: weight of the L1 penalty", "", ge=0)
    l0_coefficient: float = setting(0.5, "jumprelu: weight of the L0 penalty", "", ge=0)
    tokens: int = setting(2_000_000, "tokens of training", "tokens", ge=1, le=10**12)
    batch_size: int = setting(1024, "tokens per optimizer step", "tokens", ge=1, le=MAX_BATCH)
    lr: float = setting(1e-3, "peak learning rate; decays to a tenth", "", gt=0, le=MAX_LR)
    seed: int = setting(0, "seed of the SAE's weights and of the chats that it sees", "", ge=0, le=MAX_SEED)

    @property
    def named(self) -> bool:
        """Whether the study brings an SAE instead of training one."""
        return bool(self.release or self.folder)

    @model_validator(mode="after")
    def one_source(self) -> Self:
        """An SAE comes from one place."""
        if (self.release is None) != (self.id is None):
            raise ValueError(f"release and id name an SAE together, found release {self.release!r} and id {self.id!r}")
        if self.release and self.folder:
            raise ValueError("give a release and id, or a folder, not both")
        if self.k > self.d_sae:
            raise ValueError(f"k {self.k} is greater than d_sae {self.d_sae}")
        return self


class SaeMetrics(Section):
    """Measuring how well the SAE describes the model."""

    prompts: int = setting(
        1000, "number prompts, beside the questions, whose tokens are read; the first ones", "prompts", ge=1, le=MAX_ROWS
    )
