"""Outcomes leaving a jail: what is packed arrives, what is made up is refused or judged."""

import functools
import json
import re
import struct
from collections import namedtuple
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from random import Random
from resource import RUSAGE_SELF, getrusage

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from course_lib.checking import diagnose, exercises, find_exercise, topics
from course_lib.checking.observe import MAX_LEAVES, Failure, Leaf, Outcome, flatten, preserved, run
from course_lib.grading import marking
from course_lib.grading.wire import MAX_RECORD_BYTES, pack, unpack

EXERCISE = find_exercise("ddpm.q_sample")
WHOLE = ["bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"]
REAL = ["float16", "bfloat16", "float32", "float64", "float8_e4m3fn", "float8_e5m2"]
Pair = namedtuple("Pair", "mean variance")


@dataclass
class Both:
    """A data class with two tensors."""

    mean: torch.Tensor
    variance: torch.Tensor


def bits(x):
    """Return a tensor's bytes."""
    return x.resolve_conj().resolve_neg().contiguous().flatten().view(torch.uint8)


def same(a, b):
    """Tell whether two tensors, texts or None are equal bit-for-bit, including NaN."""
    if not isinstance(a, torch.Tensor) or not isinstance(b, torch.Tensor):
        return a == b
    return (a.dtype, a.shape) == (b.dtype, b.shape) and torch.equal(bits(a), bits(b))


def sent(outcome):
    """Return the outcome after packing and unpacking, which have changed nothing."""
    got = unpack(pack(outcome))
    for before, after in ((outcome.outputs, got.outputs), (outcome.inputs, got.inputs)):
        assert [(path, leaf.kind, leaf.device) for path, leaf in before.items()] == [
            (path, leaf.kind, leaf.device) for path, leaf in after.items()
        ]
        assert all(same(before[path].value, after[path].value) for path in before)
    assert list(outcome.gradients) == list(got.gradients)
    assert all(same(outcome.gradients[name], got.gradients[name]) for name in got.gradients)
    assert got.error == outcome.error
    return got


# ----------------------------------------------------------------------------------- there and back


@pytest.mark.parametrize("name", [*WHOLE, *REAL, "complex64", "complex128"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (2, 3), (1, 2, 1, 3, 2)])
def test_a_tensor_of_every_dtype_and_shape_arrives(name, shape):
    x = torch.randint(0, 2, shape).to(getattr(torch, name))
    sent(Outcome(flatten(x), flatten({"x": x}), {"x": x, "y": None, "z": x.clone()}))


@pytest.mark.parametrize(
    "value",
    [
        True,
        False,
        0,
        -(2**63) + 1,
        2**62,
        0.1,
        -0.0,
        float("nan"),
        float("inf"),
        1e-320,
        1 + 2j,
        complex("nan-infj"),
        "",
        "text",
        "a\nb\t\"'\\ \x00 \x7f ü 图 😀 <script>",
        "x" * 100_000,
        None,
        b"bytes",
        object(),
        2**70,
        [],
        (),
        {},
        np.float32(0.5),
        np.int8(-3),
        np.bool_(True),
        np.complex64(1j),
        np.arange(6).reshape(2, 3),
        np.zeros((0, 2)),
        np.arange(6)[::-2],
        np.array("text"),
        np.array([1, "a"], dtype=object),
        [1, (2.0, "three", None), {"four": torch.ones(2), 5: [True]}],
        Pair(torch.ones(2), 3),
        Both(torch.ones(2), 4),
        {"a b": 1, "it's": 2, '"': 3, "ü": 4},
        {1: 1, (2, 3): 2, None: 3, 2.5: 4},
        list(range(MAX_LEAVES)),
        torch.ones(2).to_sparse(),
        torch.ones(2, device="meta"),
        torch.ones(3, requires_grad=True) * 2,
    ],
    ids=lambda value: re.sub(" at 0x.*", "", repr(value))[:30],
)
def test_every_kind_of_leaf_arrives(value):
    sent(Outcome(flatten(value), flatten({"x": value})))


@pytest.mark.parametrize(
    "x",
    [
        torch.arange(12.0).reshape(3, 4).T,
        torch.arange(12.0)[1::3],
        torch.ones(1, 3).expand(4, 3),
        torch.ones(()).expand(2, 2),
        torch.tensor([1 + 2j, 3j]).conj(),
        torch.tensor([[1 + 2j, 3j]]).mT.conj(),
        torch.tensor([1 + 2j, 3j]).conj().imag,
        torch._neg_view(torch.ones(3)),
        torch.arange(8.0).as_strided((3, 3), (1, 2)),
        torch.arange(4).view(torch.uint8)[3:],
        torch.ones(2, 3, 4, 5).to(memory_format=torch.channels_last),
    ],
    ids=range(11),
)
def test_views_arrive_as_the_numbers_they_show(x):
    assert torch.equal(sent(Outcome({"": Leaf("tensor", x)})).outputs[""].value, x)
    assert torch.equal(sent(Outcome(gradients={"x": x})).gradients["x"], x)


@pytest.mark.parametrize(
    "error",
    [
        Failure("ValueError", "a message"),
        Failure("NotImplementedError", ""),
        Failure("Ünï😀", "x" * 500, tuple((f"cell {n}, f", n, "return x" * 20) for n in range(5))),
    ],
)
def test_errors_arrive_with_their_lines(error):
    sent(Outcome(error=error))
    sent(Outcome({"": Leaf("int", torch.tensor(1))}, error=error))


@pytest.mark.parametrize(
    "exercise", [one for topic in topics() for one in exercises(topic)], ids=lambda one: one.id
)
def test_right_outcomes_arrive_and_pass(exercise):
    with preserved():
        outcomes = [sent(outcome) for outcome in run(exercise.reference, exercise, seed=3)]
    assert diagnose.assess(exercise, outcomes, seed=3).passed


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome({"no path": Leaf("None")}),
        Outcome({"[0]" * 200: Leaf("None")}),
        Outcome({"": Leaf("str", "x" * 100_001)}),
        Outcome({f"[{n}]": Leaf("str", "x" * 1000) for n in range(MAX_LEAVES)}),
        Outcome({f"[{n}]": Leaf("None") for n in range(MAX_LEAVES + 2)}),
        Outcome(gradients={"x" * 201: None}),
        Outcome(error=Failure("E", "x" * 501)),
    ],
    ids=range(7),
)
def test_what_could_not_be_read_is_not_packed(outcome):
    with pytest.raises(ValueError):
        pack(outcome)


# ---------------------------------------------------------------------------------- what is made up


def frame(header, body=b""):
    """Return a safetensors file with this header and body."""
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(header)) + header + body


def record(**changes):
    """Return an empty outcome's record with these changes."""
    return {"outputs": {}, "inputs": {}, "gradients": {}, "error": None, **changes}


def made_up(record, tensors=None, body=b""):
    """Return a frame with a made-up record."""
    text = record if isinstance(record, str) else json.dumps(record)
    return frame({"__metadata__": {"outcome": text}, **(tensors or {})}, body)


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    """Return a tensor's entry in the header."""
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def leaf(**changes):
    """Return a leaf's record with these changes."""
    return {"kind": "tensor", "device": "cpu", "tensor": "0", "text": None, **changes}


def one(tensor, **changes):
    """Return a frame with one tensor."""
    return made_up(record(outputs={"": leaf(**changes)}), {"0": tensor}, bytes(8))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"\0" * 8,
        b"\xff" * 8,
        b"\xff" * 64,
        struct.pack("<Q", 2**40),
        struct.pack("<Q", 2**40) + b"{}",
        frame(b""),
        frame(b"null"),
        frame(b"[]"),
        frame(b'"text"'),
        frame(b"{}"),
        frame(b"\xff"),
        frame(b"[" * 100_000),
        frame(b'{"a":' * 50_000),
        frame(b"1" * 5000),
        frame(b'{"__metadata__": null}'),
        frame({"__metadata__": {}}),
        frame({"__metadata__": []}),
        made_up(None),
        made_up(3),
        frame({"__metadata__": {"outcome": 3}}),
        frame({"__metadata__": {"outcome": None}}),
        frame({"__metadata__": {"outcome": ["{}"]}}),
        made_up(""),
        made_up("null"),
        made_up("{}"),
        made_up("[" * 9999),
        made_up('{"outputs":' * 9999),
        made_up(record(more=1)),
        made_up(record(outputs=[])),
        made_up("\ud800"),
        made_up(record(outputs={"": leaf(tensor=None, text="\ud800")})),
        made_up(record(outputs={"\ud800": leaf()})),
        made_up(record(outputs={"": leaf()})),
        made_up(record(outputs={"a": leaf(tensor=None)})),
        made_up(record(outputs={"": leaf(kind="x" * 201, tensor=None)})),
        made_up(record(gradients={"x": "0"})),
        made_up(record(gradients={"x": 0})),
        made_up(record(error={"kind": "E", "message": "", "lines": [["f", "x", ""]]})),
        made_up(record(error={"kind": "E", "message": "x" * 501, "lines": []})),
        made_up(record(error={"kind": "E", "message": "", "lines": [["f", 1, ""]] * 6})),
        made_up(record(outputs={f"[{n}]": leaf(tensor=None) for n in range(MAX_LEAVES + 2)})),
        one(entry(shape=[2**40])),
        one(entry(shape=[2**40], offsets=[0, 2**42])),
        one(entry(shape=[2**63, 0])),
        one(entry(shape=[0, 2**64 - 1], offsets=[0, 0])),
        one(entry(shape=[0, 2**63], offsets=[0, 0])),
        one(entry(shape=[-1])),
        one(entry(shape=[2.0])),
        one(entry(shape=[1] * 5000 + [2])),
        one(entry(shape="2")),
        one(entry(offsets=[8, 0])),
        one(entry(offsets=[0, 4])),
        one(entry(offsets=[0, 8, 8])),
        one(entry(offsets=[-8, 0])),
        one(entry("F99")),
        one(entry("F4")),
        one(entry("F8_E8M0", [8])),
        one(entry("object")),
        one(entry(None)),
        one({}),
        one(None),
        made_up(
            record(outputs={"": leaf(tensor="0 complex")}),
            {"0 complex": entry("I64", [1])},
            bytes(8),
        ),
        made_up(
            record(outputs={"": leaf(tensor="0 complex")}),
            {"0 complex": entry("F32", [1, 2, 1])},
            bytes(8),
        ),
        made_up(record(), {"0": entry(), "1": entry()}, bytes(8)),
        made_up(record(), {"0": entry()}, bytes(9)),
        made_up(record(), {"__metadata__": {"outcome": 1}}),
    ],
    ids=lambda data: repr(data[8:60]),
)
def test_what_is_not_an_outcome_is_refused(data):
    with pytest.raises(
        ValueError, match=f"^expected the outcome of a case, got {len(data)} bytes: "
    ):
        unpack(data)


def test_any_byte_is_true_or_false():
    data = made_up(
        record(outputs={"": leaf()}), {"0": entry("BOOL", [8])}, bytes(range(0, 256, 32))
    )
    assert unpack(data).outputs[""].value.view(torch.uint8).tolist() == [0] + [1] * 7


EMPTY = b'{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'


def grown(data):
    """Return by how many megabytes reading the data has enlarged this process."""
    before = getrusage(RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError):
        unpack(data)
    return (getrusage(RUSAGE_SELF).ru_maxrss - before) // 1024


@pytest.mark.parametrize("size", [20_000_000, MAX_RECORD_BYTES - 100])
@pytest.mark.parametrize(
    "fill",
    [
        lambda n: b'{"a":[' + b"[]," * (n // 3) + b"[]]}",
        lambda n: b'{"a":[' + b"{}," * (n // 3) + b"{}]}",
        lambda n: b'{"__metadata__":{"outcome":"[' + b"[]," * (n // 3) + b'[]]"}}',
        lambda n: b'{"a":"' + "😀".encode() + b"a" * n + b'"}',
        lambda n: (
            b'{"0":{"dtype":"F32","shape":[' + b"1," * (n // 2 - 50) + b'0],"data_offsets":[0,0]}}'
        ),
        lambda n: b"{" + b",".join(b'"%d":%s' % (i, EMPTY) for i in range(n // 60)) + b"}",
    ],
    ids=["lists", "dicts", "record", "text", "shape", "tensors"],
)
def test_reading_takes_little_memory(fill, size):
    with ProcessPoolExecutor(1, get_context("fork")) as process:
        assert process.submit(grown, frame(fill(size))).result() < 110


# --------------------------------------------------------------------------------------------- fuzz


def fuzz(count):
    """Return settings for so many examples, the same in every run."""
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    return settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=checks,
    )


@functools.cache
def originals():
    """Return frames of honest outcomes: right and wrong answers, errors, all kinds of leaves."""
    answers = [
        EXERCISE.reference,
        *(one.answer for one in EXERCISE.misconceptions.values()),
        lambda **case: 1 / 0,
    ]
    with preserved():
        outcomes = [next(run(answer, EXERCISE)) for answer in answers]
    mixed = [
        1,
        (2.0, "three", None),
        {"four": torch.ones(2, dtype=torch.complex64), "five": [True, torch.ones(3) > 0]},
    ]
    return [
        pack(outcome)
        for outcome in [*outcomes, Outcome(flatten(mixed), flatten({"x": mixed}), {"x": None})]
    ]


def mutant(random):
    """Return an honest frame after a few accidents, with its header's length corrected or not."""
    data = bytearray(random.choice(originals()))
    size = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + size]
    body = data[8 + size :]
    for _ in range(random.randint(1, 2)):
        part = header if random.random() < 0.7 else body
        at, end = sorted(random.randrange(len(part) + 1) for _ in range(2))
        match random.randrange(6):
            case 0 if part:
                part[random.randrange(len(part))] ^= 1 << random.randrange(8)
            case 1:
                part[at : at + random.randrange(20)] = b""
            case 2:
                part[at:at] = random.choice(
                    [b",", b"[", b'"', b"\\", b"{}", b"1e999", b"null", b"\0", b"\xff"]
                )
            case 3:
                part[at:at] = part[at : min(end, at + 200)]
            case 4:
                numbers = [i for i, byte in enumerate(part) if byte in b"0123456789"]
                for i in random.sample(numbers, min(3, len(numbers))):
                    part[i] = random.choice(b"0123456789-.e")
            case _:
                words = [
                    b"F32",
                    b"I64",
                    b"BOOL",
                    b"tensor",
                    b"null",
                    b"float32",
                    b"int",
                    b"cpu",
                    b'""',
                    b"None",
                ]
                part[:] = part.replace(random.choice(words), random.choice(words), 1)
    length = (
        random.choice([0, size, 2**40, 2**64 - 1, 100]) if random.random() < 0.2 else len(header)
    )
    data = struct.pack("<Q", length) + bytes(header + body)
    return data[: random.randrange(len(data))] if random.random() < 0.05 else data


def read_and_judged(data):
    """Tell whether the frame was read; if so, judge it and check that it earned nothing made up."""
    try:
        outcome = unpack(data)
    except ValueError as error:
        assert str(error).startswith("expected the outcome of a case, got ")
        return False
    verdict = marking._assess(EXERCISE, [outcome], 0)
    assert (
        verdict.status == "failed"
        and len(verdict.faults) == len(EXERCISE.make_cases(0))
        and verdict.sentence
        and all(verdict.faults[1:])
    )
    verdict.sentence.encode()
    return True


def test_the_originals_are_read():
    assert len(originals()) >= 10 and all(map(read_and_judged, originals()))


def test_a_frame_after_accidents_is_refused_or_judged():
    random = Random(0)
    read = sum(read_and_judged(mutant(random)) for _ in range(600))
    assert 40 < read < 400  # the accidents are neither all fatal nor harmless


NAMES = st.sampled_from(
    ["", "[0]", "[1]", ".mean", "['x']", "['x_start']", "['t']", "[key (1,)]", "[2]", "[3]"]
)
KINDS = st.sampled_from(
    ["tensor", "None", "float", "int", "str", "bool", "array", "empty tuple", "", "😀"]
)
KEYS = st.sampled_from(["0", "1", "2 complex", "3"]) | st.none()
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=5,
)
LEAF = st.fixed_dictionaries(
    {"kind": KINDS, "device": st.sampled_from(["cpu", "cuda:0", ""])},
    optional={"tensor": KEYS, "text": st.none() | st.text(max_size=9)},
)
LEAVES_OF = st.dictionaries(NAMES, LEAF, max_size=4)
LINES = st.lists(st.tuples(st.text(max_size=5), st.integers(), st.text(max_size=5)), max_size=5)
ERROR = st.none() | st.fixed_dictionaries(
    {
        "kind": st.sampled_from(["Stopped", "ValueError", ""]),
        "message": st.text(max_size=9),
        "lines": LINES,
    }
)
GRADIENTS = st.dictionaries(st.sampled_from(["x_start", "noise", "other"]), KEYS, max_size=3)
HONEST = st.fixed_dictionaries(
    {"outputs": LEAVES_OF, "inputs": LEAVES_OF, "gradients": GRADIENTS, "error": ERROR}
)
WILD = st.fixed_dictionaries(
    {"outputs": LEAVES_OF | JUNK, "inputs": JUNK, "gradients": JUNK, "error": ERROR | JUNK}
)
RECORDS = st.one_of(HONEST, HONEST, HONEST, WILD)
WIDTHS = {
    "F32": 4,
    "F64": 8,
    "BF16": 2,
    "F16": 2,
    "I64": 8,
    "U8": 1,
    "BOOL": 1,
    "U16": 2,
    "U64": 8,
    "F8_E5M2": 1,
}
SHAPES = st.sampled_from(
    [[], [0], [2], [1, 2], [3, 2, 5, 4], [3, 1, 1, 2], [3], [2, 0, 2], [120], [2] * 8]
)
TENSORS = st.lists(st.tuples(st.sampled_from(sorted(WIDTHS)), SHAPES), min_size=4, max_size=4)


@fuzz(500)
@given(RECORDS, TENSORS, st.randoms(use_true_random=False))
def test_a_made_up_frame_is_refused_or_judged(record, tensors, random):
    entries = {}
    at = 0
    for key, (dtype, shape) in zip(("0", "1", "2 complex", "3"), tensors, strict=True):
        if key == "2 complex" and random.random() < 0.9:
            dtype = "F32"
            shape = [*shape, 2]
        size = WIDTHS[dtype] * int(np.prod(shape))
        entries[key] = entry(dtype, shape, (at, at + size))
        at += size
    read_and_judged(made_up(record, entries, random.randbytes(at)))
