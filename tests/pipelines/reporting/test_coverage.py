"""How much of a network is quantized: told in the terminal and the report, in red if little."""

import io
import json
from pathlib import Path

from rich.console import Console

from pipelines.reporting import coverage, html
from pipelines.reporting.summary import print_table

EXAMPLE = json.loads((Path(__file__).parents[1] / "example_results.json").read_text())
FULL = EXAMPLE | {"coverage": {"weights": 99.5, "macs": 99.94, "inputs": None}}
LITTLE = EXAMPLE | {
    "coverage": {"weights": 7.25, "macs": 0.04, "inputs": 100.0},
    "not_quantized": [
        {"name": f"{i}.weight", "shape": [3, 3], "reason": "used by sub"} for i in range(12)
    ],
    "activations_not_quantized": {"head": "it is not called", "a:output": "nobody returns it"},
}


def printed(results):
    console = Console(width=400, force_terminal=True, record=True, file=io.StringIO())
    print_table(results, console)
    return console.export_text(styles=True)


def test_the_shares_are_told_in_words():
    assert coverage.text(FULL) == "99.5 % of weights, 99.9 % of multiply-adds"
    assert coverage.text(LITTLE).endswith("0.0 % of multiply-adds, 100.0 % of layer inputs")
    assert coverage.text(EXAMPLE) == "–" and not coverage.low(EXAMPLE)
    assert coverage.low(LITTLE) and not coverage.low(FULL)


def test_reasons_are_counted_and_the_commonest_comes_first():
    assert coverage.reasons(LITTLE) == (
        "0.weight and 11 more: used by sub; input of head: it is not called; "
        "a:output: nobody returns it"
    )


def test_a_small_share_is_red_with_its_reasons_and_a_large_one_is_not(tmp_path):
    red = "\x1b[31m"
    assert red not in printed(FULL) and "99.5 % of weights" in printed(FULL)
    text = printed(LITTLE)
    assert red in text and "0.weight and 11 more: used by sub" in text
    pages = {}
    for name, results in (("full", FULL), ("little", LITTLE)):
        html.render(results, {}, {}, tmp_path / name)
        pages[name] = (tmp_path / name).read_text()
    assert 'class="warning"' in pages["little"] and 'class="warning"' not in pages["full"]
    assert "it is not called" in pages["little"] and "quantized share" in pages["full"]
