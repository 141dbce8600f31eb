"""PPO: rollout → scoring → rewards → advantages → objective, driven by the trainer."""
