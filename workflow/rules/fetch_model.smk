# Here, for the nodes of many clusters have no network.
rule fetch_model:
    output:
        model=directory("results/models/{model}/model"),
        manifest=ensure("results/models/{model}/manifest.json", non_empty=True),
    log:
        "logs/fetch_model/{model}.log",
    benchmark:
        "logs/fetch_model/{model}.benchmark.jsonl"
    localrule: True
    threads: get_threads("fetch_model")
    resources:
        **get_resources("fetch_model"),
    params:
        **get_params("fetch_model"),
    shell:
        STAGE + " --name {wildcards.model} {resources.needs}"
        " --output model {output.model} --output manifest {output.manifest}"
