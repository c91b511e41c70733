"""Which model is meant by a stage, `other:ppo`, `base`, a folder or a hub id, and how it was made. No torch here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from rlhf_recipes.config.paths import CONF, RECIPES
from rlhf_recipes.config.stage import policies
from rlhf_recipes.config.sweeps import parents_of
from rlhf_recipes.errors import UserError
from rlhf_recipes.runs.jsonl import read_json

if TYPE_CHECKING:
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

    @classmethod
    def of(cls, trainer: Mapping) -> Stops:
        """Those of a `trainer` node, which may name none of them."""
        return cls(**{f.name: trainer[f.name] for f in fields(cls) if f.name in trainer})


@dataclass(frozen=True)
class ModelSource:
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
        return Stops.of(self.config.get("trainer") or {})


def find(run: StageRun, places: str | Sequence[str] | None, setting: str) -> ModelSource | None:
    """The model at the first of several places that exists.

    Args:
        run: whose stages are meant; those of run.parent serve too.
        places: each is a stage, `other:ppo` (that stage of the run `other`), `base` (model.path), a folder, a hub id,
            or `none`. Without places: the policy furthest from the base model, else `base`.
        setting: what the places were given as, for the error: `chat.models`.

    Returns:
        None where `none` comes first, or where `base` is the only place and the model is made from nothing.

    Raises:
        UserError: no place leads to a model.
    """
    given = [places] if isinstance(places, str) else list(places or [*policies(run.stages), "base"])
    path = run.cfg.model.path
    for place in given:
        other, _, stage = place.rpartition(":")
        if place == "none" or (given == ["base"] and not path and run.cfg.model.init):
            return None
        if place == "base":
            if path:
                return _elsewhere(path, "base", "model.path")
        elif stage in run.stages:
            folder = _finished_elsewhere(run, place, setting) if other else finished_folder(run, stage)
            if folder is not None:
                _check_holds_model(folder / "model", f"{setting}={place}")
                source = at(str(folder / "model"), place)
                if not other:
                    _check_same_model(run, source, setting)
                return source
        else:
            return _elsewhere(place, place, setting, list(run.stages))
    raise UserError(_nothing_at(run, given, setting, latest=not places))


def at(path: str, name: str | None = None) -> ModelSource:
    """What is known of the model or checkpoint at a path; of a hub id, its name."""
    place = Path(path).absolute()  # of a linked model, the stage that links to it
    folder = place.parent.parent if place.parent.name == "checkpoints" else place.parent
    file = folder / "config.yaml"
    if not file.is_file() or (folder == place.parent and place.name != "model"):
        return ModelSource(name or path, path)
    return ModelSource(name or path, path, folder, OmegaConf.to_container(OmegaConf.load(file)))


def finished_folder(run: StageRun, stage: str) -> Path | None:
    """Where a finished stage of this run, or of run.parent, lies."""
    parents = parents_of(run.cfg)
    for parent in parents:
        if not (run.root / parent).is_dir():
            raise UserError(f"run.parent={parent}: no such run in {run.root}/; expected the name of one")
    folders = [run.root / name / stage for name in (run.cfg.run.name, *parents)]
    return next((folder for folder in folders if (folder / "summary.json").is_file()), None)


def check_base(run: StageRun) -> None:
    """A stage that would start from model.path, in a run whose policies come from another model, is refused.

    Raises:
        UserError: names both models and the ways out.
    """
    folders = [finished_folder(run, name) for name in policies(run.stages) if name != run.stage.name]
    held = [at(str(folder / "model"), folder.name) for folder in folders if folder is not None]
    if held and not any(_is_made_of(model, run.cfg.model) for model in held):
        _check_same_model(run, held[-1], "inputs.policy")


def called(node: Mapping) -> str:
    """A `model` node as a person chooses it: `model=tiny`, `model.path=./mine`."""
    name, path = node.get("name"), node.get("path")
    file = CONF / "model" / f"{name}.yaml"
    own = name in (None, "local", "custom") or (path and file.is_file() and OmegaConf.load(file).get("path") != path)
    return f"model.path={path}" if own else f"model={name}"


def is_same(one: Mapping, other: Mapping) -> bool:
    """Whether two `model` nodes mean the same model: by their paths, and by what they are made of without one."""
    if one.get("path") and other.get("path"):
        a, b = Path(one["path"]).expanduser(), Path(other["path"]).expanduser()
        return a.resolve() == b.resolve() if a.exists() else str(one["path"]) == str(other["path"])
    return not one.get("path") and not other.get("path") and one.get("name") == other.get("name")


def _is_made_of(source: ModelSource, node: Mapping) -> bool:
    """Whether a stage's model is, or began as, the model of a `model` node."""
    places = (source.config.get("inputs") or {}).get("policy") or ()
    began = [source.path, *([places] if isinstance(places, str) else places)]
    return is_same(source.config.get("model") or {}, node) or any(is_same({"path": path}, node) for path in began)


def _check_same_model(run: StageRun, source: ModelSource, setting: str) -> None:
    """Raise where the command asks for one model and would get the run's work on another.

    A reward model may have a base of its own beside a policy of the model that the command asks for.
    """
    node = run.cfg.model
    if not run.asks("model", "model.path", "recipes") or not source.config.get("model") or _is_made_of(source, node):
        return
    if run.stages[source.stage].makes != "policy":
        folders = [finished_folder(run, name) for name in policies(run.stages)]
        if any(folder and _is_made_of(at(str(folder / "model")), node) for folder in folders):
            return
    here = setting in ("inputs.policy", "chat.models", "export.model") and node.path
    held = called(source.config["model"])
    ours = called(node) if called(node) != held else f"model.path={node.path}"
    raise UserError(
        f"run {source.run.name} holds {source.stage} of {held}, and this command asks for {ours}; "
        f"run.name=<new> keeps the two apart, {setting}={'base' if here else '<folder or hub id>'} "
        f"{f'starts from {node.path}' if here else 'names another start'}"
    )


def is_reward_model(path: str) -> bool:
    """Whether a model has a head for scores instead of one that writes; by its config, nothing is loaded."""
    config = read_json(Path(path) / "config.json") or {}
    adapter = read_json(Path(path) / "adapter_config.json") or {}
    scores = any("SequenceClassification" in head for head in config.get("architectures") or [])
    return scores or adapter.get("task_type") == "SEQ_CLS" or "score" in (adapter.get("modules_to_save") or [])


def model_node(cfg: DictConfig, source: ModelSource) -> DictConfig:
    """The `model` node to load it with: its stage's, or the shell's; its folder brings tokenizer and template.

    What a person sets at the shell for this machine (dtype, attention, further keywords) wins over the stage's. Whether
    a model's own code may run is never read from its folder.
    """
    own = {"tokenizer": None, "revision": None, "quantization": None}
    if source.name == "base":
        return OmegaConf.merge(cfg.model, {"quantization": None})
    if not source.config.get("model"):
        return OmegaConf.merge(cfg.model, own)
    own |= {"chat_template": None, "pad_token": None, "eos_token": None}
    here = {key: cfg.model[key] for key in ("attn_implementation", "kwargs") if cfg.model[key]}
    here |= {key: cfg.model[key] for key in ("dtype", "trust_remote_code")}
    return OmegaConf.merge(cfg.model, source.config["model"], own, here)


def _elsewhere(place: str, name: str, setting: str, stages: Sequence[str] = ()) -> ModelSource:
    """The model in a folder, a stage's own folder included, or on the hub."""
    path = Path(place).expanduser()
    if not path.exists():
        if place.startswith((".", "/", "~")) or place.count("/") > 1:
            expected = "a model folder" if setting == "model.path" else "a stage, a model folder"
            raise UserError(
                f"{setting}={place}: no such folder; expected {expected} or a hub id such as Qwen/Qwen2.5-0.5B"
            )
        if setting != "model.path" and (close := get_close_matches(place, stages, n=1, cutoff=0.6)):
            raise UserError(f"{setting}={place}: no such stage or folder; did you mean {close[0]}?")
        return ModelSource(name, place)
    if (path / "model").is_dir() and (path / "config.yaml").is_file():
        path = path / "model"
    _check_holds_model(path, f"{setting}={place}")
    model = at(str(path), name)
    return model if model.folder is None or name == "base" else replace(model, name=f"{model.run.name}/{model.stage}")


def _finished_elsewhere(run: StageRun, place: str, setting: str) -> Path:
    """`other:stage`, a finished stage of another run below run.root."""
    other, _, stage = place.rpartition(":")
    finished = [name for name in run.stages if (run.root / other / name / "summary.json").is_file()]
    if stage not in finished:
        raise UserError(
            f"{setting}={place}: run {other} has no finished {stage} in {run.root}/; "
            f"finished there: {', '.join(finished) or 'nothing'}"
        )
    return run.root / other / stage


def _nothing_at(run: StageRun, places: list[str], setting: str, latest: bool) -> str:
    """The error where none of the places leads to a model: what is missing, and the command that makes it."""
    name, stages = run.cfg.run.name.partition(".sweep/")[0], [place for place in places if place in run.stages]
    if not stages:
        return f"{setting}=base is model.path, and model={run.cfg.model.name} has none; give model.path=…"
    missing = f"{setting} is {' or '.join(places)}, and run {name} has no finished {stages[-1]}"
    if latest:
        missing = f"run {name} in {run.root}/ has no finished {', '.join(stages[:-1])} or {stages[-1]}"
        return f"{missing}; make one (make pipeline RUN={name}), or give {setting}=<a stage, a folder or a hub id>"
    command = f"python -m rlhf_recipes stage={stages[-1]} {_choices(run, stages[-1])}run.name={name}"
    return f"{missing}; make it first: {command}, or give {setting}=<folder or hub id>"


def _choices(run: StageRun, stage: str) -> str:
    """The recipe, model and data that this command chose, for a command that makes an earlier stage."""
    chosen = HydraConfig.get().runtime.choices if HydraConfig.initialized() else {}
    words = []
    recipe = str(chosen.get("recipes") or "").rpartition("/")[0]
    if (RECIPES / recipe / f"{stage}.yaml").is_file():
        words.append(f"recipes={recipe}/{stage}")
    words += [f"{group}={chosen[group]}" for group in ("model", "data") if chosen.get(group)]
    words += [f"run.root={run.root}"] if str(run.root) != "runs" else []
    return "".join(f"{word} " for word in words)


def _check_holds_model(path: Path, place: str) -> None:
    """Raise unless a folder holds a model, or an adapter whose base is at hand."""
    adapter = path / "adapter_config.json"
    if not adapter.is_file() and not (path / "config.json").is_file():
        raise UserError(f"{place}: {path} holds no model; expected config.json or adapter_config.json in it")
    base = (read_json(adapter) or {}).get("base_model_name_or_path")
    if base and not Path(base).exists() and (base.startswith((".", "/")) or base.count("/") > 1):
        raise UserError(f"{path} is an adapter on {base}, which is not here; run from the folder it was trained in")
