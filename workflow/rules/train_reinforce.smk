rule train_reinforce:
    input:
        sft=start("reinforce"),
        reward=parent("reinforce", "reward"),
        bases=bases("reinforce"),
        data=tokenized("reinforce"),
        duplicates=duplicates("reinforce"),
        rows=rows("reinforce"),
        stores=stores("reinforce"),
        checked=checked("reinforce"),
    output:
        model=directory("results/reinforce/{name}/model"),
        metrics="results/reinforce/{name}/metrics.jsonl",
        samples="results/reinforce/{name}/samples.jsonl",
        manifest=ensure("results/reinforce/{name}/manifest.json", non_empty=True),
    log:
        "logs/train_reinforce/{name}.log",
    benchmark:
        "logs/train_reinforce/{name}.benchmark.jsonl"
    threads: get_threads("train_reinforce")
    resources:
        **get_resources("train_reinforce"),
    params:
        **get_params("train_reinforce"),
    shell:
        STAGE + " --name {wildcards.name} {resources.training}"
        " --input bases {input.bases}"
        " --input sft {input.sft} --input reward {input.reward} --input data {input.data}"
        " --input duplicates {input.duplicates} --input rows {input.rows}"
        " --input store {input.stores}"
        " --output model {output.model}"
        " --output metrics {output.metrics} --output samples {output.samples}"
        " --output manifest {output.manifest}"
