"""A tiny world: forty words, a two-layer model, prompts of unlike length, and a reward that counts one word."""

import copy
import json
from functools import partial

WORDS = [f"w{i}" for i in range(40)]

# one update of eight episodes, one forward a step
SETTINGS = {
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "num_mini_batches": 1,
    "num_ppo_epochs": 2,
    "total_episodes": 8,
    "response_length": 6,
    "stop_token": "eos",
    "temperature": 0.7,
    "learning_rate": 1e-3,
    "lr_scheduler_type": "constant",
    "max_grad_norm": 0.0,
    "bf16": False,
    "activation_checkpointing": False,
    "use_cpu": True,
    "report_to": [],
    "save_strategy": "no",
    "disable_tqdm": True,
    "num_sample_generations": 0,
    "seed": 3,
}


def make_tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {w: i for i, w in enumerate(["<pad>", "<s>", "</s>", "<unk>", *WORDS])}
    raw = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=raw, padding_side="left", **special)


def make_models():
    """Policy, value and reward model of two layers, seeded."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

    shape = {"vocab_size": 44, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64}
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.3}
    config = LlamaConfig(**shape, **heads, **special, num_labels=1)
    torch.manual_seed(0)
    made = {"policy": LlamaForCausalLM(config)}
    with torch.no_grad():
        made["policy"].lm_head.weight[2] *= 2  # a fair share of answers shall end
    for name in ("value", "reward"):
        made[name] = LlamaForSequenceClassification(config)
    return made


def make_prompts():
    from datasets import Dataset

    rows = [" ".join(WORDS[(3 * i + j) % 40] for j in range(1 + i % 4)) for i in range(24)]
    return Dataset.from_dict({"prompt": rows, "answer": [f"a{i}" for i in range(24)]})


def count_w1(prompts, completions, **kwargs):
    """1 for each w1 in the answer, and a little for length, so that no two rows need be alike."""
    return [float(c.split().count("w1")) + 0.1 * len(c.split()) for c in completions]


def make_trainer(
    output_dir, trainer=None, model=None, reward=count_w1, data=None, tokenizer=None, world=None, **config
):
    """PPOTrainer on the tiny world; keywords go to the config, `trainer` to the trainer."""
    from rlhf_recipes.ppo import PPOConfig, PPOTrainer

    world = world or make_models()
    given = {"value_model": copy.deepcopy(world["value"])} | (trainer or {})
    return PPOTrainer(
        copy.deepcopy(world["policy"]) if model is None else model,
        PPOConfig(**{"output_dir": str(output_dir)} | SETTINGS | config),
        tokenizer or make_tokenizer(),
        reward,
        make_prompts() if data is None else data,
        **given,
    )


def make_trl_trainer(
    output_dir, trainer=None, model=None, reward_model=None, data=None, keep=(), tokenizer=None, world=None, **config
):
    """TRL's PPOTrainer on the tiny world; of the prompts' columns it gets their tokens, and those in `keep`."""
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    world, tokenizer = world or make_models(), tokenizer or make_tokenizer()
    data = make_prompts() if data is None else data
    policy = copy.deepcopy(world["policy"]) if model is None else model
    gone = [name for name in data.column_names if name not in keep]
    rows = data.map(partial(_tokenise, tokenizer=tokenizer), remove_columns=gone, keep_in_memory=True)
    given = {
        "ref_model": copy.deepcopy(policy),
        "reward_model": reward_model or copy.deepcopy(world["reward"]),
        "value_model": copy.deepcopy(world["value"]),
        "train_dataset": rows,
        "eval_dataset": rows,
    }
    args = PPOConfig(**{"output_dir": str(output_dir)} | SETTINGS | config)
    return PPOTrainer(args=args, processing_class=tokenizer, model=policy, **given | (trainer or {}))


def _tokenise(row, tokenizer):
    return {"input_ids": tokenizer(row["prompt"])["input_ids"]}


def save_world(folder, world, tokenizer):
    """The tiny world as files, for a stage: policy/ and prompts.jsonl."""
    world["policy"].save_pretrained(folder / "policy")
    tokenizer.save_pretrained(folder / "policy")
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in make_prompts()))


def stage_words(folder, root):
    """What the shell is given to run stage=ppo on those files; the reward is for answers of five words."""
    words = [f"{name}={'null' if value is None else value}" for name, value in SETTINGS.items() if name not in OWN]
    words = [f"trainer.{word.replace('False', 'false').replace('True', 'true')}" for word in words]
    aim = "reward.functions.length_target.kwargs"
    return [
        "stage=ppo",
        "model=local",
        "data=local",
        "reward=length",
        "kl=fixed",
        f"run.root={root}",
        f"model.path={folder}/policy",
        f"inputs.policy={folder}/policy",
        f"data.prompts.path={folder}/prompts.jsonl",
        f"{aim}.target=5",
        f"{aim}.width=5",
        "data.eval_fraction=0",
        "ppo.sample_rows=0",
        *words,
    ]


OWN = ("use_cpu", "report_to", "disable_tqdm", "seed", "max_grad_norm")  # fields that the stage fills, and lists


def history(trainer, metric):
    """The values of a metric over a run's log lines."""
    return [row[metric] for row in trainer.state.log_history if metric in row]
