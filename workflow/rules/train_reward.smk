rule train_reward:
    input:
        start=start("reward"),
        bases=bases("reward"),
        data=tokenized("reward"),
        demonstrations=tokenized("reward", "demonstrations"),
        duplicates=duplicates("reward"),
        checked=checked("reward"),
    output:
        model=directory("results/reward/{name}/model"),
        metrics="results/reward/{name}/metrics.jsonl",
        evaluation="results/reward/{name}/evaluation.json",
        manifest=ensure("results/reward/{name}/manifest.json", non_empty=True),
    log:
        "logs/train_reward/{name}.log",
    benchmark:
        "logs/train_reward/{name}.benchmark.jsonl"
    threads: get_threads("train_reward")
    resources:
        **get_resources("train_reward"),
    params:
        **get_params("train_reward"),
    shell:
        STAGE + " --name {wildcards.name} {resources.training} {resources.needs}"
        " --input bases {input.bases}"
        " --input start {input.start} --input data {input.data}"
        " --input demonstrations {input.demonstrations} --input duplicates {input.duplicates}"
        " --output model {output.model} --output metrics {output.metrics}"
        " --output evaluation {output.evaluation} --output manifest {output.manifest}"
