"""The chain of stages, its store, its tracking and its command line."""

import os

# Waiting OpenMP threads must sleep, not spin: beside other processes on the same cores (a sweep, a
# team's machine) spinning makes small layers up to 40 times slower. Read when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
