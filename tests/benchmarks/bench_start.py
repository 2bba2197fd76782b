"""How long a student waits: `import posttrain_helpers`, and the cold start of a lesson.

    python tests/benchmarks/bench_start.py [--model DIR] [--runs 5]

Every figure comes from a fresh process. The cold start is what the first cells of a lesson do: import
`SFTTrainer` and the helpers, call `setup` and load the base model. Files that the system has cached stay
cached, so the very first start on a machine takes longer. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys

GOAL_IMPORT_SECONDS = 0.5
IMPORT = """
import json, time
begun = time.perf_counter()
import posttrain_helpers
print(json.dumps({"import": time.perf_counter() - begun}))
"""
LESSON = """
import json, sys, time
times = [time.perf_counter()]
from trl import SFTConfig, SFTTrainer
times.append(time.perf_counter())
from posttrain_helpers import load_data, load_model_and_tokenizer, load_recipe, setup
setup("tiny")
times.append(time.perf_counter())
load_model_and_tokenizer(sys.argv[1])
times.append(time.perf_counter())
names = ("import_trl", "setup", "load_model")
print(json.dumps({name: end - begin for name, begin, end in zip(names, times, times[1:])}))
"""


def fresh_process(code: str, *arguments: str) -> dict[str, float]:
    """Run the code in a new interpreter and return the JSON of its last line."""
    command = [sys.executable, "-c", code, *arguments]
    output = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=True).stdout
    return json.loads(output.splitlines()[-1])


def medians(runs: list[dict[str, float]]) -> dict[str, float]:
    return {name: round(statistics.median(run[name] for run in runs), 3) for name in runs[0]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="base", help="stage name or directory")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()

    imports = [fresh_process(IMPORT) for _ in range(options.runs)]
    lessons = [fresh_process(LESSON, options.model) for _ in range(options.runs)]
    best_import = min(run["import"] for run in imports)
    result = {
        "benchmark": "start",
        "model": options.model,
        "runs": options.runs,
        "import_seconds": {"best": round(best_import, 4), "median": medians(imports)["import"]},
        "lesson_seconds": {
            **medians(lessons),
            "total": round(statistics.median(sum(run.values()) for run in lessons), 3),
        },
        "goal_import_seconds": GOAL_IMPORT_SECONDS,
        "goal_met": best_import <= GOAL_IMPORT_SECONDS,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
