"""`obliq export RUN FILE`: write the network of a run for other programs."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.cli.errors import message
from pipelines.interface.export import FORMATS, export

UNUSABLE = 2  # exit status

EPILOG = """formats, by the ending of FILE:
  .onnx         integer weights, activations between QuantizeLinear and DequantizeLinear
  .pt2          a program of torch.export, with fake-quantized activations
  .safetensors  a state dict with dequantized weights, under the network's own names

A network that your own code builds is exported in Python: obliq.export(RUN, FILE, into=model)."""


def main(arguments: Sequence[str]) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="obliq export",
        description="Write the quantized network of a run for other programs.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", metavar="RUN", help="output folder of a run")
    parser.add_argument("file", metavar="FILE", help=f"to write: {', '.join(FORMATS)}")
    parser.add_argument(
        "--opset", type=int, help="of an ONNX file; default: the lowest one that has the integers"
    )
    given = parser.parse_args(arguments)
    try:
        found = export(given.run, given.file, None, None, given.opset)
    except (OSError, ValueError) as err:
        print(f"✗ {message(err, [])}", file=sys.stderr)
        return UNUSABLE
    print("\n".join(lines(found)))
    return 0


def lines(found: Mapping[str, Any]) -> list[str]:
    """What was written, for the terminal."""
    told = [f"{found['file']}  {found['bytes'] / 1e6:.3f} MB"]
    if "weights" in found:
        integer = f"{found['integer_layers']} of {found['layers']}"
        kinds = Counter(found["weights"].values())
        types = ", ".join(f"{count} as {kind}" for kind, count in kinds.items()) or "none"
        told += [
            f"  opset            {found['opset']}",
            f"  weights          {types}",
            *(f"  in floating point: {n} ({why})" for n, why in found["float_weights"].items()),
            f"  integer layers   {integer}, in onnxruntime on this machine",
            f"  inputs, outputs  {', '.join(found['inputs'])}; {', '.join(found['outputs'])}",
        ]
    return told
