rule train_ppo:
    input:
        sft=start("ppo"),
        reward=parent("ppo", "reward"),
        bases=bases("ppo"),
        data=tokenized("ppo"),
        ptx=mixed("ppo"),
        duplicates=duplicates("ppo"),
        rows=rows("ppo"),
        stores=stores("ppo"),
        checked=checked("ppo"),
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
        **get_params("train_ppo"),
    shell:
        STAGE + " --name {wildcards.name} {resources.training}"
        " --input bases {input.bases}"
        " --input sft {input.sft} --input reward {input.reward} --input data {input.data}"
        " --input ptx {input.ptx}"
        " --input duplicates {input.duplicates} --input rows {input.rows}"
        " --input store {input.stores}"
        " --output model {output.model} --output value {output.value}"
        " --output metrics {output.metrics} --output samples {output.samples}"
        " --output manifest {output.manifest}"
