"""report.html: a single file without scripts or external resources."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from pipelines.reporting import canvas, coverage, formatting, plots, templates
from pipelines.reporting.formatting import Results


def render(
    results: Results, drawn: Mapping[str, str], gallery: Mapping[str, Path], path: Path
) -> None:
    """Write the report.

    Args:
        results: content of results.json; missing values are shown as "–".
        drawn: figures of `plots.figures` as SVG, by name.
        gallery: JPEG files by name of the evaluation image.
        path: file to write, in an existing folder.
    """
    base = formatting.baseline_name(results)
    layers = [_layer(layer, base) for layer in results.get("layers", ())]
    methods = [layer.pop("method") for layer in layers]
    method = methods[0] if len(set(methods)) == 1 else None
    if method is None:
        layers = [{**layer, "method": used} for layer, used in zip(layers, methods, strict=True)]
    page = templates.template("reporting/report.html.j2").render(
        results=results,
        formatting=formatting,
        title=f"{results.get('model') or 'model'}, {formatting.bits(results)}",
        headline=_headline(results),
        summary=_summary(results),
        figures={name: Markup(canvas.inline(figure, name)) for name, figure in drawn.items()},
        gallery={name: _embedded(file) for name, file in gallery.items()},
        details=results.get("details") or {},
        low_coverage=coverage.text(results) if coverage.low(results) else "",
        layers=layers,
        method=method,
        provenance=_provenance(results),
    )
    path.write_text(page, encoding="utf-8")


def _embedded(file: Path) -> str:
    """A picture as a data URL."""
    return f"data:image/jpeg;base64,{base64.b64encode(file.read_bytes()).decode()}"


def _headline(results: Results) -> list[tuple[str, str, str]]:
    """(heading, value, remark) for accuracy, speed and size."""
    names = formatting.metrics(results)
    metric = names[0] if names else ""
    lost = formatting.get(results, "drop", "points")
    good = (
        f"Accuracy ({formatting.metric_name(metric)})" if metric else "Accuracy",
        formatting.number(formatting.get(results, "quantized", metric), 2, " %"),
        f"float {formatting.number(formatting.get(results, 'float', metric), 2, ' %')}, drop "
        f"{formatting.number(lost)} points {formatting.interval(results)}",
    )
    fast = (
        "Quantization time",
        formatting.quantization_time(results),
        f"of the solver, not of the network; {formatting.evidence(results)}",
    )
    small = (
        "Size",
        formatting.size(formatting.get(results, "size_mb", "quantized")),
        f"float {formatting.size(formatting.get(results, 'size_mb', 'float'))}, "
        f"{formatting.factor(formatting.shrink(results))} smaller",
    )
    return [good, fast, small]


def _summary(results: Results) -> list[tuple[str, str, str]]:
    """(name, value, remark) for every row of the summary table."""
    get, number, scientific = formatting.get, formatting.number, formatting.scientific
    rows = []
    for key in formatting.metrics(results):
        before, after = get(results, "float", key), get(results, "quantized", key)
        raw = get(results, "uncorrected", key)
        moved = get(results, "means_moved", key)
        steps = [f"{number(raw)} with the quantized weights alone"] if raw is not None else []
        steps += [f"{number(moved)} with the running means moved"] if moved is not None else []
        remark = ", ".join(steps)
        change = f"{number(before)} → {number(after)}"
        rows.append((f"{formatting.metric_name(key)}, float → quantized (%)", change, remark))
    samples = formatting.samples(results)
    costs = results.get("costs")
    return [
        *rows,
        ("drop (points)", formatting.drop(results), f"95 % interval, paired, {samples}"),
        ("agreement with the float model (%)", number(get(results, "fidelity", "agreement")), ""),
        ("KL divergence to the float model", scientific(get(results, "fidelity", "kl")), "nats"),
        ("SQNR of the outputs (dB)", number(get(results, "fidelity", "sqnr_db"), 1), ""),
        *(_baseline(results) if results.get("baseline") else []),
        (
            "size",
            f"{formatting.size(get(results, 'size_mb', 'float'))} → "
            f"{formatting.size(get(results, 'size_mb', 'quantized'))}",
            "codes, grids and unquantized parts",
        ),
        *(
            [("costs", formatting.price(results), formatting.priced_against(results))]
            if costs
            else []
        ),
        *([("quantized share", coverage.text(results), coverage.reasons(results))]
          if results.get("coverage") else []),
        *_mixed(results),
    ]  # fmt: skip


def _baseline(results: Results) -> list[tuple[str, str, str]]:
    """What the comparison of the solvers found."""
    base = formatting.baseline_name(results)
    return [
        (
            f"quantization time, speed-up over {base}",
            formatting.speedup(results),
            formatting.evidence(results),
        ),
        (
            f"quantization time of {base}",
            formatting.baseline_seconds(results),
            f"against {formatting.seconds(formatting.solve_seconds(results))} on the same Hessians",
        ),
        (
            f"layer loss relative to {base}",
            formatting.number(results.get("loss_ratio_vs_baseline"), 3),
            "geometric mean over layers; below 1 is better",
        ),
    ]


def _mixed(results: Results) -> list[tuple[str, str, str]]:
    """The result of the bit search, if there was one."""
    if not results.get("precision"):
        return []
    return [("bits per layer", formatting.allocation(results), "on calibration images")]


def _layer(layer: Mapping[str, Any], base: str) -> dict[str, str]:
    """Cells of the layer table, by column."""
    own, baseline = plots.relative_losses(layer)
    return {
        "layer": _breakable(str(layer.get("name"))),
        "shape": "×".join(map(str, layer.get("shape") or ()))
        + (f", {groups} groups" if (groups := layer.get("groups") or 1) > 1 else ""),
        "bits": formatting.count(layer.get("bits")),
        "method": str(layer.get("method") or formatting.MISSING),
        "loss": formatting.scientific(layer.get("loss")),
        "loss ÷ rtn": formatting.number(own, 3),
        f"loss ÷ {base}": formatting.number(own / baseline if own and baseline else None, 3),
        f"rows of {base}": f"{formatting.count(layer.get('baseline_rows'))} / "
        f"{formatting.count(layer.get('rows'))}",
        "sensitivity": formatting.scientific(layer.get("sensitivity")),
        "clustering": formatting.number(layer.get("cluster")),
        "time": formatting.seconds(layer.get("seconds")),
    }


def _breakable(name: str) -> str:
    """A long name with optional line breaks before its dots."""
    return Markup("<wbr>.").join(name.split(".")) if len(name) > 25 else name


def _provenance(results: Results) -> list[tuple[str, str]]:
    """(name, value) for everything needed to reproduce the figures."""
    correction = results.get("correction") or {}
    kl = f"KL {formatting.scientific(correction.get('kl_before'))} → " + formatting.scientific(
        correction.get("kl_after")
    )
    kept = "kept" if correction.get("kept") else "not kept"
    rows = [
        ("rounding", _training(results)),
        ("command", _command(results.get("command"))),
        ("code", _code(results.get("source"))),
        ("folder", results.get("output_dir")),
        ("experiment", results.get("experiment")),
        ("data", results.get("data")),
        ("method", results.get("method")),
        ("seed", results.get("seed")),
        ("statistics correction", f"{correction['mode']}, {kept} ({kl} on calibration images)"
         if correction.get("mode") else None),
        *(results.get("machine") or {}).items(),
        *(results.get("versions") or {}).items(),
    ]  # fmt: skip
    return [(str(name), str(value)) for name, value in rows if value is not None]


def _training(results: Results) -> str | None:
    """The training of the rounding and its result."""
    trained = results.get("rounding")
    if not trained:
        return None
    kl = " → ".join(formatting.scientific(trained[f"kl_{when}"]) for when in ("before", "after"))
    best = trained.get("best_step") if trained["kept"] else None
    chosen = f", best after {best:,}" if best else ""
    return (
        f"{trained['steps']:,} steps{chosen}, from {trained['init']}, scope {trained['scope']}, "
        f"attention {trained['attention']}; {'kept' if trained['kept'] else 'not kept'} (KL {kl} "
        f"on held-out calibration images), {trained['flipped']:.1%} of the codes changed"
    )


def _code(source: Any) -> str | None:
    """The commit, and whether there were uncommitted changes."""
    if not isinstance(source, Mapping) or not source.get("commit"):
        return None
    changed = f", with the changes in {source.get('diff')}" if source.get("dirty") else ""
    return f"commit {source['commit']}{changed}"


def _command(command: Any) -> str | None:
    """The command line as one text, from a string or a list of arguments."""
    arguments = command if isinstance(command, list | tuple) else [command] if command else []
    return " ".join(map(str, arguments)) or None
