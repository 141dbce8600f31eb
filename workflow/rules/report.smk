rule report:
    input:
        **{section: reported(section) for section in parents.REPORTED},
    output:
        page=report(
            "results/report/{name}/report.html",
            caption="../report/page.rst",
            category="Report",
        ),
        tables=directory("results/report/{name}/tables"),
        manifest=ensure("results/report/{name}/manifest.json", non_empty=True),
    log:
        "logs/report/{name}.log",
    benchmark:
        "logs/report/{name}.benchmark.jsonl"
    localrule: True
    threads: get_threads("report")
    resources:
        **get_resources("report"),
    params:
        **get_params("report"),
    shell:
        STAGE
        + " --name {wildcards.name}"
        + "".join(f" --input {one} {{input.{one}}}" for one in parents.REPORTED)
        + " --output page {output.page} --output tables {output.tables}"
        " --output manifest {output.manifest}"
