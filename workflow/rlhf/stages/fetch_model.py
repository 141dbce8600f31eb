"""Stage: fetch a base model into a plain Hugging Face folder."""

from __future__ import annotations

from rlhf.provenance.facts import CANNOT
from rlhf.sources.base_models.materialize import materialize
from rlhf.sources.locks import Lock
from rlhf.stages.model_needs import check_needs
from rlhf.stages.stage import Stage, main


def run(stage: Stage) -> None:
    """Fetch, settle tokens and template, write the folder and the manifest."""
    config = stage.config
    source = config["source"]
    locked = Lock.of_environment().locked("models", stage.name, source, config.get("lock"))
    facts = materialize(
        source,
        stage.outputs["model"],
        template=config.get("template"),
        template_date=config.get("template_date"),
        pad_token=config.get("pad_token"),
        eos_token=config.get("eos_token"),
        new_tokens=config.get("new_tokens", []),
        per_digit_tokens=config.get("per_digit_tokens", False),
        pad_vocab_to_multiple=config.get("pad_vocab_to_multiple", 1),
        dtype=config.get("dtype"),
        trust_remote_code=config.get("trust_remote_code", False),
        where=f"models.{stage.name}",
        check=locked.check_files if locked else None,
    )
    check_needs(stage, stage.outputs["model"], facts.get(CANNOT, {}))
    stage.finish(counts={"parameters": facts["parameters"]}, facts=facts)


if __name__ == "__main__":
    main(run)
