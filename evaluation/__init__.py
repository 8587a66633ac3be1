"""Tasks, data sets, metrics, and fidelity to the float network."""
