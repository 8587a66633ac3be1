"""`obliq` and `python -m pipelines`: help comes at once, all else is `pipelines.run`."""

from __future__ import annotations

import os
import sys

from pipelines.cli import help, overrides, pipes


def main() -> None:
    """The console script."""
    _find_modules_here()
    with pipes.forgiving():
        if help.answered(sys.argv[1:], overrides.CONF):
            return
    if sys.argv[1:2] == ["export"]:
        from pipelines.interface import command

        with pipes.forgiving():
            sys.exit(command.main(sys.argv[2:]))
    from pipelines import run

    run.main()


def _find_modules_here() -> None:
    """Let a `_target_` name a module in the current folder.

    The folder comes last, so that a file named like an installed module does not replace it.
    """
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())


if __name__ == "__main__":
    main()
