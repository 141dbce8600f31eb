"""What a vLLM server's workers can do beyond vLLM's own: take over new weights, all of them.

Imported inside of vLLM's processes (``--worker-extension-cls``), so nothing else of this package
may be imported here.
"""

from __future__ import annotations

from typing import Any


class Refresh:
    """Mixed into vLLM's ``Worker``: its attributes are there."""

    def refresh(self: Any, folder: str) -> None:
        """Load the weights in a folder, in place of those that are served.

        vLLM's ``reload_weights`` works layer by layer of what the files name. On CPUs a layer's
        product runs on a packed copy of its weights, which is made anew when they are loaded. A
        head that is tied to the embedding is in no file, so its copy would stay that of the old
        weights, and every probability be wrong.

        Args:
            folder: with the config and the weights, of the served model's architecture.
        """
        from vllm.config import set_current_vllm_config
        from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

        self.reload_weights(weights_path=folder)
        with set_current_vllm_config(self.vllm_config):
            for layer in self.model_runner.get_model().modules():
                if isinstance(layer, ParallelLMHead):
                    layer.quant_method.process_weights_after_loading(layer)
