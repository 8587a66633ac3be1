"""Times of whole networks."""

from __future__ import annotations

import pytest

from pipelines.onnx import latency as module
from pipelines.onnx.export import export
from pipelines.onnx.latency import Latency, latency
from tests.pipelines.onnx.networks import Sequences, network


def test_networks_are_timed_in_turn_without_the_warm_up(quantize, tmp_path, passes, monkeypatch):
    model, x = network(Sequences)
    path = export(model, quantize(model, x, 4, None), x, tmp_path / "net.onnx").path
    lengths = {"a": iter([9, 9, 9, 1, 2, 3, 4, 5]), "b": iter([9, 9, 9, 7, 7, 7, 7, 7])}
    calls = []

    def slow(path, threads, *, precise):
        session = opened(path, threads, precise=precise)
        name = "ab"[len(names)]
        names.append(name)

        class Slow:
            get_inputs = session.get_inputs

            def run(self, outputs, inputs):
                calls.append(name)
                passes(next(lengths[name]) / 1000)
                return session.run(outputs, inputs)

        return Slow()

    opened, names = module.session, []
    monkeypatch.setattr(module, "session", slow)
    times = latency({"a": path, "b": path}, x.numpy(), threads=1, repeats=5)
    assert calls == ["a", "b"] * 8
    assert (times["a"].median, times["a"].p10, times["a"].p90) == pytest.approx((3, 1.4, 4.6))
    assert times["b"] == Latency(*[pytest.approx(7)] * 3)
