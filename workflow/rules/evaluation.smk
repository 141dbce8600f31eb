def get_evaluated(kind):
    """Manifest of an artifact that the evaluated PPO run goes back to."""

    def inputs(wildcards):
        run = CONFIG.ppo[CONFIG.evaluation[wildcards.name].ppo]
        if kind == "models":
            return f"results/models/{CONFIG.sft[run.sft].model}/manifest.json"
        return f"results/{kind}/{getattr(run, kind)}/manifest.json"

    return inputs


def get_evaluation_prompts(wildcards):
    """Manifests of the tokenized prompts that the evaluated PPO run draws from."""
    run = CONFIG.ppo[CONFIG.evaluation[wildcards.name].ppo]
    model = CONFIG.sft[run.sft].model
    return [
        f"results/tokenized/prompt/{model}/{dataset}/manifest.json"
        for dataset in run.data
    ]


def get_reported(kind):
    """Manifests of one kind behind a report's evaluations, each once."""

    def inputs(wildcards):
        evaluations = CONFIG.report[wildcards.name].evaluations
        if kind == "evaluation":
            names = evaluations
        else:
            names = [CONFIG.evaluation[name].ppo for name in evaluations]
            if kind != "ppo":
                names = [getattr(CONFIG.ppo[name], kind) for name in names]
        return [f"results/{kind}/{name}/manifest.json" for name in dict.fromkeys(names)]

    return inputs


rule evaluate:
    input:
        base=get_evaluated("models"),
        sft=get_evaluated("sft"),
        reward=get_evaluated("reward"),
        ppo=get_parent("ppo", "evaluation", "ppo"),
        data=get_evaluation_prompts,
    output:
        evaluation="results/evaluation/{name}/evaluation.json",
        samples="results/evaluation/{name}/samples.json",
        sampling_report="results/evaluation/{name}/sampling_report.json",
        manifest=ensure("results/evaluation/{name}/manifest.json", non_empty=True),
    log:
        "logs/evaluate/{name}.log",
    benchmark:
        "logs/evaluate/{name}.benchmark.jsonl"
    threads: CONFIG.runtime.threads
    params:
        config=get_config("evaluate"),
        code=get_code("evaluate"),
        image=get_image("train"),
    shell:
        "rlhf launch --threads {threads} --log {log} -- rlhf.stages.evaluate"
        " --name {wildcards.name}"
        " --config {params.config:q} --code '{params.code}' --image '{params.image}'"
        " --input base={input.base} --input sft={input.sft} --input reward={input.reward}"
        " --input ppo={input.ppo} $(printf -- ' --input data=%s' {input.data})"
        " --output evaluation={output.evaluation} --output samples={output.samples}"
        " --output sampling_report={output.sampling_report}"
        " --output manifest={output.manifest}"
        " --log {log}"


rule report:
    input:
        evaluation=get_reported("evaluation"),
        ppo=get_reported("ppo"),
        reward=get_reported("reward"),
        sft=get_reported("sft"),
    output:
        page=report(
            "results/report/{name}/report.html",
            caption="../report/page.rst",
            category="Report",
        ),
        manifest=ensure("results/report/{name}/manifest.json", non_empty=True),
    log:
        "logs/report/{name}.log",
    benchmark:
        "logs/report/{name}.benchmark.jsonl"
    params:
        config=get_config("report"),
        code=get_code("report"),
        image=get_image("train"),
    shell:
        "python -m rlhf.stages.report --name {wildcards.name}"
        " --config {params.config:q} --code '{params.code}' --image '{params.image}'"
        " $(printf -- ' --input evaluation=%s' {input.evaluation})"
        " $(printf -- ' --input ppo=%s' {input.ppo})"
        " $(printf -- ' --input reward=%s' {input.reward})"
        " $(printf -- ' --input sft=%s' {input.sft})"
        " --output page={output.page} --output manifest={output.manifest}"
        " --log {log}"
