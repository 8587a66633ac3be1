"""`python -m tests.faults`: every fault, many times, and a table of what came of it.

Minutes on two cores. Ends with status 1 where a result was wrong.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.faults import crowd, damage, disks, kills
from tests.faults.runs import Runs
from tests.faults.trials import WHOLE, Line, Unbroken

HEAD = "| fault | trials | recovered | wrong | computed again, at most |\n|---|---|---|---|---|"


def main() -> int:
    """Try everything that was asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--kills", type=int, default=30, help="random moments (default 30)")
    parser.add_argument("--seed", type=int, default=0, help="of all that is random (default 0)")
    parser.add_argument("--only", default="", help="names of faults: kill,damage,full,...")
    parser.add_argument("--fresh", action="store_true", help="a new interpreter for every run")
    parser.add_argument("--keep", action="store_true", help="leave the folder of all runs there")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="obliq-faults-"))
    unbroken = Unbroken(Runs(folder / "runs", WHOLE, options.fresh), folder, options.seed)
    faults = {
        "kill": lambda: kills.many(unbroken, options.kills),
        "damage": lambda: damage.artifacts(unbroken, 4),
        "checkpoint": lambda: damage.checkpoints(unbroken),
        "lock": lambda: damage.locks(unbroken),
        "full": lambda: disks.each(unbroken, "disk full"),
        "readonly": lambda: disks.each(unbroken, "folder read-only"),
        "at-once": lambda: crowd.at_once(unbroken),
        "dead-owner": lambda: crowd.dead_owner(unbroken),
        "gc": lambda: crowd.collected(unbroken),
    }
    chosen = options.only.split(",") if options.only else list(faults)
    start = time.monotonic()
    try:
        print(f"unbroken run in {folder}: {sum(unbroken.moments.values())} moments", flush=True)
        lines: list[Line] = []
        for name in chosen:
            print(f"{name} ({time.monotonic() - start:.0f} s)", flush=True)
            lines.append(faults[name]())
    finally:
        unbroken.runs.close()
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
    print("\n".join([HEAD, *map(str, lines)]))
    wrong = [text for line in lines for text in line.wrong]
    print("\n".join(wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
