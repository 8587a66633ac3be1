"""`obliq --help` and `obliq --version`: at once, without Hydra, torch or the configuration."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

HELP = """\
obliq quantizes a trained network, and says how good, how fast and how small it then is.

  obliq                                       the embedded example, about a minute
  obliq experiment=cifar10_resnet20 bits=3    a published result
  obliq model=timm model.name=resnet18 data=imagenet data.root=/path/to/images
  obliq -m experiment=digits method=rtn,gptq,row_parallel bits=2,3,4    every combination

Settings
  experiment=NAME        model, data and settings of a published result: conf/experiment/
  model=NAME             the network: timm, yolo or transformers with model.name=, or {more} others
  data=NAME              {data}
  data.root=FOLDER       where the data lie; default: the environment variable OBLIQ_DATA
  method=NAME            {method}
  bits=4                 of the weights, 1 to 16
  act_bits=8             of the layers' inputs; without it they stay in floating point
  precision=mixed        the cheapest bits by layer that keep precision.target=0.999 of the figure
  calibrate.images=N     how many; without it what there is, up to calibrate.max_images=1024
  seed=0                 of the choice of images and of all else that is random
  machine=NAME           {machine}; machine.threads=N
  tracking=NAME          {tracking}: Weights & Biases, or nothing
  sweep=NAME             many runs, from a file of conf/sweep/: {sweep}, ...
  launcher=NAME          where the runs of -m and sweep= go: {launcher}
  hydra.run.dir=FOLDER   where the files go; default: outputs/runs/<time>

Commands
  obliq store ls|du|gc   what lies in the store of results (OBLIQ_CACHE), and how to make it less
  obliq reproduce FILE   compute a results.json again, and compare number by number
  obliq table FOLDER     all runs below a folder in one table
  obliq-report FOLDER    all runs beside each other, on one page

obliq --help-all lists all settings with their values; COMMAND --help says more of a command."""
GROUPS = ("data", "method", "machine", "tracking", "launcher", "model", "sweep")
OTHERS = ("store", "reproduce", "table")  # commands with a help of their own


def answered(words: Sequence[str], conf: Path) -> bool:
    """Print help or version where that is all that is asked for; says whether it was."""
    if words and words[0] in OTHERS:
        return False
    if "--version" in words:
        print(f"obliq {version()}")
    elif {"--help", "-h"} & {*words}:
        print(text(conf))
    else:
        return False
    return True


def version() -> str:
    """Of obliq."""
    try:
        return metadata.version("obliq")
    except metadata.PackageNotFoundError:
        return "(not installed)"


def text(conf: Path) -> str:
    """The help, with the names that there are in the folder of groups."""
    run = (conf / "run.yaml").read_text(encoding="utf-8")
    names = {group: _names(group, conf, run) for group in GROUPS}
    listed = {group: ", ".join(found) for group, found in names.items()}
    own = {"more": len(names["model"]) - 3, "sweep": ", ".join(names["sweep"][:1])}
    return HELP.format(**{**listed, **own})


def _names(group: str, conf: Path, run: str) -> list[str]:
    """Choices of a group, the default first."""
    found = sorted(path.stem for path in (conf / group).glob("*.yaml"))
    default = re.search(rf"^  - {group}: (\w+)", run, re.MULTILINE)
    if default is None or default[1] not in found:
        return found
    return [f"{default[1]} (default)", *(name for name in found if name != default[1])]
