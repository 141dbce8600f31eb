"""Keys of Open-Assistant's trainers, with what becomes of each.

What ``trainer_sft.py``, ``trainer_rm.py`` and ``trainer_rl.py`` do with them was read from their
code (github.com/LAION-AI/Open-Assistant, model/model_training).
"""

from __future__ import annotations

from typing import Annotated, Any

from rlhf.open_assistant.dispositions import Carried, Ignored, MustBe, Settings, Used

SAVED = Ignored("state is saved by time (runtime.save_seconds) and a stopped run goes on by itself")
LOGGED = Ignored("every step is logged, to metrics.jsonl and TensorBoard; wandb is not used")
PLACED = Ignored("results and caches have their places under results/ and state/")
LAUNCHED = Ignored("processes and GPUs follow from the section cluster")
SPEED = Ignored(
    "it changes speed or memory and not results; runtime.micro_batch_tokens limits memory"
)
NO_PEFT = "LoRA alone is carried over: prefixes are trained there by way of two more layers"
NO_DROPOUT = "dropout would change probabilities between two passes, so that ratios mean nothing"
NO_SEQ2SEQ = "models are causal"
NO_8BIT = "there is no 8-bit model; adapter.quantize: nf4 keeps frozen weights in 4 bits"

Flag = bool | None
Whole = int | None
Number = float | None
Text = str | None


class SupervisedSettings(Settings):
    """What trainer_sft and trainer_rm both read."""

    rng_seed: Annotated[Whole, Carried("seed")] = None
    learning_rate: Annotated[Number, Carried("optimizer.learning_rate")] = None
    adam_beta1: Annotated[Number, Carried("optimizer.beta1")] = None
    adam_beta2: Annotated[Number, Carried("optimizer.beta2")] = None
    adam_epsilon: Annotated[Number, Carried("optimizer.eps")] = None
    weight_decay: Annotated[Number, Carried("optimizer.weight_decay")] = None
    max_grad_norm: Annotated[Number, Carried("optimizer.max_grad_norm")] = None
    freeze_layer: Annotated[Whole, Carried("freeze_layers")] = None
    warmup_steps: Annotated[Whole, Used()] = None
    eval_steps: Annotated[Whole, Used()] = None
    num_train_epochs: Annotated[Number, Used()] = None
    gradient_accumulation_steps: Annotated[Whole, Used()] = None
    per_device_train_batch_size: Annotated[Whole, Used()] = None
    per_device_eval_batch_size: Annotated[Whole, SPEED] = None
    eval_accumulation_steps: Annotated[Whole, SPEED] = None
    gradient_checkpointing: Annotated[Flag, SPEED] = None
    use_flash_attention: Annotated[Flag, SPEED] = None
    fuse_gelu: Annotated[Flag, SPEED] = None
    int8_training: Annotated[Flag, MustBe((False,), NO_8BIT)] = None
    quantization: Annotated[Flag, Used()] = None
    seq2seqmodel: Annotated[Flag, MustBe((False,), NO_SEQ2SEQ)] = None
    peft_model: Annotated[Flag, Used()] = None
    peft_type: Annotated[Text, Used()] = None
    peft_config: Annotated[dict[str, Any] | None, Used()] = None
    residual_dropout: Annotated[Number, Used()] = None
    residual_dropout_lima: Annotated[Flag, Used()] = None
    max_length: Annotated[Whole, Used()] = None
    dtype: Annotated[Text, Used()] = None
    model_name: Annotated[Text, Used()] = None
    per_digit_tokens: Annotated[Flag, Used()] = None
    datasets: Annotated[list[Any] | None, Used()] = None
    datasets_extra: Annotated[list[Any] | None, Used()] = None
    use_custom_sampler: Annotated[Flag, Used()] = None
    sort_by_length: Annotated[Flag, Used()] = None
    eval_size: Annotated[Whole, Used()] = None
    use_system_tag: Annotated[Flag, Used()] = None
    system_property_dropout: Annotated[Number, Used()] = None
    system_add_length: Annotated[Flag, Used()] = None
    cache_dir: Annotated[Text, PLACED] = None
    output_dir: Annotated[Text, PLACED] = None
    save_strategy: Annotated[Text, SAVED] = None
    save_steps: Annotated[Whole, SAVED] = None
    save_total_limit: Annotated[Whole, SAVED] = None
    resume_from_checkpoint: Annotated[Any, SAVED] = None
    logging_steps: Annotated[Whole, LOGGED] = None
    log_dir: Annotated[Text, LOGGED] = None
    log_wandb: Annotated[Flag, LOGGED] = None
    wandb_entity: Annotated[Text, LOGGED] = None
    verbose: Annotated[Flag, LOGGED] = None
    show_dataset_stats: Annotated[Flag, Ignored("`rlhf data stats` shows them")] = None
    deepspeed_config: Annotated[Text, LAUNCHED] = None
    deepspeed: Annotated[Flag, LAUNCHED] = None
    local_rank: Annotated[Whole, LAUNCHED] = None
    world_size: Annotated[Whole, LAUNCHED] = None


class SftSettings(SupervisedSettings):
    """What trainer_sft reads."""

    is_reward_model: Annotated[Flag, MustBe((False,), "it is true: use --stage rm")] = None
    loss_fn: Annotated[Text, Used()] = None
    poly_eps: Annotated[Number, Used()] = None
    val_max_length: Annotated[Whole, Used()] = None
    samples_mixing: Annotated[Flag, Used()] = None
    random_offset_probability: Annotated[Number, Used()] = None
    label_masking: Annotated[Flag, Used()] = None
    use_system_prefix: Annotated[Flag, Used()] = None
    system_prefix: Annotated[Text, Used()] = None
    superhot: Annotated[Flag, Used()] = None
    superhot_config: Annotated[dict[str, Any] | None, Used()] = None


class RmSettings(SupervisedSettings):
    """What trainer_rm reads."""

    is_reward_model: Annotated[Flag, Ignored("the stage says it")] = None
    loss_fn: Annotated[Text, Used()] = None
    score_l2_reg: Annotated[Number, Used()] = None
    pooling: Annotated[Text, Carried("pooling")] = None
    max_replies: Annotated[Whole, Used()] = None
    metrics: Annotated[Any, Ignored("accuracy, Kendall τ and Spearman ρ are always measured")] = (
        None
    )


class RlSettings(Settings):
    """What trainer_rl reads, besides trlX's own file."""

    rng_seed: Annotated[Whole, Carried("seed")] = None
    batch_size: Annotated[Whole, Used()] = None
    num_rollouts: Annotated[Whole, Used()] = None
    total_steps: Annotated[Whole, Used()] = None
    chunk_size: Annotated[Whole, SPEED] = None
    datasets: Annotated[list[Any] | None, Used()] = None
    datasets_extra: Annotated[list[Any] | None, Used()] = None
    eval_size: Annotated[Whole, Used()] = None
    num_eval_prompts: Annotated[Whole, Used()] = None
    rank_config: Annotated[dict[str, Any] | None, Used()] = None
    sft_config: Annotated[dict[str, Any] | None, Used()] = None
    debug: Annotated[Flag, MustBe((False,), "write the few prompts and rollouts down yourself")] = (
        None
    )
    dtype: Annotated[Text, Ignored("trainer_rl.py reads that of sft_config")] = None
    cache_dir: Annotated[Text, PLACED] = None
    output_dir: Annotated[Text, PLACED] = None
    log_dir: Annotated[Text, LOGGED] = None
    wandb_entity: Annotated[Text, LOGGED] = None
    local_rank: Annotated[Whole, LAUNCHED] = None
    triton_host_rm: Annotated[Text, Ignored("model servers are started by the stage")] = None
    triton_host_sft: Annotated[Text, Ignored("model servers are started by the stage")] = None
    rank_model: Annotated[Text, Ignored("trainer_rl.py does not read it")] = None
    sft_model: Annotated[Text, Ignored("trainer_rl.py does not read it")] = None


class RlModelSettings(Settings):
    """``sft_config`` and ``rank_config``: the two models of PPO."""

    model_name: Annotated[Text, Used()] = None
    freeze_layer: Annotated[Whole, Carried("freeze_layers")] = None
    num_layers_unfrozen: Annotated[
        Whole, MustBe((-1,), "freeze_layers counts from below: say how many layers stay frozen")
    ] = None
    residual_dropout: Annotated[Number, MustBe((0,), NO_DROPOUT)] = None
    dtype: Annotated[Text, Used()] = None
    pooling: Annotated[Text, Ignored("the reward model's folder says it")] = None
    is_reward_model: Annotated[Flag, Ignored("the stage says it")] = None
    quantization: Annotated[Flag, MustBe((False,), NO_8BIT)] = None
    seq2seqmodel: Annotated[Flag, MustBe((False,), NO_SEQ2SEQ)] = None
    use_flash_attention: Annotated[Flag, SPEED] = None
    batch_size: Annotated[Whole, SPEED] = None
    cache_dir: Annotated[Text, PLACED] = None


class TrlxTrain(Settings):
    """``train`` of ppo_config.yaml."""

    seq_length: Annotated[Whole, Used()] = None
    epochs: Annotated[Whole, Used()] = None
    total_steps: Annotated[Whole, Ignored("trainer_rl.py overwrites it")] = None
    batch_size: Annotated[Whole, Ignored("trainer_rl.py overwrites it")] = None
    seed: Annotated[Whole, Ignored("rng_seed goes before")] = None
    checkpoint_interval: Annotated[Whole, SAVED] = None
    eval_interval: Annotated[Whole, Ignored("the stage evaluate measures the result")] = None
    pipeline: Annotated[Text, LAUNCHED] = None
    trainer: Annotated[Text, LAUNCHED] = None
    tracker: Annotated[Text, LOGGED] = None
    project_name: Annotated[Text, LOGGED] = None
    entity_name: Annotated[Text, LOGGED] = None


class TrlxModel(Settings):
    """``model``."""

    model_path: Annotated[Text, Ignored("trainer_rl.py overwrites it")] = None
    model_arch_type: Annotated[Text, MustBe(("causal",), NO_SEQ2SEQ)] = None
    num_layers_unfrozen: Annotated[Whole, Ignored("trainer_rl.py reads that of sft_config")] = None


class TrlxTokenizer(Settings):
    """``tokenizer``."""

    tokenizer_path: Annotated[Text, Ignored("trainer_rl.py overwrites it")] = None
    truncation_side: Annotated[
        Text, MustBe(("left",), "prompts are cut from the left, or dropped")
    ] = None
    padding_side: Annotated[Text, Ignored("batches are padded as they have to be")] = None


class TrlxOptimizer(Settings):
    """``optimizer``."""

    name: Annotated[Text, MustBe(("adamw",), "the optimizer is AdamW")] = None
    kwargs: Annotated[dict[str, Any] | None, Used()] = None


class TrlxAdam(Settings):
    """``optimizer.kwargs``."""

    lr: Annotated[Number, Carried("optimizer.learning_rate")] = None
    eps: Annotated[Number, Carried("optimizer.eps")] = None
    weight_decay: Annotated[Number, Carried("optimizer.weight_decay")] = None
    betas: Annotated[tuple[float, float] | None, Used()] = None


class TrlxScheduler(Settings):
    """``scheduler``."""

    name: Annotated[Text, Used()] = None
    kwargs: Annotated[dict[str, Any] | None, Used()] = None


class TrlxCosine(Settings):
    """``scheduler.kwargs``."""

    T_max: Annotated[Number, Used()] = None
    eta_min: Annotated[Number, Used()] = None


class TrlxMethod(Settings):
    """``method``: PPO."""

    name: Annotated[Text, MustBe(("ppoconfig", "PPOConfig"), "the method is PPO")] = None
    num_rollouts: Annotated[Whole, Ignored("trainer_rl.py overwrites it")] = None
    chunk_size: Annotated[Whole, Ignored("trainer_rl.py overwrites it")] = None
    ppo_epochs: Annotated[Whole, Carried("epochs")] = None
    init_kl_coef: Annotated[Number, Carried("kl.coefficient")] = None
    target: Annotated[Number, Used()] = None
    horizon: Annotated[Whole, Carried("kl.horizon")] = None
    gamma: Annotated[Number, Carried("gamma")] = None
    lam: Annotated[Number, Carried("lam")] = None
    cliprange: Annotated[Number, Carried("clip")] = None
    cliprange_value: Annotated[Number, Carried("value.clip")] = None
    vf_coef: Annotated[Number, Carried("value.coefficient")] = None
    cliprange_reward: Annotated[Number, Carried("rewards.clip")] = None
    scale_reward: Annotated[Any, Used()] = None
    ref_mean: Annotated[Number, Ignored("scores are set to mean 0 and deviation 1")] = None
    ref_std: Annotated[Number, Ignored("scores are set to mean 0 and deviation 1")] = None
    gen_kwargs: Annotated[dict[str, Any] | None, Used()] = None


class TrlxSampling(Settings):
    """``method.gen_kwargs``."""

    max_new_tokens: Annotated[Whole, Carried("sampling.max_new_tokens")] = None
    temperature: Annotated[Number, Carried("sampling.temperature")] = None
    top_k: Annotated[Whole, Carried("sampling.top_k")] = None
    top_p: Annotated[Number, Carried("sampling.top_p")] = None
    do_sample: Annotated[Flag, MustBe((True,), "responses are sampled")] = None


TRAINERS: tuple[type[Settings], ...] = (SftSettings, RmSettings, RlSettings)
