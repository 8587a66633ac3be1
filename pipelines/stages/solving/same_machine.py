"""Times of a method and of OBQ, all of one machine: what the store has of another is timed again.

The codes stay as they are: they do not depend on the machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from pipelines.machine.machine import Machine
from pipelines.machine.stopwatch import Place, place_of
from pipelines.machine.threads import solving
from pipelines.stages.solving.baseline import LayerBaseline, TimeInverse, estimate
from pipelines.stages.solving.quantize import QuantizedWeights
from pipelines.stages.solving.solve import LayerInput, SolveLayer
from pipelines.store.artifacts import Artifact, Keyed
from pipelines.store.store import Store


@dataclass(frozen=True)
class TimeSolve:
    """Time the solve of a layer; the solution itself is dropped."""

    solve: SolveLayer

    def run(self, layer: Keyed[LayerInput], bits: Keyed[int], place: Place) -> Artifact:
        """Record: seconds, where."""
        record = self.solve.run(layer, bits).record
        return Artifact({}, {name: record[name] for name in ("seconds", "timed")})


@dataclass(frozen=True)
class Times:
    """Seconds that may be compared.

    Attributes:
        baseline: as it was, with these seconds.
        solves: seconds of the method's solve, by layer.
        machine: host, processor and kernels of all seconds.
        again: layers that were timed again, as their times were of another machine.
    """

    baseline: Mapping[str, LayerBaseline]
    solves: Mapping[str, float]
    machine: tuple[str, str, str]
    again: tuple[str, ...] = ()


def comparable(
    store: Store,
    obq: SolveLayer | None,
    method: SolveLayer,
    weights: QuantizedWeights,
    bits: Mapping[str, int],
    baseline: Mapping[str, LayerBaseline],
    machine: Machine,
) -> Times:
    """The times of the store where all are of one machine; else those of this one."""
    solves = {name: s.record["seconds"] for name, s in weights.solutions.items()}
    if obq is None:  # nothing to compare with
        return Times(baseline, solves, Place.here().machine)
    places = {
        name: {place_of(solution.record), *baseline[name].places}
        for name, solution in weights.solutions.items()
    }
    machines = {place.machine for found in places.values() for place in found}
    if len(machines) == 1 and all(len(found) == 1 for found in places.values()):
        return Times(baseline, solves, machines.pop())
    here, again = dict(baseline), []
    with machine.screen.bar("time again", len(places)) as advance:
        for name, found in places.items():
            given = weights.inputs[name]
            with solving(given.layer):
                place = Place.here()
            if found != {place}:
                again.append(name)
                width = Keyed(bits[name], str(bits[name]))
                solves[name] = _seconds(store, method, given, width, place)
                here[name] = _timed(store, obq, given, width, place, baseline[name])
            advance(1)
    return Times(here, solves, place.machine, tuple(again))


def _timed(
    store: Store,
    obq: SolveLayer,
    given: LayerInput,
    bits: Keyed[int],
    place: Place,
    known: LayerBaseline,
) -> LayerBaseline:
    """The baseline of a layer with the seconds of this machine, on the same rows."""
    seconds = _seconds(store, obq, given.of_rows(known.rows), bits, place)
    if known.estimated:
        inverse = store.run(TimeInverse(obq.damping), Keyed(given, given.key), place)
        shared = float(inverse.record["seconds"])
        seconds = estimate(seconds, shared, known.rows, given.layer.rows)
    return replace(known, seconds=seconds, places=frozenset({place}))


def _seconds(
    store: Store, solve: SolveLayer, given: LayerInput, bits: Keyed[int], place: Place
) -> float:
    found = store.run(TimeSolve(solve), Keyed(given, given.key), bits, place)
    return float(found.record["seconds"])
