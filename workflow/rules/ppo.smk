rule train_ppo:
    input:
        sft=get_parent("sft", "ppo", "sft"),
        reward=get_parent("reward", "ppo", "reward"),
        data=get_tokenized("prompt", "ppo"),
        duplicates=get_duplicates("ppo"),
        checked=await_rows("ppo"),
        rows=get_rows("ppo"),
        stores=get_stores,
    output:
        model=directory("results/ppo/{name}/model"),
        value=directory("results/ppo/{name}/value"),
        metrics="results/ppo/{name}/metrics.jsonl",
        samples="results/ppo/{name}/samples.jsonl",
        manifest=ensure("results/ppo/{name}/manifest.json", non_empty=True),
    log:
        "logs/train_ppo/{name}.log",
    benchmark:
        "logs/train_ppo/{name}.benchmark.jsonl"
    threads: get_threads("train_ppo")
    resources:
        **get_resources("train_ppo"),
    params:
        config=get_config("train_ppo"),
        code=get_code("train_ppo"),
        image=get_image("train_ppo"),
    shell:
        "rlhf launch {resources.launch} --log {log}"
        " -- rlhf.stages.train_ppo --name {wildcards.name}"
        " --config {params.config:q} --code '{params.code}' --image '{params.image}'"
        " --input sft={input.sft} --input reward={input.reward}"
        " $(printf -- ' --input data=%s' {input.data})"
        " $(for one in {input.duplicates}; do printf -- ' --input duplicates=%s' $one; done)"
        " $(printf -- ' --input rows=%s' {input.rows})"
        " $(for store in {input.stores}; do printf -- ' --input store=%s' $store; done)"
        " --output model={output.model} --output value={output.value}"
        " --output metrics={output.metrics} --output samples={output.samples}"
        " --output manifest={output.manifest}"
        " {resources.saving} --log {log}"
