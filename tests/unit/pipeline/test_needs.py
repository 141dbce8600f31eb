from rlhf.config.load import load_config
from rlhf.pipeline.jobs import needs_options
from rlhf.pipeline.needs import abilities, longest_rows, longest_scored


def test_rows_of_every_run_that_goes_back_to_a_model(valid):
    valid["tokenization"] = {"conversation": {"max_length": 300}, "prompt": {"max_length": 100}}
    valid["ppo"]["final"]["sampling"] = {"max_new_tokens": 50}
    valid["evaluation"]["final"]["max_new_tokens"] = 70
    valid["models"]["other"] = valid["models"]["tiny"]
    config = load_config(valid)
    prompt = "tokenization.prompt.max_length"
    assert longest_rows(config, "tiny") == {
        "tokenization.conversation.max_length": 300,
        "tokenization.preference.max_length": 512,
        f"{prompt}+ppo.final.sampling.max_new_tokens": 150,
        f"{prompt}+evaluation.final.max_new_tokens": 170,
    }
    assert longest_rows(config, "other") == {}
    assert abilities(config, "tiny") == {
        "sampling": ["ppo.final", "evaluation.final"],
        "scores": ["reward.helpful"],
    }
    assert longest_scored(config, "reference", "chat") == 256
    told = needs_options(config, "export_store", "reward", "helpful")
    assert told == needs_options(config, "fetch_model", "tiny")
    assert f"--rows {prompt}+ppo.final.sampling.max_new_tokens=150" in told
    assert (
        "--runs sampling=ppo.final --runs sampling=evaluation.final --runs scores=reward.helpful"
        in told
    )


def test_a_judge_of_another_base_model_reads_the_responses_too(valid):
    valid["models"]["judge"] = valid["models"]["tiny"]
    valid["reward"]["helpful"] = {"model": "judge", "data": {"demo": {}}}
    config = load_config(valid)
    key = "tokenization.prompt.max_length+ppo.final.sampling.max_new_tokens"
    assert longest_rows(config, "judge")[key] == longest_rows(config, "tiny")[key]
    assert abilities(config, "judge") == {"sampling": [], "scores": ["reward.helpful"]}
    assert abilities(config, "tiny") == {
        "sampling": ["ppo.final", "evaluation.final"],
        "scores": [],
    }


def test_an_evaluations_own_reward_model_reads_its_responses(valid):
    valid["models"]["judge"] = valid["models"]["tiny"]
    valid["reward"]["second"] = {"model": "judge", "data": {"demo": {}}}
    valid["evaluation"]["second"] = {"ppo": "final", "reward": "second", "max_new_tokens": 9}
    rows = longest_rows(load_config(valid), "judge")
    prompt = "tokenization.prompt.max_length"
    assert {key for key in rows if key.startswith(prompt)} == {
        f"{prompt}+evaluation.second.max_new_tokens"
    }
