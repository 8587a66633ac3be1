"""Commands import only what they use: start-up is most of the time of a cached run."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import PATIENCE

ROOT = Path(__file__).parents[2]
EXAMPLE = Path(__file__).parent / "example_results.json"
REPORT = ("obliq-report",)
RUN = (
    "data=digits", "model=digits", "method=rtn", "calibrate.images=96", "baseline.budget=0",
    "report.heatmaps=0",
)  # fmt: skip
UNUSED = {
    "cv2", "datasets", "faster_coco_eval", "joblib", "lightning", "onnx", "onnxruntime", "optuna",
    "pandas", "polars", "pyscipopt", "ray", "scipy", "sklearn", "submitit", "timm", "tokenizers",
    "torchmetrics", "torchvision", "transformers", "ultralytics", "wandb",
}  # fmt: skip
LIST_MODULES = """
import importlib, json, sys

sys.argv = sys.argv[1:]
package = "pipelines.comparing" if sys.argv[0] == "obliq-report" else "pipelines"
try:
    importlib.import_module(f"{package}.__main__").main()
except SystemExit as stop:
    assert not stop.code, stop.code
print("\\nMODULES" + json.dumps(sorted({name.split(".")[0] for name in sys.modules})))
"""


@pytest.fixture
def imported(shared_store, monkeypatch):
    """imported("obliq", ...) -> top-level modules that the command imports, and its output."""

    def modules(*command):
        monkeypatch.setenv("OBLIQ_CACHE", str(shared_store))
        done = subprocess.run(
            [sys.executable, "-c", LIST_MODULES, *map(str, command)],
            cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        output, _, names = done.stdout.rpartition("MODULES")
        return set(json.loads(names)), output

    return modules


def test_a_cached_run_imports_no_library_that_it_does_not_use(obliq, imported, tmp_path):
    first = obliq(*RUN)
    assert first.status == 0, first.text
    modules, output = imported("obliq", *RUN, "tracking=none", f"hydra.run.dir={tmp_path}")
    results = json.loads((tmp_path / "results.json").read_text())
    assert all(results["cached"].values()), results["cached"]
    assert {"torch", "matplotlib"} <= modules, output  # the report has figures
    assert modules & UNUSED == set()
    assert results["quantized"] == first.results["quantized"]


@pytest.mark.parametrize("command", [("obliq", "store", "ls"), ("obliq", "table"), REPORT])
def test_commands_that_read_stored_results_import_no_torch(imported, tmp_path, command):
    shutil.copy(EXAMPLE, tmp_path / "results.json")
    words = [*command] if command[-1] == "ls" else [*command, tmp_path]
    if command == REPORT:
        words += ["--html", tmp_path / "page.html"]
    modules, output = imported(*words)
    assert output.strip() or (tmp_path / "page.html").is_file()
    needless = UNUSED | {"torch"} | (set() if command == REPORT else {"matplotlib"})
    assert modules & needless == set()
