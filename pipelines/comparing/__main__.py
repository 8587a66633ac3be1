"""`obliq-report OUTPUTS...`: compare any number of runs on one HTML page.

Also `python -m pipelines.comparing`. Reads the results and configurations below the given folders.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pipelines.cli import pipes
from pipelines.comparing import discovery, files, guarded, page


@pipes.forgiving()
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns 0, or 1 after an error."""
    parser = argparse.ArgumentParser(prog="obliq-report", description=__doc__)
    parser.add_argument("outputs", nargs="+", type=Path, help="output folders of runs or sweeps")
    parser.add_argument(
        "--html",
        type=Path,
        default=Path("comparison.html"),
        help="path of the page (default: comparison.html)",
    )
    tables = {"markdown": files.markdown, "csv": files.table_csv, "latex": files.latex}
    for kind in tables:
        parser.add_argument(
            f"--{kind}", type=Path, metavar="FILE", help=f"also write a {kind} table"
        )
    parser.add_argument(
        "--plots", type=Path, metavar="FOLDER", help="also write every plot as an SVG file"
    )
    options = parser.parse_args(arguments)
    written: list[Path] = []

    def write_all(runs: Sequence[discovery.Run]) -> None:
        page.write(runs, options.html)
        written[:] = [options.html]
        for kind, text in tables.items():
            path: Path | None = getattr(options, kind)
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text(runs), encoding="utf-8")
                written.append(path)
        if options.plots is not None:
            from pipelines.comparing import svg_files  # matplotlib

            written.extend(svg_files.save_all(runs, options.plots))

    try:
        runs = guarded.write(discovery.find(options.outputs), write_all)
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for run in runs:
        if run.state != "done":
            print(f"{run.state}: {run.folder} {run.reason}".rstrip(), file=sys.stderr)
    print("\n".join(map(str, written)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
