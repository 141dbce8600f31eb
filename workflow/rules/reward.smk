rule train_reward:
    input:
        start=get_start("reward"),
        data=get_tokenized("preference", "reward"),
        duplicates=get_duplicates("reward"),
        checked=await_rows("reward"),
        demonstrations=get_tokenized("sft", "reward"),
    output:
        model=directory("results/reward/{name}/model"),
        metrics="results/reward/{name}/metrics.jsonl",
        evaluation="results/reward/{name}/evaluation.json",
        manifest=ensure("results/reward/{name}/manifest.json", non_empty=True),
    log:
        "logs/train_reward/{name}.log",
    benchmark:
        "logs/train_reward/{name}.benchmark.jsonl"
    threads: get_threads("train_reward")
    resources:
        **get_resources("train_reward"),
    params:
        config=get_config("train_reward"),
        code=get_code("train_reward"),
        image=get_image("train_reward"),
    shell:
        "rlhf launch {resources.launch} --log {log}"
        " -- rlhf.stages.train_reward --name {wildcards.name}"
        " --config {params.config:q} --code '{params.code}' --image '{params.image}'"
        " --input start={input.start} $(printf -- ' --input data=%s' {input.data})"
        " $(printf -- ' --input demonstrations=%s' {input.demonstrations})"
        " $(for one in {input.duplicates}; do printf -- ' --input duplicates=%s' $one; done)"
        " --output model={output.model} --output metrics={output.metrics}"
        " --output evaluation={output.evaluation} --output manifest={output.manifest}"
        " {resources.saving} {resources.needs} --log {log}"
