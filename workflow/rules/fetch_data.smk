# Here, for the nodes of many clusters have no network.
rule fetch_data:
    output:
        rows=directory("results/datasets/{dataset}/rows"),
        statistics="results/datasets/{dataset}/statistics.json",
        manifest=ensure("results/datasets/{dataset}/manifest.json", non_empty=True),
    log:
        "logs/fetch_data/{dataset}.log",
    benchmark:
        "logs/fetch_data/{dataset}.benchmark.jsonl"
    localrule: True
    threads: get_threads("fetch_data")
    resources:
        **get_resources("fetch_data"),
    params:
        **get_params("fetch_data"),
    shell:
        STAGE + " --name {wildcards.dataset}"
        " --output rows {output.rows} --output statistics {output.statistics}"
        " --output manifest {output.manifest}"
