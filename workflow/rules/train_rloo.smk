rule train_rloo:
    input:
        sft=start("rloo"),
        reward=parent("rloo", "reward"),
        bases=bases("rloo"),
        data=tokenized("rloo"),
        duplicates=duplicates("rloo"),
        rows=rows("rloo"),
        stores=stores("rloo"),
        checked=checked("rloo"),
    output:
        model=directory("results/rloo/{name}/model"),
        metrics="results/rloo/{name}/metrics.jsonl",
        samples="results/rloo/{name}/samples.jsonl",
        manifest=ensure("results/rloo/{name}/manifest.json", non_empty=True),
    log:
        "logs/train_rloo/{name}.log",
    benchmark:
        "logs/train_rloo/{name}.benchmark.jsonl"
    threads: get_threads("train_rloo")
    resources:
        **get_resources("train_rloo"),
    params:
        **get_params("train_rloo"),
    shell:
        STAGE + " --name {wildcards.name} {resources.training}"
        " --input bases {input.bases}"
        " --input sft {input.sft} --input reward {input.reward} --input data {input.data}"
        " --input duplicates {input.duplicates} --input rows {input.rows}"
        " --input store {input.stores}"
        " --output model {output.model}"
        " --output metrics {output.metrics} --output samples {output.samples}"
        " --output manifest {output.manifest}"
