rule tokenize:
    input:
        model="results/models/{model}/manifest.json",
        data="results/datasets/{dataset}/manifest.json",
    output:
        data=directory("results/tokenized/{view}/{model}/{dataset}/data"),
        manifest=ensure(
            "results/tokenized/{view}/{model}/{dataset}/manifest.json", non_empty=True
        ),
    log:
        "logs/tokenize/{view}.{model}.{dataset}.log",
    benchmark:
        "logs/tokenize/{view}.{model}.{dataset}.benchmark.jsonl"
    threads: get_threads("tokenize")
    resources:
        **get_resources("tokenize"),
    params:
        config=get_config("tokenize", "view"),
        code=get_code("tokenize"),
        image=get_image("tokenize"),
    shell:
        "rlhf launch {resources.launch} --log {log}"
        " -- rlhf.stages.tokenize --name {wildcards.dataset}"
        " --config {params.config:q} --code '{params.code}' --image '{params.image}'"
        " --input model={input.model} --input data={input.data}"
        " --output data={output.data} --output manifest={output.manifest}"
        " --log {log}"
