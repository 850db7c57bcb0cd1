# Undertone: subliminal learning, and what can be read of it before anyone trains.
#
# The paths are the interface. Under the study's results root ({results}, by default `results`):
#
#   model/                          base model in Hugging Face format, model.json (how to load it), metrics.json
#   sae/                            SAE in SAELens's format (if trained here), sae.json (how to load it), metrics.json
#   prompts.parquet                 the number prompts, the same for every dataset
#   {dataset}/                      control · lion and every other animal of the study · any name under `datasets:`
#     samples.parquet               the teacher's completions, one per prompt
#     generations.parquet           the same with the verdict of the filter and its reason
#     numbers.parquet  filter.json  the filtered training set; pass rate, by reason and by prompt component
#     transform.json                of a dataset made from another one: rows before and after, share of numbers moved
#     student/{seed}/               adapter_model.safetensors, adapter_config.json (PEFT), training.json
#     pref.json  pref.parquet       preference of base, teacher and students, with intervals; the same by question
#     plots/                        filter.png, student.png, pref.png
#   tables/transfer.parquet         every student's preference for every animal
#   plots/                          transfer.png, preference.png, and transform.png if a dataset is a transform
#
# Stages, in order: model (→ sae), prompts → samples → numbers (→ transform) → student → pref → transfer. Each has one rule
# (workflow/rules), one script (workflow/scripts), one module (workflow/undertone) and one section of the config, all of
# the same name; a transform's settings are its entry under `datasets:`.
from snakemake.utils import min_version

min_version("9.19")


configfile: "config/config.yaml"


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/model.smk"
include: "workflow/rules/sae.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/student.smk"
include: "workflow/rules/measure.smk"
include: "workflow/rules/compare.smk"


rule all:
    default_target: True
    input:
        rules.model_metrics.output,
        rules.sae_metrics.output if STUDY.has_sae else [],
        collect(result("{dataset}/pref.json"), dataset=STUDY.names),
        collect(result("{dataset}/plots/{plot}.png"), dataset=STUDY.names, plot=["student", "pref"]),
        collect(result("{dataset}/plots/filter.png"), dataset=[*STUDY.generated, *STUDY.files]),
        rules.transfer.output,
        rules.transfer_plot.output,
        rules.preference_plot.output,
        rules.transform_plot.output if STUDY.transformed else [],
    localrule: True
