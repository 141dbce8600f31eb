rule train_dpo:
    input:
        sft=start("dpo"),
        bases=bases("dpo"),
        data=tokenized("dpo"),
        duplicates=duplicates("dpo"),
        checked=checked("dpo"),
    output:
        model=directory("results/dpo/{name}/model"),
        metrics="results/dpo/{name}/metrics.jsonl",
        manifest=ensure("results/dpo/{name}/manifest.json", non_empty=True),
    log:
        "logs/train_dpo/{name}.log",
    benchmark:
        "logs/train_dpo/{name}.benchmark.jsonl"
    threads: get_threads("train_dpo")
    resources:
        **get_resources("train_dpo"),
    params:
        **get_params("train_dpo"),
    shell:
        STAGE + " --name {wildcards.name} {resources.training}"
        " --input bases {input.bases}"
        " --input sft {input.sft} --input data {input.data}"
        " --input duplicates {input.duplicates}"
        " --output model {output.model} --output metrics {output.metrics}"
        " --output manifest {output.manifest}"
