# Before a run trains: it and all that build on it have rows to train and to measure on. Training
# waits for a checkpoint, but does not count it among its inputs.
checkpoint check_rows:
    input:
        tokenized=get_needed_sets,
        duplicates=get_needed_duplicates,
    output:
        rows="results/rows/{run}/rows.json",
        manifest=ensure("results/rows/{run}/manifest.json", non_empty=True),
    log:
        "logs/check_rows/{run}.log",
    benchmark:
        "logs/check_rows/{run}.benchmark.jsonl"
    threads: get_threads("check_rows")
    resources:
        **get_resources("check_rows"),
    params:
        config=get_config("check_rows", "run"),
        code=get_code("check_rows"),
        image=get_image("check_rows"),
    shell:
        "rlhf launch {resources.launch} --log {log}"
        " -- rlhf.stages.check_rows --name {wildcards.run}"
        " --config {params.config:q} --code '{params.code}' --image '{params.image}'"
        " $(for one in {input.tokenized}; do set=${{one#results/tokenized/}};"
        ' printf -- " --input %s=%s" "${{set%/*/manifest.json}}" "$one"; done)'
        " $(for one in {input.duplicates}; do printf -- ' --input duplicates=%s' $one; done)"
        " --output rows={output.rows} --output manifest={output.manifest}"
        " --log {log}"
