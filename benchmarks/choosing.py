"""Five methods from the same SFT model, with the same budget of seconds: which wins by gold, and at what memory.

    make pipeline                                            # leaves the SFT and the reward model of runs/default
    python benchmarks/choosing.py --parent default --seconds 120 --out choosing.json

Each method trains in a process of its own, so that its peak memory is its own, and stops at the end of the update in
which its budget runs out; loading and saving are not counted. PPO, GRPO and RLOO learn from the run's reward model, on
all prompts and with the same KL target; DPO and KTO learn from the pairs that the reward model was trained on. Then all
of them and the SFT model answer the same held-out prompts. The clock is the wall's, or with --clock cpu the processor
time of the process a thread, which a busy machine does not change.

Written: for each method updates, seconds, peak memory, its part above the libraries', and stage=evaluate's figures.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOREVER = 10**6  # steps; the budget ends it before
METHODS = {
    "ppo": ["recipes=embedded/ppo", f"trainer.total_episodes={64 * FOREVER}", "trainer.num_sample_generations=0"],
    "dpo": [
        "recipes=embedded_dpo/dpo",
        f"trainer.max_steps={FOREVER}",
        "trainer.lr_scheduler_type=constant",  # a schedule over FOREVER would hardly move
        "trainer.eval_strategy=no",
    ],
    "kto": [
        "recipes=embedded_kto/kto",
        f"trainer.max_steps={FOREVER}",
        "trainer.lr_scheduler_type=constant",
        "trainer.eval_strategy=no",
    ],
    "rloo": [
        "recipes=embedded_rloo/rloo",
        f"trainer.max_steps={FOREVER}",
        "trainer.eval_strategy=no",
        "trainer.eval_on_start=false",
        "grpo.sample_rows=0",
    ],
    "grpo": [
        "recipes=embedded_grpo/grpo",
        f"trainer.max_steps={FOREVER}",
        "reward=model",
        "data.prompts.options.checkable=false",
        "trainer.max_completion_length=48",  # PPO's
        "trainer.beta=0.1",
        "kl=adaptive",
        "kl.target=5.0",  # PPO's
        "kl.horizon=640",
        "trainer.eval_strategy=no",
        "trainer.eval_on_start=false",
        "grpo.sample_rows=0",
    ],
}


def train(method: str, given: argparse.Namespace) -> dict:
    """One method in this process. Its updates, seconds and memory."""
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    sys.path.insert(0, str(ROOT))
    from importlib import import_module

    from hydra import compose, initialize_config_dir
    from transformers import TrainerCallback

    from rlhf_recipes import stages
    from rlhf_recipes.__main__ import register_recipes, rewrite
    from rlhf_recipes.config.paths import CONF
    from rlhf_recipes.runs.provenance import peak_memory
    from rlhf_recipes.training import fit
    from rlhf_recipes.training.updates import steps_an_update

    clock = time.process_time if given.clock == "cpu" else time.perf_counter
    threads = int(os.environ["OMP_NUM_THREADS"]) if given.clock == "cpu" else 1
    spent = {}

    class Budget(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            self.began = clock()

        def on_step_end(self, args, state, control, **kwargs):
            steps = steps_an_update(args)
            spent.update(updates=state.global_step // steps, seconds=round((clock() - self.began) / threads, 1))
            if spent["seconds"] >= given.seconds and state.global_step % steps == 0:
                control.should_training_stop = True

    usual = fit.callbacks
    fit.callbacks = lambda run: [*usual(run), Budget()]  # before the modules that build a trainer import it
    import_module("rlhf_recipes.grpo.stage")
    import_module("rlhf_recipes.training.pairwise")
    before = peak_memory()["peak_rss_mb"]  # Python and the libraries
    places = [f"run.root={given.root}", f"run.name={given.name}", f"run.parent={given.parent}", "run.overwrite=true"]
    register_recipes()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        shared = [f"seed={given.seed}", "trainer.save_strategy=no", *places]
        stages.run(compose("config", rewrite([*METHODS[method], *shared])))
    memory = peak_memory()
    return spent | memory | {"above_libraries_mb": round(memory["peak_rss_mb"] - before, 1)}


def evaluate(given: argparse.Namespace) -> dict:
    """stage=evaluate on the parent's SFT model and the three that were made of it."""
    command = [sys.executable, "-m", "rlhf_recipes", "recipes=embedded/evaluate", f"seed={given.seed}"]
    command += [f"run.root={given.root}", f"run.name={given.name}", f"run.parent={given.parent}", "run.overwrite=true"]
    command += [f"evaluate.prompts={given.prompts}"]
    subprocess.run(command, cwd=ROOT, check=True)
    summary = Path(given.root) / given.name / "evaluate" / "summary.json"
    return json.loads(summary.read_text(encoding="utf-8"))["metrics"]


def own_process(method: str, argv: list[str]) -> dict:
    """The JSON that this script prints as its last line when it trains one method."""
    done = subprocess.run(
        [sys.executable, __file__, *argv, "--method", method], stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def table(results: dict) -> str:
    """Markdown, a row a method."""
    rows = [
        "| method | updates | peak memory | over the libraries | gold | wins over SFT, decided | KL | answers right |"
    ]
    rows.append("|---|---|---|---|---|---|---|---|")
    for method in ("sft", *METHODS):
        trained, figures = results["trained"].get(method), results["evaluated"]["models"][method]
        cells = ["-"] * 3
        if trained:
            memory = [f"{trained[k]:,.0f} MB" for k in ("peak_rss_mb", "above_libraries_mb")]
            cells = [f"{trained['updates']}", *memory]
        versus = results["evaluated"]["win_rate"].get(f"{method}_vs_sft")
        wins = "-"
        if versus:
            low, high = versus["decided_ci95"]
            wins = f"{versus['decided']:.0%} ({low:.0%} to {high:.0%})"
        right = figures.get("accuracy")
        figures = [f"{figures['gold']:.2f}", wins, f"{figures['kl']:.1f}", "-" if right is None else f"{right:.0%}"]
        rows.append("| " + " | ".join([method.upper(), *cells, *figures]) + " |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="runs", help="where runs lie")
    parser.add_argument("--parent", default="default", help="a finished embedded run: its sft and reward are taken")
    parser.add_argument("--name", default="choosing", help="the run that is made")
    parser.add_argument("--seconds", type=float, default=120.0, help="of training, a method")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--prompts", type=int, default=256, help="held-out prompts to compare on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", help="JSON file")
    parser.add_argument("--method", choices=tuple(METHODS), help=argparse.SUPPRESS)
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(given.threads)
    given.root = str(Path(given.root).resolve())
    if given.method:
        print(json.dumps(train(given.method, given)))
        return
    trained = {}
    for method in METHODS:
        trained[method] = own_process(method, sys.argv[1:])
        print(method, trained[method], file=sys.stderr, flush=True)
    reward = json.loads((Path(given.root) / given.parent / "reward" / "summary.json").read_text(encoding="utf-8"))
    results = {
        "seconds": given.seconds,
        "clock": given.clock,
        "threads": given.threads,
        "seed": given.seed,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": reward["versions"],
        "reward_model_seconds": reward["wall_seconds"],
        "trained": trained,
        "evaluated": evaluate(given),
    }
    if given.out:
        Path(given.out).write_text(json.dumps(results, indent=2), encoding="utf-8")
    print(table(results))


if __name__ == "__main__":
    main()
