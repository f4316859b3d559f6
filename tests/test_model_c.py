"""Whole models in C: their files, steps, runs, states, and what is refused.

The program model.c runs each case in every way that must give the same bits: at once, in chunks,
step by step, with threads, each sequence by itself, with states that another session takes up, and
after a reset. Here its values are compared with those of the engine `native`, bit for bit, where a
model has no function but those that round once, and with NumPy's in float64. Files are written by
`fl_files`, which knows nothing of fastlstm's own writer.
"""

import functools
import struct
import subprocess
import types

import fl_reader
import numpy as np
import pytest
import test_fl
from fl_faults import damaged
from fl_files import (
    CONVOLUTION,
    LAST,
    compute,
    function,
    softmax,
    write,
)
from fl_models import EXACT, SEEDS, Case, act, model
from support import FUNCTIONS, tolerance
from test_native_c import COMPILERS, FLAGS, HERE, ISAS, NATIVE, PROGRAMS, build, find, start_wine

from fastlstm.engines import _numpy
from fastlstm.engines.contract import Activation
from fastlstm.formats import fl_file

__all__ = ["build", "start_wine"]  # fixtures

STATUSES = """OK STOPPED NULL BAD_STRUCT_SIZE BAD_ALIGNMENT TOO_SMALL TOO_LARGE BAD_ISA BAD_ITEMSIZE
    BAD_SHAPE BAD_OPTIONS BAD_ARRAYS BAD_CALL BAD_STRIDE BAD_BATCH_SIZES BAD_CUT BAD_INDEX
    UNSUPPORTED FILE_MAGIC FILE_VERSION FILE_ENDIAN FILE_TRUNCATED FILE_CHECKSUM
    FILE_DAMAGED FILE_UNREADABLE""".split()

# Each instruction set by GCC without optimisation; the rest repeats that. `test_native_c` tests the
# kernels by every compiler at every level; here GCC alone has both levels, what an emulator runs is
# optimised, as it takes long otherwise, and Windows is left out.
SLOW = pytest.mark.slow
TARGETS = [
    pytest.param(compiler, isa, level, marks=[SLOW] * ((compiler, level) != ("gcc", "-O0")))
    for compiler, level in [("gcc", "-O0"), ("clang", "-O0"), ("gcc", "-O3"), ("arm64", "-O3")]
    if compiler in COMPILERS
    for isa in ("baseline", *ISAS.get(compiler, HERE))
]


def run(command, case, x):
    """What the program model gives: (whether it has steps, y, the states)."""
    return run_file(command, write(case.model), case, x)


def run_file(command, data, case, x):
    """The same, for the file of a case's model that was written elsewhere."""
    head = np.array([len(data), case.B, case.T, case.threads], np.int64)
    given = head.tobytes() + data + np.ascontiguousarray(x).tobytes()
    ran = subprocess.run(command, input=given, capture_output=True)
    if ran.returncode == 2:
        pytest.skip(f"this machine lacks what {command} wants")
    assert ran.returncode == 0, ran.stderr.decode()
    status, *told, rate = struct.unpack_from("<7qd", ran.stdout)
    assert STATUSES[status] == "OK"
    itemsize, indices, takes, gives, steps, last = told
    assert (itemsize, indices) == (np.dtype(case.model.dtype).itemsize, case.model.indices)
    assert (takes, gives, rate) == (case.model.input, case.model.output, case.model.rate)
    shape = 1 if last else case.T, case.B, gives
    y = np.frombuffer(ran.stdout, case.model.dtype, np.prod(shape), 64)
    (count,) = struct.unpack_from("<q", ran.stdout, 64 + y.nbytes)
    states = np.frombuffer(ran.stdout, case.model.dtype, offset=72 + y.nbytes)
    assert states.nbytes == count
    return steps, y.reshape(shape), states


@functools.cache
def truth(name):
    """y of a case, in float64."""
    case = EXACT[name]
    return compute(_numpy_engine(), case.model, case.x(), np.float64)[0]


def bound(case):
    """How far y may be from the truth: what `support.tolerance` allows to each product."""
    terms = [
        n.arrays[0][0].size if n.kind == CONVOLUTION else n.I + n.O + 1 for n in case.model.nodes
    ]
    allowed = (tolerance("native", case.model.dtype, n, np.sqrt(n))["atol"] for n in terms)
    return {"rtol": 0, "atol": sum(allowed)}


def _numpy_engine():
    """`_numpy`, with a Product, which it lacks."""

    class Product:
        def __init__(self, w, b):
            self.w, self.b = w, 0.0 if b is None else b

        def run(self, x, y, threads):
            y[...] = x @ self.w.T + self.b

    class Engine:
        Stack = _numpy.Stack

    Engine.Product = Product
    return Engine


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("compiler, isa, level", TARGETS)
def test_models(build, native, compiler, isa, level, name):
    """All ways to run a model give the bits of the engine, and values near the truth."""
    case = EXACT[name]
    steps, y, states = run([*build(compiler, "model", level), isa], case, case.x())
    whole = any(n.kind == LAST and any(n.whole) for n in case.model.nodes)
    whole |= any(cell.reverse for n in case.model.nodes for cell in n.cells)
    assert steps == (not whole)
    np.testing.assert_allclose(y, truth(name), **bound(case))
    if isa == "baseline" or native.describe()["instruction_set"] == "baseline":
        return
    same, ends = compute(native, case.model, case.x(), case.model.dtype)
    assert (y + 0).tobytes() == (same + 0).tobytes()  # no sign of 0
    if steps:
        ends = np.concatenate([np.zeros(0, y.dtype), *(a.ravel() for a in ends)])
        assert states[: ends.size].tobytes() == ends.tobytes()
        assert not states[ends.size :].any() and states.nbytes - ends.nbytes < 64
    else:
        assert not states.size


# ---- files of fastlstm's own writer ---------------------------------------------------------


# In Python, NumPy computes the functions of these, and no engine.
ROUNDED = {
    *("chain", "activations", "softmax of steps", "softmax of the last"),
    *("residual of residuals", "all at once"),
}


@pytest.mark.parametrize("name", sorted(test_fl.MODELS.keys() - ROUNDED))
def test_what_save_writes_has_the_bits_of_the_engine(build, native, monkeypatch, name):
    """A model gives the same in C, by this machine's instruction set, as in Python."""
    isa = native.describe()["instruction_set"]
    if isa == "baseline":
        pytest.skip("the baseline has sums of its own")
    monkeypatch.setenv("FASTLSTM_ENGINE", "native")
    model = test_fl.stirred(test_fl.MODELS[name]())
    data = test_fl.written(model, sample_rate=48000)
    file = fl_reader.decode(data)
    x = test_fl.input_of(model)
    told = types.SimpleNamespace(
        dtype=file.dtype, indices=file.indices, input=file.takes, output=file.gives, rate=48000
    )
    case = types.SimpleNamespace(model=told, T=5, B=2, threads=2)
    _, y, _ = run_file([*build("gcc", "model", "-O0"), isa], data, case, x)
    expected = model(x)
    expected = expected[0] if isinstance(expected, tuple) else expected
    assert (y.reshape(expected.shape) + 0).tobytes() == (expected + 0).tobytes()


# ---- broken libraries -----------------------------------------------------------------------

# One fault each: (the file, what stands there, what stands there instead, the case that shows it).
SABOTEURS = {
    "a value is overwritten that is still taken": (
        "model.c", "!source->is_view && source->last_use == n", "!source->is_view", "branches",
    ),
    "memory is free too soon": (
        "model.c", "root->slot >= 0 && root->last_use == n", "root->slot >= 0", "branches_many",
    ),
    "all sequences begin anew": ("session.c", "if (mask && !mask[n])", "if (0)", "learned_many"),
    "learned states are left out": (
        "session.c", "h_0 ? h_0 + cell * h_width : NULL", "NULL", "learned",
    ),
    "states of one layer for all": (
        "session.c", "c_0 ? c_0 + cell * c_width", "c_0 ? c_0 + 0 * c_width", "haste",
    ),
    "c before h": ("session.c", "(k % 2 ? own->c : own->h)", "(k % 2 ? own->h : own->c)", "layers"),
    "no zeros behind": (
        "session.c", "memset(session->scratch + padding + bytes, 0, padding);", "", "speech",
    ),
    "the first step, not the last": ("session.c", "x.at += (steps - 1)", "x.at += 0", "one_last"),
    "each block begins with the first": (
        "session.c", "x.at += now * session->batch * x.stride;", "", "amplifier",
    ),
    "a run goes on where it was": (
        "session.c", "!model->info.steps)\n        reset", "0)\n        reset", "reverse",
    ),
    "bias is forgotten": (
        "model.c", "fl_array_of(file, node, 1), &linear", "NULL, &linear", "amplifier",
    ),
    "W of another node": (
        "model_file.c", "node->first_array + k", "k", "branches",
    ),
    "padding is not looked at": (
        "model_file.c", "are_zeros(file->bytes + from, to - from)", "1", None,
    ),
    "the place is not looked at": ("model_file.c", "array.at != c->place || ", "", None),
    "the size is not looked at": ("model_file.c", "array.bytes != bytes || ", "", None),
    "the checksum is not looked at": (
        "model_file.c", "head->checksum != checksum_of(bytes, number)", "0", None,
    ),
    "steps are not looked at": (
        "model_file.c", "one_step == has_one_step(c, node->value[1])", "1", None,
    ),
    "what has no use may be anything": (
        "model_file.c", "!are_zeros(node->whole + w", "0 && !are_zeros(node->whole + w", None,
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def sabotage(build, tmp_path_factory):
    """Builds the program with one source changed."""

    def run(file, old, new):
        folder = tmp_path_factory.mktemp("broken")
        text = (NATIVE / file).read_text(encoding="utf-8")
        assert text.count(old) == 1, old
        (folder / file).write_text(text.replace(old, new), encoding="utf-8")
        return build("gcc", "model", "-O0", folder / file)[-1]

    return run


@pytest.mark.parametrize("fault", SABOTEURS)
def test_faults_are_seen(sabotage, native, fault):
    """A library with a single fault fails the tests above."""
    file, old, new, name = SABOTEURS[fault]
    program = sabotage(file, old, new)
    with pytest.raises((AssertionError, struct.error)):
        if name:
            isa = native.describe()["instruction_set"]
            test_models(lambda *_: [program], native, "gcc", isa, "-O0", name)
        else:
            test_damaged_files(lambda *_: [program])


# ---- functions ------------------------------------------------------------------------------


ODD = [0.0, -0.0, 1e-30, -1e-30, 1e-8, 700.0, -700.0, 88.0, -88.0, 1e30, -1e30, np.inf, -np.inf]


def errors(activation, x, expected, info):
    """How far values may be from those of a function: 8 roundings of them, and those of its parts.

    A sum of alpha x and beta may be smaller than they are, and in a softmax the difference from the
    greatest x is rounded before its exponential is taken. Denormals are zeros.
    """
    parts = np.zeros_like(x)
    if activation.name in ("affine", "hard_sigmoid"):
        parts = abs(activation.alpha * x) + abs(activation.beta)
        parts[~np.isfinite(parts)] = 0
    if activation.name == "softmax":
        parts = (x.max(-1, keepdims=True) - x) * expected
    return float(info.eps) * (8 * abs(expected) + parts) + 4 * float(info.tiny)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", [*FUNCTIONS, "softmax"])
@pytest.mark.parametrize("compiler, isa, level", TARGETS)
def test_functions(build, compiler, isa, level, name, dtype):
    """Each function is within a few roundings of NumPy's in float64; nan stays nan.

    Rows of 5 and 33 values have whole vectors of every width and parts of them.
    """
    activation = FUNCTIONS.get(name, Activation("softmax"))
    for width in (5, 33):
        case = Case(model(act(0, width, *activation), dtype=dtype), B=2, T=8)
        x = np.random.default_rng(1).standard_normal((8, 2, width)) * 4
        x[1:4, 1, 3] = 60, -60, np.nan
        if name != "softmax":
            x.flat[: len(ODD)] = ODD
        x = x.astype(dtype)
        _, y, _ = run([*build(compiler, "model", level), isa], case, x)
        wide = x.astype(float)
        with np.errstate(all="ignore"):
            expected = softmax(wide) if name == "softmax" else function(*activation, wide)
            near = abs(y - expected) <= errors(activation, wide, expected, np.finfo(dtype))
            infinite = (y == np.sign(expected) * np.inf) & (abs(expected) > np.finfo(dtype).max)
        assert (near | (y == expected) | infinite | (np.isnan(y) & np.isnan(expected))).all(), name
        assert np.isnan(y).any()


def test_softmax_of_infinities(build):
    """As in torch: -inf counts nothing; with inf, or nothing but -inf, all are nan."""
    x = np.float32([[1, -np.inf, 1, -np.inf, -np.inf], [0, 1, np.inf, 2, 3], [-np.inf] * 5])
    case = Case(model(act(0, 5, "softmax")), T=3)
    _, y, _ = run([*build("gcc", "model", "-O0"), "baseline"], case, x[:, None])
    np.testing.assert_array_equal(y[0, 0], [0.5, 0, 0.5, 0, 0])
    assert np.isnan(y[1:]).all()


# ---- what is refused ------------------------------------------------------------------------


def statuses(command, files):
    """The names of the statuses with which files are loaded."""
    given = b"".join(struct.pack("<q", len(data)) + data for data in files)
    ran = subprocess.run([*command, "check"], input=given, capture_output=True)
    if ran.returncode == 2:
        pytest.skip(f"this machine lacks what {command} wants")
    assert ran.returncode == 0, ran.stderr.decode()
    return [STATUSES[n] for n in np.frombuffer(ran.stdout, np.int64)]


def test_damaged_files(build):
    """Each fault has its status, and none is loaded."""
    files = damaged()
    got = statuses(
        [*build("gcc", "model", "-O0"), "baseline"], [data for data, _ in files.values()]
    )
    expected = [status for _, status in files.values()]
    wrong = [
        (name, *pair)
        for name, *pair in zip(files, got, expected, strict=True)
        if pair[0] != pair[1]
    ]
    assert not wrong


def test_right_files_are_not_refused(build):
    """The faults of `damaged` are those of models that are right otherwise."""
    files = [write(case.model) for case in EXACT.values()]
    assert {*statuses([*build("gcc", "model", "-O0"), "baseline"], files)} == {"OK"}


def test_python_refuses_what_c_refuses(build):
    """Of many files with changed numbers and the right checksum, both take the same ones."""
    files = [data for data, _ in damaged().values()]
    files += [write(case.model) for case in EXACT.values()]
    rng = np.random.default_rng(3)
    numbers = [0, 1, 2, 3, 4, 5, 8, 64, 2**31 - 1, 2**31, 2**32 - 1]
    names = "lstm", "coupled i, peephole", "both", "embedding", "concat", "zoneout"
    models = [test_fl.written(test_fl.stirred(test_fl.MODELS[name]())) for name in names]
    for data in (*models, test_fl.of_nodes(test_fl.convolutional(), 8)):
        nodes = len(fl_reader.decode(data).nodes)
        for _ in range(300):
            at = 4 * int(rng.integers(7, (128 + 208 * nodes + 100) // 4))
            files.append(test_fl.changed(data, (at, "I", int(rng.choice(numbers)))))
    got = statuses([*build("gcc", "model", "-O0"), "baseline"], files)
    taken = []
    for data in files:
        try:
            fl_file.parse(bytearray(data))
            taken.append(True)
        except ValueError:
            taken.append(False)
    assert taken == [status == "OK" for status in got]
    assert 100 < sum(taken) < len(taken) - 1000


@pytest.mark.parametrize("name", ["amplifier", "speech", "text", "haste"])
def test_every_bit_is_checked(build, name):
    """One bit that is not what it was is found, wherever it is."""
    data, rng = write(EXACT[name].model), np.random.default_rng(5)
    files = []
    for at in [*range(256), *rng.integers(256, len(data), 500)]:
        other = bytearray(data)
        other[at] ^= 1 << rng.integers(8)
        files.append(bytes(other))
    assert "OK" not in statuses([*build("gcc", "model", "-O0"), "baseline"], files)


LITTLE = [f"-DFL_NO_{part}" for part in "AVX2 AVX512 NEON DOUBLE TRAINING THREADS".split()]


def test_a_little_build(build, tmp_path):
    """Without doubles, threads and vectors wider than the least, models give the same bits."""
    program = tmp_path / "model"
    sources = [PROGRAMS / "model.c", *sorted(NATIVE.glob("*.c"))]
    made = [*COMPILERS["gcc"], *FLAGS, *LITTLE, "-O0", f"-I{NATIVE}", *sources, "-lm"]
    ran = subprocess.run([*made, "-o", program], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    whole = [*build("gcc", "model", "-O0"), "baseline"]
    for name in ("amplifier", "speech", "branches_many", "text", "reverse_last", "haste"):
        case = EXACT[name]
        _, y, states = run([program, "baseline"], case, case.x())
        _, same, ends = run(whole, case, case.x())
        assert y.tobytes() == same.tobytes() and states.tobytes() == ends.tobytes(), name
    double = write(EXACT["amplifier_double"].model)
    assert statuses([program, "baseline"], [double]) == ["BAD_ITEMSIZE"]


# ---- fuzzing --------------------------------------------------------------------------------


def corpus(folder):
    """A folder of small models, from which fuzzing begins."""
    folder.mkdir()
    for name, seed in SEEDS.items():
        (folder / f"{name}.fl").write_bytes(write(seed))
    return folder


def test_mutated_files(build, tmp_path):
    """Files with faults behind a right checksum are refused or run, and nothing else happens."""
    command = [*build("gcc", "fuzz_model", "-O0"), "3000", *corpus(tmp_path / "corpus").iterdir()]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    loaded, refused = map(int, ran.stdout.split())
    assert loaded > 30 and refused > 300


@pytest.mark.slow
def test_fuzzing(tmp_path):
    """libFuzzer finds nothing in a minute, with the address and undefined-behaviour sanitizers."""
    find("clang")
    strict = ["-O1", "-fsanitize=fuzzer-no-link,address,undefined", "-fno-sanitize-recover=all"]
    objects = []
    for source in [PROGRAMS / "fuzz_model.c", *sorted(NATIVE.glob("*.c"))]:
        # Clang takes ten minutes for checked kernels of wide vectors. The baseline's see as much.
        own = ["-O0"] if source.name.startswith("kernels") else strict
        own = [*own, "-fsanitize=address"] if source.name == "kernels_baseline.c" else own
        objects.append(tmp_path / f"{source.stem}.o")
        flags = [*FLAGS, "-g", "-DWITH_LIBFUZZER", f"-I{NATIVE}", "-c", "-o", objects[-1]]
        subprocess.run(["clang", *own, *flags, source], check=True, capture_output=True)
    linked = subprocess.run(
        ["clang", "-pthread", "-fsanitize=fuzzer,address,undefined", *objects, "-lm",
         "-o", tmp_path / "fuzz"],
        capture_output=True, text=True,
    )  # fmt: skip
    if "libclang_rt.fuzzer" in linked.stderr:
        pytest.skip("clang has no libFuzzer here")
    assert linked.returncode == 0, linked.stderr
    command = [tmp_path / "fuzz", "-max_total_time=60", "-max_len=20000", "-rss_limit_mb=1000"]
    ran = subprocess.run(
        [*command, f"-artifact_prefix={tmp_path}/", corpus(tmp_path / "corpus")],
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr[-5000:]
