"""Lineage of a run: calibration -> weights -> evaluation, each with its input.

Only small records are tracked: no images or Hessians leave the store.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.tracking.tracker import Tracker

if TYPE_CHECKING:
    from pipelines.store.artifacts import Artifact


def artifact_name(text: str) -> str:
    """Replace characters that W&B does not allow in artifact names; at most 128 characters."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", text)[:128]


def calibration(found: Artifact, model: str, origin: Mapping[str, Any]) -> dict[str, Any]:
    """Record of a calibration: images, layers, fingerprints, and the Hessians' place in the store.

    Args:
        found: result of the calibration stage.
        model: name of the network.
        origin: `fingerprints` of results.json.
    """
    return {
        "model": model,
        "network": origin["network"],
        "data": origin["calibration"],
        "store": f"Calibrate/{found.key}",
        "images": list(found.record["ids"]),
        "layers": [layer["name"] for layer in found.record["layers"]],
    }


def tell(tracker: Tracker, name: str, found: Artifact, results: Mapping[str, Any]) -> None:
    """Record calibration, weights and evaluation of a finished run.

    Args:
        tracker: the run's tracker, already started.
        name: name of the run.
        found: result of the calibration stage.
        results: content of results.json.
    """
    folder, prints = Path(results["output_dir"]), results["fingerprints"]
    model, data = results["model"], results["data"]
    made_from = artifact_name(f"calibration-{model}-{data}")
    tracker.calibration(made_from, calibration(found, model, prints))
    weights = {"bits": results["weight_bits"], "act_bits": results["act_bits"]}
    weights |= {"method": results["method"], "sha256": prints["weights"]}
    tracker.weights(
        folder / "model.safetensors",
        name,
        weights | {"made_from": made_from, "store": f"Calibrate/{found.key}"},
    )
    names = ("results.json", "layers.csv", "source.diff")
    scores = {key: results[key] for key in ("float", "quantized", "drop", "fidelity", "n_images")}
    tracker.evaluation(
        f"evaluation-{name}",
        [folder / file for file in names if (folder / file).is_file()],
        {
            **scores,
            "made_from": artifact_name(name),
            "weights": prints["weights"],
            "data": prints["evaluation"],
        },
    )
