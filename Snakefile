# From a base model and conversations to a PPO-tuned assistant and a report.
#
#   results/<kind>/<name>/manifest.json   an artifact exists once its manifest does
#   results/<kind>/<name>/...             its files, all digested in the manifest
#   state/<rule>/<name>/...               resume state; never an output, so never deleted by Snakemake
#   logs/<rule>/<name>.*                  log, benchmark, TensorBoard events, server logs
#
# <name> is a key of the configuration. Rules depend on manifests alone. What can make a stage
# stale: its slice of the configuration, the code that it runs, its image, its parents' manifests.

from snakemake.utils import min_version

min_version("9.27")


# A file given by --configfile stands in place of the quickstart: Snakemake would merge the two.
if not workflow.config_settings.configfiles:

    configfile: "config/config.yaml"


include: "workflow/rules/common.smk"
include: "workflow/rules/fetch_model.smk"
include: "workflow/rules/fetch_data.smk"
include: "workflow/rules/tokenize.smk"
include: "workflow/rules/find_duplicates.smk"
include: "workflow/rules/check_rows.smk"
include: "workflow/rules/train_sft.smk"
include: "workflow/rules/train_reward.smk"
include: "workflow/rules/train_dpo.smk"
include: "workflow/rules/train_kto.smk"
include: "workflow/rules/train_orpo.smk"
include: "workflow/rules/train_simpo.smk"
include: "workflow/rules/train_cpo.smk"
include: "workflow/rules/train_ilql.smk"
include: "workflow/rules/export_store.smk"
include: "workflow/rules/train_ppo.smk"
include: "workflow/rules/train_rloo.smk"
include: "workflow/rules/train_grpo.smk"
include: "workflow/rules/train_reinforce.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/report.smk"


report: "workflow/report/workflow.rst"


rule all:
    default_target: True
    input:
        parents.targets(CONFIG),
