"""`obliq-report OUTPUTS...`: any number of runs beside each other, on one HTML page.

Also `python -m pipelines.comparing`. Reads results.json and layers.csv below the given folders,
nothing else.
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
    """The command line; 0, or 1 with the reason on stderr where nothing could be written."""
    parser = argparse.ArgumentParser(prog="obliq-report", description=__doc__)
    parser.add_argument("outputs", nargs="+", type=Path, help="output folders of runs or sweeps")
    parser.add_argument(
        "--html", type=Path, default=Path("comparison.html"), help="the page (comparison.html)"
    )
    tables = {"markdown": files.markdown, "csv": files.table_csv, "latex": files.latex}
    for kind in tables:
        parser.add_argument(f"--{kind}", type=Path, metavar="FILE", help=f"a {kind} table as well")
    parser.add_argument(
        "--plots", type=Path, metavar="FOLDER", help="every plot as an SVG file as well"
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
