rule train_cpo:
    input:
        sft=start("cpo"),
        bases=bases("cpo"),
        data=tokenized("cpo"),
        duplicates=duplicates("cpo"),
        checked=checked("cpo"),
    output:
        model=directory("results/cpo/{name}/model"),
        metrics="results/cpo/{name}/metrics.jsonl",
        manifest=ensure("results/cpo/{name}/manifest.json", non_empty=True),
    log:
        "logs/train_cpo/{name}.log",
    benchmark:
        "logs/train_cpo/{name}.benchmark.jsonl"
    threads: get_threads("train_cpo")
    resources:
        **get_resources("train_cpo"),
    params:
        **get_params("train_cpo"),
    shell:
        STAGE + " --name {wildcards.name} {resources.training}"
        " --input bases {input.bases}"
        " --input sft {input.sft} --input data {input.data}"
        " --input duplicates {input.duplicates}"
        " --output model {output.model} --output metrics {output.metrics}"
        " --output manifest {output.manifest}"
