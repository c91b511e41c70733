"""TRL 1.12's PPOTrainer and ours on the same model, prompts and number of optimizer steps, alternating, in one run.

    python benchmarks/ppo_vs_trl.py --case qwen_vocab --dtype float32 --out qwen_vocab.json

Cases: qwen_vocab (Qwen's vocabulary of 151,936; 6 layers of 256), small_vocab (2,048; 4 layers of 256), stories260k (a
real model, found under RLHF_RECIPES_REAL_DATA). 32 episodes an update, 48 new tokens, 4 epochs of one minibatch.
Each trainer is a process of its own, so that its peak memory is its own, and they take turns, an update each: what else
the machine does meets both. speedup is the median over these pairs; the first is warm-up and is not counted. The matrix
product peak is measured in the same run. Written: speedup, memory_ratio, medians, phases, versions.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EPISODES, TOKENS, EPOCHS, MICRO, PROMPT = 32, 48, 4, 8, 16
CASES = {"qwen_vocab": (151_936, 6), "small_vocab": (2_048, 4), "stories260k": None}


def models(case: str):
    """Policy and value model of a case, seeded."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, Qwen2Config

    torch.manual_seed(0)
    if case == "stories260k":
        folder = os.environ["RLHF_RECIPES_REAL_DATA"] + "/models/stories260K"
        value = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, pad_token_id=0)
        return AutoModelForCausalLM.from_pretrained(folder), value
    vocab, layers = CASES[case]
    shape = {"vocab_size": vocab, "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": layers}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True}
    config = Qwen2Config(**shape, **heads, num_labels=1, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    return AutoModelForCausalLM.from_config(config), AutoModelForSequenceClassification.from_config(config)


def tokenizer():
    """Both trainers are fed ids; a tokenizer only has to name its special tokens and decode."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(WordLevel({"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3}, unk_token="<unk>"))
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=raw, padding_side="left", **special)


def run(side: str, case: str, dtype: str, updates: int, turns: bool = False) -> dict:
    """Train in this process. Seconds and phases of each counted update, peak memory in MB.

    Args:
        turns: say "@turn" before each update, and wait for a line on standard input.
    """
    import torch
    from datasets import Dataset
    from transformers import TrainerCallback

    sys.path.insert(0, str(ROOT))
    policy, value = models(case)
    generator = torch.Generator().manual_seed(1)
    vocab = policy.config.vocab_size
    ids = torch.randint(4, vocab, (EPISODES * (updates + 2), PROMPT), generator=generator).tolist()
    data = Dataset.from_dict({"input_ids": ids})
    settings = {
        "output_dir": tempfile.mkdtemp(),
        "per_device_train_batch_size": MICRO,
        "gradient_accumulation_steps": EPISODES // MICRO,
        "num_ppo_epochs": EPOCHS,
        "total_episodes": EPISODES * (updates + 1),
        "response_length": TOKENS,
        "temperature": 1.0,
        "learning_rate": 1e-5,
        "bf16": dtype == "bfloat16",
        "gradient_checkpointing": False,
        "use_cpu": not torch.cuda.is_available(),
        "report_to": [],
        "save_strategy": "no",
        "disable_tqdm": True,
        "num_sample_generations": 0,
    }

    class Clock(TrainerCallback):
        """(begin, end) of every update: by the clock, and in processor time."""

        def __init__(self):
            self.at, self.cpu = [], []

        def on_train_begin(self, args, state, control, **kwargs):
            if turns:
                print("@turn", flush=True)
                sys.stdin.readline()
            self.begin = time.perf_counter(), time.process_time()

        def on_log(self, args, state, control, logs=None, **kwargs):
            if "episode" in logs:
                self.at.append((self.begin[0], time.perf_counter()))
                self.cpu.append((self.begin[1], time.process_time()))
                self.on_train_begin(args, state, control)

    clock, marks = Clock(), []
    if side == "trl":
        import copy

        from trl.experimental.ppo import PPOConfig, PPOTrainer

        mark_trl(marks)
        trainer = PPOTrainer(
            args=PPOConfig(**settings),
            processing_class=tokenizer(),
            model=policy,
            ref_model=copy.deepcopy(policy),
            reward_model=free_reward(),
            value_model=value,
            train_dataset=data,
            eval_dataset=data,
            callbacks=[clock],
        )
    else:
        from rlhf_recipes.ppo import PPOConfig, PPOTrainer

        def free(prompts, completions, completion_ids):
            return [float(sum(ids) % 7) for ids in completion_ids]

        trainer = PPOTrainer(
            policy, PPOConfig(**settings), tokenizer(), free, data, value_model=value, callbacks=[clock]
        )
    trainer.train()
    rows = [row for row in trainer.state.log_history if "episode" in row][1:]
    phases = {name: [row[name] for row in rows] for name in rows[0] if name.startswith("time/")} | trl_phases(
        marks, clock.at[1:]
    )
    seconds, cpu_seconds = ([end - begin for begin, end in spans[1:]] for spans in (clock.at, clock.cpu))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated() / 2**20
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_mb": peak, "phases": phases}


def mark_trl(marks: list[tuple[str, float]]) -> None:
    """Note when TRL's generation begins and ends, and when its advantages are whitened: what follows is optimising."""
    from trl.experimental.ppo import ppo_trainer

    generation, whiten = ppo_trainer.batch_generation, ppo_trainer.masked_whiten

    def noted_generation(*args, **kwargs):
        marks.append(("begin", time.perf_counter()))
        out = generation(*args, **kwargs)
        marks.append(("end", time.perf_counter()))
        return out

    def noted_whiten(*args, **kwargs):
        out = whiten(*args, **kwargs)
        marks.append(("whitened", time.perf_counter()))
        return out

    ppo_trainer.batch_generation, ppo_trainer.masked_whiten = noted_generation, noted_whiten


def trl_phases(marks: list[tuple[str, float]], spans: list[tuple[float, float]]) -> dict[str, list[float]]:
    """TRL's seconds an update for what ours logs: rollout, value (reference, critic and reward), optimise."""
    phases = {"time/rollout": [], "time/value": [], "time/optimise": []}
    for before, after in spans if marks else ():
        at = {name: seconds for name, seconds in marks if before < seconds < after}
        for phase, start, end in zip(phases, at, [*list(at)[1:], None], strict=True):
            phases[phase].append((at[end] if end else after) - at[start])
    return {name: seconds for name, seconds in phases.items() if seconds}


def free_reward():
    """A reward model in TRL's form that costs nothing: the ids are the hidden states."""
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
            return hidden.cumsum(1) % 7

    return Reward()


def matmul_peak(dtype: str) -> float:
    """GFLOP/s of a large matrix product on this machine."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    a, b = (torch.randn(2048, 2048, device=device, dtype=getattr(torch, dtype)) for _ in range(2))
    best = 0.0
    for _ in range(5):
        start = time.perf_counter()
        (a @ b).sum().item()
        best = max(best, 2 * 2048**3 / (time.perf_counter() - start) / 1e9)
    return best


def products(case: str) -> float:
    """GFLOP of matrix products that an update of ours cannot do without: generation, reference, critic, epochs."""
    policy, _ = models(case)
    size = {n: p.numel() for n, p in policy.named_parameters()}
    head = policy.get_output_embeddings().weight.numel()
    tied = policy.config.tie_word_embeddings
    body = sum(size.values()) - head * (1 if tied else 2)
    rows, answer = EPISODES * (PROMPT + TOKENS), EPISODES * TOKENS
    forward = 2 * (body * rows + head * answer)
    critic = 2 * body * rows
    return (2 * forward + critic + EPOCHS * 3 * (forward + critic)) / 1e9


class Child:
    """One trainer in a process of its own, which trains an update when it is told to."""

    def __init__(self, side: str, args):
        command = [sys.executable, __file__, "--side", side, "--case", args.case, "--dtype", args.dtype]
        command += ["--updates", str(args.updates)]
        self.side = side
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"TRL_EXPERIMENTAL_SILENCE": "1"},
        )
        self.wait()

    def wait(self) -> dict:
        """Until it waits for its turn, or is done and tells its result."""
        said = []
        for line in self.process.stdout:
            said.append(line)
            if line.startswith("@turn"):
                return {}
            if line.startswith("@result"):
                return json.loads(line.removeprefix("@result"))
        sys.exit(f"{self.side} failed:\n{''.join(said)[-3000:]}")

    def turn(self) -> dict:
        """Its next update. After the last, its result."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.wait()


def race(args) -> dict[str, dict]:
    """The result of each side: as many updates as asked for, in turns."""
    children = [Child(side, args) for side in ("trl", "ours")]
    for _ in range(args.updates + 1):
        for child in children:
            child.turn()
    return {child.side: child.turn() for child in children}


def ratios(runs: dict[str, list[dict]], name: str) -> list[float]:
    """TRL's figure over ours, for every pair of updates of every pair of runs."""
    figures = ([value for run in runs[side] for value in run[name]] for side in ("trl", "ours"))
    return [trl / ours for trl, ours in zip(*figures, strict=True)]


def where() -> dict:
    """What a figure was measured on, and with."""
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    return {
        "machine": f"{device}, {os.cpu_count()} cores",
        "threads": torch.get_num_threads(),
        "load": os.getloadavg(),
        "versions": {name: version(name) for name in ("torch", "trl", "transformers")},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", choices=CASES, required=True)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--updates", type=int, default=8, help="counted updates of each run")
    parser.add_argument("--repeats", type=int, default=2, help="runs of each trainer")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--side", choices=("trl", "ours"), help="run one trainer in this process (used by the script)")
    args = parser.parse_args()
    if args.case == "stories260k" and "RLHF_RECIPES_REAL_DATA" not in os.environ:
        parser.error("set RLHF_RECIPES_REAL_DATA to the folder that holds models/stories260K")
    if args.side:
        print("@result" + json.dumps(run(args.side, args.case, args.dtype, args.updates, turns=True)), flush=True)
        return
    runs = {"trl": [], "ours": []}
    for i in range(args.repeats):
        for side, found in race(args).items():
            runs[side].append(found)
            print(f"{i + 1}/{args.repeats} {side}: {statistics.median(found['seconds']):.2f} s an update", flush=True)
    pairs = ratios(runs, "seconds")
    median = {side: statistics.median(s for r in rs for s in r["seconds"]) for side, rs in runs.items()}
    cpu = {side: statistics.median(s for r in rs for s in r["cpu_seconds"]) for side, rs in runs.items()}
    peak = {side: max(r["peak_mb"] for r in rs) for side, rs in runs.items()}
    speed = matmul_peak(args.dtype)
    phases = {
        side: {
            n.removeprefix("time/"): statistics.median(s for r in rs for s in r["phases"][n]) for n in rs[0]["phases"]
        }
        for side, rs in runs.items()
    }
    result = {
        "case": args.case,
        "dtype": args.dtype,
        "speedup": statistics.median(pairs),
        "speedup_range": (min(pairs), max(pairs)),
        "speedup_cpu_time": statistics.median(ratios(runs, "cpu_seconds")),  # what a shared machine disturbs least
        "memory_ratio": peak["ours"] / peak["trl"],
        "seconds_an_update": median,
        "cpu_seconds_an_update": cpu,
        "episodes_per_second": {side: EPISODES / s for side, s in median.items()},
        "peak_mb": peak,
        "phases_seconds": phases,
        "matmul_peak_gflops": speed,
        "share_of_peak": products(args.case) / speed / median["ours"],
        **where(),
        "runs": runs,
    }
    if args.out:
        args.out.write_text(json.dumps(result, indent=2), encoding="utf-8")
    print(json.dumps({k: v for k, v in result.items() if k != "runs"}, indent=2))


if __name__ == "__main__":
    main()
