"""What a stage leaves behind in runs/<run>/<stage>/, and how a later command finds it. No torch here.

summary.json is written last and in one step: where it stands the stage is finished, and a Makefile may rely on it.
"""

import hashlib
import json
import os
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from rlhf_recipes.config.paths import RECIPES
from rlhf_recipes.config.stage import Stages
from rlhf_recipes.config.sweeps import parents_of
from rlhf_recipes.errors import UserError
from rlhf_recipes.runs.checkpoints import is_whole, last_whole

PACKAGES = ("rlhf_recipes", "torch", "trl", "transformers", "peft", "datasets", "accelerate", "hydra-core")
# Settings that change what is shown or stored, not what is learned: two runs that differ in them are the same run.
INCIDENTAL = ("run", "preview", "preview_rows", "preflight", "preflight_gb", "logger", "needs", "objective")
INCIDENTAL_TRAINER = ("resume_from_checkpoint", "disable_tqdm", "report_to", "run_name", "save_total_limit")


def write_json(path: Path, content: object) -> None:
    """Write a file in one step: a reader sees the old content or the new, never half of it."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        json.dump(content, file, indent=2, ensure_ascii=False, allow_nan=True)
        file.flush()
        os.fsync(file.fileno())
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)


def read_json(path: Path) -> dict | None:
    """A JSON file's content, None where it is absent or torn."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def fingerprint(path: Path) -> str:
    """SHA-256 of a file, or of a folder's names and contents; of names and sizes where it holds over 2 GiB."""
    files = [path] if path.is_file() else sorted(f for f in path.rglob("*") if f.is_file())
    whole = sum(f.stat().st_size for f in files) <= 2 << 30
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(path) if file != path else file.name}:{file.stat().st_size}".encode())
        if whole:
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]


class StageRun:
    """The directory of one stage of one run.

    Args:
        cfg: the checked config; `run.root`, `run.name`, `run.parent`, `stage` and `inputs` are read.
        stages: every stage there is, `stages.catalogue()`.
        words: the overrides it was composed of, None where they are the shell's.
    """

    def __init__(self, cfg: DictConfig, stages: Stages, words: Sequence[str] | None = None):
        self.cfg = cfg
        self.stages = stages
        self.stage = stages[cfg.stage]
        self.command = command(cfg, words)
        self.root = Path(cfg.run.root)
        self.dir = self.root / cfg.run.name / cfg.stage
        self.inputs: dict[str, dict] = {}  # models
        self.data_files: dict[str, dict] = {}
        self.started = time.time()
        self.estimate_mb: float | None = None  # of the peak memory, by preflight before anything was loaded
        if cfg.preview:  # a preview builds the trainer, which makes its output folder: let it be one that vanishes
            self._scratch = tempfile.TemporaryDirectory(prefix="rlhf_recipes_")
            self.dir = Path(self._scratch.name)

    @property
    def model(self) -> Path:
        return self.dir / "model"

    @property
    def checkpoints(self) -> Path:
        return self.dir / "checkpoints"

    @property
    def metrics(self) -> Path:
        return self.dir / "metrics.jsonl"

    @property
    def samples(self) -> Path:
        return self.dir / "samples.jsonl"

    @property
    def summary(self) -> Path:
        return self.dir / "summary.json"

    def resolve(self) -> None:
        """Find every model this stage starts from, before anything is loaded.

        An input is a list of places, the first that exists wins: a stage's name (that stage of this run or of
        run.parent), `other:ppo` (that stage of the run `other`), `base` (model.path), a folder, or a hub id; a last
        `none` says that it may be absent.
        Fills `self.inputs`: {name: {path, hash}}, and `self.data_files` with what the data node names on this machine.

        Raises:
            UserError: none exists; names the command that makes it.
        """
        for name, places in self.cfg.inputs.items():
            if places is None:
                raise UserError(f"inputs.{name}=null: expected a stage, a folder or a hub id; [none] leaves it out")
            if found := self._first(name, [places] if isinstance(places, str) else list(places)):
                self.inputs[name] = found
        for source in local_files(self.cfg.get("data")):
            self.data_files[f"data:{source}"] = {"path": source, "hash": fingerprint(Path(source).expanduser())}

    def _first(self, name: str, places: list[str]) -> dict | None:
        for place in places:
            if place == "none":
                return None
            if place == "base":
                if self.cfg.model.path:
                    return _source(self.cfg.model.path)
                if self.cfg.model.init and places == ["base"]:
                    return None  # made from nothing
            elif found := self.finished(place):
                return {"path": str(found / "model"), "hash": fingerprint(found / "model"), "stage": place}
            elif place.rpartition(":")[2] in self.stages and ":" in place:
                return self._elsewhere(name, place)
            elif place not in self.stages and (Path(place).expanduser().exists() or not _looks_local(place)):
                return _source(place)
        stages = [p for p in places if p in self.stages]
        if stages:
            run = self.cfg.run.name.partition(".sweep/")[0]
            raise UserError(
                f"stage={self.cfg.stage} starts from {' or '.join(places)}, and run {run} has no finished "
                f"{stages[-1]}; make it first: python -m rlhf_recipes stage={stages[-1]} {self._choices(stages[-1])}"
                f"run.name={run}, or give inputs.{name}=<folder or hub id>"
            )
        raise UserError(f"inputs.{name}={places[0]}: no such folder; expected a stage, a folder or a hub id")

    def _elsewhere(self, name: str, place: str) -> dict:
        """`run:stage`, a finished stage of another run below run.root."""
        other, _, stage = place.rpartition(":")
        found = self.root / other / stage
        if not (found / "summary.json").is_file():
            done = [s for s in self.stages if (self.root / other / s / "summary.json").is_file()]
            raise UserError(
                f"inputs.{name}={place}: run {other} has no finished {stage} in {self.root}/; "
                f"finished there: {', '.join(done) or 'nothing'}"
            )
        return {"path": str(found / "model"), "hash": fingerprint(found / "model"), "stage": stage}

    def _choices(self, stage: str) -> str:
        """The recipe, model and data that this command chose, for a command that makes an earlier stage."""
        chosen = HydraConfig.get().runtime.choices if HydraConfig.initialized() else {}
        words = []
        recipe = str(chosen.get("recipes") or "").rpartition("/")[0]
        if (RECIPES / recipe / f"{stage}.yaml").is_file():
            words.append(f"recipes={recipe}/{stage}")
        words += [f"{group}={chosen[group]}" for group in ("model", "data") if chosen.get(group)]
        words += [f"run.root={self.root}"] if str(self.root) != "runs" else []
        return "".join(f"{word} " for word in words)

    def finished(self, stage: str) -> Path | None:
        """Where a finished stage of this run, or of run.parent, lies."""
        parents = parents_of(self.cfg)
        for parent in parents:
            if not (self.root / parent).is_dir():
                raise UserError(f"run.parent={parent}: no such run in {self.root}/; expected the name of one")
        names = [self.cfg.run.name, *parents]
        return next((d for n in names if (d := self.root / n / stage) and (d / "summary.json").is_file()), None)

    def open(self) -> str:
        """Claim the directory: "done" (nothing to do), "resume" or "fresh".

        Raises:
            UserError: it holds another config's work.
        """
        if self.cfg.run.overwrite and self.dir.exists():
            shutil.rmtree(self.dir)
        held, done = self.dir / "config.yaml", read_json(self.summary)
        begun = self.dir / "inputs.json"
        started = self.checkpoints.is_dir() and any(self.checkpoints.glob("checkpoint-*"))
        if held.is_file() and (done or started):
            changed = differences(OmegaConf.load(held), self.cfg)
            if changed:
                raise UserError(
                    f"{self.dir} holds a run of another config ({'; '.join(changed[:3])}"
                    f"{' …' if len(changed) > 3 else ''}); choose run.name=<new>, or run.overwrite=true to redo it"
                )
        same = self._same_inputs((done or {}).get("inputs") or read_json(begun) or {})
        if done and same:
            os.utime(self.summary)  # newer than its inputs again, for make
            return "done"
        if (done or started) and not same:
            print(f"{self.dir}: what it starts from has changed since; made again", file=sys.stderr)
            shutil.rmtree(self.dir)
        self.dir.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.cfg, held, resolve=True)
        write_json(begun, self.made_from)
        return "resume" if started and same else "fresh"

    def abandon(self) -> None:
        """Leave nothing behind of a stage that was refused before it had made anything."""
        if {f.name for f in self.dir.rglob("*") if f.is_file()} <= {"config.yaml", "inputs.json"}:
            shutil.rmtree(self.dir, ignore_errors=True)
            if self.dir.parent.is_dir() and not any(self.dir.parent.iterdir()):
                self.dir.parent.rmdir()

    @property
    def made_from(self) -> dict[str, dict]:
        """Models and data files, with their hashes: what inputs.json and summary.json record."""
        return self.inputs | self.data_files

    def _same_inputs(self, before: dict) -> bool:
        return {k: v["hash"] for k, v in before.items()} == {k: v["hash"] for k, v in self.made_from.items()}

    def last_checkpoint(self) -> str | None:
        """The newest whole checkpoint, or None; a torn one (killed while writing) is named and passed over."""
        wanted = self.cfg.trainer.get("resume_from_checkpoint") if self.cfg.trainer else None
        if wanted is False or str(wanted) == "none":
            shutil.rmtree(self.checkpoints, ignore_errors=True)  # or a later crash would go on from them
            return None
        if wanted not in (None, True, "auto"):
            if not Path(wanted).is_dir():
                raise UserError(
                    f"trainer.resume_from_checkpoint={wanted}: no such folder; expected a checkpoint or auto"
                )
            if not is_whole(Path(wanted)):
                raise UserError(
                    f"trainer.resume_from_checkpoint={wanted}: torn, or no checkpoint; name another, or give auto"
                )
            return str(wanted)
        found = last_whole(self.checkpoints, lambda line: print(line, file=sys.stderr))
        if found is None:
            return None
        print(f"resuming from {found}", file=sys.stderr)
        return str(found)

    def finish(self, metrics: dict) -> dict:
        """Write summary.json, the sign that the stage is finished."""
        measured = peak_memory()
        summary = {
            "stage": self.cfg.stage,
            "status": "done",
            "seed": self.cfg.seed,
            "wall_seconds": round(time.time() - self.started, 1),
            **measured,
            "versions": versions(),
            "inputs": self.made_from,
            "metrics": metrics,
        }
        if self.estimate_mb is not None:
            peak = measured["peak_gpu_mb"] or measured["peak_rss_mb"]
            summary["preflight"] = {"estimate_mb": self.estimate_mb, "measured_mb": peak}
        if self.command:
            summary["command"] = self.command
        write_json(self.summary, summary)
        return summary


def command(cfg: DictConfig, words: Sequence[str] | None = None) -> str | None:
    """The shell command that makes this stage again, a job of a sweep on its own; None where no shell started it."""
    if words is None:
        if not HydraConfig.initialized() or HydraConfig.get().runtime.choices.get("stage") != cfg.stage:
            return None
        words = HydraConfig.get().overrides.task
    ours = ("run.name", "run.parent", "run.overwrite", "objective", "preview", "preflight", "preflight_gb")
    words = [w.lstrip("+") for w in words]
    words = [w for w in words if w.partition("=")[0] not in ours]
    words += [f"run.name={cfg.run.name}"] if cfg.run.name != "default" else []
    words += [f"run.parent=[{','.join(parents_of(cfg))}]"] if parents_of(cfg) else []
    return shlex.join(["python", "-m", "rlhf_recipes", *words])


def from_parents(cfg: DictConfig) -> None:
    """Let data that a stage of this run would have made come from the parent run that did make it.

    A recipe may name what an earlier stage leaves, `data.preferences.path=${run.root}/${run.name}/collect/…`. Where
    this run has not finished that stage and a run.parent has, the path is changed to lie there.
    """
    own = Path(cfg.run.root) / cfg.run.name

    def walk(node) -> None:
        for key in list(node) if isinstance(node, DictConfig) else range(len(node)):
            if OmegaConf.is_missing(node, key):
                continue
            value = node[key]
            if OmegaConf.is_config(value):
                walk(value)
            elif key in ("path", "eval_path") and isinstance(value, str) and Path(value).is_relative_to(own):
                within = Path(value).relative_to(own)
                runs = [Path(cfg.run.root) / name for name in (cfg.run.name, *parents_of(cfg))]
                stage = within.parts[0] if within.parts else ""
                if found := next((run for run in runs if (run / stage / "summary.json").is_file()), None):
                    node[key] = str(found / within)

    if OmegaConf.is_config(cfg.get("data")):
        walk(cfg.data)


def differences(old: DictConfig, new: DictConfig) -> list[str]:
    """«key: old -> new» for every setting that matters to the result."""
    a, b = _flat(old), _flat(new)
    return [f"{k}: {a.get(k)} -> {b.get(k)}" for k in sorted(a.keys() | b.keys()) if a.get(k) != b.get(k)]


def _flat(cfg: DictConfig) -> dict[str, object]:
    result: dict[str, object] = {}

    def walk(node, prefix):
        for key, value in node.items():
            if not prefix and key in INCIDENTAL:
                continue
            if prefix == "trainer." and key in INCIDENTAL_TRAINER:
                continue
            if prefix == "inputs." and value == [key, "none"]:
                continue  # what it really starts from is compared by its hash; older runs know fewer stages
            value = [value] if prefix == "inputs." and isinstance(value, str) else value
            walk(value, f"{prefix}{key}.") if isinstance(value, dict) else result.update({f"{prefix}{key}": value})

    walk(OmegaConf.to_container(cfg, resolve=True), "")
    return result


def local_files(node) -> list[str]:
    """Every file or folder of this machine that a `path` or `eval_path` of the data node names."""
    found: list[str] = []

    def walk(value, key=""):
        if isinstance(value, dict):
            for name, inner in value.items():
                walk(inner, name)
        elif isinstance(value, list):
            for inner in value:
                walk(inner, key)
        elif key in ("path", "eval_path") and isinstance(value, str) and Path(value).expanduser().exists():
            found.append(value)

    walk(OmegaConf.to_container(node, resolve=True) if node is not None else {})
    return sorted(set(found))


def _looks_local(place: str) -> bool:
    return place.startswith((".", "/", "~")) or place.count("/") > 1


def _source(place: str) -> dict:
    path = Path(place).expanduser()
    if path.exists():
        return {"path": str(path), "hash": fingerprint(path)}
    if _looks_local(place):
        raise UserError(
            f"model.path={place}: no such folder; expected a model folder or a hub id such as Qwen/Qwen2.5-0.5B"
        )
    return {"path": place, "hash": place}


def versions() -> dict[str, str]:
    """Versions of the packages a result depends on, and of Python."""
    found = {"python": sys.version.split()[0]}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def peak_memory() -> dict[str, float | None]:
    """Peak resident memory of this process, and of its GPU where torch is loaded and has one, in MB (10^6 bytes)."""
    torch = sys.modules.get("torch")
    gpu = torch.cuda.max_memory_allocated() / 1e6 if torch and torch.cuda.is_available() else None
    return {"peak_rss_mb": round(_peak_rss() / 1e6, 1), "peak_gpu_mb": round(gpu, 1) if gpu else None}


def _peak_rss() -> float:
    """Bytes. On Linux by the kernel's VmHWM: ru_maxrss is handed down, so that a small child of a large process would
    have its parent's peak (getrusage(2))."""
    status = Path("/proc/self/status")
    if status.is_file():
        peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(peak.split()[1]) * 1024
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
