"""Which model is meant by `ppo`, a folder or a hub id, and what is known of how it was made. No torch here."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from rlhf_recipes.config.stage import policies
from rlhf_recipes.errors import UserError
from rlhf_recipes.runs.artifacts import StageRun


@dataclass(frozen=True)
class Stops:
    """Where answers ended in a model's training: PPO's settings by their names, and its defaults after any other stage.

    Args:
        stop_token: `eos` for the tokenizer's EOS and those of the model's generation_config; None for neither.
        stop_token_id: this token instead.
        stop_strings: an answer ends where one of these has been written, too.
    """

    stop_token: str | None = "eos"
    stop_token_id: int | None = None
    stop_strings: Sequence[str] | None = None


@dataclass(frozen=True)
class Found:
    """A model on disk or on the hub.

    Args:
        name: what a person calls it: the stage, the folder or the hub id.
        path: what from_pretrained takes.
        folder: the stage's own folder, runs/<run>/<stage>; None where no stage of ours made it.
        config: the stage's config.yaml, resolved; empty where there is none.
    """

    name: str
    path: str
    folder: Path | None = None
    config: dict = field(default_factory=dict)

    @property
    def stage(self) -> str | None:
        return self.folder.name if self.folder else None

    @property
    def run(self) -> Path | None:
        return self.folder.parent if self.folder else None

    @property
    def stops(self) -> Stops:
        trainer = self.config.get("trainer") or {}
        return Stops(**{f.name: trainer[f.name] for f in fields(Stops) if f.name in trainer})


def find(run: StageRun, place: str | None, setting: str) -> Found:
    """The model at a place.

    Args:
        run: whose stages are meant; those of run.parent serve too.
        place: a stage, `other:ppo` (that stage of the run `other`), `base` (model.path), a folder or a hub id; None
            for the latest finished policy, else `base`.
        setting: what the place was given as, for the error: `chat.models`.

    Raises:
        UserError: nothing is there, or what is there is no model.
    """
    cfg, latest = run.cfg, policies(run.stages)
    models = [name for name, stage in run.stages.items() if stage.makes in ("policy", "reward_model")]
    if place is None:
        place = next((stage for stage in latest if run.finished(stage)), "base")
        if place == "base" and not cfg.model.path:
            raise UserError(
                f"run {cfg.run.name} in {cfg.run.root}/ has no finished {', '.join(latest[:-1])} or {latest[-1]}; make "
                f"one (make pipeline RUN={cfg.run.name}), or give {setting}=<stage, folder or hub id>"
            )
    if place == "base":
        if not cfg.model.path:
            raise UserError(f"{setting}=base is model.path, and model={cfg.model.name} has none; give model.path=…")
        place = cfg.model.path
        return _elsewhere(place, "base", setting)
    if place in models:
        folder = run.finished(place)
        if folder is None:
            raise UserError(
                f"{setting}={place}: run {cfg.run.name} in {cfg.run.root}/ has no finished {place}; make it with "
                f"stage={place} run.name={cfg.run.name}, or give a folder"
            )
        return _of_stage(folder, place, setting)
    other, _, stage = place.rpartition(":")
    if other and stage in models:
        folder = run.root / other / stage
        if not (folder / "summary.json").is_file():
            raise UserError(f"{setting}={place}: run {other} in {run.root}/ has no finished {stage}")
        return _of_stage(folder, place, setting)
    return _elsewhere(place, place, setting)


def at(path: str) -> Found:
    """What is known of the model or checkpoint at a path that StageRun.resolve gave; of a hub id, its name."""
    place = Path(path)
    folder = place.parent.parent if place.parent.name == "checkpoints" else place.parent
    made = (folder / "config.yaml").is_file() and (folder != place.parent or place.name == "model")
    return Found(path, path, folder, _config(folder)) if made else Found(path, path)


def kind(path: str) -> str:
    """`reward` for a model with a head for scores, `policy` for one that writes; by its config, nothing is loaded."""
    config = _json(Path(path) / "config.json")
    adapter = _json(Path(path) / "adapter_config.json")
    heads = config.get("architectures") or []
    scores = any("SequenceClassification" in head for head in heads)
    trained = adapter.get("task_type") == "SEQ_CLS" or "score" in (adapter.get("modules_to_save") or [])
    return "reward" if scores or trained else "policy"


def model_node(cfg: DictConfig, found: Found) -> DictConfig:
    """The `model` node to load it with: its stage's, or the shell's; its folder brings tokenizer and template.

    What a person sets at the shell for this machine (dtype, attention, further keywords) wins over the stage's.
    """
    own = {"tokenizer": None, "revision": None, "quantization": None}
    if found.name == "base":
        return OmegaConf.merge(cfg.model, {"quantization": None})
    if not found.config.get("model"):
        return OmegaConf.merge(cfg.model, own)
    own |= {"chat_template": None, "pad_token": None, "eos_token": None}
    here = {key: cfg.model[key] for key in ("attn_implementation", "trust_remote_code", "kwargs") if cfg.model[key]}
    return OmegaConf.merge(cfg.model, found.config["model"], own, here, {"dtype": cfg.model.dtype})


def _of_stage(folder: Path, name: str, setting: str) -> Found:
    _holds_model(folder / "model", setting)
    return Found(name, str(folder / "model"), folder, _config(folder))


def _config(folder: Path) -> dict:
    file = folder / "config.yaml"
    return OmegaConf.to_container(OmegaConf.load(file)) if file.is_file() else {}


def _elsewhere(place: str, name: str, setting: str) -> Found:
    path = Path(place).expanduser()
    if not path.exists():
        if place.startswith((".", "/", "~")) or place.count("/") > 1:
            raise UserError(f"{setting}={place}: no such folder; expected a stage, a folder or a hub id")
        return Found(name, place)
    for folder in (path, path.resolve().parent if path.name == "model" else path):
        if (folder / "model").is_dir() and (folder / "config.yaml").is_file():
            return _of_stage(folder.resolve(), "/".join(folder.resolve().parts[-2:]), setting)
    _holds_model(path, setting)
    return Found(name, str(path))


def _holds_model(path: Path, setting: str) -> None:
    """Raise unless a folder holds a model or an adapter whose base is at hand."""
    adapter = path / "adapter_config.json"
    if not adapter.is_file() and not (path / "config.json").is_file():
        raise UserError(f"{setting}: {path} holds no model; expected config.json or adapter_config.json in it")
    base = _json(adapter).get("base_model_name_or_path") if adapter.is_file() else None
    if base and not Path(base).exists() and (base.startswith((".", "/")) or base.count("/") > 1):
        raise UserError(f"{path} is an adapter on {base}, which is not here; run from the folder it was trained in")


def _json(file: Path) -> dict:
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
