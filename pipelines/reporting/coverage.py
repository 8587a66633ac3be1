"""How much of a network is quantized, and why the rest is not, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from pipelines.reporting import formatting
from pipelines.reporting.formatting import Results

LOW = 90.0  # percent below which a reader is warned
SHARES = {"weights": "weights", "macs": "multiply-adds", "inputs": "layer inputs"}
NAMED = 3  # reasons


def text(results: Results) -> str:
    """ "99.4 % of weights, 99.9 % of multiply-adds"."""
    found = _shares(results)
    told = [f"{formatting.number(v, 1, ' %')} of {SHARES[k]}" for k, v in found.items()]
    return ", ".join(told) or formatting.MISSING


def low(results: Results) -> bool:
    """Whether a share is below LOW."""
    return any(value < LOW for value in _shares(results).values())


def reasons(results: Results) -> str:
    """Why weights and inputs stay in floating point, the commonest first; "" if none does.

    Example: "stem.weight and 11 more: used by conv1d".
    """
    left = [(str(x.get("name")), str(x.get("reason"))) for x in results.get("not_quantized") or ()]
    left += [
        (name if name.endswith(":output") else f"input of {name}", str(reason))
        for name, reason in (results.get("activations_not_quantized") or {}).items()
    ]
    counts, first = Counter(reason for _, reason in left), dict[str, str]()
    for name, reason in left:
        first.setdefault(reason, name)
    told = [
        f"{first[reason]}{f' and {count - 1} more' if count > 1 else ''}: {reason}"
        for reason, count in counts.most_common()
    ]
    more = f"; {len(told) - NAMED} more reasons" if len(told) > NAMED else ""
    return "; ".join(told[:NAMED]) + more


def _shares(results: Results) -> dict[str, float]:
    found = results.get("coverage")
    found = found if isinstance(found, Mapping) else {}
    return {k: float(found[k]) for k in SHARES if isinstance(found.get(k), int | float)}
