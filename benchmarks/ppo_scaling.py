"""How PPO's time and memory grow with episodes, response length, vocabulary and model size, one at a time.

    python benchmarks/ppo_scaling.py --out scaling.json

Each point is a process of its own: seconds of the second update, its phases, and peak memory.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import ppo_vs_trl as benchmark

BASE = {"episodes": 16, "tokens": 32, "vocab": 8_192, "layers": 2}
GRID = {"episodes": (8, 16, 32), "tokens": (16, 32, 64), "vocab": (2_048, 8_192, 32_768), "layers": (1, 2, 4)}


def point(setting: dict) -> dict:
    """One update after a warm-up, in this process."""
    benchmark.EPISODES, benchmark.TOKENS = setting["episodes"], setting["tokens"]
    benchmark.CASES["point"] = (setting["vocab"], setting["layers"])
    result = benchmark.run("ours", "point", "float32", updates=1)
    phases = {name: values[0] for name, values in result["phases"].items()}
    return setting | {"seconds": result["seconds"][0], "peak_mb": result["peak_mb"], **phases}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--point", help="one setting as JSON, run in this process (used by the script)")
    args = parser.parse_args()
    if args.point:
        print(json.dumps(point(json.loads(args.point))))
        return
    rows = []
    for name, values in GRID.items():
        for value in values:
            command = [sys.executable, __file__, "--point", json.dumps(BASE | {name: value})]
            out = subprocess.run(command, capture_output=True, text=True)
            if out.returncode:
                sys.exit(out.stderr[-3000:])
            rows.append({"grows": name} | json.loads(out.stdout.splitlines()[-1]))
            print(f"{name}={value}: {rows[-1]['seconds']:.2f} s, {rows[-1]['peak_mb']:.0f} MB", flush=True)
    result = {"base": BASE, **benchmark.where(), "points": rows}
    if args.out:
        args.out.write_text(json.dumps(result, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
