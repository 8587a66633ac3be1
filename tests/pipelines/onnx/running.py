"""Run an exported file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
from torch import Tensor

ALL = ort.GraphOptimizationLevel.ORT_ENABLE_ALL


def output(path: Path, x: Tensor, level: ort.GraphOptimizationLevel = ALL) -> np.ndarray:
    """The file's only output, from its only input, in full precision."""
    options = ort.SessionOptions()
    options.graph_optimization_level, options.log_severity_level = level, 3
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.x64quantprecision", "1")
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    session = ort.InferenceSession(path, options, ["CPUExecutionProvider"])
    (result,) = session.run(["output"], {"input": x.numpy()})
    return result
