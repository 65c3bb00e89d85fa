"""Schedules without an optimizer: their values, how they combine, their text."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onepass.optim import schedules as s
from tolerance import PREVIEW_ATOL, PREVIEW_RTOL, SCHEDULE_ATOL, SCHEDULE_RTOL

SHAPES = [
    s.constant(0.5),
    s.constant(0.5, 7),
    s.linear(10),
    s.linear(10, 0.2, 0.7),
    s.warmup(5),
    s.warmup(0),
    s.cosine(20, 0.1),
    s.cosine(20, periodic=True),
    s.polynomial(15, 2.0, 0.1),
    s.sqrt_decay(12, 0.1),
    s.exponential(0.9),
    s.step(4, 0.5),
    s.multistep((9, 3, 9)),
    s.multistep(()),
    s.inverse_sqrt(10),
    s.one_cycle(30),
    s.one_cycle(30, three_phase=True, anneal="linear"),
    s.cyclic(4, 6, 0.1),
    s.cyclic(4, mode="triangular2"),
    s.cyclic(4, mode="exp_range", gamma=0.9),
    s.warm_restarts(5),
    s.warm_restarts(5, 3, 0.1),
    s.warmup(5) >> s.cosine(20, 0.1),
    s.wsd(3, 10, 5, 0.1, "sqrt"),
    0.5 * (s.warmup(5) >> s.exponential(0.9)),
    s.step(7) * s.clamp(s.linear(10), 0.2, 0.8),
    s.take(s.exponential(0.9), 6) >> s.constant(0.25),
]
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=repr)


@each_shape
def test_preview_is_the_calls(shape):
    single = [shape(step) for step in range(60)]
    assert shape.preview(60) == pytest.approx(single, rel=PREVIEW_RTOL, abs=PREVIEW_ATOL)
    assert shape.preview(60, lr=3e-4)[7] == pytest.approx(shape.lr_at(7, 3e-4), rel=PREVIEW_RTOL)
    assert shape.preview(0).shape == (0,)


@each_shape
def test_text_and_copies(shape):
    assert s.parse(repr(shape)) == shape
    assert repr(s.parse(repr(shape))) == repr(shape)
    for other in (copy.deepcopy(shape), pickle.loads(pickle.dumps(shape))):
        assert other == shape
        assert [other(t) for t in range(30)] == [shape(t) for t in range(30)]
    assert len({shape, copy.deepcopy(shape)}) == 1


@each_shape
def test_the_end_is_kept(shape):
    if shape.length is None:
        with pytest.raises(
            ValueError, match="preview: steps must be given for a schedule without an end, got None"
        ):
            shape.preview()
        return
    assert len(shape.preview()) == shape.length + 1
    if "periodic" not in repr(shape):
        assert shape(shape.length + 1) == shape(shape.length) == shape(10**9)


@pytest.mark.parametrize(
    ("shape", "values"),
    [
        (s.warmup(4) >> s.linear(4), [0, 0.25, 0.5, 0.75, 1, 0.75, 0.5, 0.25, 0, 0]),
        (s.warmup(4, 0.5), [0.5, 0.625, 0.75, 0.875, 1, 1]),
        (s.wsd(2, 2, 2), [0, 0.5, 1, 1, 1, 0.5, 0]),
        (s.constant(0.5, 2) >> s.constant(), [0.5, 0.5, 1, 1]),
        (s.inverse_sqrt(2), [1, math.sqrt(2 / 3), math.sqrt(0.5)]),
        (s.warm_restarts(2, 2), [1, 0.5, 1, 0.5 + math.sqrt(2) / 4, 0.5, 0.5 - math.sqrt(2) / 4, 1]),
        (s.clamp(s.linear(4), 0.3, 0.6), [0.6, 0.6, 0.5, 0.3, 0.3]),
        (s.multistep((2, 2, 4), 0.5), [1, 1, 0.25, 0.25, 0.125]),
        (s.cyclic(2), [0, 0.5, 1, 0.5, 0, 0.5]),
        (s.sqrt_decay(4), [1, 0.5, 1 - math.sqrt(0.5)]),
        (s.take(s.exponential(0.5), 2) >> s.constant(3.0), [1, 0.5, 3]),
        (2 * s.linear(2) * 0.5, [1, 0.5, 0]),
    ],
    ids=repr,
)
def test_values(shape, values):
    assert [shape(step) for step in range(len(values))] == pytest.approx(
        values, rel=SCHEDULE_RTOL, abs=SCHEDULE_ATOL
    )


def test_lengths():
    assert (s.warmup(5) >> s.cosine(20)).length == 25
    assert (0.5 * s.cosine(20)).length == 20
    assert (s.cosine(20) * s.linear(30)).length == 30
    assert (s.cosine(20) * s.exponential(0.9)).length is None
    assert (s.warmup(5) >> s.exponential(0.9)).length is None
    assert s.constant().length is None


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(1, 50), st.integers(2, 4), st.integers(0, 10**12))
def test_restarts_are_exact_far_out(first, mult, step):
    """A logarithm of the step would take the wrong cycle at its edges."""
    begin, size = 0, first
    while step >= begin + size:
        begin, size = begin + size, size * mult
    for at in (begin, begin + size - 1):
        wanted = (1 + math.cos(math.pi * (at - begin) / size)) / 2
        assert s.warm_restarts(first, mult)(at) == pytest.approx(wanted, rel=SCHEDULE_RTOL)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: s.cosine(0), r"cosine: steps must be finite and above 0, got 0"),
        (lambda: s.cosine(5, -0.1), r"cosine: floor must be finite and at least 0, got -0.1"),
        (lambda: s.cosine(float("inf")), r"cosine: steps must be finite and above 0, got inf"),
        (lambda: s.cosine("5"), r"cosine: steps must be a number, got '5'"),
        (lambda: s.cosine(True), r"cosine: steps must be a number, got True"),
        (lambda: s.warmup(-1), r"warmup: steps must be finite and at least 0, got -1"),
        (lambda: s.warmup(5, 2), r"warmup: start must be finite and at least 0 and at most 1, got 2"),
        (lambda: s.linear(5, -1), r"linear: start must be finite and at least 0, got -1"),
        (lambda: s.linear(5, 1, -1), r"linear: end must be finite and at least 0, got -1"),
        (lambda: s.constant(-1), r"constant: factor must be finite and at least 0, got -1"),
        (lambda: s.polynomial(5, -1), r"polynomial: power must be finite and at least 0, got -1"),
        (lambda: s.exponential(float("nan")), r"exponential: gamma must be finite and at least 0, got nan"),
        (lambda: s.step(0), r"step: size must be finite and above 0, got 0"),
        (lambda: s.multistep((1, -2)), r"multistep: milestones\[1\] must be finite and at least 0, got -2"),
        (lambda: s.inverse_sqrt(0), r"inverse_sqrt: timescale must be finite and above 0, got 0"),
        (lambda: s.one_cycle(5, 2), r"one_cycle: pct_start must be finite and at least 0 and at most 1, got 2"),
        (lambda: s.one_cycle(5, anneal="up"), r"one_cycle: anneal must be cos or linear, got 'up'"),
        (lambda: s.cyclic(5, mode="up"), r"cyclic: mode must be triangular, triangular2 or exp_range, got 'up'"),
        (lambda: s.warm_restarts(2.5), r"warm_restarts: steps must be an integer, got 2.5"),
        (lambda: s.wsd(1, 1, 1, shape="up"), r"wsd: shape must be one of linear, cosine, sqrt, got 'up'"),
        (lambda: s.clamp(s.linear(5), 0.5, 0.1), r"clamp: high must be finite and at least 0.5, got 0.1"),
        (lambda: s.take(5, 5), r"take: parts\[0\] must be a schedule, got 5"),
        (lambda: s.sequence(), r"sequence: parts must be at least one schedule, got none"),
        (
            lambda: s.exponential(0.9) >> s.linear(5),
            r"sequence: parts\[0\] must have an end .* got exponential\(0.9\); take\(exponential\(0.9\), steps\)",
        ),
        (lambda: s.linear(5)(-1), r"linear: step must be at least 0, got -1"),
        (lambda: s.linear(5).preview(-1), r"preview: steps must be at least 0, got -1"),
    ],
)
def test_wrong_arguments(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()


def test_other_operands():
    for wrong in (lambda: s.linear(5) >> 3, lambda: s.linear(5) * "a", lambda: "a" * s.linear(5)):
        with pytest.raises(TypeError, match=r"unsupported operand|can't multiply"):
            wrong()


@pytest.mark.parametrize(
    ("text", "message", "marked"),
    [
        ("warmup(5) >> cosin(9)", "the name must be one of clamp, .*, got cosin", "cosin"),
        ("cosine(9) + 1", r"only >> and \* join schedules, got cosine\(9\) \+ 1", "cosine(9) + 1"),
        ("cosine(flor=1)", "cosine has the arguments steps, floor, periodic, got flor", "flor=1"),
        ("cosine(**1)", r"cosine has the arguments .*, got \*\*", None),
        ("2 * cosine(0)", "cosine: steps must be finite and above 0, got 0", "cosine(0)"),
        ("exponential(0.9) >> cosine(9)", "must have an end", "exponential(0.9)"),
        ("cosine()", "missing 1 required positional argument", "cosine()"),
        ("__import__('os').system('x')", "the name must be one of .*, got __import__", None),
        ("(lambda: 1)()", "the name must be one of .*, got lambda: 1", None),
        ("cosine(9, [x for x in y])", "only schedules, numbers, >> and \\* are understood", "[x for x in y]"),
        ("cosine(9).length", "only schedules, numbers", "cosine(9).length"),
        # Python only warns of this one, and the warning must not be shown.
        ("1if 1else 2", "only schedules, numbers", "1if 1else 2"),
        ("2 * 3", r"\* is for schedules, or a number and a schedule, got 2 \* 3", "2 * 3"),
        ("5", "a schedule is wanted here, got 5", "5"),
        ("'a' >> cosine(9)", "a schedule is wanted here, got 'a'", "'a'"),
        ("é >> cosine(9)", "only schedules, numbers", "é"),
        ("cosine(9", "was never closed", None),
        ("", "invalid syntax", None),
        ("cosine(\0)", "null byte", None),
        ("(" * 500, "too many nested parentheses|must be a schedule", None),
        ("-" * 1500 + "5", "nested too deeply|must be a schedule|too many|too complex", None),
        ("1" * 2001, "text must have at most 2000 characters, got 2001", None),
    ],
)
def test_wrong_text(text, message, marked):
    with pytest.raises(ValueError, match=message) as raised:
        s.parse(text)
    if marked is not None:
        _, shown, mark = str(raised.value).split("\n")
        assert shown[mark.index("^") : mark.rindex("^") + 1] == marked


def test_parse_takes_spaces_lines_and_negative_numbers():
    assert s.parse(" warmup(5)\n>> multistep([3, 4], gamma=0.5) ") == s.warmup(5) >> s.multistep((3, 4), 0.5)
    with pytest.raises(ValueError, match=r"linear: start must be .*, got -1"):
        s.parse("linear(5, -1)")


def test_arrays_are_float64():
    assert s.step(3).preview(4).dtype == s.constant().preview(4).dtype == np.float64


@pytest.mark.parametrize("options", [{}, {"pct_start": 1.0}, {"pct_start": 0.8, "three_phase": True}])
@pytest.mark.parametrize("steps", [0.5, 1, 10])
def test_one_cycle_keeps_its_last_value_beyond_the_end(options, steps):
    shape = s.one_cycle(steps, **options)
    shown = shape.preview(15)
    assert [shape(t) for t in range(15)] == pytest.approx(shown)
    assert np.all(np.isfinite(shown))
    assert len(set(shown[9:])) == 1


def test_a_repeated_keyword_is_refused():
    with pytest.raises(ValueError, match="cosine must get each argument once, got steps twice"):
        s.parse("cosine(steps=5, steps=60)")


def test_the_length_of_deeply_nested_sequences_is_found_at_once():
    nested = s.parse("warmup(1) >> 2 * (" * 40 + "cosine(1)" + ")" * 40)
    assert nested.length == 41
