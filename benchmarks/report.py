"""Claim: a run of 10,000 PPO steps becomes a report in under 10 s and under 5 MB. `python benchmarks/report.py`

The run is made by code (tests/report/made_run.py): 10,000 logged steps of 16 metrics, three models on 2,000
held-out prompts. It times the command that a person types, `stage=report`, with start-up, both pages and the tables
on the screen, and each page alone. Each try is a process of its own; the median counts. Prints JSON.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests" / "report")]
import made_run  # noqa: E402

TRIES = 5
WRITE = (
    "import sys; from pathlib import Path; from rlhf_recipes.report import content, pages;"
    "pages.write_{0}(content.build([Path(sys.argv[1])]), Path(sys.argv[2]))"
)


def seconds(*words: str) -> float:
    """Wall time of one Python process."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, cwd=REPOSITORY, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def alone(kind: str, run: Path, out: Path) -> list[str]:
    """The words of a process that writes one of the two pages."""
    return ["-c", WRITE.format(kind), str(run), str(out)]


def main() -> None:
    """Makes the run, writes its reports alternately, prints what was measured."""
    with tempfile.TemporaryDirectory() as folder:
        run = made_run.make(Path(folder) / "long", steps=10_000, prompts=2_000)
        page, text = Path(folder) / "report.html", Path(folder) / "report.md"
        stage = ["-m", "rlhf_recipes", "stage=report", f"run.root={folder}", f"run.name={run.name}"]
        of = {"stage": stage, "html": alone("html", run, page), "markdown": alone("markdown", run, text)}
        times = [{name: seconds(*words) for name, words in of.items()} for _ in range(TRIES)]
        medians = {f"{name}_seconds": round(statistics.median(t[name] for t in times), 2) for name in of}
        read = sum(file.stat().st_size for file in run.rglob("*.jsonl"))
        result = {
            "steps": 10_000,
            "artifacts_mb": round(read / 1e6, 1),
            **medians,
            "html_mb": round((run / "report.html").stat().st_size / 1e6, 2),
            "python": platform.python_version(),
            "machine": f"{platform.machine()}, {os.cpu_count()} CPUs",
        }
    print(json.dumps(result, indent=2))
    if result["stage_seconds"] >= 10 or result["html_mb"] >= 5:
        sys.exit("the claim does not hold here")


if __name__ == "__main__":
    main()
