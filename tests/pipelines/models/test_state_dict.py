import os
import pickle

import pytest
import safetensors.torch
import torch
from torch import nn

from pipelines.models.state_dict import load_into, read


def net(width=4, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.Conv2d(width, 2, 1))


def same(state, other):
    assert state.keys() == other.keys()
    for name in state:
        torch.testing.assert_close(state[name], other[name], rtol=0, atol=0)


class Touch:
    """Unpickled, it would make the file `path`."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("suffix", ["right", "misleading"])
@pytest.mark.parametrize("format", ["safetensors", "zip", "legacy"])
def test_every_format_is_read_whatever_the_file_is_called(tmp_path, format, suffix):
    state = net().state_dict()
    file = tmp_path / f"x.{'bin' if suffix == 'misleading' else format}"
    if format == "safetensors":
        safetensors.torch.save_file(state, file)
    else:
        torch.save(state, file, _use_new_zipfile_serialization=format == "zip")
    same(read(file), state)


def test_a_safetensors_file_whose_first_byte_is_a_pickles_is_not_unpickled(tmp_path, monkeypatch):
    state, file = net().state_dict(), tmp_path / "x.safetensors"
    for length in range(0, 256, 8):
        safetensors.torch.save_file(state, file, metadata={"pad": "x" * length})
        if file.read_bytes().startswith(b"\x80"):
            break
    assert file.read_bytes().startswith(b"\x80")
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("taken for a torch file"))
    same(read(file), state)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_wrappers_and_prefixes_of_training_scripts_are_taken_off(tmp_path, wrapper, prefix):
    state = net().state_dict()
    content = {prefix + name: value for name, value in state.items()}
    torch.save({"epoch": 3, wrapper: content} if wrapper else content, tmp_path / "x.pt")
    same(read(tmp_path / "x.pt"), state)


def test_a_prefix_that_only_some_keys_have_belongs_to_the_names(tmp_path):
    state = {"module.a": torch.ones(1), "b": torch.ones(1)}
    torch.save(state, tmp_path / "x.pt")
    same(read(tmp_path / "x.pt"), state)


@pytest.mark.parametrize("format", ["safetensors", "zip", "legacy"])
@pytest.mark.parametrize("kept", [0, 1, 12, 0.5, 0.99])
def test_a_truncated_file_is_called_damaged_in_one_screen(tmp_path, format, kept):
    file = tmp_path / "x.ckpt"
    if format == "safetensors":
        safetensors.torch.save_file(net(200).state_dict(), file)
    else:
        state = net(200).state_dict()
        torch.save(state, file, _use_new_zipfile_serialization=format == "zip")
    content = file.read_bytes()
    file.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    with pytest.raises(ValueError, match=r"x\.ckpt.*truncated.*download it again") as caught:
        read(file)
    assert len(str(caught.value)) < 700
    assert "weights_only" not in str(caught.value)


@pytest.mark.parametrize("format", ["zip", "legacy", "bare pickle"])
@pytest.mark.parametrize("name", ["x.pt", "x.safetensors"])
def test_a_pickle_with_code_is_named_and_not_run(tmp_path, format, name):
    file, trap = tmp_path / name, tmp_path / "made by the pickle"
    content = {"weight": torch.ones(2), "extra": Touch(trap)}
    if format == "bare pickle":
        file.write_bytes(pickle.dumps({"extra": Touch(trap)}))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=format == "zip")
    with pytest.raises(ValueError, match=r"would call \w+\.mkdir.*save_file.*model\.checkpoint="):
        read(file)
    assert not trap.exists()


def test_a_pickled_module_is_refused_by_the_name_of_its_class(tmp_path):
    torch.save(net(), tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"would call .*torch\.nn\.modules\.\w+\.\w+"):
        read(tmp_path / "x.pt")


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_torchscript_archive_is_refused_with_the_way_to_convert_it(tmp_path):
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"TorchScript archive.*torch\.jit\.load.*save_file"):
        read(tmp_path / "x.pt")


@pytest.mark.parametrize("content", [{"epoch": 3, "lr": 0.1}, [1, 2], {"model": {"name": "x"}}])
def test_a_file_without_a_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(ValueError, match="holds no state dict: found"):
        read(tmp_path / "x.pt")


def test_half_precision_in_the_file_is_float32_in_the_module():
    target = net(seed=1)
    halves = {n: v.half() if v.ndim == 4 else v for n, v in net(seed=2).state_dict().items()}
    load_into(target, halves, "x")
    same(target.state_dict(), {n: v.float() if v.ndim else v for n, v in halves.items()})


def test_num_batches_tracked_may_be_missing():
    target, state = net(seed=1), net(seed=2).state_dict()
    del state["1.num_batches_tracked"]
    load_into(target, state, "x")
    same({n: target.state_dict()[n] for n in state}, state)


def test_keys_that_do_not_fit_are_counted_and_the_first_five_named():
    target, state = net(seed=1), net(width=5, seed=2).state_dict()
    before = {name: value.clone() for name, value in target.state_dict().items()}
    del state["2.bias"]
    state |= {f"extra{i}": torch.ones(1) for i in range(7)}
    with pytest.raises(ValueError, match="do not match the network") as caught:
        load_into(target, state, "weights/x.pt")
    message = str(caught.value)
    assert "weights/x.pt" in message
    assert "1 missing: 2.bias\n" in message
    assert "7 unexpected: extra0, extra1, extra2, extra3, extra4, ...\n" in message
    assert "7 of another shape: 0.weight is [5, 3, 3, 3] instead of [4, 3, 3, 3]," in message
    same(target.state_dict(), before)


def test_integer_weights_are_not_taken_for_floats():
    state = net().state_dict()
    state["0.weight"] = state["0.weight"].to(torch.int8)
    with pytest.raises(ValueError, match=r"0\.weight is int8 \[4, 3, 3, 3\] instead of \[4"):
        load_into(net(), state, "x")


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_weight_that_is_not_finite_is_named_and_the_module_unchanged(value):
    target, state = net(seed=1), net(seed=2).state_dict()
    before = {name: value.clone() for name, value in target.state_dict().items()}
    state["2.weight"][0, 0] = value
    with pytest.raises(ValueError, match=r"x\.pt: NaN or infinite .* 1 of 9 tensors: 2\.weight"):
        load_into(target, state, "x.pt")
    same(target.state_dict(), before)
