"""One run of the command line in a process of its own, watched, and struck where it is asked.

`pipelines.run.main` with the words in sys.argv, as the console script has it. Unfinished sums are
saved after every batch instead of every minute or two, since these runs take seconds.
"""

from __future__ import annotations

import io
import json
import os
import sys
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import timm  # noqa: F401  (this and others: loaded once, before the forks)
from matplotlib.figure import Figure

import evaluation.digits  # noqa: F401
from pipelines import ptq, run
from pipelines.machine import trainer
from pipelines.models import digits  # noqa: F401
from pipelines.reporting import plots
from pipelines.stages import calibrate, report
from pipelines.stages.precision import mixed, perturbations
from pipelines.stages.solving import baseline, quantize
from pipelines.store.store import Store
from tests.faults.points import Moment, Points

FIGURES = 1  # in the report: to draw all of them takes longer than everything else
Figure().savefig(io.BytesIO())  # finds the fonts
BATCHES = ("on_predict_batch_end", "on_train_batch_end", "on_test_batch_end")


@dataclass(frozen=True)
class Request:
    """What to run, where it writes, and what befalls it.

    Attributes:
        words: of the command line.
        store, folder: OBLIQ_CACHE and the output folder.
        text, trace: files for what it prints and for its moments.
        at, do: "kill" or "stop" it at that moment; None: let it be.
    """

    words: tuple[str, ...]
    store: str
    folder: str
    text: str
    trace: str
    at: Moment | None = None
    do: str = "kill"

    def json(self) -> str:
        """For a command line."""
        return json.dumps(asdict(self))

    @classmethod
    def of(cls, text: str) -> Request:
        """The inverse of `json`."""
        found = json.loads(text)
        at = Moment(**found.pop("at")) if found["at"] else found.pop("at")
        return cls(**found, at=at)


def serve(request: Request) -> None:
    """Run it; ends this process as the command line does."""
    text = os.open(request.text, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(text, 1)
    os.dup2(text, 2)
    os.environ["OBLIQ_CACHE"] = request.store
    watch(request)
    sys.argv = ["obliq", *request.words, f"hydra.run.dir={request.folder}"]
    run.main()


def watch(request: Request) -> None:
    """Count moments by stage, and by the part of the chain that asks for it."""
    folders = [Path(request.store), Path(request.folder)]
    points = Points(Path(request.trace), folders, request.at, request.do)
    calibrate.SAVE_EVERY = perturbations.SAVE_EVERY = 0.0
    points.around(Store, "_compute", lambda store, stage, *rest: type(stage).__name__)
    points.around(ptq, "prepare", "prepare")
    points.around(quantize.QuantizeLayers, "run", "quantize")
    points.around(baseline.Baseline, "run", "baseline")
    points.around(mixed.Mixed, "allocate", "allocate")
    points.around(report.Report, "run", "report")
    draw = plots.figures
    plots.figures = lambda *given: dict(islice(draw(*given).items(), FIGURES))
    for method in BATCHES:
        points.after(trainer._Advance, method, "batch")


if __name__ == "__main__":
    serve(Request.of(sys.argv[1]))
