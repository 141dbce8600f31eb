from __future__ import annotations

import json

from rlhf.evaluation.sampling_report import SamplingResult, prompt_text, sampling_report


def test_open_assistant_form() -> None:
    result = SamplingResult("nucleus9", {"top_p": 0.9, "do_sample": True}, ("Hi.", "Hello."))
    report = sampling_report("ppo/final", {"seed": 1}, [("Say hi", [result])])
    assert json.loads(json.dumps(report)) == {
        "model_name": "ppo/final",
        "date": "",
        "args": {"seed": 1},
        "prompts": [
            {
                "prompt": "Say hi",
                "results": [
                    {
                        "sampling_config": "nucleus9",
                        "sampling_params": {"top_p": 0.9, "do_sample": True},
                        "outputs": ["Hi.", "Hello."],
                    }
                ],
            }
        ],
    }


def test_date_comes_from_the_caller() -> None:
    assert sampling_report("m", {}, [], date="2023-03-01")["date"] == "2023-03-01"


def test_a_prompt_is_its_text_and_several_turns_have_roles() -> None:
    first, answer = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}
    assert prompt_text([first]) == "Hi"
    last = {"role": "user", "content": "Who are\nyou?"}
    assert (
        prompt_text([first, answer, last]) == "user: Hi\n\nassistant: Hello.\n\nuser: Who are\nyou?"
    )
