"""Make the Triton store of a reward model or a reference, proven to answer like that model."""

from rlhf.config.store import StoreSlice
from rlhf.models import devices
from rlhf.serving.export import export
from rlhf.stages.model_needs import check_needs
from rlhf.stages.stage import Stage, main


def run(stage: Stage) -> None:
    """Input: ``model`` (manifest). Outputs: ``repository``, ``parity``, ``manifest``."""
    devices.check_device()
    check_needs(stage, stage.folder("model") / "model", {})
    config = stage.read(StoreSlice)
    facts = export(
        config.kind,
        stage.folder("model"),
        stage.outputs["repository"],
        stage.outputs["parity"],
        config,
    )
    stage.finish(facts=facts)


if __name__ == "__main__":
    main(run)
