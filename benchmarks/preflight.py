"""The memory that `preflight=true` estimates, against the peak that the run then measures.

    python benchmarks/preflight.py --house <folder with models/ and tokenizers/> --out preflight.json

Three models (one made by a short pretraining, stories260K, a Qwen2.5-0.5B of random weights) through sft, reward, dpo,
kto, grpo, rloo and ppo, in full and with LoRA, a few steps each in a process of its own. The table has the estimate and
the measured peak in MB (10^6 bytes), estimate / measured, and the seconds of CPU that preflight=true took. The 0.5B
model wants 18 GB and an hour on one core; `--peaks preflight.json` takes the peaks of an earlier table instead of
training again, for a change of preflight alone.
"""

import argparse
import json
import os
import re
import resource
import shlex
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WITHIN = (0.9, 1.2)
# Steps, and batches that leave activations to count: without gradient checkpointing, except where 0.5B would not fit.
_SMALL = "max_steps=6 max_length=400 per_device_train_batch_size=8 gradient_checkpointing=false"
_LARGE = "max_steps=2 max_length=192 per_device_train_batch_size=2 gradient_checkpointing=false save_strategy=no"
_GROUPS = "gradient_checkpointing=false eval_strategy=no"
TRAINER = {
    "small": {
        **dict.fromkeys(("sft", "reward", "dpo", "kto"), _SMALL),
        **dict.fromkeys(
            ("grpo", "rloo"),
            f"max_steps=3 per_device_train_batch_size=16 num_generations=8 max_completion_length=32 {_GROUPS}",
        ),
        "ppo": "max_steps=3 per_device_train_batch_size=32 num_mini_batches=1 num_ppo_epochs=2 response_length=32 "
        "gradient_checkpointing=false",
    },
    "large": {
        **dict.fromkeys(("sft", "reward", "dpo", "kto"), _LARGE),
        **dict.fromkeys(
            ("grpo", "rloo"),
            "max_steps=2 per_device_train_batch_size=4 num_generations=4 max_completion_length=16 save_strategy=no "
            + _GROUPS,
        ),
        "ppo": "max_steps=2 per_device_train_batch_size=4 num_mini_batches=1 num_ppo_epochs=2 response_length=16 "
        "gradient_checkpointing=false save_strategy=no",
    },
}
STAGES = ("sft", "reward", "dpo", "kto", "grpo", "rloo", "ppo")
RUNS = tuple((stage, peft) for peft in ("none", "lora") for stage in STAGES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--house", type=Path, required=True, help="has models/stories260K and tokenizers/qwen2")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--work", type=Path, default=Path("preflight_benchmark"), help="made and left there")
    parser.add_argument("--models", default="tiny,stories260K,qwen0.5b")
    parser.add_argument("--only", default="", help="sft,reward,ppo+lora,…; what they start from must be made already")
    parser.add_argument("--peaks", type=Path, help="an earlier --out, whose measured peaks are taken")
    parser.add_argument("--prefix", default="", help="put before each command, e.g. nice")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    prefix = shlex.split(args.prefix)
    data = write_rows(args.work)
    table, peaks = [], {}
    if args.peaks:
        earlier = json.loads(args.peaks.read_text(encoding="utf-8"))["table"]
        peaks = {(row["model"], row["run"]): row["measured_mb"] for row in earlier if "measured_mb" in row}
    for model in args.models.split(","):
        start = starting_point(model, args, prefix)
        for stage, peft in RUNS:
            name = stage if peft == "none" else f"{stage}+{peft}"
            if args.only and name not in args.only.split(","):
                continue
            known = peaks.get((model, name))
            row = {"model": model, "run": name} | measure(model, stage, peft, [*start, *data], args.work, prefix, known)
            table.append(row)
            print(json.dumps(row), flush=True)
            if args.out:
                args.out.write_text(json.dumps(result(table), indent=2), encoding="utf-8")
    done = [row for row in table if "ratio" in row]
    worst = max(done, key=lambda row: abs(row["ratio"] - 1), default=None)
    print(f"{len(done)} of {len(table)} runs measured; furthest from 1: {worst}")


def result(table: list[dict]) -> dict:
    """What --out holds."""
    within = [WITHIN[0] <= row.get("ratio", 0) <= WITHIN[1] for row in table]
    packages = ("torch", "trl", "transformers", "peft", "safetensors")
    return {
        "table": table,
        "within": all(within),
        "versions": {name: version(name) for name in packages},
        "hardware": {"cores": os.cpu_count(), "memory_gb": round(_memory() / 1e9, 1)},
    }


def write_rows(work: Path) -> list[str]:
    """Rows of like length, long enough for max_length, of sentences from the embedded corpus."""
    sys.path.insert(0, str(ROOT))
    from rlhf_recipes.data import embedded

    sentences = [row["text"] for row in embedded.rows("corpus", seed=0, n=3000)]
    place = 0

    def text(characters: int) -> str:
        nonlocal place
        out = ""
        while len(out) < characters:
            out, place = f"{out}{sentences[place % len(sentences)]} ", place + 7
        return out[:characters]

    kinds = {
        "demos": lambda: {"prompt": text(250), "completion": text(1200)},
        "preferences": lambda: {"prompt": text(200), "chosen": text(300), "rejected": text(300)},
        "prompts": lambda: {"prompt": text(200)},
    }
    overrides = ["data=local", "data.max_eval=4", "data.eval_fraction=0.1"]
    for kind, make in kinds.items():
        rows = [{**row, "prompt": f"{n} {row['prompt']}"} for n in range(120) for row in [make()]]
        file = work / f"{kind}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        overrides.append(f"data.{kind}.path={file}")
    return overrides


def starting_point(model: str, args, prefix: list[str]) -> list[str]:
    """Overrides that name the model; makes it where it does not lie there yet."""
    runs = [f"run.root={args.work / 'runs'}", f"run.name={model}"]
    if model == "tiny":
        made = args.work / "runs" / "tiny" / "pretrain" / "summary.json"
        if not made.is_file():
            more = ["recipes=embedded/pretrain", "trainer.max_steps=20", "data.corpus.limit=2000"]
            shell(["stage=pretrain", *more, *runs], prefix)
        return [*runs, "model=tiny"]
    if model == "stories260K":
        return [*runs, "model=local", f"model.path={args.house / 'models' / 'stories260K'}"]
    folder = args.work / "qwen0.5b"
    if not (folder / "model.safetensors").is_file():
        code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import preflight; preflight.make_qwen"
        call = f"{code}({str(folder)!r}, {str(args.house / 'tokenizers' / 'qwen2')!r})"
        subprocess.run([*prefix, sys.executable, "-c", call], check=True)
    return [*runs, "model=local", f"model.path={folder}", "model.pad_token='<|pad|>'"]


def make_qwen(folder: str, tokenizer: str) -> None:
    """Qwen2.5-0.5B's config with random weights: 494 M parameters, in bfloat16 as it is on the hub."""
    import torch
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        vocab_size=151936,
        max_position_embeddings=32768,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        bos_token_id=151643,
        eos_token_id=151643,
    )
    torch.manual_seed(0)
    Qwen2ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)


def measure(
    model: str, stage: str, peft: str, overrides: list[str], work: Path, prefix: list[str], measured: float | None
) -> dict:
    """One stage in a process of its own: {estimate_mb, measured_mb, ratio, preflight_cpu_seconds}, or {failed}.

    Args:
        measured: the peak, MB, where it is known already; the stage is not run then, unless others start from it.
    """
    size = "large" if model == "qwen0.5b" else "small"
    trainer = [f"trainer.{word}" for word in TRAINER[size][stage].split()]
    trainer += ["trainer.gradient_accumulation_steps=1", "trainer.per_device_eval_batch_size=4"]
    if stage == "ppo":
        trainer.append("ppo.sample_rows=0")
        if size == "large" and peft == "none":  # policy and critic in full, with Adam, would take 20 GB
            trainer.append("inputs.value_model=none")
    name = f"run.name={model}" if peft == "none" else f"run.name={model}-{peft}"
    own = [word for word in overrides if not word.startswith("run.name=")]
    parent = [] if peft == "none" else [f"run.parent={model}"]
    reward = ["reward=length"] if stage in ("grpo", "rloo") else []
    words = [f"stage={stage}", f"peft={peft}", *own, name, *parent, "run.overwrite=true", *trainer, *reward]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    told = shell([*words, "preflight=true"], prefix)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1)
    estimate = re.search(r"verdict: .*?: ([\d.]+) (GB|MB) at the peak", told.stdout)
    if estimate is None:
        return {"failed": told.returncode, "output": (told.stdout + told.stderr)[-600:]}
    estimate_mb = float(estimate[1]) * (1000 if estimate[2] == "GB" else 1)
    folder = work / "runs" / name.partition("=")[2] / stage
    if measured is None:
        done = shell(words, prefix)
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        if done.returncode:
            return {"failed": done.returncode, "output": done.stderr[-600:]}
        measured = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["preflight"]["measured_mb"]
        if peft != "none" or stage not in ("sft", "reward"):  # nothing starts from it
            shutil.rmtree(folder)
    ratio = round(estimate_mb / measured, 3)
    return {"estimate_mb": estimate_mb, "measured_mb": measured, "ratio": ratio, "preflight_cpu_seconds": seconds}


def shell(words: list[str], prefix: list[str]) -> subprocess.CompletedProcess:
    """One command of the package. Where memory runs out it is this process that the system should end."""
    command = [*prefix, sys.executable, "-m", "rlhf_recipes", *words]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}

    def first_to_go() -> None:
        Path("/proc/self/oom_score_adj").write_text("1000")

    linux = sys.platform == "linux"
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, preexec_fn=first_to_go if linux else None
    )


def _memory() -> int:
    import psutil

    return psutil.virtual_memory().total


if __name__ == "__main__":
    main()
