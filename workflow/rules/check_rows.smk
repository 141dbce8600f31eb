# Before a run trains: it and all that build on it have rows to train and to measure on. Training
# waits for a checkpoint, but does not count it among its inputs.
checkpoint check_rows:
    input:
        tokenized=of_named_run(parents.sets_to_check),
        duplicates=of_named_run(parents.duplicates_to_check),
    output:
        rows="results/rows/{run}/rows.json",
        manifest=ensure("results/rows/{run}/manifest.json", non_empty=True),
    log:
        "logs/check_rows/{run}.log",
    benchmark:
        "logs/check_rows/{run}.benchmark.jsonl"
    localrule: True
    threads: get_threads("check_rows")
    resources:
        **get_resources("check_rows"),
    params:
        **get_params("check_rows"),
    shell:
        STAGE + " --name {wildcards.run}"
        " --input tokenized {input.tokenized} --input duplicates {input.duplicates}"
        " --output rows {output.rows} --output manifest {output.manifest}"
