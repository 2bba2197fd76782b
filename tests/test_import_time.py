"""`import posttrain_helpers` is light: it loads no heavy library and takes at most half a second."""

from __future__ import annotations

import json
import subprocess
import sys

HEAVY = ("torch", "transformers", "trl", "datasets", "matplotlib", "pandas", "scipy")
MOST_SECONDS = 0.5
CODE = """
import json, sys, time
begun = time.perf_counter()
import posttrain_helpers
print(json.dumps({"seconds": time.perf_counter() - begun, "modules": sorted(sys.modules)}))
"""


def imported(code: str = CODE) -> dict:
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return json.loads(output)


def heavy_modules(modules: list[str]) -> list[str]:
    return [name for name in modules if name in HEAVY]


def test_import_loads_no_heavy_library() -> None:
    modules = imported()["modules"]
    assert "posttrain_helpers" in modules
    assert heavy_modules(modules) == []


def test_a_heavy_import_would_be_seen() -> None:
    code = CODE.replace("import posttrain_helpers", "import posttrain_helpers, scipy")
    assert heavy_modules(imported(code)["modules"]) == ["scipy"]


def test_import_takes_at_most_half_a_second() -> None:
    assert min(imported()["seconds"] for _ in range(3)) <= MOST_SECONDS
