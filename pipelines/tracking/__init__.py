"""Tracking of runs in addition to their output folders: Weights & Biases or none.

tracker        the interface of trackers, and a tracker that records nothing
wandb_tracker  Weights & Biases; the only file that imports wandb, and only once a run has started
lineage        records of the calibration, the weights and the evaluation
run_id         the W&B id of a run, stored in its output folder
flat           nested results as scalars
"""

from pipelines.tracking.flat import flatten
from pipelines.tracking.tracker import NullTracker, Tracker
from pipelines.tracking.wandb_tracker import WandbTracker

__all__ = ["NullTracker", "Tracker", "WandbTracker", "flatten"]
