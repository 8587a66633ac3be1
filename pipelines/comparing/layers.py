"""The layers of all runs, as input of the page's script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.comparing.discovery import Run
from pipelines.reporting import formatting

FIGURES = ("bits", "loss", "seconds")


def data(runs: Sequence[Run], series: Mapping[int, str]) -> list[dict[str, Any]]:
    """{title, names, shapes, bits, loss, seconds} for every run with layers.

    All lists are as long as `names`; figures have five significant digits or are None.

    Args:
        series: name of the series by run number.
    """
    return [
        _run(run, series[run.number]) for run in runs if run.results and run.results.get("layers")
    ]


def first_two(runs: Sequence[Run]) -> tuple[int, int]:
    """Indices into `data` of the two runs shown first, if possible by different methods."""
    shown = [run.results for run in runs if run.results and run.results.get("layers")]
    alike = ("model", "data", "weight_bits", "act_bits", "inputs")
    pairs = (
        (i, j)
        for j, other in enumerate(shown)
        for i, one in enumerate(shown[:j])
        if one["method"] != other["method"] and all(one.get(k) == other.get(k) for k in alike)
    )
    return next(pairs, (0, min(1, max(len(shown) - 1, 0))))


def _run(run: Run, series: str) -> dict[str, Any]:
    results = run.results or {}
    layers = results["layers"]
    return {
        "title": f"{run.number}: {results['model']}, {formatting.bits(results)}, {series}",
        "names": [str(layer.get("name")) for layer in layers],
        "shapes": ["×".join(map(str, layer.get("shape") or ())) for layer in layers],
        **{key: [_short(layer.get(key)) for layer in layers] for key in FIGURES},
    }


def _short(value: Any) -> float | None:
    return None if value is None else float(f"{value:.5g}")
