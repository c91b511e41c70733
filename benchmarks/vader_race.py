"""Who makes real stories happy first: TRL 1.12's PPOTrainer or ours, on stories260K with VADER's words as the reward.

    RLHF_RECIPES_REAL_DATA=… python benchmarks/vader_race.py --updates 60 --rounds 2 --out vader.json

Both sides get the same model, prompts (a story's first 16 tokens), reward, learning rates and update: 64 episodes of 48
tokens, 4 epochs of one minibatch, beta 0.02. A third side, `held`, is ours as one would run it: the same with beta
steered to a KL of 7 nats. Every run is a process of its own; sides alternate; a round is one run of each.
Written for each run: seconds an update, sentiment and KL by update, and when the mean sentiment of three updates first
reached 0.85 at a mean KL of 8 nats or less.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import ppo_vs_trl as benchmark

ROOT = Path(__file__).resolve().parents[1]
PROMPT, TOKENS, EPISODES = 16, 48, 64
WANTED, ALLOWED, WINDOW = 0.85, 8.0, 3
SIDES = ("trl", "ours", "held")


def run(side: str, updates: int, seed: int) -> dict:
    """Train in this process; [seconds since the start, sentiment, KL] of every update."""
    import copy

    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback

    sys.path.insert(0, str(ROOT))
    from rlhf_recipes.rewards.lexicon import sentiment

    real = Path(os.environ["RLHF_RECIPES_REAL_DATA"])
    lexicon = str(real / "data/sentiment/vader_lexicon.txt")
    folder = real / "models/stories260K"
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    policy = AutoModelForCausalLM.from_pretrained(folder)
    torch.manual_seed(seed)
    value = AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=1, pad_token_id=tokenizer.pad_token_id
    )
    texts = [json.loads(line)["text"] for line in (real / "data/tinystories/stories.jsonl").open(encoding="utf-8")]
    data = Dataset.from_dict({"input_ids": [tokenizer(text)["input_ids"][:PROMPT] for text in texts]})

    def happy(queries: list[str], answers: list[str]) -> list[float]:
        return sentiment(queries, answers, lexicon=lexicon, with_prompt=True)

    settings = {
        "output_dir": tempfile.mkdtemp(),
        "per_device_train_batch_size": EPISODES,
        "gradient_accumulation_steps": 1,
        "num_ppo_epochs": 4,
        "total_episodes": EPISODES * updates,
        "response_length": TOKENS,
        "temperature": 1.0,
        "learning_rate": 3e-4,
        "kl_coef": 0.02,
        "seed": seed,
        "bf16": False,
        "gradient_checkpointing": False,
        "use_cpu": not torch.cuda.is_available(),
        "report_to": [],
        "save_strategy": "no",
        "disable_tqdm": True,
        "num_sample_generations": 0,
    }
    log = []

    class Clock(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            if "objective/kl" in logs:
                log.append((time.perf_counter() - began, logs["objective/scores"], logs["objective/kl"]))

    if side == "trl":
        from trl.experimental.ppo import PPOConfig, PPOTrainer

        trainer = PPOTrainer(
            args=PPOConfig(**settings),
            processing_class=tokenizer,
            model=policy,
            ref_model=copy.deepcopy(policy),
            reward_model=as_module(happy, tokenizer),
            value_model=value,
            train_dataset=data,
            eval_dataset=data,
            callbacks=[Clock()],
        )
    else:
        from rlhf_recipes.ppo import PPOConfig, PPOTrainer
        from rlhf_recipes.training.kl import AdaptiveKL
        from rlhf_recipes.training.kl_control import KLControl

        held = [KLControl(AdaptiveKL(kl_coef=0.02, target=7.0, horizon=400))] if side == "held" else []
        trainer = PPOTrainer(
            policy,
            PPOConfig(**settings),
            tokenizer,
            lambda prompts, completions: happy(prompts, completions),
            data,
            value_model=value,
            callbacks=[*held, Clock()],
        )
    began = time.perf_counter()
    trainer.train()
    return {"seconds": time.perf_counter() - began, "log": log}


def as_module(reward, tokenizer):
    """A Python reward in the only form TRL's trainer takes: a backbone whose hidden states are the ids themselves."""
    import torch
    from transformers.modeling_outputs import BaseModelOutput

    class Backbone(torch.nn.Module):
        def forward(self, input_ids, **kwargs):
            return BaseModelOutput(hidden_states=(input_ids[..., None].float(),))

    class Reward(torch.nn.Module):
        base_model_prefix = "backbone"

        def __init__(self):
            super().__init__()
            self.backbone = Backbone()
            self.unused = torch.nn.Parameter(torch.zeros(1))

        def score(self, hidden):
            texts = tokenizer.batch_decode(hidden[..., 0].long(), skip_special_tokens=True)
            scores = torch.tensor(reward([""] * len(texts), texts), device=hidden.device)
            return scores[:, None, None].expand(-1, hidden.shape[1], 1)

    return Reward()


def there(log: list) -> float | None:
    """Seconds until `WINDOW` updates in a row had the wanted sentiment at the allowed KL, on average; None: never."""
    for end in range(WINDOW, len(log) + 1):
        rows = log[end - WINDOW : end]
        if statistics.fmean(r[1] for r in rows) >= WANTED and statistics.fmean(r[2] for r in rows) <= ALLOWED:
            return rows[-1][0]
    return None


def child(side: str, args) -> dict:
    command = [sys.executable, __file__, "--side", side, "--updates", str(args.updates), "--seed", str(args.seed)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    found = json.loads(done.stdout.splitlines()[-1])
    last = found["log"][-WINDOW:]
    found |= {
        "there": there(found["log"]),
        "sentiment": statistics.fmean(r[1] for r in last),
        "kl": statistics.fmean(r[2] for r in last),
    }
    print(f"{side}: {found['seconds']:.0f} s, sentiment {found['sentiment']:.3f}, KL {found['kl']:.2f}, "
          f"0.85 after {found['there'] and round(found['there'])} s", flush=True)  # fmt: skip
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        print(json.dumps(run(args.side, args.updates, args.seed)))
        return
    if "RLHF_RECIPES_REAL_DATA" not in os.environ:
        sys.exit("set RLHF_RECIPES_REAL_DATA to the folder that holds models/stories260K and data/")
    runs = {side: [] for side in SIDES}
    for round_ in range(args.rounds):
        for side in SIDES if round_ % 2 == 0 else reversed(SIDES):
            runs[side].append(child(side, args))
    median = {side: statistics.median(r["seconds"] for r in found) for side, found in runs.items()}
    reached = {side: [r["there"] for r in found] for side, found in runs.items()}
    report = {
        "median_seconds": median,
        "speedup": median["trl"] / median["ours"],
        "seconds_to_goal": reached,
        "share_of_trl": [t and t / median["trl"] for t in reached["held"]],
        "updates": args.updates,
        **benchmark.where(),
        "runs": runs,
    }
    if args.out:
        args.out.write_text(json.dumps(report, indent=1))
    print(json.dumps({k: v for k, v in report.items() if k != "runs"}, indent=1))


if __name__ == "__main__":
    main()
