"""A run belongs to one model and one data set: what holds where a command names neither. No torch here."""

from omegaconf import DictConfig, OmegaConf

from rlhf_recipes.config.schema import Model
from rlhf_recipes.config.stage import policies
from rlhf_recipes.errors import UserError
from rlhf_recipes.runs import resolve
from rlhf_recipes.runs.artifacts import StageRun


def take_on(run: StageRun) -> None:
    """Put the run's own `model` and `data` nodes into the config of a command that names none.

    What the command sets of them, `model.dtype=…` or `data.prompts.path=…`, wins. A recipe names both.
    """
    if run.words is None:
        return
    cfg, taken, origin = run.cfg, [], _origin(run)
    config = origin.config if origin else {}
    model, data = config.get("model") or {}, config.get("data") or {}
    if model and not run.asks("model", "model.path", "recipes") and not resolve.is_same(model, cfg.model):
        cfg.model = _with_words(run, "model", model | {"quantization": cfg.model.quantization})
        taken.append(resolve.called(model))
    if data.get("name") and data["name"] != cfg.data.name and not run.asks("data", "recipes"):
        cfg.data = _with_words(run, "data", data)
        taken.append(f"data={data['name']}")
    files = [word for word in run.words if word.startswith("data.") and ".path=" in word]
    if files and cfg.data.name == "embedded" and not data.get("name") and not run.asks("data", "recipes"):
        print(f"{cfg.stage}: {files[0]} in data=embedded, whose gold scores its own rows; for yours give data=local")
    if taken:
        print(f"{cfg.stage}: takes {' and '.join(taken)} from {origin.run.name}/{origin.stage}")


def check_data(run: StageRun) -> None:
    """A stage that others go on from reads the data set of the run's other stages; a recipe may choose one for each.

    Raises:
        UserError: names both sets and the way out.
    """
    if not run.asks("data") or run.stage.makes is None:
        return
    for name, stage in run.stages.items():
        folder = run.root / run.cfg.run.name / name
        file = folder / "config.yaml"
        if (
            stage.makes is None
            or name == run.stage.name
            or not (folder / "summary.json").is_file()
            or not file.is_file()
        ):
            continue
        held = (OmegaConf.load(file).get("data") or {}).get("name")
        if held and held != run.cfg.data.name:
            raise UserError(
                f"run {run.cfg.run.name} holds {name} on data={held}, and this command asks for "
                f"data={run.cfg.data.name}; run.name=<new> keeps the two apart, and run.parent={run.cfg.run.name} "
                "with it goes on from the models of this one"
            )


def start(run: StageRun) -> str:
    """What a stage starts from and where it leaves what, in one line."""
    models = [f"{name} {_place(entry)}" for name, entry in run.inputs.items()]
    source = ", ".join(models) or f"nothing, {resolve.called(run.cfg.model)} is made here"
    kept = "writes nothing" if run.cfg.preview or run.cfg.preflight else f"leaves its work in {run.dir}/"
    return f"{run.stage.name}: starts from {source}; data={run.cfg.data.name}; {kept}"


def _place(entry: dict) -> str:
    return f"{entry['stage']} ({entry['path']})" if "stage" in entry else entry["path"]


def _origin(run: StageRun) -> resolve.ModelSource | None:
    """The stage that this one starts from, or one that shows what the run is made of."""
    places = run.cfg.inputs.get("policy") or ()
    for place in [places] if isinstance(places, str) else places:
        other, _, stage = place.rpartition(":")
        if stage in run.stages:
            folder = run.root / other / stage if other else resolve.finished_folder(run, stage)
            if folder is not None:
                return resolve.at(str(folder / "model"))
        elif place not in ("base", "none"):
            return resolve.at(place)
    for stage in (run.stage.name, *policies(run.stages)):
        if (folder := resolve.finished_folder(run, stage)) is not None:
            return resolve.at(str(folder / "model"))
    return None


def _with_words(run: StageRun, node: str, taken: dict) -> DictConfig:
    made = OmegaConf.merge(OmegaConf.structured(Model), taken) if node == "model" else OmegaConf.create(taken)
    for word in run.words:
        key = word.partition("=")[0]
        if key.startswith(f"{node}."):
            OmegaConf.update(made, key.partition(".")[2], OmegaConf.select(run.cfg, key), force_add=True)
    return made
