"""What the native engine promises beyond the contract: machines, bits, steps, threads, memory.

The values themselves are test_engines.py's, which runs over this engine as over the others; here it
runs again on every instruction set that the machine has.
"""

import concurrent.futures
import ctypes
import gc
import hashlib
import importlib
import itertools
import json
import multiprocessing
import os
import pathlib
import platform
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from typing import NamedTuple

import numpy as np
import pytest
from support import Guarded, assert_matches, assert_same_bits, make_case

import fastlstm
from fastlstm import LSTM
from fastlstm.engines import cpus, load
from fastlstm.packing import batch_sizes_of, rows_of

pytestmark = pytest.mark.usefixtures("native")

TESTS = pathlib.Path(__file__).parent
PACKAGE = pathlib.Path(fastlstm.__file__).parents[1]
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into Linux's /proc")


def python(*command, before=(), **environment):
    """Run Python on the package under test; return what it printed."""
    settings = {"PYTHONPATH": f"{TESTS}{os.pathsep}{PACKAGE}", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [*before, sys.executable, *command],
        env={**os.environ, **settings, **environment},
        capture_output=True, text=True, timeout=200, cwd=TESTS,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr
    return done.stdout


def child(function, *arguments, **environment):
    """Run a function of this file in a process of its own, for its environment or its threads."""
    return python("-c", f"import test_native as t; t.{function.__name__}(*{arguments})",
                  **environment)  # fmt: skip


# ---- work -----------------------------------------------------------------------------------


class Work(NamedTuple):
    """A stack and its sequences, longest first; `x` and `w` scale its inputs and their weights."""

    lengths: tuple
    I: int
    H: int
    P: int | None = None
    layers: int = 1
    directions: int = 1
    reverse: bool = False
    dtype: str = "float32"
    x: float = 1
    w: float = 1


# Each above 1e8 floating-point operations, so that threads are worth it.
WORKS = {
    "slices": Work((60,) * 64, 32, 96),
    "slices_narrow": Work((330,) * 64, 32, 16),
    "slices_double": Work((60,) * 33, 33, 96, dtype="float64"),
    "slices_stack": Work((20,) * 64, 40, 65, 33, layers=3, directions=2),
    "one_long": Work((200, *(100,) * 20), 64, 64),
    "one_long_reverse": Work((200, *(100,) * 20), 64, 64, reverse=True),
    "cliff": Work((300, 299, 298, *(50,) * 10), 64, 80, reverse=True),
    "stairs": Work((*range(200, 150, -1),), 32, 40),
    "stairs_reverse": Work((*range(200, 150, -1),), 32, 40, 20, layers=2, reverse=True),
    "few": Work((60,) * 7, 300, 150),
    "directions": Work((100,), 100, 130, layers=3, directions=2),
    "directions_ragged": Work((70, 61, 61, 60, 33, 2, 1), 64, 100, 40, directions=2),
    "units": Work((250,), 16, 256),
    "units_reverse": Work((250,), 33, 257, reverse=True),
    "units_of_two": Work((90, 61), 16, 300, layers=2),
    "units_projected": Work((120,), 300, 300, 290),
    "units_joining": Work((90, 61, 61, 30, 5, 1), 64, 300, 290, reverse=True),
    "units_leaving": Work((90, 61, 61, 30, 5, 1), 64, 300, 290, layers=3),
    "units_double": Work((120,), 130, 200, layers=2, dtype="float64"),
    "denormal": Work((60,) * 64, 32, 96, x=1e-41, w=1e37),
    "denormal_double": Work((100,), 100, 130, directions=2, dtype="float64", x=1e-311, w=1e306),
    "denormal_units": Work((250,), 16, 256, x=1e-41, w=1e37),
    "saturated": Work((60,) * 7, 300, 150, x=1e3),
    "huge": Work((250,), 16, 256, x=1e30, w=1e-30),
}

SMALL = {
    "small": Work((9, 5, 5, 1), 7, 21, 10, layers=2, directions=2),
    "small_alone": Work((6,), 40, 50),
    "small_double": Work((4, 4, 4, 1), 9, 19, reverse=True, dtype="float64"),
}


def draw(work):
    """(parameters, x, h, c) of a work; the states hold denormals too."""
    rng = np.random.default_rng([len(work.lengths), work.I, work.H])
    P, bound = work.P or work.H, 1 / np.sqrt(work.H)

    def uniform(*shape, scale=bound):
        return (rng.uniform(-1, 1, shape) * scale).astype(work.dtype)

    parameters = []
    for layer in range(work.layers):
        wide, scale = (work.directions * P, 1) if layer else (work.I, work.w)
        for _ in range(work.directions):
            w_hr = uniform(P, work.H) if work.P else None
            w_ih = uniform(4 * work.H, wide, scale=bound * scale)
            parameters.append((w_ih, uniform(4 * work.H, P), uniform(4 * work.H), w_hr))
    cells, rows = work.layers * work.directions, len(work.lengths)
    h, c = uniform(cells, rows, P, scale=1), uniform(cells, rows, work.H, scale=2)
    c[..., ::5] *= np.finfo(work.dtype).smallest_normal
    x = rng.standard_normal((sum(work.lengths), work.I)) * work.x
    return parameters, x.astype(work.dtype), h, c


def answer(work, threads=1):
    """y, h and c of a work; nothing else may have been written."""
    parameters, x, h, c = draw(work)
    width = work.directions * (work.P or work.H)
    buffers = {"y": Guarded(np.full((len(x), width), np.nan, work.dtype))}
    for name, state in {"h": h, "c": c}.items():
        buffers[name] = Guarded(state.reshape(-1, state.shape[2]))
    given = x.copy()
    load("native").Stack(parameters, work.directions).run(
        given, batch_sizes_of(np.array(work.lengths)), buffers["h"].array.reshape(h.shape),
        buffers["c"].array.reshape(c.shape), buffers["y"].array, threads, work.reverse,
    )  # fmt: skip
    assert_same_bits(given, x)
    for name, buffer in buffers.items():
        buffer.check(name)
    return {name: buffer.array for name, buffer in buffers.items()}


def assert_same_answers(got, expected):
    for name, values in expected.items():
        assert np.isfinite(values).all(), name
        assert_same_bits(got[name], values)


def digests(names):
    """Print a digest of each work's answer: what two machines must have in common."""
    bits = {}
    for name in names:
        y, h, c = answer({**WORKS, **SMALL}[name]).values()
        bits[name] = hashlib.sha256(y.tobytes() + h.tobytes() + c.tobytes()).hexdigest()
    print(json.dumps(bits))


# ---- instruction sets -----------------------------------------------------------------------


def instruction_sets():
    """Those that this machine has, the best first, by its own word."""
    if platform.machine().lower() in ("aarch64", "arm64"):
        return ["neon", "baseline"]
    flags = set()
    if os.path.exists("/proc/cpuinfo"):
        flags = set(re.search(r"flags\s*:(.*)", pathlib.Path("/proc/cpuinfo").read_text())[1].split())
    needs = {"avx512": "avx512f avx512vl avx512dq avx512bw fma", "avx2": "avx2 fma"}
    return [isa for isa, names in needs.items() if flags >= {*names.split()}] + ["baseline"]


HERE = instruction_sets()
BYTES = {"avx512": 64, "avx2": 32, "neon": 16, "baseline": 16}
RUNS = os.environ.get("FASTLSTM_ISA") or HERE[0]


@on_linux
def test_the_instruction_set_that_runs(native, dtype):
    """The best, or the forced one; by its word, and by the room that its panels take."""
    lanes = BYTES[RUNS] // np.dtype(dtype).itemsize
    parameters, *_ = draw(Work((1,), 50, 1, dtype=dtype))
    tracemalloc.start()
    stack = native.Stack(parameters, 1)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert native.describe()["instruction_set"] == stack.isa == RUNS
    assert fastlstm.engines()["native"]["instruction_set"] == RUNS
    assert stack.lanes == lanes
    weights = (50 + 1 + 1) * 4 * BYTES[RUNS]  # of one panel: I, P and b
    assert weights <= taken < weights + 1000


@pytest.mark.parametrize("isa", HERE)
def test_every_instruction_set(isa):
    """Forced, it runs and passes; rooms are poisoned, and what is written behind one is found."""
    options = "-q -x -p no:cacheprovider -W error --no-header".split()
    names = "instruction_set_that or every_size or every_live or activations or shapes or ragged or infinite"
    tests = [TESTS / "test_native.py", TESTS / "test_engines.py"]
    python("-m", "pytest", *options, "-k", f"native and ({names}) and not numba and not numpy",
           *tests, FASTLSTM_ISA=isa, PYTHONMALLOC="debug")  # fmt: skip


def refused(*names):
    """Print what is said where these are asked for; then, for nothing is, what runs."""
    said = {}
    for name, engine in itertools.product(names, ("auto", "native")):
        os.environ["FASTLSTM_ISA"] = name
        with pytest.raises(ValueError) as caught:
            LSTM(3, 5, engine=engine)
        said.setdefault(name, set()).add(str(caught.value))
    os.environ["FASTLSTM_ISA"] = ""
    about = load("native").describe()["instruction_set"]
    print(json.dumps([{name: "; ".join(words) for name, words in said.items()}, about]))
    digests([*SMALL])


def check_refused(here, lacking, *before):
    """Names are refused in a sentence, for "auto" too: no other engine is taken silently."""
    unknown = ["AVX2", "sse9", "auto", "neon" if "neon" not in here else "avx2"]
    code = f"import test_native as t; t.refused(*{[*unknown, *lacking]})"
    printed = python("-c", code, before=before, FASTLSTM_ISA="")
    (said, about), bits = map(json.loads, printed.splitlines())
    assert about == here[0]
    for name in (*unknown, *lacking):
        why = "which this machine lacks" if name in lacking else "which is not known"
        there = f"expected one of {', '.join(here)}, or nothing"
        assert said[name] == f"FASTLSTM_ISA is '{name}', {why}: {there}"
    return bits


def test_unknown_instruction_sets_are_refused():
    x86 = [] if "neon" in HERE else ["avx512", "avx2"]
    check_refused(HERE, [name for name in x86 if name not in HERE])


EMULATED = {"Nehalem": ["baseline"], "max": ["avx2", "baseline"]}  # qemu 7 has no AVX-512


@pytest.mark.skipif(not shutil.which("qemu-x86_64"), reason="emulates lesser machines with qemu")
@pytest.mark.skipif("avx2" not in HERE, reason="compares them with AVX2 here")
@pytest.mark.parametrize("cpu", EMULATED)
def test_a_lesser_machine(cpu):
    """It takes the best it has, which is really all it needs; AVX2 there has the bits of here."""
    here = EMULATED[cpu]
    lacking = [name for name in ("avx512", "avx2") if name not in here]
    bits = check_refused(here, lacking, "qemu-x86_64", "-cpu", cpu)
    assert bits == json.loads(child(digests, [*SMALL], FASTLSTM_ISA=here[0]))


REGISTERS = {  # what multiplies in kernels of float, and what no kernel may use
    "avx512": (r"vfmadd\d+ps .*%zmm", r"$^"),
    "avx2": (r"vfmadd\d+ps .*%ymm", r"%zmm|%[xy]mm(1[6-9]|[23]\d)"),
    "neon": (r"fmla\s+v\d+\.4s", r"$^"),
    "baseline": (r"(mulps .*%xmm|fmul\s+v\d+\.4s)", r"%[yz]mm|vfmadd|fmla|\sv(mul|add|mov)"),
}


@pytest.mark.skipif(not shutil.which("objdump"), reason="disassembles with objdump")
def test_kernels_are_made_of_their_instructions(native):
    """And everything around them of the least that a machine has."""
    command = ["objdump", "-d", "--no-show-raw-insn", native.__file__]
    text = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    functions = re.split(r"^[0-9a-f]+ <(.*)>:$", text, flags=re.M)[1:]
    code = dict.fromkeys([*BYTES, "others"], "")
    for name, body in zip(functions[::2], functions[1::2], strict=True):
        kernel = re.search(r"fl_\w+_(avx512|avx2|neon|baseline)_(?:float|double)", name)
        code[kernel[1] if kernel else "others"] += body
    if not code["baseline"]:
        pytest.skip("its symbols were stripped")
    for isa in HERE:
        multiply, never = REGISTERS[isa]
        assert len(re.findall(multiply, code[isa])) > 50
        assert not re.search(never, code[isa])
    assert not re.search(REGISTERS["baseline"][1], code["others"])


# ---- values ---------------------------------------------------------------------------------


def check_sizes(native, sizes, dtype):
    for n, (B, inputs, H, P) in enumerate(sizes):
        lengths = np.sort(np.random.default_rng(n).integers(1, 4, B))[::-1]
        case = make_case(I=inputs, H=H, P=P, lengths=lengths, reverse=n % 2 == 1, dtype=dtype)
        assert_matches(native, case, "native", gap=n % 3)


def test_every_size(native, dtype):
    """Each B, I, H and P from 1 to 70 among others, and each H for one sequence alone."""
    B, inputs, H, P = (np.random.default_rng(n).permutation(70) + 1 for n in range(4))
    check_sizes(native, zip(B, inputs, H, [None] * 70, strict=True), dtype)
    check_sizes(native, zip(B[::-1], inputs, P + 1 + H % 3, P, strict=True), dtype)
    check_sizes(native, zip([1] * 70, B, inputs, [None] * 70, strict=True), dtype)


def test_every_number_of_live_rows(native, dtype):
    """One sequence after the other ends, or joins: every last tile of rows there is."""
    for H, P in [(5, None), (20, 7), (33, None)]:
        for reverse in (False, True):
            lengths = range(30, 0, -1)
            case = make_case(I=3, H=H, P=P, lengths=lengths, reverse=reverse, dtype=dtype)
            assert_matches(native, case, "native")


@pytest.mark.parametrize("gate", range(4), ids="ifgo")
def test_an_infinite_gate(native, dtype, gate):
    """It is open, shut or at one; through b, for an infinite x makes nan of other gates' zeros."""
    for sign in (1, -1):
        case = make_case(1, 3, 2, 9, dtype=dtype)
        case.b[gate * 9 + 4] = sign * np.inf
        assert_matches(native, case, "native")


def test_h_is_within_the_bound_of_an_activation(native):
    """Though four of them make it: z and c of all sizes, against exact numbers."""
    rng = np.random.default_rng(0)
    rows = 200_000
    z = (rng.standard_normal((rows, 4)) * 10 ** rng.uniform(-3, 2, (rows, 1))).astype(np.float32)
    c = (rng.standard_normal((rows, 1)) * 10 ** rng.uniform(-3, 1, (rows, 1))).astype(np.float32)
    i, f, g, o = z.T.astype(np.float64)
    with np.errstate(over="ignore"):
        i, f, o = (1 / (1 + np.exp(-a)) for a in (i, f, o))
    exact = f * c[:, 0] + i * np.tanh(g)
    weights = np.eye(4, dtype=np.float32), np.zeros((4, 1), np.float32), np.zeros(4, np.float32)
    h, y = np.zeros_like(c), np.empty_like(c)
    native.run(native.pack(*weights, None), z, np.array([rows]), h, c, y, False)
    assert np.abs(y[:, 0] - o * np.tanh(exact)).max() <= 3e-7
    assert (np.abs(c[:, 0] - exact) <= 3e-7 * np.maximum(1, np.abs(exact))).all()


# ---- one answer -----------------------------------------------------------------------------


@pytest.mark.parametrize("work", WORKS)
def test_bits_do_not_depend_on_threads(work):
    one = answer(WORKS[work])
    for threads in (2, 3, 8):
        assert_same_answers(answer(WORKS[work], threads), one)


def test_bits_do_not_depend_on_very_many_threads():
    for work in (Work((30,) * 260, 32, 64), Work((20,), 300, 500, 490)):
        assert_same_answers(answer(work, 1000), answer(work))


@pytest.mark.parametrize("work", [name for name in WORKS if "huge" not in name])
def test_a_sequence_alone(work):
    """Gives what it gives among others: all rows, however its input's products were made."""
    work = WORKS[work]
    whole, (parameters, x, h, c) = answer(work), draw(work)
    stack = load("native").Stack(parameters, work.directions)
    step, sequence = rows_of(np.arange(len(work.lengths)), batch_sizes_of(np.array(work.lengths)))
    for n in {0, 1, 5, len(work.lengths) - 1} & {*range(len(work.lengths))}:
        own_h, own_c = h[:, n : n + 1].copy(), c[:, n : n + 1].copy()
        y = np.empty((work.lengths[n], whole["y"].shape[1]), work.dtype)
        stack.run(x[sequence == n], None, own_h, own_c, y, 1, work.reverse)
        assert_same_bits(y, whole["y"][sequence == n])
        for own, name in ((own_h, "h"), (own_c, "c")):
            states = whole[name].reshape(len(own), len(work.lengths), -1)
            assert_same_bits(own[:, 0], states[:, n])


@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize("B", [1, 7])
@pytest.mark.parametrize("options", [{}, {"proj_size": 37}], ids=str)
def test_bits_of_steps_chunks_and_the_whole(dtype, options, B, num_threads):
    """Of three layers whose input is multiplied beforehand where B = 1 and there are steps."""
    lstm = LSTM(70, 130, 3, **options, dtype=dtype, engine="native", num_threads=num_threads, seed=0)
    x = np.random.default_rng(0).standard_normal((150, B, 70)).astype(dtype)
    whole, (h_n, c_n) = lstm(x)
    steps, chunks = lstm.stream(B), lstm.stream(B)
    assert_same_bits(np.stack([steps.step(x_t) for x_t in x]), whole)
    pieces = [chunks.run(piece) for piece in np.split(x, [1, 2, 3, 40, 144])]
    assert_same_bits(np.concatenate(pieces), whole)
    for h, c in (steps.state, chunks.state):
        assert_same_bits(h, h_n)
        assert_same_bits(c, c_n)


@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "proj_size": 50}], ids=str)
def test_bits_of_padded_and_ragged(dtype, options):
    """In any order of lengths, with more threads than one, forwards and backwards."""
    options = {**options, "bidirectional": True, "dtype": dtype, "engine": "native", "seed": 0}
    one, many = (LSTM(40, 100, num_threads=n, **options) for n in (1, 3))
    rng = np.random.default_rng(0)
    lengths = rng.permutation([1, 2, 2, 3, 5, 8, 13, 40, 40, 40, 57, 60, 60])
    x = rng.standard_normal((60, len(lengths), 40)).astype(dtype)
    ragged, states = one(x, lengths=lengths)
    for got, expected in zip(many(x, lengths=lengths)[1], states, strict=True):
        assert_same_bits(got, expected)
    assert_same_bits(many(x, lengths=lengths)[0], ragged)
    for n, length in enumerate(lengths):
        output, (h, c) = one(x[:length, n : n + 1])
        assert_same_bits(ragged[:length, n], output[:, 0])
        assert not ragged[length:, n].any()
        assert_same_bits(states[0][:, n], h[:, 0])
        assert_same_bits(states[1][:, n], c[:, 0])


@pytest.mark.skipif(HERE[0] != "avx512", reason="compares AVX2 with AVX-512")
def test_bits_do_not_depend_on_vectors():
    names = [*WORKS, *SMALL]
    wide, narrow = (json.loads(child(digests, names, FASTLSTM_ISA=isa)) for isa in HERE[:2])
    assert [name for name in names if wide[name] != narrow[name]] == []


# ---- steps ----------------------------------------------------------------------------------

STREAMS = {  # sizes, options, B; the last is worth two threads
    "one": (32, 32, {}, 1),
    "layers": (32, 32, {"num_layers": 3}, 1),
    "projection": (9, 40, {"num_layers": 2, "proj_size": 11}, 1),
    "rows": (32, 32, {"dtype": "float64"}, 5),
    "large": (300, 400, {}, 1),
    "threads": (300, 400, {"num_threads": 2}, 16),
}


def stepping(name):
    """A function that makes n steps into one array, as cheaply as Python can."""
    inputs, H, options, B = STREAMS[name]
    step = LSTM(inputs, H, **options, engine="native", seed=0).stream(B).step
    x = np.ones((B, inputs), options.get("dtype", "float32"))
    out = step(x)

    def go(n):
        for _ in itertools.repeat(None, n):
            step(x, out=out)

    go(10)
    return go


@pytest.mark.parametrize("name", STREAMS)
def test_a_step_allocates_nothing_in_python(name):
    go = stepping(name)
    tracemalloc.start()
    try:
        go(10)
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        go(1000)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most - before < 300  # of the calls of `go` itself


COUNTER = """
#include <stddef.h>
void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
void *__libc_memalign(size_t, size_t);
long allocations;
void *malloc(size_t n) { return allocations++, __libc_malloc(n); }
void *calloc(size_t n, size_t size) { return allocations++, __libc_calloc(n, size); }
void *realloc(void *p, size_t n) { return allocations++, __libc_realloc(p, n); }
void *aligned_alloc(size_t a, size_t n) { return allocations++, __libc_memalign(a, n); }
"""


def count_allocations():
    counted = ctypes.c_long.in_dll(ctypes.CDLL(None), "allocations")
    results = {}
    for name in STREAMS:
        go, counts = stepping(name), []
        for n in (10, 10, 1000):
            before = counted.value
            go(n)
            counts.append(counted.value - before)
        results[name] = counts[1:]
    print(json.dumps(results))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="counts glibc's malloc")
@pytest.mark.skipif(not shutil.which("cc"), reason="compiles what counts")
def test_a_step_allocates_nothing_at_all(tmp_path):
    """With every object of Python's from malloc too: 1000 steps take no more than 10."""
    shim = tmp_path / "counter.so"
    command = ["cc", "-shared", "-fPIC", "-fno-builtin", "-O1", "-x", "c", "-", "-o", shim]
    subprocess.run(command, input=COUNTER, text=True, check=True)
    environment = {"LD_PRELOAD": str(shim), "PYTHONMALLOC": "malloc"}
    for few, many in json.loads(child(count_allocations, **environment)).values():
        assert 0 < few == many


def test_the_next_step_sees_changed_weights(dtype):
    lstm = LSTM(5, 20, 2, dtype=dtype, engine="native", seed=0)
    stream, x = lstm.stream(3), np.random.default_rng(0).standard_normal((3, 5)).astype(dtype)
    out, before = np.empty((3, 20), dtype), stream.step(x)
    for change in (
        lambda: lstm.load_state_dict(LSTM(5, 20, 2, engine="native", seed=1).state_dict()),
        lambda: setattr(lstm, "weight_hh_l1", lstm.weight_hh_l1 * 2),
        lambda: setattr(lstm, "bias_ih_l0", np.ones(80)),
        lambda: lstm.reset_parameters(seed=5),
    ):
        change()
        other = LSTM(5, 20, 2, dtype=dtype, engine="native")
        other.load_state_dict(lstm.state_dict())
        expected = other.stream(3)
        expected.state = stream.state
        assert_same_bits(stream.step(x, out=out), expected.step(x))
        assert not np.array_equal(out, before)
        before = out.copy()


class Subclass(np.ndarray):
    pass


def _misaligned(x):
    room = np.zeros(x.nbytes + 1, np.uint8)[1:].view(x.dtype).reshape(x.shape)
    room[...] = x
    return room


OTHER_INPUTS = {
    "half": lambda x: x.astype(np.float16),
    "list": lambda x: x.tolist(),
    "subclass": lambda x: x.view(Subclass),
    "misaligned": _misaligned,
    "reversed": lambda x: x[:, ::-1].copy()[:, ::-1],
    "columns": lambda x: np.hstack([x, x])[:, :4],
    "transposed": lambda x: np.asfortranarray(x),
    "big_endian": lambda x: x.astype(">f4"),
    "buffer": lambda x: memoryview(x),
    "torch": lambda x: pytest.importorskip("torch", reason="tensors need torch").tensor(x),
}


@pytest.mark.parametrize("name", OTHER_INPUTS)
def test_other_inputs_of_a_step(name):
    """What is not an array as it should be is converted first, and gives the same bits."""
    lstm = LSTM(4, 20, 2, engine="native", seed=0)
    one, other = lstm.stream(3), lstm.stream(3)
    for seed in range(3):
        x = np.random.default_rng(seed).integers(-9, 9, (3, 4)).astype(np.float32)
        out = np.empty((3, 20), np.float32)
        assert one.step(OTHER_INPUTS[name](x), out=out) is out
        assert_same_bits(out, other.step(x))
    for got, expected in zip(one.state, other.state, strict=True):
        assert_same_bits(got, expected)


OUTS = {
    "subclass": lambda out: out.view(Subclass),
    "misaligned": _misaligned,
    "transposed": lambda out: np.asfortranarray(out),
    "big_endian": lambda out: out.astype(">f4"),
    "flat": lambda out: out.ravel(),
    "short": lambda out: out[:2],
    "none of it": lambda out: out[:0],
}


@pytest.mark.parametrize("name", OUTS)
def test_outs_that_are_refused(engine, name):
    """In the same words by every engine, before anything has been written."""
    stream = LSTM(4, 20, 2, engine=engine, seed=0).stream(3)
    stream.step(np.ones((3, 4), np.float32))
    (h, c), out = stream.state, OUTS[name](np.full((3, 20), 7, np.float32))
    sentence = r"^out must be a writable C-contiguous float32 array of shape \(3, 20\), got "
    with pytest.raises(ValueError, match=sentence):
        stream.step(np.ones((3, 4), np.float32), out=out)
    assert (out == 7).all()
    for got, expected in zip(stream.state, (h, c), strict=True):
        assert_same_bits(got, expected)


# ---- threads --------------------------------------------------------------------------------
# In processes of their own, where no thread is but Python's and ours.


def tasks():
    """How many threads this process has."""
    return len(os.listdir("/proc/self/task"))


def fork(work):
    """Run a function in a forked child; fail if it fails there, or hangs."""
    pid = os.fork()
    if not pid:
        signal.alarm(60)
        try:
            work()
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0


def thread_every_work():
    """Every work is worth threads, and all that were asked for (directions: two) are made."""

    def check(name):
        assert tasks() == 1
        answer(WORKS[name], 1)
        assert tasks() == 1
        for threads in (2, 3):
            answer(WORKS[name], threads)
            assert tasks() == (2 if "directions" in name else threads), name

    for name in WORKS:
        if name != "denormal_double":
            fork(lambda name=name: check(name))


@on_linux
def test_threads_run_where_they_are_worth_it():
    child(thread_every_work)


def threads_by_default(expected):
    """Small work makes none, large work as many as said."""
    lstm = LSTM(32, 96, engine="native")
    lstm(np.zeros((10, 4, 32), np.float32))
    lstm.stream().step(np.zeros((1, 32), np.float32))
    assert tasks() == 1
    lstm(np.zeros((60, 64, 32), np.float32))
    assert tasks() == expected, tasks()


@on_linux
@pytest.mark.parametrize("number", ["", "1", "3"])
def test_threads_by_default(number):
    child(threads_by_default, int(number or cpus()), FASTLSTM_NUM_THREADS=number)


def work_beside_others():
    """Threads other than the caller's do a part of the work, if not of each call."""
    until, lstm = time.monotonic() + 20, LSTM(64, 256, engine="native", num_threads=2)
    x = np.zeros((20, 64, 64), np.float32)
    while time.process_time() < 1.2 * time.thread_time():
        lstm(x)
        assert time.monotonic() < until


@pytest.mark.skipif(cpus() < 2, reason="needs a second processor")
def test_threads_take_part():
    child(work_beside_others)


@pytest.mark.parametrize("work", ["slices", "directions", "units_projected"])
def test_eight_callers_with_two_threads_each(native, work):
    """One stack, called at once: one has the second thread, the others work alone."""
    work, threads = WORKS[work], 8
    parameters, x, h, c = draw(work)
    stack, sizes = native.Stack(parameters, work.directions), batch_sizes_of(np.array(work.lengths))
    expected, barrier = answer(work), threading.Barrier(threads)

    def call(_):
        own_h, own_c, y = h.copy(), c.copy(), np.empty_like(expected["y"])
        barrier.wait()
        for _ in range(5):
            own_h[...], own_c[...], y[...] = h, c, np.nan
            stack.run(x, sizes, own_h, own_c, y, 2, work.reverse)
            assert_same_answers({"y": y, "h": own_h.reshape(-1, h.shape[2]),
                                 "c": own_c.reshape(-1, c.shape[2])}, expected)  # fmt: skip

    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        list(pool.map(call, range(threads)))


FORKED = ("slices", "directions", "units")


def check_forked():
    for name in FORKED:
        assert_same_answers(answer(WORKS[name], 3), EXPECTED[name])


EXPECTED = {}


def forks():
    """After threads have run; in a child of a child; beside a call; through multiprocessing."""
    EXPECTED.update({name: answer(WORKS[name]) for name in FORKED})
    check_forked()
    fork(check_forked)
    fork(lambda: (check_forked(), fork(check_forked)))
    check_forked()
    with multiprocessing.get_context("fork").Pool(2) as pool:
        pool.starmap(check_forked, [()] * 4)
    stop = threading.Event()

    def call():
        while not stop.is_set():
            check_forked()

    caller = threading.Thread(target=call)
    caller.start()
    for _ in range(20):
        fork(check_forked)
    stop.set()
    caller.join()
    check_forked()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_forked_child_runs():
    child(forks)


def sleep_after_work():
    answer(WORKS["slices"], 3)
    answer(WORKS["units"], 3)
    before = time.process_time()
    time.sleep(1)
    print(time.process_time() - before)


def test_idle_threads_burn_nothing():
    assert float(child(sleep_after_work)) < 0.05


def end_in_the_middle():
    """The interpreter ends while a thread of ours sleeps and another one works."""
    answer(WORKS["units"], 3)
    begun = threading.Event()

    def call():
        while True:
            begun.set()
            answer(WORKS["units"], 3)

    threading.Thread(target=call, daemon=True).start()
    begun.wait()
    time.sleep(0.01)
    print("end")


def test_the_end_of_the_interpreter():
    for _ in range(3):
        assert child(end_in_the_middle) == "end\n"


def interrupt():
    """Ctrl-C in a long call: heard after it, by Python's own thread, and the call is whole."""
    work = Work((400,) * 64, 64, 256)
    parameters, x, h, c = draw(work)
    stack, y = load("native").Stack(parameters, 1), np.full((len(x), 256), np.nan, np.float32)
    expected, sizes = np.empty_like(y), np.full(400, 64)
    stack.run(x, sizes, h.copy(), c.copy(), expected, 2)
    for task in os.listdir("/proc/self/task"):
        status = pathlib.Path("/proc/self/task", task, "status").read_text()
        blocked = int(re.search(r"SigBlk:\s*(\w+)", status)[1], 16)
        assert bool(blocked >> signal.SIGINT - 1 & 1) == (int(task) != os.getpid())
    threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        stack.run(x, sizes, h.copy(), c.copy(), y, 2)
        time.sleep(60)
    assert_same_bits(y, expected)
    stack.run(x, sizes, h, c, y, 2)
    assert_same_bits(y, expected)


@on_linux
def test_an_interrupt():
    child(interrupt)


def beside_torch():
    """In turn, and at once: both right, torch's threads as many as before."""
    torch = importlib.import_module("torch")
    torch.manual_seed(0)
    theirs = torch.nn.LSTM(64, 128, 2).requires_grad_(False)
    ours = LSTM(64, 128, 2, engine="native", num_threads=2)
    x, before = torch.randn(60, 32, 64), torch.get_num_threads()
    expected = theirs(x)[0]
    ours.load_state_dict(theirs.state_dict())
    output = ours(x)[0]
    np.testing.assert_allclose(output, expected, rtol=0, atol=5e-6)

    def run_theirs():
        np.testing.assert_allclose(theirs(x)[0], expected, rtol=0, atol=1e-6)

    def run_ours():
        assert_same_bits(ours(x)[0], output)

    for _ in range(10):
        run_theirs()
        run_ours()
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(run) for run in [run_theirs, run_ours] * 10]:
            done.result()
    assert torch.get_num_threads() == before


def test_beside_torch():
    pytest.importorskip("torch", reason="runs beside torch")
    child(beside_torch, OPENBLAS_NUM_THREADS="")


LOADED = """
import pathlib, re
def libraries():
    return {*re.findall("/.*[.]so.*", pathlib.Path("/proc/self/maps").read_text())}
import numpy as np
before = libraries()
import fastlstm
lstm = fastlstm.LSTM(32, 96, engine="native", num_threads=3)
lstm(np.zeros((60, 64, 32), np.float32))
print(*libraries() - before)
"""


@on_linux
def test_no_runtime_of_other_threads_is_loaded():
    """No OpenMP that could clash with another library's."""
    loaded = python("-c", LOADED)
    assert "_native" in loaded
    assert not re.search("omp|mkl|tbb", loaded)


# ---- what is left as it was -----------------------------------------------------------------


def control():
    """This thread's setting of denormals, rounding and exceptions: x86's MXCSR."""
    environment = (ctypes.c_uint32 * 8)()
    assert ctypes.CDLL("libm.so.6").fegetenv(environment) == 0
    return environment


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="asks glibc")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="knows x86's register")
@pytest.mark.parametrize("work, threads", [("small", 1), ("slices", 3), ("directions", 3), ("units", 3)])
def test_the_setting_of_denormals_stays(native, work, threads):
    work = {**WORKS, **SMALL}[work]
    parameters, x, h, c = draw(work)
    stack, sizes = native.Stack(parameters, work.directions), batch_sizes_of(np.array(work.lengths))
    y, seen = np.empty((len(x), work.directions * h.shape[2]), np.float32), []

    def check(changes):
        environment = control()
        environment[7] ^= changes
        assert ctypes.CDLL("libm.so.6").fesetenv(environment) == 0
        for _ in range(3):
            stack.run(x, sizes, h, c, y, threads, work.reverse)
        seen.append((environment[7], control()[7]))

    for changes in (0, 0x8000, 0x0040, 0x6000):  # flush to zero; denormals are zero; rounding
        thread = threading.Thread(target=check, args=(changes,))
        thread.start()
        thread.join()
    assert [before & 0xFFC0 for before, _ in seen] == [after & 0xFFC0 for _, after in seen]
    assert len({before & 0xFFC0 for before, _ in seen}) == 4
    assert np.finfo(np.float32).smallest_subnormal * np.float32(3) > 0


@pytest.mark.parametrize("call", ["run", "step"])
def test_another_thread_goes_on_meanwhile(native, call):
    """The GIL is released: nobody would get it here who is not given it."""
    lstm, inside, counted, end = LSTM(64, 1024, engine="native", num_threads=1), [], [], []
    x = np.zeros((6, 256, 64), np.float32)
    stream = lstm.stream(256)
    work = {"run": lambda: lstm(x), "step": lambda: [stream.step(x_t) for x_t in x]}[call]
    work()

    def count():
        while not end:
            counted.extend(inside)
            time.sleep(1e-4)

    counting = threading.Thread(target=count)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(100)
    try:
        counting.start()
        inside.append(1)
        work()
        inside.clear()
    finally:
        sys.setswitchinterval(interval)
        end.append(1)
        counting.join()
    assert len(counted) >= 3


# ---- memory ---------------------------------------------------------------------------------


@pytest.fixture
def held():
    """How many bytes more than at first are held."""
    tracemalloc.start()
    first, _ = tracemalloc.get_traced_memory()

    def held():
        gc.collect()
        return tracemalloc.get_traced_memory()[0] - first

    yield held
    tracemalloc.stop()


def test_rooms_do_not_add_up(held):
    """Whatever sizes come in whatever order: one room of at most 8 MB is kept, then none."""
    lstm, rng = LSTM(5, 64, 2, engine="native", num_threads=2, seed=0), np.random.default_rng(0)
    weights = held()
    for T, B in rng.integers(1, 200, (60, 2)):
        lstm(np.zeros((T, B, 5), np.float32))
        assert held() < weights + (9 << 20)
    lstm(np.zeros((1, 30_000, 5), np.float32))
    del lstm
    assert held() < 1 << 15


def test_rooms_of_many_callers(held):
    """As many as ran at once, four at most, and none when the layer is gone."""
    lstm = LSTM(5, 64, 2, engine="native", num_threads=1, seed=0)
    x = np.zeros((100, 100, 5), np.float32)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: lstm(x)[0].sum(), range(40)))
    assert held() < 4 * (9 << 20)
    del lstm, pool
    assert held() < 1 << 17


def test_streams_leave_nothing(held):
    lstm, x = LSTM(32, 64, 2, engine="native", seed=0), np.zeros((100, 32), np.float32)
    lstm.stream(100).step(x)
    weights = held()
    for _ in range(50):
        lstm.stream(100).step(x)
    assert held() < weights + (1 << 15)


def test_packed_weights_of_old_versions_are_gone(held):
    lstm = LSTM(64, 64, 2, engine="native", seed=0)
    stream, x = lstm.stream(), np.zeros((1, 64), np.float32)
    stream.step(x)
    weights = held()
    for seed in range(20):
        lstm.reset_parameters(seed)
        stream.step(x)
    assert held() < weights + (1 << 15)
