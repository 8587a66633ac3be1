"""What the command line tells W&B: groups, kinds, names, lineage, and one run for one command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from pipelines.machine.disk import checksum

SHORT = (
    "experiment=digits",
    "tracking=offline",
    "calibrate.images=96",
    "method=rtn",
    "baseline.budget=0",
    "report.heatmaps=0",
)


def runs(folder):
    """{run file: all its records} of the offline runs of an output folder, oldest first."""
    found = {}
    for path in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
        command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(path)]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found[path] = [json.loads(line) for line in told.splitlines()]
    return found


def only(records, kind):
    return [record[kind] for record in records if record["type"] == kind]


def test_a_sweep_is_a_group_of_named_runs_with_lineage_and_goes_on_when_repeated(obliq, tmp_path):
    sweep = tmp_path / "nightly"
    words = ("-m", *SHORT, "damping=0.01,0.02", "tags=[paper]", "tracking.notes=why not")
    for times in (1, 2):
        found = obliq(*words, folder=sweep)
        assert found.status == 0, found.text
        ids = []
        for job, damping in enumerate(("0.01", "0.02")):
            every = runs(sweep / str(job))
            assert len(every) == times
            first, *_, last = [*every.values()] * 2
            (began,), (run,) = only(first, "run"), only(last, "run")
            assert run["run_id"] == began["run_id"] and run["resume"] is True
            assert run["display_name"] == f"digits-rtn-w4 damping={damping}"
            assert (run["run_group"], run["job_type"]) == ("nightly", "ptq")
            assert run["notes"] == "why not" and set(run["tags"]) >= {"paper", "rtn", "w4"}
            ids.append(run["run_id"])
        assert ids[0] != ids[1]

    results = json.loads((sweep / "1" / "results.json").read_text())
    config = run["config"]["update"]
    assert config["damping"] == 0.02 and config["source"] == results["source"]
    assert config["versions"] == results["versions"] and config["machine"] == results["machine"]
    artifacts = {a["type"]: a for a in only(last, "artifact")}
    about = {kind: json.loads(artifacts[kind].get("metadata", "{}")) for kind in artifacts}
    assert artifacts["calibration"]["name"] == about["model"]["made_from"]
    assert artifacts["model"]["name"] == "digits-rtn-w4-damping-0.02"
    weights = checksum(sweep / "1" / "model.safetensors")
    assert about["model"]["sha256"] == about["evaluation"]["weights"] == weights
    assert about["evaluation"]["made_from"] == artifacts["model"]["name"]
    assert about["evaluation"]["quantized"] == results["quantized"]

    prints = results["fingerprints"]
    assert about["calibration"]["data"] == prints["calibration"] != prints["evaluation"]
    assert about["evaluation"]["data"] == prints["evaluation"] and prints["weights"] == weights
    (file,) = artifacts["calibration"]["manifest"]["contents"]
    record = json.loads(Path(file["local_path"]).read_text())
    assert len(record["images"]) == 96 and len(record["layers"]) == 6
    assert record["store"] == about["model"]["store"]
    summary = {k: v for s in only(last, "summary") for k, v in s.get("update", {}).items()}
    assert summary["fingerprints/calibration"] == prints["calibration"]
    assert not [name for name in summary if name.startswith("settings/")], "the config has them"
