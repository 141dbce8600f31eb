rule train_reward:
    input:
        sft=get_parent("sft", "reward", "sft"),
        data=get_tokenized("preference", "reward"),
        demonstrations=get_tokenized("sft", "reward"),
    output:
        model=directory("results/reward/{name}/model"),
        metrics="results/reward/{name}/metrics.jsonl",
        evaluation="results/reward/{name}/evaluation.json",
        manifest=ensure("results/reward/{name}/manifest.json", non_empty=True),
    log:
        "logs/train_reward/{name}.log",
    benchmark:
        "logs/train_reward/{name}.benchmark.jsonl"
    threads: CONFIG.runtime.threads
    resources:
        save_steps=CONFIG.runtime.save_steps,
        save_seconds=CONFIG.runtime.save_seconds,
        micro_batch_tokens=CONFIG.runtime.micro_batch_tokens,
    params:
        config=get_config("train_reward"),
        code=get_code("train_reward"),
        image=get_image("train"),
    shell:
        "rlhf launch --threads {threads} --log {log} -- rlhf.stages.train_reward"
        " --name {wildcards.name}"
        " --config {params.config:q} --code '{params.code}' --image '{params.image}'"
        " --input sft={input.sft} $(printf -- ' --input data=%s' {input.data})"
        " $(printf -- ' --input demonstrations=%s' {input.demonstrations})"
        " --output model={output.model} --output metrics={output.metrics}"
        " --output evaluation={output.evaluation} --output manifest={output.manifest}"
        " --state state/train_reward/{wildcards.name}"
        " --save-steps {resources.save_steps} --save-seconds {resources.save_seconds}"
        " --micro-batch-tokens {resources.micro_batch_tokens}"
        " --log {log}"
