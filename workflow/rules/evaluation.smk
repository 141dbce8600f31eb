rule evaluate:
    input:
        base=get_evaluated("models"),
        sft=get_evaluated("sft"),
        reward=get_evaluated("reward"),
        ppo=get_parent("ppo", "evaluation", "ppo"),
        data=get_evaluation_prompts,
        rows=get_rows("evaluation"),
    output:
        evaluation="results/evaluation/{name}/evaluation.json",
        samples="results/evaluation/{name}/samples.json",
        sampling_report="results/evaluation/{name}/sampling_report.json",
        manifest=ensure("results/evaluation/{name}/manifest.json", non_empty=True),
    log:
        "logs/evaluate/{name}.log",
    benchmark:
        "logs/evaluate/{name}.benchmark.jsonl"
    threads: get_threads("evaluate")
    resources:
        **get_resources("evaluate"),
    params:
        config=get_config("evaluate"),
        code=get_code("evaluate"),
        image=get_image("evaluate"),
    shell:
        "rlhf launch {resources.launch} --log {log}"
        " -- rlhf.stages.evaluate --name {wildcards.name}"
        " --config {params.config:q} --code '{params.code}' --image '{params.image}'"
        " --input base={input.base} --input sft={input.sft} --input reward={input.reward}"
        " --input ppo={input.ppo} $(printf -- ' --input data=%s' {input.data})"
        " $(printf -- ' --input rows=%s' {input.rows})"
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
    threads: get_threads("report")
    resources:
        **get_resources("report"),
    params:
        config=get_config("report"),
        code=get_code("report"),
        image=get_image("report"),
    shell:
        "rlhf launch {resources.launch} --log {log}"
        " -- rlhf.stages.report --name {wildcards.name}"
        " --config {params.config:q} --code '{params.code}' --image '{params.image}'"
        " $(printf -- ' --input evaluation=%s' {input.evaluation})"
        " $(printf -- ' --input ppo=%s' {input.ppo})"
        " $(printf -- ' --input reward=%s' {input.reward})"
        " $(printf -- ' --input sft=%s' {input.sft})"
        " --output page={output.page} --output manifest={output.manifest}"
        " --log {log}"
