rule train_grpo:
    input:
        sft=start("grpo"),
        reward=parent("grpo", "reward"),
        bases=bases("grpo"),
        data=tokenized("grpo"),
        duplicates=duplicates("grpo"),
        rows=rows("grpo"),
        stores=stores("grpo"),
        checked=checked("grpo"),
    output:
        model=directory("results/grpo/{name}/model"),
        metrics="results/grpo/{name}/metrics.jsonl",
        samples="results/grpo/{name}/samples.jsonl",
        manifest=ensure("results/grpo/{name}/manifest.json", non_empty=True),
    log:
        "logs/train_grpo/{name}.log",
    benchmark:
        "logs/train_grpo/{name}.benchmark.jsonl"
    threads: get_threads("train_grpo")
    resources:
        **get_resources("train_grpo"),
    params:
        **get_params("train_grpo"),
    shell:
        STAGE + " --name {wildcards.name} {resources.training}"
        " --input bases {input.bases}"
        " --input sft {input.sft} --input reward {input.reward} --input data {input.data}"
        " --input duplicates {input.duplicates} --input rows {input.rows}"
        " --input store {input.stores}"
        " --output model {output.model}"
        " --output metrics {output.metrics} --output samples {output.samples}"
        " --output manifest {output.manifest}"
