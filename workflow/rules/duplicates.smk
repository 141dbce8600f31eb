rule find_duplicates:
    input:
        rows=get_run_rows,
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
        config=get_config("find_duplicates", "run"),
        code=get_code("find_duplicates"),
        image=get_image("find_duplicates"),
    shell:
        "rlhf launch {resources.launch} --log {log}"
        " -- rlhf.stages.find_duplicates --name {wildcards.run}"
        " --config {params.config:q} --code '{params.code}' --image '{params.image}'"
        " $(printf -- ' --input rows=%s' {input.rows})"
        " --output duplicates={output.duplicates} --output manifest={output.manifest}"
        " --log {log}"
