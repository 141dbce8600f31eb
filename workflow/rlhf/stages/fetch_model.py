"""Stage: fetch a base model into a plain Hugging Face folder."""

from __future__ import annotations

from rlhf.config.models import ModelSlice
from rlhf.provenance.facts import CANNOT
from rlhf.sources.base_models.materialize import materialize
from rlhf.sources.locks import Lock
from rlhf.stages.model_needs import check_needs
from rlhf.stages.stage import Stage, main


def run(stage: Stage) -> None:
    """Fetch, settle tokens and template, write the folder and the manifest."""
    config = stage.read(ModelSlice)
    source = config.source.model_dump(mode="json")
    locked = Lock.of_environment().locked("models", stage.name, source, config.lock)
    rope = config.rope_scaling
    facts = materialize(
        source,
        stage.outputs["model"],
        template=config.template,
        template_date=config.template_date,
        pad_token=config.pad_token,
        eos_token=config.eos_token,
        new_tokens=config.new_tokens,
        per_digit_tokens=config.per_digit_tokens,
        pad_vocab_to_multiple=config.pad_vocab_to_multiple,
        rope_scaling=(rope.kind, rope.factor) if rope else None,
        dtype=config.dtype,
        trust_remote_code=config.trust_remote_code,
        where=f"models.{stage.name}",
        check=locked.check_files if locked else None,
    )
    check_needs(stage, stage.outputs["model"], facts.get(CANNOT, {}))
    stage.finish(counts={"parameters": facts["parameters"]}, facts=facts)


if __name__ == "__main__":
    main(run)
