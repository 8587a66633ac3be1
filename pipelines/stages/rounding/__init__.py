"""EPTQ: the rounding of all layers trained together, guided by a label-free Hessian."""
