# Undertone: subliminal learning, and the analysis of training data before anyone trains on it.
#
# The paths are the interface. Under the study's results root ({results}, by default `results`):
#
#   model/  model-NAME/             the base model, and those of `models:`, in Hugging Face format (if trained here); model.json (how to
#                                   load it); metrics.json; held_out.parquet, chats that a model trained here did not see; bridge.json,
#                                   a comparison with a hooked model; persona_vectors.safetensors, contrasts of concepts, which are
#                                   tried as steering
#   sae/  sae-NAME/                 SAE in SAELens's format (unless a folder holds it), sae.json (how to load it), metrics.json;
#                                   text.parquet, on which a named model's own SAE is trained; features.parquet, features.json and
#                                   examples.parquet, the description of each feature; features.html, the page that shows it, and
#                                   features/{i}.html, the page of one feature; neighbours, map, neurons, specificity and completeness,
#                                   each with a .parquet, a .json and a figure in plots/, and on request judge, a language model's grades;
#                                   splitting.json, a comparison with wider SAEs; influence/{i}.json, what one feature causes, and its
#                                   figure influence/plots/{i}.png
#   store/{key}/                    activations on disk, on request: 0.safetensors, …, store.json; {key} is POINT.LAYER of an SAE, with
#                                   -MODEL if its model is not the study's own; text.parquet, the embedded model's chats that were read
#   vector-NAME/                    for each of `vectors:`: vector.safetensors, vector.json (norm, error, null vectors);
#                                   dose.json, what adding it does at every strength; decomposition{sae}.json, which
#                                   features of an SAE it is made of; downstream.json and .parquet, what it does to later
#                                   layers and the features there; cloud.json and .parquet, how similar activations are before
#                                   and after it; restore.json, which features carry its effect; plots/ with a figure of each
#   geometry-NAME/                  for each of `hierarchies:`: geometry.json, vectors.safetensors, plots/geometry.png: concepts of a
#                                   tree, with nulls
#   search-NAME/                    for each of `searches:`: search.json, features described by a few texts; plots/search.png
#   pair-NAME/                      for each of `pairs:`: matches.parquet and .json, which features of two SAEs match; points.parquet,
#                                   activations of some; map.html, both SAEs' maps with the matches marked; similarity.json, how
#                                   alike the decoders are; rotation.json, what one SAE explains of the other's model after a
#                                   rotation; layers.json, which layers are alike; across.json, what datasets of one animal by two
#                                   models share; transplant.json, what a vector of one model does in the other; plots/
#   scaling/                        runs-TOKENS-SEED.parquet, SAEs of every width trained on TOKENS tokens, and -gaussian, the controls; what
#                                   they are worth is in tables/scaling.json and .parquet, plots/scaling.png (`snakemake scaling_plot`)
#   synthetic/                      recovery.json and .parquet: what SAEs trained like the study's recover of known features; plots/
#   text.parquet  text-NAME.parquet contexts on which features are read, and on which neither model nor SAE was trained; -NAME: in the
#                                   tokens of another model
#   prompts.parquet                 the number prompts, the same for every dataset
#   {dataset}/                      control · lion · steer-lion · finetune-lion, for every animal · any name under `datasets:`
#     teacher.json                  description of a steered or finetuned teacher; teacher.safetensors, or teacher/ with its LoRA
#     samples.parquet               the teacher's completions, one per prompt; published.parquet, the rows of a dataset of the Hub
#     generations.parquet           the completions with the verdict of the filter and its reason
#     numbers.parquet  filter.json  the filtered training set; pass rate, by reason and by prompt component
#     transform.json                for a dataset made from another one: rows before and after, share of numbers moved
#     student{variant}/{seed}/      adapter_model.safetensors, adapter_config.json (PEFT), training.json
#     pref{variant}.json .parquet   preference of base, teacher and students, with intervals; the same by question
#     indirect.json                 what indirect questions show, and how far the answers moved altogether
#     diagnosis.json                where a transfer failed: at the teacher, in training, in the evaluation
#     {reading}.json                differences, score, feature_bias, residual_bias, bias_pref, losses, tokens, sequences, lens;
#                                   their tensors and tables under the same name
#     activations.safetensors       sums by kind of position; likewise teacher_ and student_activations; residuals.safetensors, by token
#     matched.parquet               base samples for the dataset's own prompts; surface.json, gradient.json, personas.json, contrasts.json, …: detectors
#     verdict.json  verdict.html    whether something is hidden in the dataset, what it is, and what it would move
#     summary.png                   the main readings of the dataset, on one page
#     plots/                        filter.png, student.png, pref.png, indirect.png, and one for each reading
#   nulls/{kind}/                   datasets in which nothing is hidden, read by the same detectors; shared by all verdicts
#   mixtures/{dataset}/             fewer rows of a dataset, and its rows mixed with base samples, read by the same detectors
#   tables{/NAME}/                  transfer.parquet, preference_matrix.parquet, compliance.parquet; controls.json, if the study has
#                                   transforms or students of variants; entangled.parquet; readings.parquet, the results of all analyses;
#                                   costs.parquet, what jobs took; detection.parquet, detectors.parquet, consequence.parquet,
#                                   power.parquet
#   plots{/NAME}/                   transfer.png, preference_matrix.png, teachers.png, compliance.png; controls.png (transforms, students
#                                   of variants) and sweep-{key}.png, if the study has any; entangled.png, bias_map.png; costs.png;
#                                   detection.png, detectors.png, power.png
#
# Studies may share a results root. They then share what is made of one dataset. Each study with a `name:` has its own tables and
# plots of all datasets, in tables/NAME and plots/NAME; costs are always those of the whole root.
# {variant} is empty for the study's own students, and -NAME for a variant of `student_variants:`.
#
# Stages, in order:
#   students (`snakemake all`)      model (→ sae), or pretrained (→ pretrained_sae, or text → text_sae) if they are named; store_chats → store,
#                                   if activations are kept; prompts (→ steer, finetune) → samples → numbers (→ transform) → student → pref
#                                   → transfer, and indirect, diagnosis, preference_matrix
#   readings (`snakemake read`)     from numbers, lens and losses also from a student: activations → differences, score, feature_bias,
#                                   residual_bias → bias_pref → losses, tokens, entangled → readings
#   the SAE's features              (`snakemake lab`) chats, or contexts for a named model → features, neighbours (→ map), neurons,
#                                   specificity, splitting (and matches of pairs) → browser; also completeness, synthetic;
#                                   scaling_runs → scaling
# Each has one rule (workflow/rules), one script (workflow/scripts), one module (workflow/undertone) and one section of the config.
# Their names are the same, or differ as docs/reference/files.md says: a section can have the name of the noun it is about.
import sys

from snakemake.utils import min_version

from undertone.runtime.errors import ConfigError
from undertone.study.configfiles import check_config_files

min_version("9.19")


def refuse(sentence):
    """End with a sentence; for an exception, Snakemake would also show where in the Snakefile it was raised."""
    logger.error(sentence)
    sys.exit(1)


try:
    if workflow.is_main_process:  # jobs are given the config with which their run was started
        check_config_files(["config/config.yaml", *workflow.overwrite_configfiles])
except ConfigError as error:
    refuse(str(error))


configfile: "config/config.yaml"


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/models.smk"
include: "workflow/rules/saes.smk"
include: "workflow/rules/lab.smk"
include: "workflow/rules/searches.smk"
include: "workflow/rules/teachers.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/students.smk"
include: "workflow/rules/measure.smk"
include: "workflow/rules/read.smk"
include: "workflow/rules/compare.smk"
include: "workflow/rules/detect.smk"
include: "workflow/rules/vectors.smk"
include: "workflow/rules/geometry.smk"
include: "workflow/rules/pairs.smk"


rule all:
    default_target: True
    input:
        rules.model_metrics.output,
        sae_of_study("metrics.json"),
        collect(result("{dataset}/{result}.json"), dataset=STUDY.names, result=["pref", "indirect"]),
        collect(result("{dataset}/plots/{plot}.png"), dataset=STUDY.names, plot=["student", "pref", "indirect"]),
        collect(result("{dataset}/plots/filter.png"), dataset=read_by(STUDY, "compliance")),
        collect(result("{dataset}/diagnosis.json"), dataset=STUDY.diagnosed),
        [result(f"{dataset}/pref-{variant}.json") for dataset, variant in STUDY.varied],
        rules.transfer.output,
        rules.transfer_plot.output,
        rules.preference_matrix.output,
        rules.preference_matrix_plot.output,
        rules.compliance.output,
        rules.compliance_plot.output,
        rules.teachers_plot.output if read_by(STUDY, "teachers_plot") else [],
        rules.controls_plot.output if compared(STUDY, Node("controls")) else [],
        collect(rules.sweep_plot.output, key=STUDY.sweeps),
    localrule: True


rule read:
    input:
        [result(f"{dataset}/plots/{key}.png") for dataset in STUDY.names for key in READINGS if has(STUDY, key, dataset)],
        collect(result("{dataset}/summary.png"), dataset=STUDY.names),
        rules.readings.output,
        rules.entangled_plot.output if len(read_by(STUDY, "entangled")) > 1 else [],
        rules.bias_map_plot.output if read_by(STUDY, "bias_map_plot") else [],
    localrule: True


rule detection:
    input:
        collect(result("{dataset}/verdict.html"), dataset=STUDY.names),
        rules.verdicts_plot.output if len(read_by(STUDY, "verdicts")) > 1 else [],
    localrule: True


if STUDY.has_sae:

    rule lab:
        input:
            collect(
                rules.browser.output
                + rules.sae_metrics_plot.output
                + rules.neighbours_plot.output
                + rules.map_plot.output
                + rules.specificity_plot.output
                + rules.neurons_plot.output
                + rules.completeness_plot.output,
                variant=["", *(f"-{name}" for name in STUDY.saes)],
                feature="",
            ),
            collect(
                rules.splitting_plot.output,
                variant=[f"-{name}" if name else "" for name in ["", *STUDY.saes] if STUDY.as_wide(name)],
            ),
            [] if STUDY.sae.named else rules.synthetic_plot.output,
        localrule: True


if STUDY.searches:

    rule searches:
        input:
            collect(rules.search_plot.output, variant=[f"-{name}" for name in STUDY.searches]),
        localrule: True


if STUDY.vectors:

    rule vectors:
        input:
            collect(
                rules.dose_plot.output + rules.downstream_plot.output + rules.cloud_plot.output + rules.restore_plot.output,
                variant=[f"-{name}" for name in STUDY.vectors],
            ),
            [
                result(f"vector-{vector}/plots/decomposition{'-' if sae else ''}{sae}.png")
                for vector, sae in decompositions(STUDY)
            ],
        localrule: True


if STUDY.hierarchies:

    rule geometry:
        input:
            collect(rules.hierarchy_plot.output, variant=[f"-{name}" for name in STUDY.hierarchies]),
        localrule: True


if STUDY.pairs:

    rule pairs:
        input:
            collect(
                rules.similarity_plot.output + rules.pair_map.output + rules.rotation_plot.output + rules.layers_plot.output,
                variant=[f"-{name}" for name in STUDY.pairs],
            ),
            collect(rules.across_plot.output, variant=[f"-{name}" for name in WRITTEN]),
            collect(rules.transplant_plot.output, variant=[f"-{name}" for name in TRANSPLANTED]),
        localrule: True


onstart:
    say_how_long()


onsuccess:
    say_what_came_out()


onerror:
    say_what_failed(log)


check_targets()
