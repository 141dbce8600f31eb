rule train_sft:
    input:
        start=start("sft"),
        bases=bases("sft"),
        data=tokenized("sft"),
        duplicates=duplicates("sft"),
        checked=checked("sft"),
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
        **get_params("train_sft"),
    shell:
        STAGE + " --name {wildcards.name} {resources.training} {resources.needs}"
        " --input bases {input.bases}"
        " --input start {input.start} --input data {input.data}"
        " --input duplicates {input.duplicates}"
        " --output model {output.model} --output metrics {output.metrics}"
        " --output manifest {output.manifest}"
