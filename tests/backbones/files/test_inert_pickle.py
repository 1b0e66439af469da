"""The reader of pickles: plain data as Python's own gives it, for nothing of the file to be called, and never without end."""

from __future__ import annotations

import collections
import io
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backbones.files.inert_pickle import Array, Inert, MalformedPickle, TooMuchWork, read_pickle


def read(content: bytes) -> Any:
    return read_pickle(io.BytesIO(content)).content


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | st.binary(max_size=300),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=5) | st.integers(-1000, 1000), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(content=PLAIN, protocol=st.sampled_from(range(6)))
@settings(max_examples=150)
def test_plain_data_is_what_python_reads(content: Any, protocol: int) -> None:
    assert read(pickle.dumps(content, protocol)) == pickle.loads(pickle.dumps(content, protocol))


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_are_their_bytes(protocol: int) -> None:
    array = np.asfortranarray(np.arange(6, dtype=">i2").reshape(2, 3))
    read_array = read(pickle.dumps({"a": array}, protocol))["a"]
    assert isinstance(read_array, Array)
    assert np.array_equal(
        np.frombuffer(read_array.data, read_array.dtype).reshape(
            read_array.shape, order="F" if read_array.columns_first else "C"
        ),
        array,
    )


@pytest.mark.parametrize("array", [np.array([None]), np.array(["x"]), np.zeros(1, "f4,O"), np.zeros(1, "V8")])
def test_arrays_of_anything_but_numbers_are_none(array: Any) -> None:
    assert read(pickle.dumps(array, 2)).dtype is None


def test_the_dtype_of_an_array_in_use_cannot_be_changed() -> None:
    """Issue 19: numpy frees a pointer of the file's choice when its dtype gets object fields after the array was made."""
    from benchmarks.fuzz import array_pickles

    content = read(array_pickles()[-1])
    assert content["model"].dtype is None
    assert content["model"].data == b"AAAAAAAA"


def test_keys_that_python_would_hash_at_length_equal_nothing() -> None:
    deep = b"\x80\x04}" + b")" + b"\x85" * 100_000 + b"Ns."  # a tuple in a tuple in …, as a key: hashing it recurses
    assert [type(key) for key in read(deep)] == [Inert]
    colliding = {k * (2**61 - 1): None for k in range(1, 10)}
    assert {type(key) for key in read(pickle.dumps(colliding))} == {Inert}


def test_dicts_of_the_standard_library_are_dicts() -> None:
    content = [collections.OrderedDict(a=1), collections.defaultdict(list, {"b": 2}), collections.Counter("aa")]
    ordered, default, counter = read(pickle.dumps(content, 2))
    assert (ordered, default) == ({"a": 1}, {"b": 2})
    assert isinstance(counter, Inert)


CODECS = (
    b"c_codecs\nencode\nq\x00X" + (1 << 20).to_bytes(4, "little") + b"a" * (1 << 20) + b"q\x01X\x06\0\0\0latin1q\x02"
)


@pytest.mark.parametrize(
    "content",
    [b"\x80\x04" + b"]0" * 1_100_000 + b".", b"\x80\x04" + CODECS + b"h\0h\x01h\x02\x86R" * 100 + b"."],
    ids=["opcodes", "copies"],
)
def test_work_is_bounded(content: bytes) -> None:
    with pytest.raises(TooMuchWork):
        read(content)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x04.",
        b"\x80\x04K\x01R.",
        b"\x80\x04h\x05.",
        b"\x80\x04K\x01K\x02s.",
        b"\x80\x04\x8d" + b"\0" * 5 + b"\x01\0\0abc",  # a text of a terabyte
        b"\x80\x05\x97.",  # bytes that lie beside the pickle
        b"\x80\x04u.",
    ],
)
def test_what_is_no_pickle_is_refused(content: bytes) -> None:
    with pytest.raises(MalformedPickle):
        read(content)
