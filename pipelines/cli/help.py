"""`obliq --help` and `obliq --version`: at once, without Hydra, torch or the configuration."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

HELP = """\
obliq quantizes a trained network and reports its accuracy, speed and size.

  obliq                                       the embedded example, about a minute
  obliq experiment=cifar10_resnet20 bits=3    a published result
  obliq model=timm model.name=resnet18 data=imagenet data.root=/path/to/images
  obliq -m experiment=digits method=rtn,gptq,row_parallel bits=2,3,4    every combination

Settings
  experiment=NAME        model, data and settings of a published result: conf/experiment/
  model=NAME             the network: timm, yolo or transformers with model.name=, or {more} others
  data=NAME              {data}
  data.root=FOLDER       folder of the data; default: the environment variable OBLIQ_DATA
  method=NAME            {method}
  bits=4                 bits of the weights, 1 to 16
  act_bits=8             bits of the layers' inputs; default: floating point
  precision=mixed        the cheapest bits per layer that keep precision.target=0.999 of the metric
  calibrate.images=N     number of images; default: all, up to calibrate.max_images=1024
  seed=0                 seed for the choice of images and everything else that is random
  machine=NAME           {machine}; machine.threads=N
  tracking=NAME          {tracking}: Weights & Biases, or no tracking
  sweep=NAME             many runs, from a file in conf/sweep/: {sweep}, ...
  launcher=NAME          how the runs of -m and sweep= are started: {launcher}
  hydra.run.dir=FOLDER   output folder; default: outputs/runs/<time>

Commands
  obliq export RUN FILE  write a run's network as .onnx, .pt2 or .safetensors
  obliq store ls|du|gc   list, measure and clean the store of results (OBLIQ_CACHE)
  obliq reproduce FILE   rerun the run of a results.json and compare every figure
  obliq table FOLDER     all runs below a folder in one table
  obliq-report FOLDER    all runs below a folder on one HTML page

obliq --help-all lists all settings with their values; COMMAND --help explains a command."""
GROUPS = ("data", "method", "machine", "tracking", "launcher", "model", "sweep")
OTHERS = ("export", "store", "reproduce", "table")  # commands with their own help


def answered(arguments: Sequence[str], conf: Path) -> bool:
    """Print help or version if requested; returns whether it was."""
    if arguments and arguments[0] in OTHERS:
        return False
    if "--version" in arguments:
        print(f"obliq {version()}")
    elif {"--help", "-h"} & {*arguments}:
        print(text(conf))
    else:
        return False
    return True


def version() -> str:
    """The version of obliq."""
    try:
        return metadata.version("obliq")
    except metadata.PackageNotFoundError:
        return "(not installed)"


def text(conf: Path) -> str:
    """The help text, with the names of the files in the configuration folder `conf`."""
    run = (conf / "run.yaml").read_text(encoding="utf-8")
    names = {group: _names(group, conf, run) for group in GROUPS}
    listed = {group: ", ".join(found) for group, found in names.items()}
    own = {"more": len(names["model"]) - 3, "sweep": ", ".join(names["sweep"][:1])}
    return HELP.format(**{**listed, **own})


def _names(group: str, conf: Path, run: str) -> list[str]:
    """Names of a configuration group's files, the default first."""
    found = sorted(path.stem for path in (conf / group).glob("*.yaml"))
    default = re.search(rf"^  - {group}: (\w+)", run, re.MULTILINE)
    if default is None or default[1] not in found:
        return found
    return [f"{default[1]} (default)", *(name for name in found if name != default[1])]
