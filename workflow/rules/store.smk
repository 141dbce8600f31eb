rule export_reward_store:
    input:
        model="results/reward/{name}/manifest.json",
    output:
        repository=directory("results/store/reward/{name}/repository"),
        parity="results/store/reward/{name}/parity.json",
        manifest=ensure("results/store/reward/{name}/manifest.json", non_empty=True),
    log:
        "logs/export_reward_store/{name}.log",
    benchmark:
        "logs/export_reward_store/{name}.benchmark.jsonl"
    threads: get_threads("export_reward_store")
    resources:
        **get_resources("export_reward_store"),
    params:
        config=get_config("export_reward_store"),
        code=get_code("export_reward_store"),
        image=get_image("export_reward_store"),
    shell:
        "rlhf launch {resources.launch} --log {log}"
        " -- rlhf.stages.export_reward_store --name {wildcards.name}"
        " --config {params.config:q} --code '{params.code}' --image '{params.image}'"
        " --input model={input.model}"
        " --output repository={output.repository} --output parity={output.parity}"
        " --output manifest={output.manifest}"
        " {resources.needs} --log {log}"


rule export_reference_store:
    input:
        model="results/sft/{name}/manifest.json",
    output:
        repository=directory("results/store/reference/{name}/repository"),
        parity="results/store/reference/{name}/parity.json",
        manifest=ensure("results/store/reference/{name}/manifest.json", non_empty=True),
    log:
        "logs/export_reference_store/{name}.log",
    benchmark:
        "logs/export_reference_store/{name}.benchmark.jsonl"
    threads: get_threads("export_reference_store")
    resources:
        **get_resources("export_reference_store"),
    params:
        config=get_config("export_reference_store"),
        code=get_code("export_reference_store"),
        image=get_image("export_reference_store"),
    shell:
        "rlhf launch {resources.launch} --log {log}"
        " -- rlhf.stages.export_reference_store --name {wildcards.name}"
        " --config {params.config:q} --code '{params.code}' --image '{params.image}'"
        " --input model={input.model}"
        " --output repository={output.repository} --output parity={output.parity}"
        " --output manifest={output.manifest}"
        " {resources.needs} --log {log}"
