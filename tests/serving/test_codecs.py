"""Rows to bytes and back: sizes, errors within what each codec promises, clear refusals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from seqlib.serving.codecs import Float, Int4, Int8, codec

SHAPES = hnp.array_shapes(min_dims=1, max_dims=3, max_side=6).map(lambda s: (*s[:-1], 2 * s[-1]))


def rows(limit: float):
    numbers = st.floats(-limit, limit, width=32)
    return SHAPES.flatmap(lambda s: hnp.arrays(np.float32, (3, *s), elements=numbers))


def back(of, x):
    raw = of.encode(x)
    assert raw.dtype == np.uint8
    assert raw.shape == (len(x), of.nbytes(x.shape[1:]))
    return of.decode(raw, x.shape[1:])


@settings(max_examples=50, deadline=None)
@given(rows(2.0**99))
def test_float32_is_kept_bit_by_bit(x):
    np.testing.assert_array_equal(back(Float(), x), x)


@settings(max_examples=50, deadline=None)
@given(rows(1.0))
def test_float16_rounds(x):
    np.testing.assert_array_equal(
        back(Float("float16"), x), x.astype(np.float16).astype(np.float32)
    )


@settings(max_examples=50, deadline=None)
@given(rows(3.0))
def test_int8_is_within_half_a_step_up_to_its_limit_and_clamped_beyond(x):
    step = 0.65 / 127
    error = np.abs(back(Int8(0.65), x) - x.clip(-0.65, 0.65))
    assert error.max() <= step / 2 * (1 + 1e-5)
    np.testing.assert_array_equal(back(Int8(0.65), np.zeros_like(x)), 0)
    np.testing.assert_array_equal(back(Int8(0.65), -x), -back(Int8(0.65), x))


@settings(max_examples=100, deadline=None)
@given(rows(1e4))
def test_int4_is_within_half_a_step_of_each_vectors_own_range(x):
    low, high = x.min(-1, keepdims=True), x.max(-1, keepdims=True)
    step = (high.astype(np.float64) - low) / 15
    error = np.abs(back(Int4(), x).astype(np.float64) - x)
    assert (error <= step / 2 + 1e-6 * np.abs(x).max(initial=1)).all()


def test_int4_of_a_user_embedding_is_58_rows_of_17_int64():
    x = np.random.default_rng(0).normal(size=(2, 58, 256)).astype(np.float32)
    raw = Int4().encode(x)
    assert raw[0].view(np.int64).shape == (58 * 17,)
    assert raw[0].nbytes == 7_888


def test_int4_keeps_extremes_and_constants():
    x = np.array([[1.5e38, -1.5e38, 0.0, 1.0]], np.float32)
    np.testing.assert_allclose(back(Int4(), x)[0, :2], x[0, :2], rtol=1e-5)
    with pytest.raises(ValueError, match="beyond float32"):
        Int4().encode(2 * x)
    np.testing.assert_array_equal(back(Int4(), np.full((1, 4), 0.3, np.float32)), np.float32(0.3))


@pytest.mark.parametrize("name", ["float32", "float16", "int4", "int8:0.65", "int8:2"])
def test_a_name_makes_the_codec_it_came_from(name):
    assert codec(name).name == name


def test_what_can_not_be_kept_is_refused():
    with pytest.raises(ValueError, match=r"rows reaches 70000; float16 ends at 65504"):
        Float("float16").encode(np.full((1, 2), 7e4, np.float32))
    with pytest.raises(ValueError, match=r"a row of shape \(3,\) can't be int4"):
        Int4().encode(np.zeros((1, 3), np.float32))
    for name, why in (
        ("bfloat16", "it is one of float32, float16, int8:LIMIT, int4"),
        ("int8:-1", "int8 takes a positive limit"),
        ("int8:x", "int8 takes a positive limit"),
        ("int4:3", "it is one of"),
    ):
        with pytest.raises(ValueError, match=why):
            codec(name)
