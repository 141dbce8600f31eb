rule fetch_model:
    output:
        model=directory("results/models/{model}/model"),
        manifest=ensure("results/models/{model}/manifest.json", non_empty=True),
    log:
        "logs/fetch_model/{model}.log",
    benchmark:
        "logs/fetch_model/{model}.benchmark.jsonl"
    threads: get_threads("fetch_model")
    resources:
        **get_resources("fetch_model"),
    params:
        config=get_config("fetch_model", "model"),
        code=get_code("fetch_model"),
        image=get_image("fetch_model"),
    shell:
        "rlhf launch {resources.launch} --log {log}"
        " -- rlhf.stages.fetch_model --name {wildcards.model}"
        " --config {params.config:q} --code '{params.code}' --image '{params.image}'"
        " --output model={output.model} --output manifest={output.manifest}"
        " {resources.needs} --log {log}"


rule fetch_data:
    output:
        rows=directory("results/datasets/{dataset}/rows"),
        statistics="results/datasets/{dataset}/statistics.json",
        manifest=ensure("results/datasets/{dataset}/manifest.json", non_empty=True),
    log:
        "logs/fetch_data/{dataset}.log",
    benchmark:
        "logs/fetch_data/{dataset}.benchmark.jsonl"
    threads: get_threads("fetch_data")
    resources:
        **get_resources("fetch_data"),
    params:
        config=get_config("fetch_data", "dataset"),
        code=get_data_code,
        image=get_image("fetch_data"),
    shell:
        "rlhf launch {resources.launch} --log {log}"
        " -- rlhf.stages.fetch_data --name {wildcards.dataset}"
        " --config {params.config:q} --code '{params.code}' --image '{params.image}'"
        " --output rows={output.rows} --output statistics={output.statistics}"
        " --output manifest={output.manifest}"
        " --log {log}"
