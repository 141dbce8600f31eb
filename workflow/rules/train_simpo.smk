rule train_simpo:
    input:
        sft=start("simpo"),
        bases=bases("simpo"),
        data=tokenized("simpo"),
        duplicates=duplicates("simpo"),
        checked=checked("simpo"),
    output:
        model=directory("results/simpo/{name}/model"),
        metrics="results/simpo/{name}/metrics.jsonl",
        manifest=ensure("results/simpo/{name}/manifest.json", non_empty=True),
    log:
        "logs/train_simpo/{name}.log",
    benchmark:
        "logs/train_simpo/{name}.benchmark.jsonl"
    threads: get_threads("train_simpo")
    resources:
        **get_resources("train_simpo"),
    params:
        **get_params("train_simpo"),
    shell:
        STAGE + " --name {wildcards.name} {resources.training}"
        " --input bases {input.bases}"
        " --input sft {input.sft} --input data {input.data}"
        " --input duplicates {input.duplicates}"
        " --output model {output.model} --output metrics {output.metrics}"
        " --output manifest {output.manifest}"
