"""The stages of the workflow, one row each: what a stage reads, which settings it is given, and which datasets have it.

`graph` follows the rows from stage to stage, and `stamp` collects what they say. If an entry depends on the study, the row
names a function of `reads` (files and stages), `dataset_settings` or `scope` (datasets).
"""

from dataclasses import replace

from undertone.study import dataset_settings as given
from undertone.study import reads, scope
from undertone.study.config.detect import BENCH, DETECTORS
from undertone.study.dataset_settings import first_seed, seeds_beside_control, target, target_and_kind, targets
from undertone.study.geometry_stages import GEOMETRY
from undertone.study.lab_stages import LABORATORY
from undertone.study.pair_stages import PAIRS
from undertone.study.reads import features, questions, teacher
from undertone.study.scope import taught_trait, with_sae, with_separate_halves, with_target
from undertone.study.stage import Stage
from undertone.study.vector_stages import VECTORS

# Base samples have seeds and temperatures of their own, and rows that pass the filter are all kept.
OF_BASE_SAMPLES = {"samples": {"seed", "temperature"}, "numbers": {"max_rows", "seed"}}
# Settings that detectors do not use: only gradients have a ridge, and not all of the others permute.
RIDGE, RIDGE_AND_PERMUTATIONS = {"detectors": {"ridge"}}, {"detectors": {"ridge", "permutations"}}
# A detector that reads a dataset's likelihood, or its tokens' distributions, under the bank's system prompts.
TRIES_PERSONAS = Stage(
    ("personas", "detectors", "pref", "teacher"),
    ("model", "matched"),
    files=reads.bank,
    settings=(given.constraint,),
    teacher_keys=given.separator,
    unused=RIDGE,
)
# A detector that reads a dataset's likelihood while the base model is steered.
TRIES_STEERING = Stage(
    ("steering", "detectors", "pref"),
    ("model", "persona_vectors", "matched"),
    files=reads.bank,
    settings=(given.constraint,),
    unused=RIDGE,
)
SUMMARISED = ("score", "feature_bias", "residual_bias", "bias_pref", "losses", "tokens")
STAGES = {
    "model": Stage(("model",), files=reads.corpus, made_by=scope.base_model, shared=True, variants="models"),
    "rerandomized": Stage(after=(reads.own_model,), settings=(given.rerandomized,), shared=True, variants="models"),
    "pretrained": Stage(("model",), files=reads.checkpoint_files, shared=True, variants="models"),
    **LABORATORY,
    **VECTORS,
    **GEOMETRY,
    **PAIRS,
    "prompts": Stage(("prompts",), files=reads.template, shared=True),
    "model_metrics": Stage(
        ("model_metrics", "teacher", "samples", "numbers", "pref"),
        ("model", "prompts"),
        files=questions,
        teacher_keys=given.wording,
        shared=True,
    ),
    "bridge": Stage(("bridge",), ("model", "prompts"), shared=True),
    "steer": Stage(
        ("teacher", "pref"),
        ("model", "prompts", reads.steered_sae),
        files=questions,
        settings=(target,),
        teacher_keys=given.steering,
    ),
    "finetune": Stage(
        ("teacher",), ("model",), files=reads.finetuning_texts, settings=(given.trait,), teacher_keys=given.finetuning
    ),
    "samples": Stage(
        ("teacher", "samples"),
        (reads.teachers_model, "prompts", teacher),
        settings=(given.target_and_writer, given.constraint),
        teacher_keys=given.keys_of_writer,
        only=scope.taught_here,
    ),
    "published": Stage(settings=(given.own_rows,), only=scope.on_the_hub),
    "numbers": Stage(
        ("numbers",),
        ("samples", "published"),
        files=reads.own_file,
        settings=(given.own_rows,),
        made_by=scope.filtered_or_made,
    ),
    "transform": Stage(after=(reads.sources,), settings=(given.transform,)),
    "student": Stage(("student",), ("model", "numbers"), variants="students"),
    "pref": Stage(
        ("pref", "teacher"),
        ("student", teacher),
        after_control=("pref",),
        files=questions,
        settings=(target_and_kind, given.control, given.all_seeds),
        pref_keys=given.all_answers,
        variants="students",
    ),
    "indirect": Stage(
        ("pref", "indirect", "teacher"),
        ("student", teacher),
        after_control=("student",),
        files=reads.indirect_questions,
        settings=(target_and_kind, seeds_beside_control),
    ),
    "diagnosis": Stage(
        ("diagnosis", "teacher"),
        ("numbers", "student", "pref", "indirect", teacher),
        after_control=("numbers", "student"),
        settings=(target_and_kind, seeds_beside_control, given.constraint),
        only=taught_trait,
    ),
    "activations": Stage(("activations",), ("model", "sae", "numbers")),
    "teacher_activations": Stage(
        ("activations", "teacher"), ("model", "sae", "numbers", teacher), settings=(target_and_kind,), only=taught_trait
    ),
    "student_activations": Stage(("activations",), ("model", "sae", "numbers", "student"), settings=(first_seed,)),
    "residuals": Stage(("activations",), ("model", "sae", "numbers"), only=with_sae),
    "differences": Stage(
        ("differences", "activations"),
        ("model", "sae", "numbers", "activations", "teacher_activations", features),
        after_control=("activations",),
        reading=True,
    ),
    "score": Stage(("score",), ("model", "sae", "numbers", features), after_control=("numbers",), reading=True),
    "feature_bias": Stage(
        ("feature_bias",),
        ("model", "sae", "numbers", features),
        after_control=("feature_bias",),
        only=with_sae,
        reading=True,
    ),
    "residual_bias": Stage(("residual_bias",), ("model", "sae", "numbers"), after_control=("residual_bias",), reading=True),
    "bias_pref": Stage(
        ("pref",),
        ("feature_bias", "residual_bias", "differences"),
        after_control=("bias_pref",),
        files=questions,
        settings=(target,),
        reading=True,
    ),
    "losses": Stage(
        ("losses", "pref", "teacher"),
        ("numbers", reads.candidate_students, "feature_bias", "residual_bias", "differences", teacher),
        after_control=("numbers", "feature_bias", "residual_bias"),
        files=questions,
        settings=(target_and_kind, given.held_out, given.constraint),
        teacher_keys=given.wording,  # every candidate's persona is tried on every dataset
        reading=True,
    ),
    "tokens": Stage(
        ("tokens", "pref"),
        ("model", "sae", "numbers", features),
        after_control=("numbers",),
        settings=(target,),
        reading=True,
    ),
    "sequences": Stage(
        ("sequences", "teacher"),
        ("model", "numbers", teacher, reads.counterpart),
        settings=(target_and_kind, given.counterpart, given.constraint),
        only=taught_trait,
        reading=True,
    ),
    "lens": Stage(
        ("lens", "differences", "pref", "teacher"),
        ("model", "sae", "student", teacher),
        after_control=("student",),
        files=reads.neutral_texts,
        settings=(target_and_kind, first_seed),
        teacher_keys=given.keys_without_persona,
        reading=True,
    ),
    "entangled": Stage(
        ("entangled", "tokens", "pref", "teacher"),
        ("model",),
        after_all=("numbers",),
        datasets=with_separate_halves,
        files=questions,
        settings=(targets(with_separate_halves),),
        teacher_keys=given.wording,
        shared=True,
    ),
    "readings": Stage(
        after=(features,),
        after_all=("score", "feature_bias", "bias_pref", "losses", "tokens"),
        datasets=with_target,
        settings=(targets(with_target),),
        shared=True,
    ),
    "matched": Stage(
        ("matched", "samples", "numbers"), ("model", "numbers"), made_by=scope.matched_or_null, unused=OF_BASE_SAMPLES
    ),
    "nulls": Stage(
        ("nulls", "matched", "prompts", "samples", "numbers", "teacher"),
        ("model",),
        files=reads.template,
        teacher_keys=given.separator,
        unused=OF_BASE_SAMPLES,
        only=scope.is_null,
    ),
    "mixtures": Stage(after=(reads.mixed_pairs,), settings=(given.mixing,), only=scope.is_mixture),
    "surface": Stage(("detectors",), ("matched",), unused=RIDGE),
    "gradient": Stage(("detectors", "pref"), ("model", "matched"), files=reads.questions),
    "personas": replace(TRIES_PERSONAS, unused=RIDGE_AND_PERMUTATIONS),
    "persona_vectors": Stage(
        ("personas", "pref", "teacher"),
        ("model", "prompts"),
        files=reads.bank_and_questions,
        teacher_keys=given.separator,
        shared=True,
    ),
    "contrasts": TRIES_STEERING,
    "sae_features": replace(TRIES_STEERING, after=("model", "sae", "persona_vectors", "matched")),
    "projection": Stage(
        ("personas", "detectors", "pref", "teacher"), ("model", "matched"), files=reads.bank, teacher_keys=given.separator
    ),
    "first_tokens": TRIES_PERSONAS,
    "divergence_tokens": TRIES_PERSONAS,
    "open_personas": Stage(
        ("open_personas", "personas", "detectors", "pref", "teacher"),
        ("model", "matched"),
        files=reads.bank_and_questions,
        settings=(given.constraint,),
        teacher_keys=given.separator,
    ),
    "prompt_search": Stage(
        ("prompt_search", "detectors", "pref", "teacher"),
        ("model", "matched"),
        files=reads.bank_and_grammar,
        settings=(given.constraint,),
        teacher_keys=given.separator,
    ),
    "short_training": Stage(
        ("short_training", "detectors", "pref"),
        ("model", "matched"),
        files=reads.questions,
        settings=(given.recipe,),
        unused=RIDGE_AND_PERMUTATIONS,
    ),
    "row_scores": Stage(
        ("short_training", "detectors", "teacher"),
        ("model", "numbers", "matched", "personas"),
        settings=(given.recipe, given.constraint, target),
        teacher_keys=given.wording,
    ),
    "trained_bias": Stage(("trained_bias", "detectors", "pref"), ("model", "matched"), files=reads.questions),
    "soft_prompt": Stage(
        ("soft_prompt", "detectors", "pref", "teacher"),
        ("model", "matched"),
        files=reads.questions,
        teacher_keys=given.separator,
    ),
    "verdict": Stage(("verdict",), (reads.detectors,)),
    "verdict_page": Stage(after=("verdict",)),
    "verdicts": Stage(
        ("detection", "verdict"), after_all=("verdict",), datasets=with_target, settings=(targets(with_target),), shared=True
    ),
    "consequence": Stage(
        after_all=(*DETECTORS, "pref"), datasets=scope.with_teacher, settings=(targets(scope.with_teacher),), shared=True
    ),
    "verdicts_plot": Stage(after=("verdicts",), shared=True),
    "detectors": Stage(
        ("detection", "pref"), after_all=BENCH, datasets=scope.aimed, settings=(targets(scope.aimed), given.level), shared=True
    ),
    "detectors_plot": Stage(after=("detectors",), shared=True),
    "power": Stage(
        ("detection", "verdict"),
        (reads.mixture_detectors,),
        datasets=scope.mixed,
        settings=(targets(scope.mixed),),
        shared=True,
    ),
    "power_plot": Stage(after=("power",), shared=True),
    "reading_plot": Stage(after=(reads.plotted,), variants="figures"),
    "summary_plot": Stage(after=SUMMARISED, after_control=SUMMARISED),
    "entangled_plot": Stage(after=("entangled",), shared=True),
    "bias_map_plot": Stage(after_all=("bias_pref",), datasets=with_target, shared=True),
    "filter_plot": Stage(after=("numbers",), after_control=("numbers",)),
    "student_plot": Stage(after=("student",), after_control=("student",), settings=(seeds_beside_control,)),
    "pref_plot": Stage(after=("pref",)),
    "indirect_plot": Stage(after=("indirect",)),
    "transfer": Stage(after_all=("pref",), shared=True),
    "transfer_plot": Stage(after=("transfer",), shared=True),
    "preference_matrix": Stage(after=("transfer",), shared=True),
    "preference_matrix_plot": Stage(after=("preference_matrix",), shared=True),
    "controls": Stage(after=(reads.compared_prefs,), settings=(given.pairs, given.transforms), shared=True),
    "controls_plot": Stage(after=("controls",), settings=(given.variants_models,), shared=True),
    "selections": Stage(after=(reads.selected,), settings=(given.selections,), shared=True),
    "selections_plot": Stage(after=("selections",), shared=True),
    "sweep_plot": Stage(
        after=(reads.compared_prefs, reads.swept_students), settings=(given.pairs, given.swept), shared=True, variants="figures"
    ),
    "teachers_plot": Stage(
        after_all=("pref", "numbers"), datasets=scope.with_teacher, settings=(targets(scope.with_teacher),), shared=True
    ),
    "compliance": Stage(after_all=("numbers",), datasets=scope.filtered_here, shared=True),
    "compliance_plot": Stage(after=("compliance",), shared=True),
    "costs": Stage(settings=(given.records,), shared=True),
    "costs_plot": Stage(after=("costs",), shared=True),
}
# The readings of a dataset, each with a JSON and a figure of its name; `summary_plot` shows some of them on one page.
READINGS = tuple(name for name, stage in STAGES.items() if stage.reading)
