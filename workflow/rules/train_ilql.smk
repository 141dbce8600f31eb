rule train_ilql:
    input:
        sft=start("ilql"),
        bases=bases("ilql"),
        data=tokenized("ilql"),
        duplicates=duplicates("ilql"),
        checked=checked("ilql"),
    output:
        model=directory("results/ilql/{name}/model"),
        metrics="results/ilql/{name}/metrics.jsonl",
        manifest=ensure("results/ilql/{name}/manifest.json", non_empty=True),
    log:
        "logs/train_ilql/{name}.log",
    benchmark:
        "logs/train_ilql/{name}.benchmark.jsonl"
    threads: get_threads("train_ilql")
    resources:
        **get_resources("train_ilql"),
    params:
        **get_params("train_ilql"),
    shell:
        STAGE + " --name {wildcards.name} {resources.training}"
        " --input bases {input.bases}"
        " --input sft {input.sft} --input data {input.data}"
        " --input duplicates {input.duplicates}"
        " --output model {output.model} --output metrics {output.metrics}"
        " --output manifest {output.manifest}"
