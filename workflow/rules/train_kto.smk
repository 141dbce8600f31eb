rule train_kto:
    input:
        sft=start("kto"),
        bases=bases("kto"),
        data=tokenized("kto"),
        duplicates=duplicates("kto"),
        checked=checked("kto"),
    output:
        model=directory("results/kto/{name}/model"),
        metrics="results/kto/{name}/metrics.jsonl",
        manifest=ensure("results/kto/{name}/manifest.json", non_empty=True),
    log:
        "logs/train_kto/{name}.log",
    benchmark:
        "logs/train_kto/{name}.benchmark.jsonl"
    threads: get_threads("train_kto")
    resources:
        **get_resources("train_kto"),
    params:
        **get_params("train_kto"),
    shell:
        STAGE + " --name {wildcards.name} {resources.training}"
        " --input bases {input.bases}"
        " --input sft {input.sft} --input data {input.data}"
        " --input duplicates {input.duplicates}"
        " --output model {output.model} --output metrics {output.metrics}"
        " --output manifest {output.manifest}"
