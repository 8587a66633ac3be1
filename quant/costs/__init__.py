"""Cost models of layers, one per file: (Workload, weight bits, activation bits) -> a number."""
