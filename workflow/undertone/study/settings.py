"""Every key of a config: what there is in a study, and a section for each stage."""

from typing import Any

from undertone.study.checks import OVERRIDABLE
from undertone.study.config import detect, read
from undertone.study.config.data import Numbers, Prompts, Samples
from undertone.study.config.entries import DatasetEntry, Kind
from undertone.study.config.geometry import Hierarchy, ReadHierarchy
from undertone.study.config.lab import (
    Browser,
    Completeness,
    Contexts,
    Features,
    Judge,
    Map,
    Neighbours,
    Neurons,
    Scaling,
    Specificity,
    Splitting,
)
from undertone.study.config.measure import Bridge, Diagnosis, Indirect, ModelMetrics, Pref
from undertone.study.config.models import Model
from undertone.study.config.pair_settings import Across, Layers, Matches, Pair, Rotation, Similarity, Synthetic
from undertone.study.config.saes import Sae, SaeMetrics, Store
from undertone.study.config.search_settings import Search
from undertone.study.config.students import Student
from undertone.study.config.teachers import Teacher
from undertone.study.config.vectors import Cloud, Decomposition, Dose, Downstream, Influence, MakeVector, Restore, Vector
from undertone.study.validation import Section, setting


class Settings(Section):
    """The keys of a config, as they are given there."""

    results: str = setting(
        "results",
        "the study's own folder for its artifacts; if it is outside `results/`, it also holds its logs, benchmarks and scratch",
        "path",
    )
    name: str | None = setting(
        None,
        "name of the study's own folder under `tables` and `plots`; a study that shares its results root with a study of other "
        "datasets needs one, or its tables and figures of all datasets would overwrite those of the other study",
    )
    animals: list[str] = setting([], "targets of the teachers")
    teachers: list[Kind] = setting(
        ["prompt"], "kinds of teacher that each animal gets; they write `lion`, `steer-lion` and `finetune-lion`"
    )
    datasets: dict[str, DatasetEntry] = setting({}, "other datasets: files, transforms and single teachers, by name")
    overrides: dict[str, dict[str, dict[str, Any]]] = setting(
        {}, f"settings of one dataset: name → section ({', '.join(OVERRIDABLE)}) → keys that differ from the study's"
    )
    student_variants: dict[str, dict[str, Any]] = setting(
        {},
        "students with other settings, `results/lion/pref-NAME.json`: name → keys of `student` that differ, `model` (one of "
        "`models`), `datasets` (those whose students the study asks for)",
    )
    sweeps: dict[str, list[str]] = setting({}, "`plots/sweep-KEY.png`: key of `student` → variants that differ in it")
    model: Model = setting({}, "the base model")
    models: dict[str, dict[str, Any]] = setting(
        {}, "other base models, for cross-model students and SAEs: name → keys of `model` that differ"
    )
    model_metrics: ModelMetrics = setting({}, "the model's metrics")
    bridge: Bridge = setting({}, "comparison of the base model with a hooked one")
    sae: Sae = setting({}, "the sparse autoencoder")
    saes: dict[str, dict[str, Any]] = setting(
        {}, "other SAEs, each in `sae-NAME/`, for the laboratory: name → keys of `sae` that differ, `model` (one of `models`)"
    )
    sae_metrics: SaeMetrics = setting({}, "the SAE's metrics")
    store: Store = setting({}, "activations on disk, from which SAEs are trained if `sae.cached` is set")
    contexts: Contexts = setting({}, "the text on which the SAE's features are read")
    features: Features = setting({}, "the description of each feature of the SAE")
    neighbours: Neighbours = setting({}, "which features lie near each other")
    map: Map = setting({}, "the features in two dimensions")
    specificity: Specificity = setting({}, "how specific the SAE's features are to concepts")
    judge: Judge = setting({}, "a language model that grades the features' examples")
    neurons: Neurons = setting({}, "how far features are neurons of the MLPs")
    completeness: Completeness = setting({}, "names that have a feature of their own")
    splitting: Splitting = setting({}, "how an SAE's features split in wider SAEs")
    searches: dict[str, Search] = setting({}, "searches for features, each in `search-NAME/`")
    scaling: Scaling = setting({}, "what more features and more training tokens are worth to an SAE")
    browser: Browser = setting({}, "the page of the features")
    pairs: dict[str, Pair] = setting({}, "pairs of SAEs that are compared, each in `pair-NAME/`")
    matches: Matches = setting({}, "which features of a pair of SAEs match")
    similarity: Similarity = setting({}, "how alike the decoders of a pair of SAEs are")
    rotation: Rotation = setting({}, "what an SAE explains of another model after one rotation")
    layers: Layers = setting({}, "which layers of the models of a pair are alike")
    across: Across = setting(
        {}, "whether datasets of the same animal, written by both models of a pair, have a direction in common"
    )
    synthetic: Synthetic = setting({}, "SAEs on activations whose features are known")
    vectors: dict[str, Vector] = setting({}, "steering vectors, each in `vector-NAME/`")
    vector: MakeVector = setting({}, "making vectors")
    downstream: Downstream = setting({}, "what a vector does to later layers and to the features there")
    cloud: Cloud = setting({}, "how similar activations are before and after a vector is added")
    restore: Restore = setting({}, "which downstream features a vector's effect needs")
    decomposition: Decomposition = setting({}, "which features a vector is made of")
    dose: Dose = setting({}, "what adding a vector does, at every strength")
    influence: Influence = setting({}, "what a feature causes")
    hierarchies: dict[str, Hierarchy] = setting({}, "trees of concepts, each in `geometry-NAME/`")
    hierarchy: ReadHierarchy = setting({}, "reading trees of concepts")
    teacher: Teacher = setting({}, "the teacher's intervention")
    prompts: Prompts = setting({}, "the number prompts")
    samples: Samples = setting({}, "sampling from the teacher")
    numbers: Numbers = setting({}, "the filter")
    student: Student = setting({}, "the students")
    pref: Pref = setting({}, "the preference")
    indirect: Indirect = setting({}, "the indirect evaluation")
    diagnosis: Diagnosis = setting({}, "the failure report")
    activations: read.Activations = setting({}, "activations of a dataset's rows")
    differences: read.Differences = setting({}, "differences of activations")
    score: read.Score = setting({}, "the score")
    feature_bias: read.FeatureBias = setting({}, "biases on the SAE's features")
    residual_bias: read.ResidualBias = setting({}, "biases on the residual stream")
    losses: read.Losses = setting({}, "the loss table")
    tokens: read.Tokens = setting({}, "tokens and logits")
    sequences: read.Sequences = setting({}, "single sequences")
    lens: read.Lens = setting({}, "the activation difference lens")
    entangled: read.Entangled = setting({}, "entangled tokens")
    matched: detect.Matched = setting({}, "the base model's completions of a dataset's own prompts")
    detectors: detect.Detectors = setting({}, "the detectors")
    short_training: detect.ShortTraining = setting({}, "the detector `short_training`")
    steering: detect.Tried = setting({}, "the detectors `contrasts` and `sae_features`")
    trained_bias: detect.TrainedBias = setting({}, "the detector `trained_bias`")
    soft_prompt: detect.SoftPrompt = setting({}, "the detector `soft_prompt`")
    personas: detect.Personas = setting({}, "system prompts that are tried on a dataset")
    open_personas: detect.OpenPersonas = setting({}, "the detector `open_personas`")
    prompt_search: detect.PromptSearch = setting({}, "the detector `prompt_search`")
    nulls: detect.Nulls = setting({}, "datasets in which nothing is hidden")
    verdict: detect.Verdict = setting({}, "the verdict")
    detection: detect.Detection = setting({}, "the bench of the detectors")
    power: detect.Power = setting({}, "fewer rows and mixtures of datasets of the bench")
