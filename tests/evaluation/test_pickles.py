"""Pickles of arrays are read; pickles that name anything else do nothing."""

import os
import pickle
import struct
import warnings

import numpy as np
import pytest

from evaluation.pickles import load


def python2(array: np.ndarray, labels: list[int]) -> bytes:
    """{'data': array, 'labels': labels} as Python 2 and numpy 1 pickled the published batches."""

    def text(value: bytes) -> bytes:  # SHORT_BINSTRING, BINSTRING
        short = len(value) < 256
        return (
            b"U" + struct.pack("<B", len(value)) if short else b"T" + struct.pack("<i", len(value))
        ) + value

    rows, columns = array.shape
    dtype = b"cnumpy\ndtype\n(" + text(b"u1") + b"K\x00K\x01tR(K\x03" + text(b"|") + b"NNN"
    dtype += b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    data = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00t" + text(b"b") + b"tR"
    data += b"(K\x01(M" + struct.pack("<H", rows) + b"M" + struct.pack("<H", columns) + b"t"
    data += dtype + b"\x89" + text(array.tobytes()) + b"tb"
    numbers = b"](" + b"".join(b"K" + struct.pack("<B", y) for y in labels) + b"e"
    return b"\x80\x02}(" + text(b"data") + data + text(b"labels") + numbers + b"u."


class Attack:
    """Unpickled the usual way, it makes a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("shape", [(2, 3), (40, 3072)])
def test_arrays_of_every_protocol_come_back_as_they_were(protocol, shape):
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    batch = load(pickle.dumps({b"data": array, b"labels": [1, 2]}, protocol))
    assert np.array_equal(batch[b"data"], array)
    assert batch[b"data"].dtype == np.uint8
    assert batch[b"labels"] == [1, 2]


def test_pickles_of_python_2_and_numpy_1_are_read_without_a_warning():
    array = np.random.default_rng(0).integers(0, 256, (4, 300), dtype=np.uint8)
    blob = python2(array, [3, 1, 4, 1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        batch = load(blob)
    assert np.array_equal(batch[b"data"], array)
    assert batch[b"labels"] == [3, 1, 4, 1]


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_pickle_that_holds_code_is_refused_by_name_and_not_run(tmp_path, protocol):
    target = tmp_path / "made"
    blob = pickle.dumps({"data": Attack(str(target)), "labels": []}, protocol)
    with pytest.raises(ValueError, match=r"contains code: it refers to (posix|nt)\.mkdir"):
        load(blob)
    assert not target.exists()
    pickle.loads(blob)  # the attack is a real one
    assert target.exists()


@pytest.mark.parametrize(
    "name", ["builtins\neval", "os\nsystem", "numpy\nload", "numpy\nrecord", "numpy.f2py\nrun_main"]
)
def test_no_other_name_is_known_not_even_numpys(name):
    with pytest.raises(ValueError, match=name.replace("\n", r"\.")):
        load(f"c{name}\n(S'x'\ntR.".encode())


def test_a_nested_name_does_not_lead_out_of_the_known_ones():
    blob = b"\x80\x04\x8c\x05numpy\x8c\x10ndarray.__init__\x93."
    with pytest.raises(ValueError, match=r"numpy\.ndarray\.__init__"):
        load(blob)


def test_codecs_other_than_the_one_of_bytes_are_not_looked_up():
    with pytest.raises(ValueError, match="encode with 'rot13'"):
        load(b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86R.")


@pytest.mark.parametrize("cut", [0, 1, 30, -1])
def test_a_damaged_pickle_is_an_error_and_no_crash(cut):
    blob = pickle.dumps({"data": np.zeros((2, 2), np.uint8)}, 2)
    with pytest.raises(ValueError, match="not a readable pickle"):
        load(blob[:cut])
