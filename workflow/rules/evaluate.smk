rule evaluate:
    input:
        **{section: started("evaluation", section) for section in EVALUATED},
        base=base("evaluation"),
        sft=parent("evaluation", "sft"),
        reward=parent("evaluation", "reward"),
        gold=own_parent("evaluation", "gold"),
        bases=bases("evaluation"),
        data=tokenized("evaluation", "prompts"),
        rows=rows("evaluation"),
    output:
        evaluation="results/evaluation/{name}/evaluation.json",
        scores="results/evaluation/{name}/scores.parquet",
        samples="results/evaluation/{name}/samples.json",
        sampling_report="results/evaluation/{name}/sampling_report.json",
        manifest=ensure("results/evaluation/{name}/manifest.json", non_empty=True),
    log:
        "logs/evaluate/{name}.log",
    benchmark:
        "logs/evaluate/{name}.benchmark.jsonl"
    threads: get_threads("evaluate")
    resources:
        **get_resources("evaluate"),
    params:
        **get_params("evaluate"),
    shell:
        STAGE + " --name {wildcards.name}"
        " --input base {input.base} --input sft {input.sft} --input reward {input.reward}"
        " --input gold {input.gold}"
        + "".join(f" --input {one} {{input.{one}}}" for one in EVALUATED)
        + " --input bases {input.bases} --input data {input.data} --input rows {input.rows}"
        " --output evaluation {output.evaluation} --output scores {output.scores}"
        " --output samples {output.samples} --output sampling_report {output.sampling_report}"
        " --output manifest {output.manifest}"
