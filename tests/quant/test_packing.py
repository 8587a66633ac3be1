"""Packing of codes: no bit lost, no byte wasted."""

from __future__ import annotations

import pytest
import torch

from quant import packing
from quant.packing import pack, unpack


def codes_of(bits, *shape):
    draw = torch.Generator().manual_seed(bits)
    return torch.randint(0, 2**bits, shape, generator=draw)


@pytest.mark.parametrize("bits", range(1, 17))
@pytest.mark.parametrize("shape", [(0,), (1,), (7,), (8,), (3, 5, 7), (2, 0, 3), (4, 4)])
def test_unpacking_returns_the_codes_and_the_length_is_exact(bits, shape):
    codes = codes_of(bits, *shape)
    packed = pack(codes, bits)
    assert packed.dtype == torch.uint8
    assert len(packed) == -(-codes.numel() * bits // 8)
    assert torch.equal(unpack(packed, bits, shape), codes)


@pytest.mark.parametrize("bits", range(1, 17))
@pytest.mark.parametrize("count", [63, 64, 65, 128, 131])
def test_sizes_around_the_step_lose_nothing(bits, count, monkeypatch):
    codes = codes_of(bits, count)
    whole = pack(codes, bits)
    monkeypatch.setattr(packing, "STEP", 64)
    assert torch.equal(pack(codes, bits), whole)
    assert torch.equal(unpack(whole, bits, (count,)), codes)


def test_more_codes_than_the_real_step():
    codes = codes_of(3, packing.STEP + 5)
    packed = pack(codes, 3)
    assert packing.STEP % 8 == 0
    assert len(packed) == -(-(packing.STEP + 5) * 3 // 8)
    assert torch.equal(unpack(packed, 3, (packing.STEP + 5,)), codes)


@pytest.mark.parametrize("bits", range(1, 17))
def test_the_first_code_comes_first_with_its_highest_bit_first(bits):
    codes = codes_of(bits, 21)
    text = "".join(format(int(code), f"0{bits}b") for code in codes)
    text += "0" * (-len(text) % 8)
    expected = [int(text[i : i + 8], 2) for i in range(0, len(text), 8)]
    assert pack(codes, bits).tolist() == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int32, torch.uint8])
def test_codes_of_any_dtype_pack_alike(dtype):
    codes = codes_of(5, 33)
    assert torch.equal(pack(codes.to(dtype), 5), pack(codes, 5))


@pytest.mark.parametrize("bad", [-1, 8])
def test_a_code_that_does_not_fit_is_refused(bad):
    with pytest.raises(ValueError, match="do not fit into 3 bits"):
        pack(torch.tensor([0, bad, 3]), 3)


@pytest.mark.parametrize("length", [0, 4, 6])
def test_a_wrong_length_is_refused(length):
    packed = torch.zeros(length, dtype=torch.uint8)
    with pytest.raises(ValueError, match=f"{length} bytes do not hold 13 codes of 3 bits"):
        unpack(packed, 3, (13,))
