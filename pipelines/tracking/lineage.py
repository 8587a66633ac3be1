"""Calibration -> weights -> evaluation: what is recorded of each, and of what it was made from.

Small records only: no image and no Hessian leaves the store.
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
    """`text` with what W&B allows in the name of an artifact."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", text)[:128]


def calibration(found: Artifact, model: str, origin: Mapping[str, Any]) -> dict[str, Any]:
    """Which images and layers, where the Hessians lie in the store, and of which data.

    Args:
        found: the stage's result.
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
    """Record all three, in the order in which they were made, from a finished run's results.

    Args:
        tracker: of the run, which has started.
        name: of the run.
        found: the calibration.
        results: content of results.json.
    """
    folder, prints = Path(results["output_dir"]), results["fingerprints"]
    model, data = results["model"], results["data"]
    made_from = artifact_name(f"calibration-{model}-{data}")
    tracker.calibration(made_from, calibration(found, model, prints))
    weights = {"bits": results["weight_bits"], "act_bits": results["act_bits"]}
    weights |= {"method": results["method"], "sha256": prints["weights"]}
    tracker.weights(
        folder / "weights.safetensors",
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
