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
        **get_params("tokenize"),
    shell:
        STAGE + " --name {wildcards.dataset}"
        " --input model {input.model} --input data {input.data}"
        " --output data {output.data} --output manifest {output.manifest}"
