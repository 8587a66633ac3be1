"""Stage: logits of a network on the evaluation images; everything else is computed from those."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from evaluation.classification import ClassificationData
from evaluation.evaluator import CollectLogits
from pipelines.artifacts import Artifact, Keyed
from pipelines.machine import Machine


@dataclass(frozen=True)
class Evaluate:
    """Run a network over the evaluation set."""

    def run(
        self, module: Keyed[nn.Module], data: Keyed[ClassificationData], machine: Machine
    ) -> Artifact:
        """Tensors: logits [n, classes] and labels [n]."""
        collect = CollectLogits(module.value)
        machine.test("evaluate", collect, data.value.test_dataloader())
        return Artifact({"logits": collect.logits, "labels": collect.labels}, {})
