"""Layer-wise quantizers, one algorithm per file: (LayerProblem, Grid) -> Q [g, r, c]."""
