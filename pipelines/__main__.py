"""`obliq` and `python -m pipelines`: help comes at once, all else is `pipelines.run`."""

from __future__ import annotations

import sys

from pipelines.cli import help, overrides, pipes


def main() -> None:
    """The console script."""
    with pipes.forgiving():
        if help.answered(sys.argv[1:], overrides.CONF):
            return
    from pipelines import run

    run.main()


if __name__ == "__main__":
    main()
