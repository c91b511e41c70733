"""What a run was made from and made with: hashes, settings, versions, memory, and the command that makes it again."""

import hashlib
import shlex
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, ListConfig, OmegaConf

from rlhf_recipes.config.sweeps import parents_of

PACKAGES = ("rlhf_recipes", "torch", "trl", "transformers", "peft", "datasets", "accelerate", "hydra-core")
# Settings that change what is shown or stored, not what is learned: two runs that differ in them are the same run.
INCIDENTAL = ("run", "preview", "preview_rows", "preflight", "preflight_gb", "logger", "needs", "objective")
INCIDENTAL_TRAINER = ("resume_from_checkpoint", "disable_tqdm", "report_to", "run_name", "save_total_limit")


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


def shell_words(cfg: DictConfig, words: Sequence[str] | None = None) -> list[str] | None:
    """The overrides that a stage was composed of, without Hydra's plus signs; None where no shell started it."""
    if words is None:
        if not HydraConfig.initialized() or HydraConfig.get().runtime.choices.get("stage") != cfg.stage:
            return None
        words = HydraConfig.get().overrides.task
    return [word.lstrip("+") for word in words]


def command(cfg: DictConfig, words: Sequence[str] | None) -> str | None:
    """The shell command that makes this stage again, a job of a sweep on its own; None where no shell started it."""
    if words is None:
        return None
    ours = ("run.name", "run.parent", "run.overwrite", "objective", "preview", "preflight", "preflight_gb")
    words = [w for w in words if w.partition("=")[0] not in ours]
    words += [f"run.name={cfg.run.name}"] if cfg.run.name != "default" else []
    words += [f"run.parent=[{','.join(parents_of(cfg))}]"] if parents_of(cfg) else []
    return shlex.join(["python", "-m", "rlhf_recipes", *words])


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


def data_paths(node: DictConfig | ListConfig, named: bool = False) -> Iterator[tuple]:
    """(node, key, value) of every string that a `path` or `eval_path` below the data node has, alone or in a list."""
    for key in list(node) if isinstance(node, DictConfig) else range(len(node)):
        if OmegaConf.is_missing(node, key):
            continue
        value, of_path = node[key], key in ("path", "eval_path") or (named and isinstance(key, int))
        if OmegaConf.is_config(value):
            yield from data_paths(value, of_path)
        elif of_path and isinstance(value, str):
            yield node, key, value


def local_files(node: DictConfig | None) -> list[str]:
    """Every file or folder of this machine that the data node names."""
    paths = {path for _, _, path in data_paths(node)} if OmegaConf.is_config(node) else set()
    return sorted(path for path in paths if Path(path).expanduser().exists())


def versions() -> dict[str, str]:
    """Versions of the packages a result depends on, and of Python."""
    installed = {"python": sys.version.split()[0]}
    for name in PACKAGES:
        try:
            installed[name] = version(name)
        except PackageNotFoundError:
            continue
    return installed


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
