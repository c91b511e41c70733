"""What a stage leaves behind in runs/<run>/<stage>/, and how a later command goes on from it. No torch here.

summary.json is written last and in one step: where it stands the stage is finished, and a Makefile may rely on it.
"""

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from rlhf_recipes.config.stage import Stages
from rlhf_recipes.config.sweeps import parents_of
from rlhf_recipes.errors import UserError
from rlhf_recipes.runs import checkpoints, resolve
from rlhf_recipes.runs.jsonl import read_json, write_json
from rlhf_recipes.runs.provenance import (
    command,
    data_paths,
    differences,
    fingerprint,
    local_files,
    peak_memory,
    shell_words,
    versions,
)


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
        self.words = shell_words(cfg, words)
        self.command = command(cfg, self.words)
        self.root = Path(cfg.run.root)
        self.dir = self.root / cfg.run.name / cfg.stage
        self.inputs: dict[str, dict] = {}  # models
        self.data_files: dict[str, dict] = {}
        self.started = time.time()
        self.estimate_mb: float | None = None  # of the peak memory, by preflight before anything was loaded
        if cfg.preview:  # a preview builds the trainer, which makes its output folder: let it be one that vanishes
            self._scratch = tempfile.TemporaryDirectory(prefix="rlhf_recipes_")
            self.dir = Path(self._scratch.name)

    def asks(self, *keys: str) -> bool:
        """Whether the command sets one of these settings; never where no shell started the stage."""
        return any(word.partition("=")[0] in keys for word in self.words or ())

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
        """Find every model this stage starts from, and every data file, before anything is loaded.

        Fills `self.inputs`, {name: {path, hash, and of a stage's model stage}}, and `self.data_files`, which has what
        the data node names on this machine.

        Raises:
            UserError: an input's places do not lead to a model; names the command that makes it.
        """
        for name, places in self.cfg.inputs.items():
            if places is None:
                raise UserError(f"inputs.{name}=null: expected a stage, a folder or a hub id; [none] leaves it out")
            model = resolve.find(self, places, f"inputs.{name}")
            if model is not None and model.name == "base" and places == list(self.stage.starts_from.get(name, ())):
                resolve.check_base(self)
            if model is not None:
                path = Path(model.path)
                self.inputs[name] = {"path": model.path, "hash": fingerprint(path) if path.exists() else model.path}
                if (stage := model.name.rpartition(":")[2]) in self.stages:
                    self.inputs[name]["stage"] = stage
        for source in local_files(self.cfg.get("data")):
            self.data_files[f"data:{source}"] = {"path": source, "hash": fingerprint(Path(source).expanduser())}

    def open(self) -> str:
        """Claim the directory: "done" (nothing to do), "resume" or "fresh".

        Raises:
            UserError: it holds another config's work.
        """
        if self.cfg.run.overwrite and self.dir.exists():
            shutil.rmtree(self.dir)
        config, inputs, done = self.dir / "config.yaml", self.dir / "inputs.json", read_json(self.summary)
        started = self.checkpoints.is_dir() and any(self.checkpoints.glob("checkpoint-*"))
        if config.is_file() and (done or started):
            changed = differences(OmegaConf.load(config), self.cfg)
            if changed:
                raise UserError(
                    f"{self.dir} holds a run of another config ({'; '.join(changed[:3])}"
                    f"{' …' if len(changed) > 3 else ''}); choose run.name=<new>, or run.overwrite=true to redo it"
                )
        same = self._same_inputs((done or {}).get("inputs") or read_json(inputs) or {})
        if done and same:
            os.utime(self.summary)  # newer than its inputs again, for make
            return "done"
        if (done or started) and not same:
            print(f"{self.dir}: what it starts from has changed since; made again", file=sys.stderr)
            shutil.rmtree(self.dir)
        self.dir.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.cfg, config, resolve=True)
        write_json(inputs, self.made_from)
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
        """The checkpoint that trainer.resume_from_checkpoint names, or else the newest whole one, if there is one."""
        wanted = self.cfg.trainer.get("resume_from_checkpoint") if self.cfg.trainer else None
        if wanted is False or str(wanted) == "none":
            shutil.rmtree(self.checkpoints, ignore_errors=True)  # or a later crash would go on from them
            return None
        chosen = checkpoints.choose(self.checkpoints, wanted, lambda line: print(line, file=sys.stderr))
        if chosen is not None and wanted in (None, True, "auto"):
            print(f"resuming from {chosen}", file=sys.stderr)
        return chosen

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


def from_parents(cfg: DictConfig) -> None:
    """Let data that a stage of this run would have made come from the parent run that did make it.

    A recipe may name what an earlier stage leaves, `data.preferences.path=${run.root}/${run.name}/collect/…`. If this
    run has not finished that stage and a run.parent has, the path is changed to lie in the parent.
    """
    own, *parents = (Path(cfg.run.root) / name for name in (cfg.run.name, *parents_of(cfg)))
    for node, key, path in list(data_paths(cfg.data)) if OmegaConf.is_config(cfg.get("data")) else ():
        if Path(path).is_relative_to(own) and Path(path) != own:
            within = Path(path).relative_to(own)
            finished = [run for run in (own, *parents) if (run / within.parts[0] / "summary.json").is_file()]
            node[key] = str((finished or [own])[0] / within)
