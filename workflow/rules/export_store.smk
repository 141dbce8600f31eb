rule export_store:
    input:
        model=stored,
        bases=stored_bases,
    output:
        repository=directory("results/store/{kind}/{name}/repository"),
        parity="results/store/{kind}/{name}/parity.json",
        manifest=ensure("results/store/{kind}/{name}/manifest.json", non_empty=True),
    log:
        "logs/export_store/{kind}.{name}.log",
    benchmark:
        "logs/export_store/{kind}.{name}.benchmark.jsonl"
    threads: get_threads("export_store")
    resources:
        **get_resources("export_store"),
    params:
        **get_params("export_store"),
    shell:
        STAGE + " --name {wildcards.name} {resources.needs}"
        " --input model {input.model} --input bases {input.bases}"
        " --output repository {output.repository} --output parity {output.parity}"
        " --output manifest {output.manifest}"
