rule train_ppo:
    input:
        sft=get_parent("sft", "ppo", "sft"),
        reward=get_parent("reward", "ppo", "reward"),
        data=get_tokenized("prompt", "ppo"),
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
    threads: CONFIG.runtime.threads
    resources:
        servers=get_servers,
        save_steps=CONFIG.runtime.save_steps,
        save_seconds=CONFIG.runtime.save_seconds,
        micro_batch_tokens=CONFIG.runtime.micro_batch_tokens,
    params:
        config=get_config("train_ppo"),
        code=get_code("train_ppo"),
        image=get_image("train"),
    shell:
        "rlhf launch --threads {threads} {resources.servers} --log {log}"
        " -- rlhf.stages.train_ppo --name {wildcards.name}"
        " --config {params.config:q} --code '{params.code}' --image '{params.image}'"
        " --input sft={input.sft} --input reward={input.reward}"
        " $(printf -- ' --input data=%s' {input.data})"
        " $(printf -- ' --input rows=%s' {input.rows})"
        " $(for store in {input.stores}; do printf -- ' --input store=%s' $store; done)"
        " --output model={output.model} --output value={output.value}"
        " --output metrics={output.metrics} --output samples={output.samples}"
        " --output manifest={output.manifest}"
        " --state state/train_ppo/{wildcards.name}"
        " --save-steps {resources.save_steps} --save-seconds {resources.save_seconds}"
        " --micro-batch-tokens {resources.micro_batch_tokens}"
        " --log {log}"
