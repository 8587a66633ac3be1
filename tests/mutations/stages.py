"""Every stage that the store keeps results of, with real settings, found by looking."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
from collections.abc import Iterator, Mapping
from typing import Any, get_args, get_type_hints

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import OmegaConf

import pipelines
from pipelines.chain import Chain
from pipelines.cli.overrides import CONF
from pipelines.store.artifacts import Keyed

# Together they have every stage that settings can ask for.
EXPERIMENTS = (("method=eptq", "objective=kl"), ("precision=mixed", "precision.cost=measured"))
PLAIN = {int: 1, float: 0.5, str: "a", bool: True}


def classes() -> list[type]:
    """Classes of stages: `run` returns an Artifact."""
    found = set()
    for module in pkgutil.walk_packages(pipelines.__path__, "pipelines."):
        if module.name.endswith("__main__"):
            continue
        for kind in vars(importlib.import_module(module.name)).values():
            run = getattr(kind, "run", None)
            own = inspect.isclass(kind) and kind.__module__ == module.name
            if not own or not inspect.isfunction(run) or kind.__name__ == "Store":
                continue
            if inspect.signature(run).return_annotation == "Artifact":
                found.add(kind)
    return sorted(found, key=lambda kind: kind.__name__)


def chain(*words: str) -> Chain:
    """All stages of a run of the digits with these settings."""
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        words = ("model=digits", "data=digits", *words)
        cfg = compose("run", overrides=list(words), return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    settings = OmegaConf.to_container(cfg, resolve=False)
    settings.pop("hydra")
    plain = OmegaConf.create(OmegaConf.to_container(OmegaConf.create(settings), resolve=True))
    fields = Chain.__dataclass_fields__
    return Chain(**{name: instantiate(plain[name], _convert_="all") for name in fields})


def stages() -> dict[str, Any]:
    """A stage of each class, by its name; those of no setting are filled with what fits."""
    found: dict[str, Any] = {}
    known: dict[str, Any] = {}  # values of fields, by name
    for made in (chain(*words) for words in EXPERIMENTS):
        for part in (p for f in dataclasses.fields(made) for p in _parts(getattr(made, f.name))):
            found.setdefault(type(part).__name__, part)
            for field in dataclasses.fields(part):
                if (value := getattr(part, field.name)) is not None:
                    known.setdefault(field.name, value)
    wanted = classes()
    for kind in wanted:
        if kind.__name__ not in found:
            hints, fields = get_type_hints(kind), dataclasses.fields(kind)
            given = {f.name: known.get(f.name, PLAIN.get(hints[f.name])) for f in fields}
            for name, value in given.items():
                optional = type(None) in get_args(hints[name])
                assert value is not None or optional, f"cannot make a {kind.__name__}: {name}"
            found[kind.__name__] = kind(**given)
    return {kind.__name__: found[kind.__name__] for kind in wanted}


def _parts(value: Any) -> Iterator[Any]:
    """The dataclasses within a value."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield value
        for field in dataclasses.fields(value):
            yield from _parts(getattr(value, field.name))
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _parts(each)


def inputs(stage: Any) -> dict[str, Keyed[Any]]:
    """An input for each parameter of `run`, with its name as its key."""
    names = [*inspect.signature(type(stage).run).parameters][1:]
    return {name: Keyed(None, name) for name in names if name != "scratch"}
