"""Stage: write results.json, layers.csv, report.html and the quantized network.

docs/results-json.md describes the keys of results.json.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from evaluation.class_names import names_of
from evaluation.images import ImageData
from pipelines.exporting import model_file
from pipelines.machine.disk import checksum, explained, replacing, with_usual_mode
from pipelines.machine.stopwatch import place_of
from pipelines.models.network import Network
from pipelines.stages.activations import grids_of, places_of
from pipelines.stages.solving.baseline import LayerBaseline, layer_ratio, loss_ratio
from pipelines.stages.solving.quantize import QuantizedWeights
from pipelines.stages.solving.same_machine import Times
from pipelines.stages.solving.solve import grid_of
from pipelines.store.artifacts import Artifact
from quant.layers import Layer
from quant.quantized import QuantizedState, QuantizedWeight

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class Findings:
    """Results of all previous stages; `module` is the final network."""

    network: Network
    module: nn.Module
    data: ImageData
    calibration: Artifact
    sensitivity: Artifact
    predicted: Artifact
    weights: QuantizedWeights
    baseline: Mapping[str, LayerBaseline]
    statistics: Artifact
    float_outputs: Artifact
    uncorrected_outputs: Artifact
    outputs: Artifact
    pictures: Artifact
    times: Times
    means_moved_outputs: Artifact | None = None
    activations: Artifact | None = None
    rounding: Artifact | None = None
    precision: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Report:
    """Write the results as files.

    Attributes:
        heatmaps: number of layers, the most sensitive ones, with a heatmap in report.html.
    """

    heatmaps: int

    def run(
        self, found: Findings, about: Mapping[str, Any], folder: Path
    ) -> tuple[dict[str, Any], dict[str, Figure | Path]]:
        """Write all files into `folder`; `about` holds the first entries of results.json.

        Returns:
            the results, and figures and JPEG files by name, for the tracker.
        """
        from pipelines.reporting import canvas, html, layers_csv, plots  # import matplotlib

        file = folder / model_file.NAME
        with explained(folder, "the report", "set hydra.run.dir to"):
            (folder / "results.json").unlink(missing_ok=True)  # an old one; written last
            with replacing(file) as draft:
                state = state_of(found.module, found.weights, found.activations)
                model_file.save(state, described(found, about), draft)
                with_usual_mode(draft)
        results: dict[str, Any] = _finite(
            {
                **about,
                "fingerprints": {**about["fingerprints"], "weights": checksum(file)},
                **scores(found),
                **costs(found),
                "size_mb": sizes(found, file),
                "precision": found.precision,
                "layers": [{**row, "method": about["method"]} for row in layer_rows(found)],
                "not_quantized": found.calibration.record["skipped"],
                "activations_not_quantized": found.activations.record["left_out"]
                if found.activations
                else {},
                "output_dir": str(folder),
            }
        )
        heatmaps = self._heatmaps(found)
        figures = plots.figures(results, heatmaps)
        drawn = {name: canvas.svg(figure) for name, figure in figures.items()}
        with explained(folder, "the report", "set hydra.run.dir to"):
            plots.save_all(drawn, folder / "plots")
            gallery = save_pictures(found.pictures, folder / "pictures")
            with replacing(folder / "layers.csv") as draft:
                layers_csv.write(results, draft)
            with replacing(folder / "report.html") as draft:
                html.render(results, drawn, gallery, draft)
            with replacing(folder / "results.json") as draft:
                draft.write_text(json.dumps(results, indent=1) + "\n")
        return results, {**figures, **{file.stem: file for file in gallery.values()}}

    def _heatmaps(self, found: Findings) -> dict[str, Tensor]:
        record = found.sensitivity.record
        ranked = sorted(record, key=lambda name: -float(record[name]["sensitivity"]))
        chosen = set(ranked[: self.heatmaps])
        tensors = found.sensitivity.tensors
        return {name: tensors[f"heatmap/{name}"] for name in record if name in chosen}


def scores(found: Findings) -> dict[str, Any]:
    """Metrics, drop and fidelity on the evaluation images."""
    task = found.data
    reference, quantized, uncorrected = (
        found.float_outputs.tensors,
        found.outputs.tensors,
        found.uncorrected_outputs.tensors,
    )
    moved = found.means_moved_outputs.tensors if found.means_moved_outputs else None
    return {
        "n_images": len(task.evaluation),
        "kind": task.kind,
        "metric": task.metric,
        "float": task.metrics(reference),
        "quantized": task.metrics(quantized),
        "uncorrected": task.metrics(uncorrected),
        "means_moved": None if moved is None else task.metrics(moved),
        "fidelity": task.fidelity(reference, quantized),
        "uncorrected_fidelity": task.fidelity(reference, uncorrected),
        "means_moved_fidelity": None if moved is None else task.fidelity(reference, moved),
        "drop": task.drop(reference, quantized),
        "correction": found.statistics.record,
        "rounding": found.rounding.record if found.rounding else None,
        "details": task.details(quantized),
    }


def costs(found: Findings) -> dict[str, Any]:
    """Speed, loss ratio and size; the speed-up counts the solves alone, on the same Hessians."""
    if not found.baseline:
        nothing = dict.fromkeys(("baseline", "speedup", "loss_ratio_vs_baseline"))
        return nothing
    layers = found.times.baseline.values()
    inputs = found.weights.inputs
    total = sum(i.layer.rows * i.layer.groups for i in inputs.values())
    solved = sum(b.rows * inputs[name].layer.groups for name, b in found.baseline.items())
    seconds = sum(layer.seconds for layer in layers)
    return {
        "baseline": {
            "method": "obq",
            "seconds": seconds,
            "estimated": any(layer.estimated for layer in layers),
            "rows_run": solved,
            "rows_total": total,
            "loss": sum(float(layer.loss.sum()) for layer in layers),
            "timed_on": dict(zip(("host", "cpu", "kernels"), found.times.machine, strict=True)),
            "timed_again": list(found.times.again),
        },
        "speedup": speedup(found),
        "loss_ratio_vs_baseline": loss_ratio(found.baseline),
    }


def speedup(found: Findings) -> float | None:
    """OBQ's seconds / the method's; None where the rounding was trained on another machine."""
    training = 0.0
    if found.rounding is not None:
        training = float(found.rounding.record["seconds"])
        if place_of(found.rounding.record).machine != found.times.machine:
            return None
    seconds = sum(layer.seconds for layer in found.times.baseline.values())
    return seconds / max(sum(found.times.solves.values()) + training, 1e-9)


def sizes(found: Findings, file: Path) -> dict[str, float]:
    """Size in MB (10^6 bytes) of the float network's tensors, and of the quantized one's file."""
    state = found.network.module.state_dict().values()
    once = {(t.data_ptr(), t.numel()): t.numel() * t.element_size() for t in state}  # tied weights
    return {"float": sum(once.values()) / 1e6, "quantized": file.stat().st_size / 1e6}


def described(found: Findings, about: Mapping[str, Any]) -> dict[str, Any]:
    """What the file of the network says about it, as JSON."""
    keys = ("model", "data", "method", "weight_bits", "act_bits", "versions", "fingerprints")
    return {
        **{key: about.get(key) for key in keys},
        "task": found.data.kind,
        "metric": found.data.metric,
        "classes": list(getattr(found.data, "names", ()) or names_of(found.network.module)),
        "preprocessing": found.network.data_config,
    }


def layer_rows(found: Findings) -> list[dict[str, Any]]:
    """The rows of layers.csv, one per layer."""
    rows = []
    for name, solution in found.weights.solutions.items():
        layer, base = found.weights.inputs[name].layer, found.times.baseline.get(name)
        rows.append(
            {
                **solved_row(layer, solution, act_bits(found).get(name)),
                "seconds": found.times.solves[name],
                "rows": layer.rows * layer.groups,
                "baseline_rows": base and base.rows * layer.groups,
                "loss_baseline": base and float(base.loss.sum()),
                "loss_on_baseline_rows": base and float(base.method_loss.sum()),
                "ratio_vs_baseline": base and float(layer_ratio(base)),
                "baseline_seconds": base and base.seconds,
                "baseline_estimated": base and base.estimated,
                "dead_inputs": found.calibration.record["dead_inputs"].get(name, 0),
                **found.sensitivity.record[name],
                "predicted_loss": found.predicted.record[name],
            }
        )
    return rows


def solved_row(layer: Layer, solution: Artifact, inputs: int | None) -> dict[str, Any]:
    """What a layer's solution says of it; `inputs` are the bits of its input."""
    return {
        "name": layer.name,
        "shape": list(layer.shape),
        "groups": layer.groups,
        "bits": solution.record["bits"],
        "act_bits": inputs,
        "loss": float(solution.tensors["loss"].sum()),
        "loss_rtn": float(solution.tensors["loss_rtn"].sum()),
    }


def save_pictures(pictures: Artifact, folder: Path) -> dict[str, Path]:
    """Write the JPEGs; returns {evaluation image: file}."""
    paths = {}
    for index, name in pictures.record["images"].items():
        folder.mkdir(parents=True, exist_ok=True)
        paths[name] = folder / f"{index}.jpg"
        with replacing(paths[name]) as draft:
            draft.write_bytes(pictures.tensors[index].numpy().tobytes())
    return paths


def state_of(
    module: nn.Module, weights: QuantizedWeights, activations: Artifact | None
) -> QuantizedState:
    """All tensors of the final network `module`."""
    solved = {
        name: QuantizedWeight(
            weights.inputs[name].layer, solution.tensors["codes"], grid_of(solution)
        )
        for name, solution in weights.solutions.items()
    }
    places = places_of(activations) if activations else {}
    grids = grids_of(activations) if activations else {}
    return QuantizedState.of(module, solved, places, grids)


def act_bits(found: Findings) -> dict[str, int]:
    """Bits of the layers' inputs; empty if these are not quantized."""
    return dict(found.activations.record["bits"]) if found.activations else {}


def _finite(value: Any) -> Any:
    """Replace infinity and NaN by None, e.g. the SQNR of identical outputs: JSON has neither."""
    if isinstance(value, Mapping):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
