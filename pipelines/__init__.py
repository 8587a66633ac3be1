"""The chain of stages, its store, its tracking and its command line."""

import os

# How OpenMP's threads wait for their next piece of work, read when torch is loaded. Spinning makes
# small layers up to 40 times slower beside other processes on the same cores (a sweep, a team's
# machine); sleeping at once makes a network of small layers a quarter slower on quiet ones. A few
# microseconds of spinning bridge most gaps between two layers, and cost a tenth in a crowd.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
