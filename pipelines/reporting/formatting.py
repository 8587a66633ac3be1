"""Figures of a results dict as text, the same in terminal, pages and tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Results = Mapping[str, Any]

MISSING = "–"
METRICS = {
    "top1": "top-1",
    "top5": "top-5",
    "map50_95": "mAP 50-95",
    "map50": "mAP 50",
    "miou": "mIoU",
    "miou_subset": "mIoU, chosen classes",
    "pixel_accuracy": "pixel accuracy",
    "accuracy": "accuracy",
}


def get(results: Results, *path: str) -> Any:
    """The value at a path; None if any part of the path is missing."""
    value: Any = results
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def metrics(results: Results) -> list[str]:
    """Keys of the task's metrics, the main one first."""
    found = [*(results.get("float") or {}), *(results.get("quantized") or {})]
    order = list(METRICS)
    return sorted(
        dict.fromkeys(found), key=lambda key: order.index(key) if key in order else len(order)
    )


def metric_name(key: str) -> str:
    """Display name of a metric."""
    return METRICS.get(key, key)


def number(value: Any, digits: int = 2, unit: str = "") -> str:
    """A value with fixed digits, a true minus sign and thousands separators."""
    if value is None:
        return MISSING
    return f"{value:,.{digits}f}{unit}".replace("-", "−")


def scientific(value: Any) -> str:
    """Three significant digits, with an exponent if far from 1; for losses and costs."""
    return MISSING if value is None else f"{value:.3g}".replace("-", "−")


def count(value: Any) -> str:
    """A whole number with thousands separators."""
    return MISSING if value is None else f"{value:,}"


def samples(results: Results) -> str:
    """Number and kind of evaluation samples: "6,735 sentences"."""
    return f"{count(results.get('n_images'))} {results.get('kind') or 'images'}"


def bits(results: Results) -> str:
    """Weight and activation bits: "4-bit weights"."""
    weight, activation = results.get("weight_bits"), results.get("act_bits")
    text = "mixed-bit weights" if not isinstance(weight, int | float) else f"{weight:g}-bit weights"
    if results.get("precision"):
        text = f"mixed, on average {text}"
    return text if activation is None else f"{text}, {activation}-bit activations"


def search(results: Results) -> str | None:
    """How the bits were searched: "inter_layer + quadratic, 99 % of agreement"."""
    found = results.get("precision")
    if not found:
        return None
    target = found.get("target")
    of = "agreement" if found.get("measure") == "agreement" else "float"
    kept = f", {_percent(target)} of {of}" if target is not None else ""
    return f"{found.get('metric')} + {found.get('search')}{kept}"


def _percent(share: float) -> str:
    """A target as a percentage: "99.9 %" for 0.999."""
    return f"{100 * share:.6g} %"


def allocation(results: Results) -> str:
    """Result of the bit search: "84.47 % of 85.16 % kept (target 99 %), 10 tried"."""
    found = results["precision"]
    kept = f"{number(found['value'], 2, ' %')} of {number(found['float'], 2, ' %')} kept"
    missed = "" if found["reached"] else ", MISSED"
    return f"{kept} (target {_percent(found['target'])}{missed}), {found['evaluations']} tried"


def price(results: Results) -> str:
    """Costs except size, relative to 16 bits: "6.27 GBOPs (2.4 %), 0.61 ms (98.6 %)"."""
    costs, half, units = (results.get(k) or {} for k in ("costs", "costs_at_16_bits", "cost_units"))
    searched, its_units = (get(results, "precision", key) or {} for key in ("costs", "units"))
    texts = [
        f"{value:.3g} {units[name]} ({number(100 * value / half[name], 1, ' %')})"
        for name, value in costs.items()
        if name != "size"
    ]
    texts += [
        f"{value:.3g} {its_units[name]} {name}"
        for name, value in searched.items()
        if name not in costs
    ]
    return ", ".join(texts) or MISSING


def priced_against(results: Results) -> str:
    """Reference of the costs in `price`, and the device."""
    device = results.get("device")
    return "of 16 bits" + (f"; roofline of {device}" if device else "")


def interval(results: Results) -> str:
    """95 % interval of the drop: "[−0.17, 0.69]"."""
    ci95 = get(results, "drop", "ci95")
    return f"[{number(ci95[0])}, {number(ci95[1])}]" if ci95 else MISSING


def drop(results: Results) -> str:
    """Drop with its interval: "0.26 [−0.17, 0.69]"; positive if quantization costs accuracy."""
    points = get(results, "drop", "points")
    return f"{number(points)} {interval(results)}" if points is not None else MISSING


def factor(value: Any) -> str:
    """A ratio: "311×", "8.4×"."""
    return MISSING if value is None else number(value, 0 if value >= 100 else 1, "×")


def speedup(results: Results) -> str:
    """Speed-up over the baseline: "311×", or "~311×" if the baseline's time is an estimate."""
    return _estimate(results, factor(results.get("speedup")))


def baseline_seconds(results: Results) -> str:
    """The baseline's time, with "~" if it is an estimate."""
    return _estimate(results, seconds(get(results, "baseline", "seconds")))


def _estimate(results: Results, text: str) -> str:
    estimated = text != MISSING and get(results, "baseline", "estimated")
    return f"~{text}" if estimated else text


def quantization_time(results: Results) -> str:
    """The solver's time, and how much less that is than the baseline's: "1.2 s, 311× faster"."""
    time = seconds(solve_seconds(results))
    if not results.get("baseline"):
        return time
    return f"{time}, {speedup(results)} faster than {baseline_name(results)}"


def evidence(results: Results) -> str:
    """Basis of the baseline's figures: "estimate, 514 of 794 rows ran"."""
    if not results.get("baseline"):
        return "no baseline was run"
    ran, total = get(results, "baseline", "rows_run"), get(results, "baseline", "rows_total")
    kind = "estimate" if get(results, "baseline", "estimated") else "measured"
    again = len(get(results, "baseline", "timed_again") or ())
    note = f", {count(again)} layers timed again on this machine" if again else ""
    return f"{kind}, {count(ran)} of {count(total)} rows ran{note}"


def baseline_name(results: Results) -> str:
    """The baseline's name: "OBQ"."""
    return str(get(results, "baseline", "method") or "obq").upper()


def seconds(value: Any) -> str:
    """A duration in a suitable unit."""
    if value is None:
        return MISSING
    if value < 0.1:
        return f"{1000 * value:.0f} ms"
    if value < 59.95:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def size(value: Any) -> str:
    """A size in MB, or in kB below 0.1 MB."""
    if value is not None and value < 0.1:
        return number(1000 * value, 1, " kB")
    return number(value, 1 if value is not None and value >= 10 else 2, " MB")


def shrink(results: Results) -> float | None:
    """Float size divided by quantized size."""
    before, after = get(results, "size_mb", "float"), get(results, "size_mb", "quantized")
    return before / after if before and after else None


def solve_seconds(results: Results) -> float | None:
    """Seconds of the method: layers and training, or the quantize stage if layers have no times."""
    layers = results.get("layers") or []
    if layers and all(layer.get("seconds") is not None for layer in layers):
        training = get(results, "rounding", "seconds") or 0
        return float(sum(layer["seconds"] for layer in layers) + training)
    stage = get(results, "seconds", "quantize")
    return None if stage is None else float(stage)


def out_of_reach(found: Mapping[str, Any]) -> str:
    """Message for a bit search (its record in `precision`) that missed the target."""
    best, required = found["value"], found["target"] * found["float"]
    return (
        f"precision.target={found['target']} is out of reach: it requires "
        f"{found['measure']} {required:.2f} % on the calibration images, and the best of the "
        f"{found['evaluations']} configurations tried has {best:.2f} %. That one was used. Lower "
        f"the target, or allow more bits than precision.choices={found['widths']}"
    )
