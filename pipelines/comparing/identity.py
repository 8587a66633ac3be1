"""Networks that have the same name and are not the same: each gets a name of its own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from pipelines.reporting import formatting
from pipelines.reporting.formatting import Results

DIGITS = 6  # of a fingerprint


def told_apart(results: Sequence[Results | None]) -> list[Results | None]:
    """The same results; where networks share a name, it goes on with their fingerprint.

    So no row, series or plot mixes them. Results of older versions, without fingerprints, keep the
    name as it is.
    """
    networks: defaultdict[str, dict[str, None]] = defaultdict(dict)
    for found in results:
        if found is not None and (key := _network(found)):
            networks[str(found.get("model"))][key] = None
    return [
        found
        if found is None or not (key := _network(found)) or len(networks[str(found["model"])]) < 2
        else {**found, "model": f"{found['model']} #{key[:DIGITS]}"}
        for found in results
    ]


def _network(found: Results) -> str:
    key: Any = formatting.get(found, "fingerprints", "network")
    return key if isinstance(key, str) else ""
