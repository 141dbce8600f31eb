rule train_sft:
    input:
        start=get_start("sft"),
        data=get_tokenized("sft", "sft"),
        duplicates=get_duplicates("sft"),
        checked=await_rows("sft"),
    output:
        model=directory("results/sft/{name}/model"),
        metrics="results/sft/{name}/metrics.jsonl",
        manifest=ensure("results/sft/{name}/manifest.json", non_empty=True),
    log:
        "logs/train_sft/{name}.log",
    benchmark:
        "logs/train_sft/{name}.benchmark.jsonl"
    threads: get_threads("train_sft")
    resources:
        **get_resources("train_sft"),
    params:
        config=get_config("train_sft"),
        code=get_code("train_sft"),
        image=get_image("train_sft"),
    shell:
        "rlhf launch {resources.launch} --log {log}"
        " -- rlhf.stages.train_sft --name {wildcards.name}"
        " --config {params.config:q} --code '{params.code}' --image '{params.image}'"
        " --input start={input.start} $(printf -- ' --input data=%s' {input.data})"
        " $(for one in {input.duplicates}; do printf -- ' --input duplicates=%s' $one; done)"
        " --output model={output.model} --output metrics={output.metrics}"
        " --output manifest={output.manifest}"
        " {resources.saving} {resources.needs} --log {log}"
