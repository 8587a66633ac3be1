"""Layer-wise quantizers, one paper's algorithm a file: (LayerProblem, Grid) -> Q [g, r, c]."""
