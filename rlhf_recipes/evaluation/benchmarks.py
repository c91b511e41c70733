"""Standard benchmarks by EleutherAI's lm-evaluation-harness, an optional extra: pip install 'rlhf-recipes[eval]'."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from rlhf_recipes.errors import UserError, suggest


def prepare(
    tasks: Sequence[str],
    *,
    include_path: str | None = None,
    num_fewshot: int | None = None,
    limit: int | None = None,
    batch_size: int = 8,
    seed: int = 0,
) -> Callable[..., dict[str, dict[str, float]]]:
    """The harness with the tasks looked up once, ready to measure one model after another.

    Args:
        tasks: names that the harness knows, groups among them (hellaswag, arc_easy, mmlu), or those of `include_path`.
        include_path: folder with task YAMLs of one's own.
        num_fewshot: examples before each question. None: as the task says.
        limit: rows a task, for a quick look. None: all.
        seed: of the few-shot examples.

    Returns:
        f(model, tokenizer) -> {task: {metric: value}}: the harness's metric names (`acc`, `acc_norm` ...), with
        `<metric>_stderr` beside them where the harness gives one.

    Raises:
        UserError: there is no task of such a name.
    """
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    for name in ("lm_eval", "lm-eval"):
        logging.getLogger(name).setLevel(logging.ERROR)
    folder = str(Path(include_path).expanduser()) if include_path else None
    manager = TaskManager(include_path=folder, include_defaults=False)
    if not set(tasks) <= set(manager.all_tasks):  # reading the harness's own ten thousand takes seconds
        manager = TaskManager(include_path=folder)
    for task in tasks:
        if task not in manager.all_tasks:
            raise UserError(f"evaluate.benchmarks: the harness has no task {task}{suggest(task, manager.all_tasks)}")

    def measure(model, tokenizer) -> dict[str, dict[str, float]]:
        harness = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
        try:
            measured = lm_eval.simple_evaluate(
                harness,
                tasks=list(tasks),
                num_fewshot=num_fewshot,
                limit=limit,
                task_manager=manager,
                log_samples=False,
                bootstrap_iters=1000,
                random_seed=seed,
                numpy_random_seed=seed,
                torch_random_seed=seed,
                fewshot_random_seed=seed,
            )
        except (OSError, ValueError) as error:  # mostly: the task's dataset cannot be fetched
            first = str(error).strip().splitlines()[0]
            raise UserError(f"evaluate.benchmarks={','.join(tasks)} failed in lm-eval: {first}") from error
        return {task: _plain(of) for task, of in measured["results"].items()}

    return measure


def _plain(of: dict) -> dict[str, float]:
    """The figures without the harness's mark for a filter: `acc,none` is acc of the answers that passed `none`.

    >>> _plain({"alias": "mine", "acc,none": 0.5, "acc_stderr,none": 0.1, "f1,strict": 0.2, "f1_stderr,strict": "N/A"})
    {'acc': 0.5, 'acc_stderr': 0.1, 'f1/strict': 0.2}
    """
    figures = {}
    for key, value in of.items():
        metric, _, filtered = key.partition(",")
        if isinstance(value, int | float) and not isinstance(value, bool) and filtered:
            figures[metric if filtered == "none" else f"{metric}/{filtered}"] = float(value)
    return figures
