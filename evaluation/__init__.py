"""Tasks, their data sets and metrics, and fidelity against the float model."""
