rule find_duplicates:
    input:
        rows=of_named_run(parents.rows),
    output:
        duplicates="results/duplicates/{run}/duplicates.jsonl",
        manifest=ensure("results/duplicates/{run}/manifest.json", non_empty=True),
    log:
        "logs/find_duplicates/{run}.log",
    benchmark:
        "logs/find_duplicates/{run}.benchmark.jsonl"
    threads: get_threads("find_duplicates")
    resources:
        **get_resources("find_duplicates"),
    params:
        **get_params("find_duplicates"),
    shell:
        STAGE + " --name {wildcards.run}"
        " --input rows {input.rows}"
        " --output duplicates {output.duplicates} --output manifest {output.manifest}"
