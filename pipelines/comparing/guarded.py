"""Finds the runs that nothing can be drawn of, whatever their files hold."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from pipelines.comparing import files, page
from pipelines.comparing.discovery import Run


def write(runs: Sequence[Run], write_all: Callable[[Sequence[Run]], None]) -> Sequence[Run]:
    """write_all(runs); if that fails, without the results that cannot be shown even alone.

    Returns:
        the runs; those left out are "damaged", with the reason.

    Raises:
        OSError: a file cannot be written.
    """
    try:
        write_all(runs)
    except OSError:
        raise
    except Exception:  # results.json may hold anything
        runs = [_checked(run) for run in runs]
        write_all(runs)
    return runs


def _checked(run: Run) -> Run:
    if run.results is None:
        return run
    try:
        page.write([run], Path(os.devnull))
        for table in (files.markdown, files.table_csv, files.latex):
            table([run])
    except Exception as error:
        reason = f"results.json cannot be shown ({type(error).__name__}: {str(error)[:200]})"
        return replace(run, state="damaged", results=None, reason=reason)
    return run
