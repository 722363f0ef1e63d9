"""Measure how much processor time imports and `--help` take, in a checkout of this project.

    python scripts/start_up.py [--root CHECKOUT]

Prints the smallest of three runs of each, user and system time together, in seconds. An older
checkout can be measured with the same environment.
"""

import argparse
import os
import subprocess
import sys

COMMANDS = (
    *("", "data make", "data axbench", "data check", "train", "evaluate", "steer", "export"),
    *("inspect", "methods", "compare", "sweep", "share", "demo"),
)
MAIN = "import sys; from concept_das.cli import main; sys.exit(main({}))"


def seconds(root: str, program: str) -> float:
    """Processor time of a fresh interpreter, in seconds."""
    before = os.times()
    subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        cwd=root,
        env={**os.environ, "PYTHONPATH": root},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    after = os.times()
    user = after.children_user - before.children_user
    return user + after.children_system - before.children_system


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--root", default=".", help="checkout to measure")
    parser.add_argument("--runs", type=int, default=3, help="the smallest of so many is shown")
    options = parser.parse_args()
    root = os.path.abspath(options.root)
    programs = {
        "import concept_das": "import concept_das",
        "import torch, transformers": "import torch, transformers.modeling_utils",
        "from concept_das import steer": "from concept_das import steer",
    }
    for words in COMMANDS:
        name = f"concept-das {words} --help".replace("  ", " ")
        programs[name] = MAIN.format([*words.split(), "--help"])
    for name, program in programs.items():
        best = min(seconds(root, program) for _ in range(options.runs))
        print(f"{name:<34} {best:6.2f}", flush=True)


if __name__ == "__main__":
    main()
