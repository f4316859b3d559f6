"""The C kernels without Python: other compilers, other machines, and still the same bits.

Programs in tests/native are built from fastlstm/native by each compiler that is here, without a
warning; CFLAGS of the environment (a sanitizer's) come last. Without optimisation they are built in
seconds and give the same bits, so that is what the quick tests do; -O3, which takes a compiler half
a minute, is left to the slow ones.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import os
import pathlib
import platform
import re
import shlex
import shutil
import subprocess
from typing import NamedTuple

import numpy as np
import pytest
from gradients import assert_within, cells_of, go_back, roundings, spread, values_of
from support import FUNCTIONS, Work, assert_same_bits, draw, noise_of, tolerance, with_options
from test_optimisers import GRID

from fastlstm import Linear
from fastlstm.engines import _numpy, load
from fastlstm.engines.contract import ACTIVATIONS, PLAIN, Activation, Noise, Options
from fastlstm.engines.machine import Caches
from fastlstm.sequences.packing import batch_sizes_of
from fastlstm.training import optimisers

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None

ROOT = pathlib.Path(__file__).parents[1]
NATIVE, PROGRAMS = ROOT / "fastlstm" / "native", ROOT / "tests" / "native"
FLAGS = "-std=c11 -ffp-contract=off -fvisibility=hidden -pthread -Wall -Wextra -Werror".split()
WINDOWS = ["-static", "-Wa,-muse-unaligned-vector-move"]  # GCC does not align its stack there
COMPILERS = {
    "gcc": ["gcc"],
    "clang": ["clang"],
    "arm64": ["aarch64-linux-gnu-gcc", "-static"],
    "windows": ["x86_64-w64-mingw32-gcc-posix", *WINDOWS],
}
if os.name == "nt":
    COMPILERS = {"gcc": ["gcc", *WINDOWS]}
RUN_BY = {"arm64": ["qemu-aarch64"], "windows": ["wine64"]}
ARM64 = platform.machine().lower() in ("arm64", "aarch64")
HERE = ("neon",) if ARM64 else ("avx512", "avx2")
ISAS = {"arm64": ("neon",), "windows": ("avx512", "avx2")}


def case(compiler, *others):
    """The parameters of a test; one compiler is quick, which is there on every system."""
    slow = [pytest.mark.slow] * (compiler != "gcc")
    return pytest.param(compiler, *others, marks=slow)


TARGETS = [
    case(compiler, isa) for compiler in COMPILERS for isa in ("baseline", *ISAS.get(compiler, HERE))
]
LEVELS = ["-O0", pytest.param("-O3", marks=pytest.mark.slow)]  # of optimisation


def find(tool):
    """The path of a program, or else the test is skipped."""
    path = shutil.which(tool) or shutil.which(tool, path="/usr/lib/wine")  # Debian's place
    return path or pytest.skip(f"no {tool} here")


class Call(NamedTuple):
    """A work and how it is run; `gain` multiplies its inputs and, if it is below 1, its states."""

    work: Work
    threads: int = 1
    reverse: bool = False
    gain: float = 1

    def arrays(self):
        """(cells, batch sizes, x, h, c)."""
        cells, x, h, c = draw(self.work)
        x, h, c = x * self.gain, h * min(self.gain, 1), c * min(self.gain, 1)
        return cells, batch_sizes_of(np.array(self.work.lengths)), x, h, c


CALLS = {
    "one": Call(Work((1,), 1, 1)),
    **{f"hidden{H}": Call(Work((3,) * 2, 4, H)) for H in (7, 15, 16, 33)},
    **{f"batch{B}": Call(Work((3,) * B, 4, 10)) for B in (2, 5, 6, 11)},
    "alone": Call(Work((300,), 20, 70)),
    "few_alone": Call(Work((70,), 3, 40)),
    "few_alone_wide": Call(Work((70,), 130, 64)),
    "few_alone_double": Call(Work((9,), 1, 20, dtype="float64")),
    "alone_reverse": Call(Work((300,), 20, 70), reverse=True),
    "ragged_reverse": Call(Work((9, 8, 8, 5, 3, 1, 1), 6, 19), reverse=True),
    "projection": Call(Work((4, 4, 2, 1), 7, 70, 65)),
    "double": Call(Work((4, 4, 2, 1), 7, 33, 17, layers=2, dtype="float64")),
    "double_alone": Call(Work((40,), 20, 70, dtype="float64")),
    "stack": Call(Work((6,) * 5, 5, 18, layers=3, directions=2)),
    "stack_ragged": Call(Work((5, 5, 3, 1), 5, 18, 6, layers=3, directions=2)),
    "threads_batch": Call(Work((60,) * 16, 32, 64, layers=2), threads=2),
    "threads_directions": Call(Work((150,) * 2, 32, 64, directions=2), threads=2),
    "threads_units": Call(Work((20,), 64, 256, layers=2), threads=3),
    "threads_units_ragged": Call(Work((9, 7, 2), 64, 300, 250), threads=2),
    "open_and_shut": Call(Work((40,) * 5, 5, 11), gain=30),
    "saturated": Call(Work((7,) * 5, 5, 11), gain=1000),
    "denormal": Call(Work((7,) * 5, 5, 11), gain=1e-39),
}


def run_in_python(engine, call, dtype):
    """y, h, c of an engine, in one thread."""
    cells, batch_sizes, x, h, c = call.arrays()
    cells = [cell.map(lambda a: a.astype(dtype)) for cell in cells]
    if call.reverse:
        cells = [dataclasses.replace(cell, reverse=True) for cell in cells]
    x, h, c = (a.astype(dtype) for a in (x, h, c))
    y = np.empty((len(x), call.work.directions * h.shape[2]), dtype)
    engine.Stack(cells, call.work.directions).run(x, batch_sizes, h, c, y, 1)
    return y, h, c


def run_bits(command, dtype, arrays, shapes):
    """What the program bits gives for a case, an array for each of the shapes."""
    ran = subprocess.run(command, input=b"".join(map(bytes, arrays)), capture_output=True)
    if ran.returncode == 2:
        pytest.skip(f"this machine lacks what {command} wants")
    assert ran.returncode == 0, ran.stderr.decode()
    ends = np.cumsum([np.prod(shape, dtype=int) for shape in shapes])
    *parts, rest = np.split(np.frombuffer(ran.stdout, dtype), ends)
    assert not rest.size
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def first_of(work, cell, h, batch_sizes, threads, reverse, every, noise=()):
    """What the program bits reads before any array: a head, and options if the cell has some.

    Sequences of one length come without batch sizes; `RAGGED` is where the head says so.
    """
    sizes = [h.itemsize, work.layers, work.directions, work.I, work.H, h.shape[2]]
    call = [len(batch_sizes), h.shape[1], threads, reverse, np.ptp(work.lengths) > 0, every]
    drawn = sum(1 << k for k, array in enumerate(noise[0] if noise else ()) if array is not None)
    more = [not cell.is_plain, cell.w_ci is not None, drawn]
    o = cell.options
    values = [o.gate_clip, o.cell_clip, o.proj_clip, ["", "f=1-i", "i=1-f"].index(o.coupled)]
    for name, *numbers in (o.gate, o.cell, o.output):
        values += [ACTIVATIONS.index(name), *numbers]
    values += [["", "tflite", "haste"].index(o.layer_norm), o.zoneout_h, o.zoneout_c]
    head = np.array(sizes + call + more, np.int64)
    return [head] if cell.is_plain else [head, np.array(values, np.float64)]


RAGGED = 10


def run_in_c(command, call):
    """y, h, c of the program bits."""
    cells, batch_sizes, x, h, c = call.arrays()
    first = first_of(call.work, cells[0], h, batch_sizes, call.threads, call.reverse, -1)
    arrays = [*first, *(a for cell in cells for a in cell.arrays().values())]
    arrays += [batch_sizes.astype(np.int64)] * bool(first[0][RAGGED]) + [x, h, c]
    shapes = (len(x), call.work.directions * h.shape[2]), h.shape, c.shape
    return run_bits(command, call.work.dtype, arrays, shapes)


# one layer with options, recorded: a work, threads, the options, the fields of its noise
OPTIONS = {
    "peepholes": (
        Work((4, 4, 2, 1), 7, 33, directions=2), 1, {"peephole": True, "gate_clip": 0.8}, (),
    ),
    "activations": (
        Work((5, 3), 4, 17, dtype="float64"), 1,
        {"gate": FUNCTIONS["softplus"], "cell": FUNCTIONS["elu"], "output": FUNCTIONS["softsign"],
         "coupled": "f=1-i", "cell_clip": 0.7}, (),
    ),
    "tflite": (Work((6, 6, 5, 1), 9, 35), 1, {"layer_norm": "tflite", "peephole": True}, ()),
    "haste": (
        Work((9, 2, 2), 5, 40, directions=2), 1,
        {"layer_norm": "haste", "peephole": True, "coupled": "i=1-f"}, (),
    ),
    "alone": (Work((150,), 20, 70), 1, {"peephole": True, "zoneout_h": 0.3, "zoneout_c": 0.1}, ()),
    "alone_haste": (Work((70,), 20, 70), 1, {"layer_norm": "haste"}, ()),
    "projection": (
        Work((4, 4, 2, 1), 7, 70, 65), 1, {"proj_clip": 0.2, "zoneout_h": 0.3},
        ("h", "zone_h", "zone_c"),
    ),
    "noise": (Work((7, 7, 3), 5, 19, directions=2), 1, {}, ("h", "zone_c")),
    "threads_units": (
        Work((9, 7, 2), 64, 256), 3, {"layer_norm": "tflite", "zoneout_c": 0.2}, ("h", "zone_h"),
    ),
    "threads_rows": (Work((60,) * 16, 32, 64), 2, {"layer_norm": "haste"}, ("h", "zone_c")),
}  # fmt: skip


def with_noise(name):
    """(cells, batch sizes, x, h, c, noise) of a case of `OPTIONS`."""
    work, _, options, fields = OPTIONS[name]
    cells, x, h, c = draw(work)
    cells = [with_options(cell, **options) for cell in cells]
    rng, sizes = np.random.default_rng(1), batch_sizes_of(np.array(work.lengths))
    shapes = {"h": h.shape[1:], "zone_h": (len(x), h.shape[2]), "zone_c": (len(x), c.shape[2])}
    noise = [
        Noise(**{n: (rng.random(shapes[n]) < 0.4).astype(work.dtype) for n in fields})
        for _ in cells
    ]
    return cells, sizes, x, h, c, noise if fields else ()


def record(engine, cells, sizes, x, h, c, noise, threads=1):
    """y, h and c of a recorded run, and for each direction the gates and cells."""
    stack, y = (
        engine.Stack(cells, len(cells)),
        np.full((len(x), h.size // h.shape[1]), np.nan, x.dtype),
    )
    h, c = h.copy(), c.copy()
    tape = stack.record(x, sizes, h, c, y, threads, noise=noise or None)
    return [y, h, c, *(array for pair in stack.saved(tape) for array in pair)]


def in_float64(cells, sizes, x, h, c, noise):
    """Those arguments in float64."""
    cells = [cell.map(lambda a: a.astype(float)) for cell in cells]
    noise = [Noise(*(None if a is None else a.astype(float) for a in one)) for one in noise]
    return cells, sizes, x.astype(float), h.astype(float), c.astype(float), noise


@functools.cache
def truth_of_options(name):
    """(`_numpy`'s results in float64, how far each moves) of a case; see `gradients.spread`."""
    cells, sizes, x, h, c, noise = in_float64(*with_noise(name))
    values = {f"{n}{k}": a for k, cell in enumerate(cells) for n, a in cell.arrays().items()}

    def results(given):
        moved = [
            dataclasses.replace(cell, **{n: given[f"{n}{k}"] for n in cell.arrays()})
            for k, cell in enumerate(cells)
        ]
        got = record(_numpy, moved, sizes, *(given[n] for n in "xhc"), noise)
        return dict(enumerate(got))

    return spread(results, values | {"x": x, "h": h, "c": c})


# the way back: a work, how many threads, `every` of its tape
BACK = {
    "one": (Work((1,), 1, 1), 1, 0),
    "two_units": (Work((3, 3, 1), 4, 2, dtype="float64", directions=2), 1, 0),
    "every_tile": (Work(tuple(range(13, 0, -1)), 5, 33), 1, 0),
    "alone": (Work((200,), 20, 70), 1, 0),
    "alone_again": (Work((200,), 20, 70), 1, 60),
    "ragged_again": (Work((9, 8, 8, 5, 3, 1, 1), 6, 19, directions=2), 1, 4),
    "projection": (Work((4, 4, 2, 1), 70, 70, 65), 1, 0),
    "double": (Work((4, 4, 2, 1), 7, 33, 17, directions=2, dtype="float64"), 1, 3),
    "threads_rows": (Work((30,) * 16, 32, 64, directions=2), 2, 7),
    "threads_units": (Work((9, 7, 2), 64, 256), 3, 0),
    "saturated": (Work((7,) * 5, 5, 11, x=1000), 1, 0),
    "two_units_options": (
        Work((3, 3, 1), 4, 2, dtype="float64", directions=2, peephole=True, noise=True,
             options=Options(coupled="f=1-i", cell_clip=0.5, zoneout_c=0.2)), 1, 2,
    ),
    "tflite": (
        Work((9, 8, 8, 5, 3, 1, 1), 6, 19, directions=2, peephole=True, noise=True,
             options=Options(layer_norm="tflite", coupled="i=1-f")), 1, 4,
    ),
    "haste": (
        Work((30,) * 16, 32, 64, peephole=True,
             options=Options(layer_norm="haste", coupled="f=1-i", zoneout_h=0.3)), 2, 7,
    ),
    "proj_clip": (
        Work((4, 4, 2, 1), 70, 70, 65, noise=True, options=Options(proj_clip=0.1)), 1, 0,
    ),
    "functions": (
        Work((9, 7, 2), 64, 256, options=Options(
            gate_clip=1.0, gate=Activation("elu", 0.8), cell=Activation("softsign"),
            output=Activation("scaled_tanh", 1.2, 0.7))), 3, 0,
    ),
}  # fmt: skip


def back_in_c(command, work, values, threads, every):
    """As `gradients.go_back`, by the program bits."""
    sizes = batch_sizes_of(np.array(work.lengths))
    cells = enumerate(cells_of(work, values))
    names = [f"{name}{k}" for k, cell in cells for name in cell.arrays()]
    noise = noise_of(work) or ()
    cell = cells_of(work, values)[0]
    first = first_of(work, cell, values["h"], sizes, threads, False, every, noise)
    arrays = [*first, *(values[name] for name in names)]
    arrays += [sizes.astype(np.int64)] * bool(first[0][RAGGED])
    arrays += [values[name] for name in ("x", "h", "c")]
    arrays += [array for masks in noise for array in masks]
    arrays += [values[name] for name in ("dy", "dh", "dc")]
    like = {"y": "dy", "h": "h", "c": "c", "dx": "x", "dh": "h", "dc": "c"}
    like |= {f"d{name}": name for name in names}
    shapes = [values[name].shape for name in like.values()]
    got = run_bits(command, work.dtype, arrays, shapes)
    return {
        name: a.reshape(-1, a.shape[-1]) if name in ("h", "c", "dh", "dc") else a
        for name, a in zip(like, got, strict=True)
    }


@functools.cache
def truth_of_back(name):
    """(`_numpy`'s results in float64, how far each moves) of a work; see `gradients.spread`."""
    work, _, _ = BACK[name]
    values = {n: v.astype(float) for n, v in values_of(work).items()}
    return spread(lambda given: go_back(_numpy, work, given), values)


@pytest.fixture(scope="module")
def start_wine(tmp_path_factory):
    """Starts Wine when it is first asked to, in a folder of its own, until the tests are over.

    Without that it would start for each program, which takes seconds, and end after it.
    """
    folder, patch = tmp_path_factory.mktemp("wine"), pytest.MonkeyPatch()

    @functools.cache
    def start():
        patch.setenv("WINEPREFIX", str(folder))
        patch.setenv("WINEDEBUG", "-all")
        patch.setenv("WINEDLLOVERRIDES", "mscoree,mshtml,winemenubuilder.exe=")  # not wanted
        quiet = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
        subprocess.run([find("wineserver"), "--persistent"], check=True, **quiet)
        subprocess.run([find("wine64"), "wineboot"], check=True, **quiet)

    yield start
    if start.cache_info().currsize:
        subprocess.run([find("wineserver"), "--kill", "--wait"])
        shutil.rmtree(folder)  # 0.7 GB
    patch.undo()


@contextlib.contextmanager
def alone(path):
    """A block that one process at a time goes through, where a file can be locked."""
    with open(path, "w") as file:
        if fcntl:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="module")
def build(tmp_path_factory, start_wine):
    """The command of a program, compiled when it is first asked for.

    `build(compiler, program, level)`, and with `instead` a source that stands in for the one of its
    name in the kernels' folder; `build.objects(compiler, level)` is what programs are linked to.
    """
    folder, extra = tmp_path_factory.mktemp("native"), shlex.split(os.environ.get("CFLAGS", ""))
    shared = tmp_path_factory.getbasetemp()  # by all files, and all processes, of this run
    shared = shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared

    def run(command):
        ran = subprocess.run(command, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr

    @functools.cache
    def compiled(options, kind):
        """The objects of the kernels, which are compiled once for all programs."""

        def compile_one(source, made):
            if not made.exists():
                own = folder / made.name
                run([*options, "-c", source, "-o", own])
                own.replace(made)

        sources = sorted(NATIVE.glob("*.c"))
        objects = [shared / f"{source.stem}-{kind}.o" for source in sources]
        with (
            alone(shared / "compiling"),
            concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool,
        ):
            list(pool.map(compile_one, sources, objects))
        return objects

    @functools.cache
    def command(compiler, program, level, instead=None):
        tools = [COMPILERS[compiler][0], *RUN_BY.get(compiler, ())]
        _, *emulator = map(find, tools)
        if "wine64" in tools:
            start_wine()
        # so that calls ask whether to stop
        often = ("-DCLOCK_WORK=30000", "-DASK_NS=0") * (program == "threads")
        options = (*COMPILERS[compiler], *FLAGS, level, *often, f"-I{NATIVE}", *extra)
        objects = compiled(options, f"{compiler}{level}{len(often)}")
        source = PROGRAMS / f"{program}.c"  # or another folder's, whose path is given
        made = folder / f"{source.stem}-{compiler}{level}.exe"
        if instead:  # a source that stands in for the one of this name
            made = folder / f"{source.stem}-{compiler}{level}-{instead.parent.name}.exe"
            objects = [o for o in objects if not o.name.startswith(f"{instead.stem}-")]
            objects += [instead, "-w"]  # what is broken may look odd
        header = ["-include", PROGRAMS / "windows.h"] * ({*WINDOWS} <= {*options})
        run([*options, *header, source, *objects, "-lm", "-o", made])
        return [*emulator, made]

    command.objects = lambda compiler, level: compiled(
        (*COMPILERS[compiler], *FLAGS, level, f"-I{NATIVE}", *extra), f"{compiler}{level}0"
    )
    return command


# what each compiler tells the sources of; setup.py, which sees the options, refuses all
INEXACT = {
    "gcc": ["-ffast-math", "-Ofast", "-ffinite-math-only", "-funsafe-math-optimizations",
            "-freciprocal-math", "-fno-signed-zeros"],
    "clang": ["-ffast-math", "-Ofast", "-ffinite-math-only"],
}  # fmt: skip


@pytest.mark.parametrize("compiler, flag", [(c, f) for c in INEXACT for f in ["-O2", *INEXACT[c]]])
def test_inexact_mathematics_is_refused(compiler, flag):
    """Each source refuses, because one part that is compiled so can change a bit."""
    if not shutil.which(compiler):
        pytest.skip(f"no {compiler} here")
    for source in sorted(NATIVE.glob("*.c")):
        command = [compiler, "-std=c11", flag, "-E", source]
        ran = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        assert (ran.returncode == 0) == (flag == "-O2"), ran.stderr
        assert ("results are not the same bits" in ran.stderr) == (flag != "-O2")


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("compiler, isa", TARGETS)
@pytest.mark.parametrize("level", LEVELS)
def test_bits(build, native, level, compiler, isa, name):
    """Results are near the truth, and the same bits on every machine that has FMA."""
    call, work = CALLS[name], CALLS[name].work
    got = run_in_c([*build(compiler, "bits", level), isa], call)
    inputs = max(work.I, (work.layers > 1) * work.directions * work.H)
    x = call.arrays()[2].astype(np.float64)
    squares = (max((x**2).sum(1).max(), inputs) + (work.P or work.H) + 1) / work.H
    bound = tolerance("native", work.dtype, inputs + 2 * work.H + 1, np.sqrt(squares))
    for part, expected in zip(got, run_in_python(_numpy, call, np.float64), strict=True):
        np.testing.assert_allclose(part, expected, **bound)
    if isa != "baseline" and native.describe()["instruction_set"] != "baseline":
        for part, expected in zip(got, run_in_python(native, call, work.dtype), strict=True):
            assert part.tobytes() == expected.tobytes()


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("compiler, isa", TARGETS)
@pytest.mark.parametrize("level", LEVELS)
def test_bits_of_options(build, native, level, compiler, isa, name):
    """With options, a recorded run, its gates and cells are right, and everywhere the same bits."""
    work, threads, _, _ = OPTIONS[name]
    cells, sizes, x, h, c, noise = with_noise(name)
    first = first_of(work, cells[0], h, sizes, threads, False, -2, noise)
    arrays = [*first, *(a for cell in cells for a in cell.arrays().values())]
    arrays += [sizes.astype(np.int64)] * bool(first[0][RAGGED]) + [x, h, c]
    arrays += [a for one in noise for a in one if a is not None]
    expected, moves = truth_of_options(name)
    shapes = [a.shape for a in expected.values()]
    got = run_bits([*build(compiler, "bits", level), isa], work.dtype, arrays, shapes)
    count = roundings("native", max(work.I + h.shape[2] + 1, work.H))
    assert_within(dict(enumerate(got)), expected, moves, count, work.dtype)
    if isa != "baseline" and native.describe()["instruction_set"] != "baseline":
        for part, same in zip(got, record(native, cells, sizes, x, h, c, noise), strict=True):
            assert part.tobytes() == same.tobytes()


@pytest.mark.parametrize("name", BACK)
@pytest.mark.parametrize("compiler, isa", TARGETS)
@pytest.mark.parametrize("level", LEVELS)
def test_bits_of_gradients(build, native, level, compiler, isa, name):
    """Gradients are near the truth, and the same bits with every compiler.

    Those of every machine where there is one panel of units: a sum over all of them goes panel by
    panel, and how wide these are is the machine's.
    """
    work, threads, every = BACK[name]
    values = values_of(work)
    got = back_in_c([*build(compiler, "bits", level), isa], work, values, threads, every)
    expected, moves = truth_of_back(name)
    got = {n: a.reshape(expected[n].shape) for n, a in got.items()}
    terms = max(work.I + (work.P or work.H) + 1, 4 * work.H, len(values["x"]))
    count = roundings("native", terms, work.options != PLAIN or work.noise)
    assert_within(got, expected, moves, count, work.dtype)
    here = native.describe()["instruction_set"]
    fused = "baseline" not in (isa, here)
    same = got if isa == here or fused and work.H <= 2 else ("y", "h", "c") if fused else ()
    expected = go_back(native, work, values)
    for n in same:
        assert got[n].tobytes() == expected[n].tobytes(), n


# of fl_rule
NUMBERS = "rate shrink decay momentum dampening mean square root eps".split()


def updates_of(case, dtype, size):
    """What the program `updates` reads for the steps of an optimiser, and what NumPy makes of them.

    The last step has gradients that are infinite.
    """
    name, options = GRID[case]
    model = Linear(size, 1, bias=False, dtype=dtype, engine="numpy", seed=0)
    optimizer = getattr(optimisers, name)(model, **options)
    rng = np.random.default_rng(1)
    tiny = float(np.finfo(dtype).smallest_normal) ** 0.5  # whose squares are beyond normal numbers
    p, g = model.weight, model.grads["weight"]
    before, given, expected, rules, rule_of = [np.zeros_like(p)] * 3, [], [], [], optimizer._rule
    optimizer._rule = lambda *of: rules.append(rule_of(*of)) or rules[-1]
    for step in range(1, 5):
        g[...] = rng.standard_normal(size) * rng.choice([1, 1e-3, 1e3, tiny, 0], size)
        if step == 4:
            g[:, ::5] = np.inf
        old = p.copy()
        optimizer.step()
        rule = rules[-1]
        after = {moment: view.copy() for moment, _, view in optimizer._moment_views()}
        which = [n for n, moment in enumerate(optimizer.moment_names) if moment in after]
        kind = ["sgd", "rmsprop", "adam"].index(rule.kind)
        head = [p.itemsize, size, kind, rule.nesterov, rule.first, sum(1 << n for n in which)]
        numbers = [getattr(rule, field) for field in NUMBERS]
        given += [np.array(head, np.int64), np.array(numbers), old, g.copy()]
        given += [before[n] for n in which]
        before = [after.get(moment) for moment in optimizer.moment_names]
        finite = np.array(np.isfinite(p).all(), dtype)
        expected += [p.copy(), *(before[n] for n in which), finite]
    return given, expected


@pytest.mark.parametrize("compiler, isa", TARGETS)
@pytest.mark.parametrize("level", LEVELS)
def test_bits_of_updates(build, level, compiler, isa, dtype):
    """Updates and their moments have NumPy's bits everywhere. The sign of nan is the machine's."""
    given, expected = [], []
    for case in GRID:
        for whole, own in zip((given, expected), updates_of(case, dtype, 37), strict=True):
            whole += own
    shapes = [part.shape for part in expected]
    got = run_bits([*build(compiler, "updates", level), isa], dtype, given, shapes)
    for part, same in zip(got, expected, strict=True):
        assert_same_bits(*(np.where(np.isnan(a), a.dtype.type(np.nan), a) for a in (part, same)))


SMALLEST = "4096 8192 16384 1"  # caches: l1, l2, l3 and how many share it
ZEN_3, XEON = "32768 524288 33554432 8", "49152 2097152 503316480 2"
ZEN_5, APPLE = "49152 1048576 33554432 8", "131072 4194304 0 1"


# ways back with products of several blocks, if caches are small
BLOCKS = {
    "blocks_again": (Work((6,) * 12 + (5, 1), 33, 65), 1, 4),
    "blocks_again_double": (Work((5,) * 12 + (2,), 9, 40, 33, dtype="float64"), 1, 2),
    "blocks_again_threads": (Work((30,) * 40, 40, 72), 3, 7),
}


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("compiler, isa", TARGETS)
def test_bits_of_small_caches(build, native, compiler, isa, name):
    """However products are cut, bits are the same, and nothing behind the memory is written."""
    work, threads, every = BLOCKS[name]
    values, command = values_of(work), [*build(compiler, "bits", "-O0"), isa]
    whole, small = (
        back_in_c([*command, *caches.split()], work, values, threads, every)
        for caches in ("1048576 67108864 0 1", SMALLEST)
    )
    for n in whole:
        assert whole[n].tobytes() == small[n].tobytes(), n


FORWARD = [  # I P PANELS LANES BYTES ROWS STEPS TILE; hoist x k ahead
    (XEON, "1 32 2 16 4 1 100 5", "0 1 33 0"),  # one sequence: 16.5 KiB of weights stay in L1
    (XEON, "32 32 2 16 4 1 100 5", "100 32 32 0"),
    (XEON, "128 128 8 16 4 1 1 5", "0 128 256 0"),  # a step alone
    (XEON, "1024 1024 64 16 4 1 100 5", "64 114 1024 0"),  # no block is used twice in a step
    (XEON, "512 512 32 16 4 2 100 5", "32 103 512 1"),
    (XEON, "128 128 8 16 4 8 100 5", "32 128 128 0"),  # hoisted, a panel stays in L1 whole
    (XEON, "128 128 8 16 4 32 100 5", "8 128 128 0"),
    (XEON, "128 128 8 16 4 32 3 5", "0 128 86 0"),  # too few steps
    (XEON, "128 128 8 16 4 65 100 5", "0 128 86 0"),  # z would be more than what it saves
    (XEON, "5 64 4 16 4 256 365 5", "0 5 69 0"),
    (XEON, "256 256 16 16 4 32 100 5", "4 86 86 0"),  # 2 MiB just fit
    (XEON, "256 256 16 16 4 256 100 5", "0 256 103 0"),
    (XEON, "512 512 32 16 4 32 100 5", "4 103 103 1"),
    (XEON, "512 512 32 16 4 32 1 5", "0 512 114 1"),
    (XEON, "512 512 64 8 8 5 100 5", "13 103 512 1"),
    (ZEN_5, "128 128 8 16 4 32 100 5", "4 128 128 0"),
    (ZEN_5, "256 256 16 16 4 32 100 5", "4 86 86 1"),
    (ZEN_3, "128 128 16 8 4 8 100 3", "8 128 128 0"),
    (ZEN_3, "128 128 16 8 4 32 100 3", "0 128 128 0"),
    (ZEN_3, "256 256 32 8 4 32 100 3", "4 128 128 1"),
    (ZEN_3, "512 512 64 8 4 32 100 3", "4 128 128 1"),
    (ZEN_3, "64 32 4 8 8 9 100 3", "0 64 96 0"),  # 24 KiB, three quarters of L1
    (ZEN_3, "65 32 4 8 8 9 100 3", "14 65 32 0"),
    (APPLE, "256 256 64 4 4 32 100 5", "0 256 512 0"),
    (APPLE, "1024 1024 256 4 4 32 100 5", "4 1024 1024 1"),
    (SMALLEST, "20 20 2 16 4 1 9 5", "9 20 20 0"),
    (SMALLEST, "20 20 2 16 4 16 9 5", "0 20 10 1"),
    (SMALLEST, "40 90 6 16 4 16 9 5", "4 10 10 1"),
    (SMALLEST, "1 1 1 16 4 16 9 5", "0 1 2 0"),
    (SMALLEST, "40 90 6 16 4 0 9 5", "0 40 130 0"),  # a part without a sequence
    ("1 1 0 1", "20 20 2 16 4 16 9 5", "0 20 1 1"),  # nothing is ever cut to no part
]


@pytest.mark.parametrize("caches, sizes, expected", FORWARD)
def test_blocking_of_the_forward_pass(build, caches, sizes, expected):
    """What fits which cache, counted by hand."""
    command = [*build("gcc", "blocking", "-O0"), "forward", *caches.split(), *sizes.split()]
    assert subprocess.check_output(command, text=True).strip() == expected


# numba has no parts without a sequence
@pytest.mark.parametrize(
    "caches, sizes, expected", [case for case in FORWARD if case[1].split()[5] != "0"]
)
def test_blocking_of_numba(caches, sizes, expected):
    """The engine numba cuts its forward pass in the same way."""
    pytest.importorskip("numba", reason="tests how numba cuts its products")
    I, P, panels, lanes, bytes_, rows, steps, tile = map(int, sizes.split())  # noqa: E741
    own = Caches(*map(int, caches.split()))
    cut = load("numba").blocking_of(own, I, P, panels, 4 * lanes * bytes_, rows, steps, tile)
    assert " ".join(str(int(part)) for part in cut) == expected


@pytest.mark.parametrize(
    "caches, sizes, expected",
    [  # I H P LANES BYTES ROWS; blocks dz_panels sum_rows sum_columns fetch_ih fetch_hh
        (XEON, "512 512 512 16 4 128", "1 32 96 2048 1 1"),
        (XEON, "256 256 256 16 4 128", "1 32 96 2048 0 0"),  # 1 MiB is half of the second level
        (XEON, "257 256 256 16 4 139", "1 29 96 1856 1 0"),
        (XEON, "256 512 64 8 8 512", "3 8 96 256 1 0"),  # a projection
        (XEON, "512 512 512 4 4 128", "24 128 384 2048 1 1"),
        (ZEN_3, "512 512 512 8 4 128", "4 16 128 512 1 1"),
        (ZEN_3, "128 120 120 8 4 128", "4 16 128 512 0 0"),
        (ZEN_3, "5 64 64 8 4 256", "4 8 128 256 0 0"),
        (ZEN_3, "129 125 125 8 4 128", "4 16 128 512 1 0"),  # 125 units take the room of 128
        (ZEN_3, "5 64 64 16 4 128", "1 8 64 512 0 0"),
        (SMALLEST, "1 1 1 16 4 1", "1 16 8 1024 0 0"),
        (SMALLEST, "20 20 20 4 4 128", "2 1 32 16 1 1"),
        (SMALLEST, "20 20 20 2 8 8", "4 8 32 64 1 1"),
        ("1 1 0 1", "20 20 20 16 4 128", "1 1 1 64 1 1"),  # nothing is ever cut to no part
    ],
)
def test_blocking_on_the_way_back(build, caches, sizes, expected):
    """What fits which cache, counted by hand."""
    command = [*build("gcc", "blocking", "-O0"), "back", *caches.split(), *sizes.split()]
    assert subprocess.check_output(command, text=True).strip() == expected


@pytest.mark.parametrize("compiler, isa", TARGETS)
@pytest.mark.parametrize("level", LEVELS)
def test_steps(build, level, compiler, isa):
    """A stream gives the bits of a run, however its steps are cut into calls, for all sizes."""
    command = [*build(compiler, "steps", level), isa]
    ran = subprocess.run(command, capture_output=True, text=True)
    if ran.returncode == 2:
        pytest.skip(f"this machine lacks {isa}")
    assert ran.returncode == 0, ran.stdout + ran.stderr


EXAMPLES = """\
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fastlstm.h"

int main(void)
{{
    float w_ih[128], w_hh[128 * 32], b[128], x[] = {{0.7f}}, y[32], h[32] = {{0}}, c[32] = {{0}};
    float run[32];
    for (int n = 0; n < 128 * 32; n++)
        w_ih[n / 32] = b[n / 32] = w_hh[n] = n % 7 * 0.1f - 0.2f;
{run}
    memcpy(run, y, sizeof run);
    memset(y, 0, sizeof y);
    {{
{stream}
    }}
    puts(memcmp(run, y, sizeof run) ? "other values" : run[0] == 0 ? "zeros" : "the same");
}}
"""


def test_examples_of_the_header(build, tmp_path):
    """They compile as they stand, and the run and the stream give the same step."""
    text = (NATIVE / "fastlstm.h").read_text(encoding="utf-8")
    run, stream = re.findall(r"\n\n((?: {4}.*\n)+)\n", text)
    (tmp_path / "header.c").write_text(EXAMPLES.format(run=run, stream=stream))
    ran = subprocess.check_output(build("gcc", tmp_path / "header", "-O0"), text=True)
    assert ran == "the same\n"


def test_benchmark_of_meetings(build):
    """It compiles; with no number of threads it measures nothing."""
    command = build("gcc", ROOT / "benchmarks" / "meetings", "-O0")
    assert subprocess.check_output(command) == b""


@pytest.mark.parametrize("compiler", [case(compiler) for compiler in COMPILERS])
def test_threads_that_meet(build, compiler):
    """Teams whose threads are late or missing do all their work; calls share the pool."""
    # the emulator cannot, and Windows has none
    fork = ["fork"] * (compiler not in RUN_BY and hasattr(os, "fork"))
    command = [*build(compiler, "teams", "-O0"), "100", *fork]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("compiler", [case("gcc"), case("windows")])
@pytest.mark.parametrize("level", LEVELS)
def test_threads(build, level, compiler):
    """Callers and threads at once get one thread's bits, or are stopped, and nothing races."""
    ran = subprocess.run([*build(compiler, "threads", level), "60"], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
