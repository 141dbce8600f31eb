rule train_orpo:
    input:
        start=start("orpo"),
        bases=bases("orpo"),
        data=tokenized("orpo"),
        duplicates=duplicates("orpo"),
        checked=checked("orpo"),
    output:
        model=directory("results/orpo/{name}/model"),
        metrics="results/orpo/{name}/metrics.jsonl",
        manifest=ensure("results/orpo/{name}/manifest.json", non_empty=True),
    log:
        "logs/train_orpo/{name}.log",
    benchmark:
        "logs/train_orpo/{name}.benchmark.jsonl"
    threads: get_threads("train_orpo")
    resources:
        **get_resources("train_orpo"),
    params:
        **get_params("train_orpo"),
    shell:
        STAGE + " --name {wildcards.name} {resources.training} {resources.needs}"
        " --input bases {input.bases}"
        " --input start {input.start} --input data {input.data}"
        " --input duplicates {input.duplicates}"
        " --output model {output.model} --output metrics {output.metrics}"
        " --output manifest {output.manifest}"
