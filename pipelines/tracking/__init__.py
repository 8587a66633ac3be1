"""Where a run is recorded beside its own folder: Weights & Biases, or nowhere.

tracker        what the pipeline tells about a run, and a tracker that records nothing
wandb_tracker  Weights & Biases; the only file that imports wandb, and only once a run has started
lineage        what is recorded of the calibration, the weights and the evaluation
run_id         the identity of a run, kept in its output folder
flat           nested results as single values
"""

from pipelines.tracking.flat import flatten
from pipelines.tracking.tracker import NullTracker, Tracker
from pipelines.tracking.wandb_tracker import WandbTracker

__all__ = ["NullTracker", "Tracker", "WandbTracker", "flatten"]
