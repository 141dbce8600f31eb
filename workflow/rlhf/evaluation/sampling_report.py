"""Open-Assistant's sampling-report JSON, so that its viewers and comparisons read our samples.

The form is that of ``model/model_eval/manual/sampling_report.py`` in LAION-AI/Open-Assistant
(class ``SamplingReport``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class SamplingResult:
    """What one sampling configuration gave for one prompt.

    Attributes:
        sampling_config: name of the configuration, such as ``nucleus9``.
        sampling_params: arguments of the generation.
        outputs: the replies, without the prompt.
    """

    sampling_config: str
    sampling_params: Mapping[str, Any]
    outputs: Sequence[str]


def sampling_report(
    model_name: str,
    args: Mapping[str, Any],
    prompts: Sequence[tuple[str, Sequence[SamplingResult]]],
    date: str = "",
) -> dict[str, Any]:
    """The report as a value ready for JSON.

    Args:
        model_name: name of the model that answered.
        args: how the sampling was run.
        prompts: each prompt (see ``prompt_text``) with its results, one for each sampling
            configuration.
        date: the form's date. Empty by default (the form wants a string): a report is digested by
            a manifest, and the same samples must give the same bytes on any day.
    """
    return {
        "model_name": model_name,
        "date": date,
        "args": dict(args),
        "prompts": [
            {"prompt": prompt, "results": [_as_dict(result) for result in results]}
            for prompt, results in prompts
        ],
    }


def prompt_text(messages: Sequence[Mapping[str, str]]) -> str:
    """A prompt as the form wants it, a string: a question alone, or all turns with their roles.

    Args:
        messages: ``role`` and ``content`` of each turn; the user's is the last.
    """
    if len(messages) == 1:
        return messages[0]["content"]
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in messages)


def _as_dict(result: SamplingResult) -> dict[str, Any]:
    return asdict(result) | {
        "sampling_params": dict(result.sampling_params),
        "outputs": list(result.outputs),
    }
