"""Jobs of the tiny pipeline, as ``Project.would_run`` names them, and what comes from them."""

from __future__ import annotations

VIEWS = {"tokenize:conversation", "tokenize:preference", "tokenize:prompt"}
LATE = {"evaluate", "report"}
FROM_PPO = {"train_ppo"} | LATE
STORES = {"export_store:reward", "export_store:reference"}
FROM_REWARD = {"train_reward", "export_store:reward"} | FROM_PPO
FROM_SFT = {"train_sft", "export_store:reference"} | FROM_REWARD
TRAINING = {"train_sft", "train_reward", "train_ppo"}
EVERYTHING = {"fetch_model", "fetch_data"} | VIEWS | FROM_SFT
