"""What every training stage does alike: arguments from the config, callbacks, train, save."""

import logging
import os
import warnings
from collections.abc import Callable
from pathlib import Path

import datasets
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf
from transformers import PrinterCallback, ProgressCallback, TrainingArguments
from transformers.trainer import Trainer
from transformers.trainer_utils import IntervalStrategy
from transformers.utils.logging import disable_progress_bar

from rlhf_recipes import data
from rlhf_recipes.config.adapters import learning_rate, trained
from rlhf_recipes.errors import Stopped, UserError
from rlhf_recipes.models import adapters, context_length, load_tokenizer, parameters
from rlhf_recipes.runs.artifacts import StageRun
from rlhf_recipes.training.progress import Bar, MetricsFile, PlainProgress, TimeEstimate, terminal
from rlhf_recipes.training.stop import GracefulStop

# Fields of TRL's that another setting of ours decides: TRL would act on these after the rows are tokenised, or never.
SET_ELSEWHERE = {
    "output_dir": "run.root and run.name",
    "run_name": "run.name",
    "eos_token": "model.eos_token",
    "chat_template_path": "model.chat_template",
}


def arguments(cfg: DictConfig, run: StageRun) -> TrainingArguments:
    """The `trainer` node as its class, with the fields that are ours to fill: places, seed, reporting, precision.

    Raises:
        UserError: a field that follows from another setting, or values that TRL refuses.
    """
    import torch

    quiet()
    fields = OmegaConf.to_container(cfg.trainer, resolve=True)
    target = fields.pop("_target_")
    fields.pop("resume_from_checkpoint", None)  # StageRun.last_checkpoint reads it
    for name, instead in SET_ELSEWHERE.items():
        if fields.get(name) is not None:
            raise UserError(f"trainer.{name} is not read; set {instead}")
    fields |= {"output_dir": str(run.checkpoints), "run_name": f"{cfg.run.name}/{cfg.stage}"}
    fields.setdefault("seed", cfg.seed)
    fields.setdefault("report_to", [] if cfg.preview else _reporters(cfg))
    if cfg.logger.report_to == "trackio":
        fields.setdefault("project", cfg.logger.project)
    fields.setdefault("disable_tqdm", not terminal())
    if not torch.cuda.is_available():
        fields.setdefault("dataloader_pin_memory", False)  # torch warns of it there
    fields.setdefault("use_cpu", not torch.accelerator.is_available())  # without it transformers refuses bf16 there
    _check_processes(fields["use_cpu"])
    if fields.get("bf16") is None and not fields.get("fp16"):
        # TRL turns bf16 on everywhere; on a CPU without the instructions it is three times slower than float32.
        fields["bf16"] = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    elif fields.get("bf16") and fields["use_cpu"] and not _multiplies_bfloat16():
        print("trainer.bf16=true: this CPU emulates bfloat16, several times slower than float32; =null turns it off")
    if (line := learning_rate(cfg)) is not None:
        print(line)
    context = context_length(cfg.model, run.inputs.get("policy", {}).get("path"))
    if context and (fields.get("max_length") or 0) > context:
        print(f"max_length {fields['max_length']} is more than the {context} tokens the model reads; using {context}")
        fields["max_length"] = context
    try:
        return get_class(target)(**fields)
    except ValueError as error:  # TRL's and transformers' own checks of one setting against another
        raise UserError(f"trainer: {' '.join(str(error).split())}") from error


def _check_processes(use_cpu: bool) -> None:
    """Raise UserError for several GPUs in one process, where transformers would wrap the model in DataParallel."""
    import torch

    if not use_cpu and torch.cuda.device_count() > 1 and int(os.environ.get("WORLD_SIZE", "1")) == 1:
        raise UserError(
            f"{torch.cuda.device_count()} GPUs are visible to one process, which trains on one: set "
            "CUDA_VISIBLE_DEVICES=0, or use all with accelerate launch --config_file conf/accelerate/ddp.yaml "
            f"--num_processes {torch.cuda.device_count()} -m rlhf_recipes …"
        )


def _multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions for products of bfloat16."""
    import torch

    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in ("amx_bf16", "avx512_bf16", "bf16"))  # the last: ARM


def eval_rows(rows, args: TrainingArguments):
    """The held-out rows for a trainer. Where there are none (data.eval_fraction=0), evaluation is switched off.

    Raises:
        UserError: there are none, and the best checkpoint was to be told by them.
    """
    if len(rows.eval):
        return rows.eval
    if args.load_best_model_at_end:
        raise UserError("trainer.load_best_model_at_end needs held-out rows; raise data.eval_fraction above 0")
    args.eval_strategy, args.eval_on_start = IntervalStrategy.NO, False
    return None


def _reporters(cfg: DictConfig) -> list[str]:
    if cfg.logger.report_to == "none":
        return []
    if cfg.logger.report_to == "wandb":
        os.environ.setdefault("WANDB_PROJECT", cfg.logger.project)
        if cfg.logger.offline:
            os.environ["WANDB_MODE"] = "offline"
        _check_wandb()
    return [cfg.logger.report_to]


def _check_wandb() -> None:
    """Raise UserError where wandb has no key: it would ask for one, or fail, once everything is loaded."""
    try:
        import wandb
    except ImportError as error:
        raise UserError("logger=wandb needs wandb; install it: pip install 'rlhf-recipes[wandb]'") from error
    if os.environ.get("WANDB_MODE") not in ("offline", "disabled", "dryrun") and not wandb.login(prompt=False):
        raise UserError(
            "logger=wandb finds no API key; run wandb login, set WANDB_API_KEY, or write without an account with "
            "logger.offline=true"
        )


def peft_config(cfg: DictConfig, task_type: str):
    """The `peft` node as PEFT's class, or None. A reward model trains its new head whole beside the adapter."""
    if not trained(cfg):
        return None
    fields = OmegaConf.to_container(cfg.peft, resolve=True)
    target = fields.pop("_target_")
    if task_type == "SEQ_CLS":
        fields["modules_to_save"] = [*(fields.get("modules_to_save") or []), "score"]
    return get_class(target)(**fields | {"task_type": task_type})


def keywords(cfg: DictConfig, run: StageRun, kind: str, task_type: str = "CAUSAL_LM") -> dict:
    """What TRL's trainers on ready rows take alike: arguments, tokenizer, rows, adapter and callbacks.

    Args:
        kind: of the rows.
        task_type: of the adapter, by PEFT's names.
    """
    args = arguments(cfg, run)
    tokenizer = load_tokenizer(cfg.model, run.inputs["policy"]["path"])
    keep_end = getattr(args, "truncation_mode", None) == "keep_end"  # RewardConfig and KTOConfig have none
    rows = data.load(cfg.data, kind, tokenizer=tokenizer, max_length=args.max_length, keep_end=keep_end, seed=cfg.seed)
    print(rows.describe())
    return {
        "args": args,
        "train_dataset": rows.train,
        "eval_dataset": eval_rows(rows, args),
        "processing_class": tokenizer,
        "peft_config": peft_config(cfg, task_type),
        "callbacks": callbacks(run),
    }


def callbacks(run: StageRun) -> list:
    """metrics.jsonl for the report, how long it will take, and a line now and then where no terminal shows a bar."""
    return [MetricsFile(run.metrics), TimeEstimate(), *([] if terminal() else [PlainProgress()])]


def last_evaluation(trainer: Trainer) -> dict:
    """Held-out metrics of the trained model: those logged at the last step, or a fresh evaluation."""
    for row in reversed(trainer.state.log_history):
        if "eval_loss" in row and row["step"] == trainer.state.global_step:
            return row
    return trainer.evaluate() if trainer.eval_dataset is not None else {}


def fit(trainer: Trainer, run: StageRun, finish: Callable[[Path], None] | None = None) -> dict:
    """Train (from the last whole checkpoint where there is one), then save model and tokenizer.

    Args:
        finish: called with the saved model's folder, in the first process, to put another model there.

    Returns:
        Trainer's train metrics.

    Raises:
        Stopped: SIGTERM or Ctrl-C came; a checkpoint was saved, and the stage is not finished.
    """
    stop = GracefulStop()
    trainer.add_callback(stop)
    trainer.remove_callback(PrinterCallback)
    if not trainer.args.disable_tqdm:
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(Bar)
    began = adapters.start(trainer.model)
    result = trainer.train(resume_from_checkpoint=run.last_checkpoint())
    if stop.received is not None:
        raise Stopped(stop.received)
    trainer.model.config.use_cache = True  # Trainer switches it off, which would make every later generation slow
    trainer.save_model(str(run.model), _internal_call=True)  # which pushes nothing: model/ is not final yet
    if trainer.is_world_process_zero():
        if finish is not None:
            finish(run.model)
        adapters.stand_alone(run.model, run.cfg.model, trainer.processing_class, began)
    if trainer.args.push_to_hub:
        _push(trainer, run.model)
    return result.metrics


def _push(trainer: Trainer, folder: Path) -> None:
    """Push a finished model folder. Trainer's push_to_hub would save the trainer's own model over it first."""
    trainer.args.output_dir, place = str(folder), trainer.args.output_dir
    trainer.save_model = lambda **_: None
    try:
        trainer.push_to_hub(commit_message="Model save")
    finally:
        trainer.args.output_dir = place
        del trainer.save_model


def quiet() -> None:
    """Silence libraries' notices about their own defaults: they tell the person at the screen nothing new."""
    for name in ("transformers", "datasets", "accelerate"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    if not terminal():
        datasets.disable_progress_bars()
        disable_progress_bar()


def previewed(trainer: Trainer, cfg: DictConfig, kind: str, more: str = "") -> bool:
    """`preview=true`: show the first rows as the trainer will see them; else say what is trained.

    Args:
        kind: of the rows.
        more: what the line says besides the number of parameters.

    Returns:
        Whether the rows were shown, and nothing is to be trained.
    """
    if not cfg.preview:
        print(f"{cfg.stage}: {parameters(trainer.model)}{more}")
        return False
    from rlhf_recipes.data import preview

    preview.show(preview.rows_of(trainer, kind, cfg.preview_rows), trainer.processing_class, cfg.preview_rows)
    return True
