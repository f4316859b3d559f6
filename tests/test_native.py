"""What the native engine promises beyond the contract: machines, bits, steps, threads, memory.

The values themselves are test_engines.py's, which runs over this engine as over the others; here it
runs again on every instruction set that the machine has.
"""

import ast
import concurrent.futures
import ctypes
import dataclasses
import hashlib
import importlib
import inspect
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
import types

import numpy as np
import pytest
from support import (
    SMALL,
    WORKS,
    Work,
    answer,
    assert_matches,
    assert_same_answers,
    assert_same_bits,
    draw,
    make_case,
    ready,
)

import fastlstm
from fastlstm import LSTM
from fastlstm.engines import load
from fastlstm.engines.contract import Cell, Options, Rule
from fastlstm.engines.machine import cpus
from fastlstm.sequences.packing import batch_sizes_of, rows_of

pytestmark = pytest.mark.usefixtures("native")

TESTS = pathlib.Path(__file__).parent
PACKAGE = pathlib.Path(fastlstm.__file__).parents[1]
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into Linux's /proc")


def python(*command, before=(), **environment):
    """Run Python on the package under test; return what it printed."""
    settings = {"PYTHONPATH": f"{TESTS}{os.pathsep}{PACKAGE}", "OPENBLAS_NUM_THREADS": "1"}
    if "Nehalem" in before:  # NumPy's BLAS takes the emulated one for more on some machines
        settings["OPENBLAS_CORETYPE"] = "Nehalem"
    done = subprocess.run(
        [*before, sys.executable, *command],
        env={**os.environ, **settings, **environment},
        capture_output=True, text=True, timeout=200, cwd=TESTS,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr
    return done.stdout


def child(function, *arguments, **options):
    """Run a function of this file in a process of its own, for its environment or its threads."""
    return python(
        "-c", f"import test_native; test_native.{function.__name__}(*{arguments})", **options
    )


def digests(*names):
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
    about = pathlib.Path("/proc/cpuinfo")
    flags = re.search(r"flags\s*:(.*)", about.read_text())[1].split() if about.exists() else ()
    needs = {"avx512": "avx512f avx512vl avx512dq avx512bw fma", "avx2": "avx2 fma"}
    return [isa for isa, names in needs.items() if {*names.split()} <= {*flags}] + ["baseline"]


HERE = instruction_sets()
BYTES = {"avx512": 64, "avx2": 32, "neon": 16, "baseline": 16}
RUNS = os.environ.get("FASTLSTM_ISA") or HERE[0]


@on_linux
def test_the_instruction_set_that_runs(native, dtype):
    """It is the best or the forced one, by its own word and by the size of its panels."""
    lanes = BYTES[RUNS] // np.dtype(dtype).itemsize
    cells, *_ = draw(Work((1,), 50, 1, dtype=dtype))
    taken = []
    for _ in range(5):  # other threads of this process may take some memory, too
        tracemalloc.start()
        stack = native.Stack(cells, 1)
        taken.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
    assert native.describe()["instruction_set"] == stack.isa == RUNS
    assert fastlstm.engine_info()["native"]["instruction_set"] == RUNS
    assert stack.lanes == lanes
    weights = (50 + 1 + 1) * 4 * BYTES[RUNS]  # of one panel: I, P and b
    assert weights <= min(taken) < weights + 1000


@pytest.mark.slow
@pytest.mark.parametrize("isa", [isa for isa in HERE if isa != RUNS])
def test_every_other_instruction_set(isa):
    """Each runs when it is forced; memory is poisoned, so that writes behind its end are found."""
    names = "instruction_set_that or every_size or shapes or ragged or infinite or nan_and_inf"
    names += " or activation or checkpoints or any_work or rows_lie_apart or saturated_gates"
    names += " or one_result or linear_of_any or linear_begins"
    names += " or options_together or test_functions"
    files = "native", "engines", "gradients", "native_gradients", "one_answer", "options_native"
    tests = [TESTS / f"test_{name}.py" for name in files]
    options = ["-qx", "--confcutdir", TESTS, "-p", "no:cacheprovider"]
    names = f"({names}) and not numba and not numpy"
    poison = {"PYTHONMALLOC": "debug", "MALLOC_PERTURB_": "63"}  # of rooms, of weights
    python("-m", "pytest", *options, "-k", names, *tests, FASTLSTM_ISA=isa, **poison)


def refuse(*names):
    """Print the error for each of these; then what runs if none is asked for, and its answer."""
    said = {}
    for name, engine in itertools.product(names, ("native", "auto")):
        os.environ["FASTLSTM_ISA"] = name
        with pytest.raises(ValueError) as caught:
            LSTM(3, 5, engine=engine)
        assert said.setdefault(name, str(caught.value)) == str(caught.value)
    os.environ["FASTLSTM_ISA"] = ""
    print(json.dumps([load("native").describe()["instruction_set"], said]))
    digests(*SMALL)


KNOWN = ["neon", "baseline"] if "neon" in HERE else ["avx512", "avx2", "baseline"]


def check_refused(here, *before):
    """The best one of `here` is taken; what the machine lacks is refused and not replaced."""
    lacks = [name for name in KNOWN if name not in here]
    names = [*lacks, "AVX2", "auto", "sse9", "avx2" if "neon" in KNOWN else "neon"]
    printed = child(refuse, *names, before=before, FASTLSTM_ISA="")
    (takes, said), bits = map(json.loads, printed.splitlines())
    assert takes == here[0]
    for name in names:
        why = "which this machine lacks" if name in lacks else "which is not known"
        there = f"expected one of {', '.join(here)}, or nothing"
        assert said[name] == f"FASTLSTM_ISA is '{name}', {why}: {there}"
    assert bits == json.loads(child(digests, *SMALL, FASTLSTM_ISA=here[0]))


@on_linux
def test_unknown_instruction_sets_are_refused():
    check_refused(HERE)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("qemu-x86_64"), reason="emulates with qemu")
@pytest.mark.skipif("avx2" not in HERE, reason="compares with AVX2 here")
@pytest.mark.parametrize("cpu, has", [("Nehalem", ["baseline"]), ("max", ["avx2", "baseline"])])
def test_a_lesser_machine(cpu, has):
    """The best set of an emulated machine runs there, and gives the bits of this machine."""
    check_refused(has, "qemu-x86_64", "-cpu", cpu)


REGISTERS = {  # what multiplies in kernels of float, and what no kernel may use
    "avx512": (r"vfmadd\d+ps .*%zmm", r"$^"),
    "avx2": (r"vfmadd\d+ps .*%ymm", r"%zmm|%[xy]mm(1[6-9]|[23]\d)"),
    "neon": (r"fmla\s+v\d+\.4s", r"$^"),
    "baseline": (r"(mulps .*%xmm|fmul\s+v\d+\.4s)", r"%[yz]mm|vfmadd|fmla|\sv(mul|add|mov)"),
}


@pytest.mark.skipif(not shutil.which("objdump"), reason="disassembles with objdump")
def test_kernels_are_made_of_their_instructions(native):
    """Everything around them is made of what every machine has."""
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


# ---- what is there --------------------------------------------------------------------------


def stubs(body, prefix=""):
    """Yield (name, parameters and defaults) of what a stub declares; properties have none."""
    for node in body:
        name = prefix + getattr(node, "name", "")
        if isinstance(node, ast.ClassDef):
            yield name, None
            yield from stubs(node.body, f"{name}.")
        elif isinstance(node, ast.AnnAssign):
            yield prefix + node.target.id, None
        elif isinstance(node, ast.FunctionDef):
            arguments, defaults = node.args.args, map(ast.literal_eval, node.args.defaults)
            values = [inspect.Parameter.empty] * (len(arguments) - len(node.args.defaults))
            pairs = zip((a.arg for a in arguments), [*values, *defaults], strict=True)
            yield name, None if node.decorator_list else list(pairs)


def test_the_stub_is_that_of_the_module(native):
    """Public names, parameters and defaults are the same."""
    path = pathlib.Path(fastlstm.engines.__file__).with_name("_native.pyi")
    declared = dict(stubs(ast.parse(path.read_text()).body))
    there = {}
    for name, thing in vars(native).items():
        if name.startswith("_") or getattr(thing, "__module__", "") != native.__name__:
            continue
        there[name] = thing
        for attribute, value in vars(thing).items() if inspect.isclass(thing) else ():
            if not attribute.startswith("_"):
                there[f"{name}.{attribute}"] = value
            elif attribute == "__init__" and name not in ("Tape", "Table"):
                there[f"{name}.__init__"] = thing
    assert there.keys() == declared.keys()
    for name, parameters in declared.items():
        if parameters is not None:
            signature = inspect.signature(there[name]).parameters.values()
            own = [(p.name, p.default) for p in signature]
            assert own == (parameters[1:] if name.endswith("__init__") else parameters), name


# ---- values ---------------------------------------------------------------------------------


def check_sizes(native, sizes, dtype):
    for n, (B, inputs, H, P) in enumerate(sizes):
        lengths = np.sort(np.random.default_rng(n).integers(1, 4, B))[::-1]
        case = make_case(I=inputs, H=H, P=P, lengths=lengths, reverse=n % 2 == 1, dtype=dtype)
        assert_matches(native, case, "native", gap=n % 3)


def test_every_size(native, dtype):
    """B, I, H and P take each value from 1 to 70, and one sequence alone has each H."""
    B, inputs, H, P = (np.random.default_rng(n).permutation(70) + 1 for n in range(4))
    check_sizes(native, zip(B, inputs, H, [None] * 70, strict=True), dtype)
    check_sizes(native, zip(B[::-1], inputs, P + 1 + H % 3, P, strict=True), dtype)
    check_sizes(native, zip([1] * 70, B, inputs, [None] * 70, strict=True), dtype)


@pytest.mark.parametrize("work", ["denormal", "denormal_double", "denormal_units"])
def test_denormal_inputs_are_zero(work):
    """They are, though their products with large weights would be normal numbers."""
    work = WORKS[work]
    for threads in (1, 2):
        assert_same_answers(answer(work, threads), answer(work._replace(x=0)))


def test_denormal_states_are_zero(native, dtype):
    """A memory that fades away does not become hundreds of times slower on its way."""
    w_ih, w_hh = (np.zeros((4, 1), dtype) for _ in range(2))
    stack = native.Stack([Cell(w_ih, w_hh, np.array([-100, -20, 0, 0], dtype))], 1)
    h, x = np.zeros((1, 1, 1), dtype), np.zeros((1, 1), dtype)
    c = np.full((1, 1, 1), np.finfo(dtype).smallest_normal * 2**20, dtype)
    stack.run(x, np.array([1]), h, c, np.empty_like(x), 1)
    assert c[0, 0, 0] == 0


# ---- memory ---------------------------------------------------------------------------------

SMAPS = pathlib.Path("/proc/self/smaps")


def print_bytes_in_huge_pages():
    """Print how many bytes the weights of a layer have, and how many more ask for huge pages."""

    def asking():
        sizes = re.findall(r"^Size: +(\d+) kB|^VmFlags:.*\b(hg)\b", SMAPS.read_text(), re.M)
        pairs = zip(sizes, sizes[1:], strict=False)
        return 1024 * sum(int(size) for (size, _), (_, asks) in pairs if asks)

    lstm = LSTM(700, 700, engine="native", num_threads=1, seed=0)
    before = asking()
    lstm(np.zeros((3, 2, 700), np.float32))  # which packs them
    print(lstm.weight_ih_l0.nbytes + lstm.weight_hh_l0.nbytes, asking() - before)


@pytest.mark.skipif(
    not SMAPS.exists()
    or not re.search(r"^VmFlags:", SMAPS.read_text(), re.M)
    or not pathlib.Path("/sys/kernel/mm/transparent_hugepage").exists(),
    reason="looks where Linux tells of huge pages",
)
def test_large_weights_ask_for_huge_pages():
    weights, asking = map(int, child(print_bytes_in_huge_pages).split())
    assert asking > 0.9 * weights


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
    """It gives what it gives among others, in all rows, however its input's products are made."""
    work = WORKS[work]
    whole, (cells, x, h, c) = answer(work), draw(work)
    stack = load("native").Stack(cells, work.directions)
    step, sequence = rows_of(np.arange(len(work.lengths)), batch_sizes_of(np.array(work.lengths)))
    for n in {0, 1, 5, len(work.lengths) - 1} & {*range(len(work.lengths))}:
        own_h, own_c = h[:, n : n + 1].copy(), c[:, n : n + 1].copy()
        y = np.empty((work.lengths[n], whole["y"].shape[1]), work.dtype)
        ones = np.ones(work.lengths[n], np.int64)
        stack.run(x[sequence == n], ones, own_h, own_c, y, 1)
        assert_same_bits(y, whole["y"][sequence == n])
        for own, name in ((own_h, "h"), (own_c, "c")):
            states = whole[name].reshape(len(own), len(work.lengths), -1)
            assert_same_bits(own[:, 0], states[:, n])


@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize("B", [1, 7])
@pytest.mark.parametrize("options", [{}, {"proj_size": 37}], ids=str)
def test_bits_of_steps_chunks_and_the_whole(dtype, options, B, num_threads):
    """The three layers multiply their input beforehand if B = 1 and there are several steps."""
    lstm = LSTM(
        70, 130, 3, **options, dtype=dtype, engine="native", num_threads=num_threads, seed=0
    )
    x = np.random.default_rng(0).standard_normal((150, B, 70)).astype(dtype)
    whole, (h_n, c_n) = lstm(x)
    steps, chunks = lstm.stream(B), lstm.stream(B)
    assert_same_bits(np.stack([steps.step(x_t) for x_t in x]), whole)
    pieces = [chunks.run(piece) for piece in np.split(x, [1, 2, 3, 40, 144])]
    assert_same_bits(np.concatenate(pieces), whole)
    for h, c in (steps.state, chunks.state):
        assert_same_bits(h, h_n)
        assert_same_bits(c, c_n)


def rows_beside_others(dtype):
    """Check the bits of B sequences beside others; kernels take rows together in twos to sixteens.

    The sizes leave no unit, a few, half of them or more of them for the last panel. The last
    sequence holds a nan, of which no other may see anything.
    """
    others = 37
    for hidden in (1, 9, 10, 20, 24, 40):
        lstm = LSTM(3, hidden, dtype=dtype, engine="native", num_threads=1, seed=0)
        x = np.random.default_rng(0).standard_normal((4, others, 3)).astype(dtype)
        alone = np.concatenate([lstm(x[:, n : n + 1])[0] for n in range(others)], axis=1)
        for B in (*range(2, 20), 31, 36):
            spoilt = x[:, : B + 1].copy()
            spoilt[1, B] = np.nan
            y = lstm(spoilt)[0]
            assert_same_bits(y[:, :B], alone[:, :B])
            assert np.isnan(y[1:, B]).all()
            y, pullback = lstm.vjp(spoilt, checkpoint_every=B % 5 or None)
            assert_same_bits(y[0][:, :B], alone[:, :B])
            dx = pullback(np.ones_like(y[0]))[0]
            assert np.isfinite(dx[:, :B]).all()


@pytest.mark.parametrize("isa", HERE)
def test_bits_do_not_depend_on_the_rows_beside(isa, dtype):
    child(rows_beside_others, dtype, FASTLSTM_ISA=isa)


# Weights of many blocks, more inputs than rows in a step (so that they are hoisted), sequences that
# begin or end within the steps for which they are, panels and tiles that are not whole.
CUT = {
    "alone": Work((23,), 20, 70),
    "few": Work((23, 22, 3), 20, 70),
    "ragged": Work((19, 19, 18, 17, 17, 11, 9, 9, 9, 8, 7, 7, 6, 6, 4, 4, 4, 1), 70, 90),
    "projected": Work((12,) * 16, 50, 90, 30),
    "double": Work((9,) * 9 + (5, 5, 1), 40, 41, dtype="float64"),
    "narrow": Work((9,) * 40, 3, 150),
    "units": Work((20, 20, 11, 9, 1), 64, 200),
    "stack": Work((12,) * 10 + (3,), 20, 33, layers=2, directions=2),
    "coupled": Work((12,) * 10 + (3, 1), 40, 50, options=Options(coupled="f=1-i"), peephole=True),
    "tflite": Work((12,) * 10 + (3, 1), 40, 50, options=Options(layer_norm="tflite")),
    "haste": Work((12,) * 10 + (3, 1), 40, 50, options=Options(layer_norm="haste")),
}


def call_by_call(work, reverse):
    """y, h and c of one layer in one direction, in one call and in a call for each step."""
    cells, x, h, c = draw(work)
    stack = load("native").Stack([dataclasses.replace(cells[0], reverse=reverse)], 1)
    sizes = batch_sizes_of(np.array(work.lengths))
    ends, steps = np.cumsum(sizes), range(len(sizes))
    both = []
    for calls in ([slice(None)], [slice(t, t + 1) for t in (steps[::-1] if reverse else steps)]):
        y, h_n, c_n = np.empty((len(x), h.shape[2]), x.dtype), h.copy(), c.copy()
        for part in calls:
            size, rows = sizes[part], slice((ends - sizes)[part][0], ends[part][-1])
            live_h, live_c = h_n[:, : size[0]].copy(), c_n[:, : size[0]].copy()
            stack.run(x[rows].copy(), size, live_h, live_c, y[rows], 1)
            h_n[:, : size[0]], c_n[:, : size[0]] = live_h, live_c
        both.append({"y": y, "h": h_n, "c": c_n})
    return both


def print_cut():
    """Print a digest of each work's answer by 1, 2 and 3 threads; check it against its steps."""
    bits = {}
    for name, work in CUT.items():
        for threads in (1, 2, 3):
            y, h, c = answer(work, threads).values()
            bits[f"{name} {threads}"] = hashlib.sha256(bytes(y) + bytes(h) + bytes(c)).hexdigest()
        assert len({bits[f"{name} {threads}"] for threads in (1, 2, 3)}) == 1, name
        if work.layers == 1:
            for reverse in (False, True):
                assert_same_answers(*call_by_call(work, reverse))
    print(json.dumps(bits))


@pytest.mark.parametrize("isa", HERE)
def test_bits_do_not_depend_on_caches(isa):
    """Tiny ones cut products into their smallest parts, and huge ones leave them whole."""
    huge, zen_3, tiny, tiniest = (
        json.loads(child(print_cut, FASTLSTM_ISA=isa, FASTLSTM_CACHES=caches))
        for caches in ("1M,64M,0,1", "32K,512K,32M,8", "4K,16K,0,1", "4K,8K,16K,1")
    )
    assert len(huge) == 3 * len(CUT)
    assert huge == zen_3 == tiny == tiniest


@pytest.mark.skipif(HERE[0] != "avx512", reason="compares AVX2 with AVX-512")
def test_bits_do_not_depend_on_vectors():
    names = [*WORKS, *SMALL]
    wide, narrow = (json.loads(child(digests, *names, FASTLSTM_ISA=isa)) for isa in HERE[:2])
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

    def taken(n):
        """The bytes that n steps take: the least of a few tries.

        Other threads of this process, such as the test runner's, may take some in between.
        """
        most = []
        for _ in range(5):
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            go(n)
            most.append(tracemalloc.get_traced_memory()[1] - before)
        return min(most)

    tracemalloc.start()
    try:
        taken(0)
        assert taken(1000) == taken(0)
    finally:
        tracemalloc.stop()


def test_a_step_without_memory_changes_nothing(monkeypatch, native):
    """It keeps the stack that it has scratch memory for, and asks for the new one again."""
    lstm = LSTM(4, 300, engine="native", num_threads=1, seed=0)
    stream, expected = lstm.stream(8), LSTM(4, 300, engine="numpy", seed=0).stream(8)
    asked, present, x = [], lstm._present, np.ones((8, 4), np.float32)

    def no_memory(*_):
        raise MemoryError

    lstm._present = lambda group=0: asked.append(present()) or asked[-1]
    stream._take_step()
    lstm.num_threads = 2
    lstm._present()  # packs the new stack, for which there still is memory
    with monkeypatch.context() as patch:
        patch.setattr(native, "np", types.SimpleNamespace(empty=no_memory, uint8=np.uint8))
        for _ in range(2):
            asked.clear()
            with pytest.raises(MemoryError):
                stream.step(x)
            assert len(asked) == 1
    assert all(not state.any() for state in stream.state)
    np.testing.assert_allclose(stream.step(x), expected.step(x), atol=1e-6)


COUNTER = """
#include <stddef.h>
void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
long allocations;
void *malloc(size_t n) { return allocations++, __libc_malloc(n); }
void *calloc(size_t n, size_t size) { return allocations++, __libc_calloc(n, size); }
void *realloc(void *p, size_t n) { return allocations++, __libc_realloc(p, n); }
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
    """1000 steps take no more memory than 10, with Python's own objects from malloc too."""
    shim = tmp_path / "counter.so"
    command = ["cc", "-shared", "-fPIC", "-fno-builtin", "-O1", "-x", "c", "-", "-o", shim]
    subprocess.run(command, input=COUNTER, text=True, check=True)
    environment = {"LD_PRELOAD": str(shim), "PYTHONMALLOC": "malloc"}
    for few, many in json.loads(child(count_allocations, **environment)).values():
        assert 0 < few == many


# ---- threads --------------------------------------------------------------------------------


@pytest.mark.parametrize("work", ["slices", "directions", "units_projected"])
def test_eight_callers_with_two_threads_each(work):
    """They call one stack at once: one has the second thread, the others work alone."""
    run, barrier = ready(WORKS[work]), threading.Barrier(8)
    expected = run()

    def call(_):
        barrier.wait()
        for _ in range(5):
            assert_same_answers(run(2), expected)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(call, range(8)))


def fork(work, *arguments, threads=None):
    """Run a function in a forked child; fail if it fails, hangs, or has made other `threads`."""
    pid = os.fork()
    if not pid:
        signal.alarm(60)
        try:
            work(*arguments)
            assert threads in (None, len(os.listdir("/proc/self/task")))
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0


def work_in_threads():
    """Each of these works takes a second thread where that is allowed."""
    for work in WORKS.values():
        for threads in (1, 2):
            fork(ready(work), threads, threads=threads)


def work_in_as_many_threads_as(expected):
    """Small work makes no thread, large work as many as said."""
    for H, threads in ((16, 1), (256, expected)):
        lstm, x = LSTM(16, H, engine="native"), np.zeros((1, 8, 16), np.float32)
        fork(lstm, x, threads=threads)
        fork(lstm.stream(8).step, x[0], threads=threads)


def step_with_more_threads():
    """A stream that began with one thread takes as many as its layer is given later."""
    lstm, x = LSTM(16, 256, engine="native", num_threads=1), np.zeros((8, 16), np.float32)
    stream = lstm.stream(8)
    fork(stream.step, x, threads=1)
    lstm.num_threads = 3
    fork(stream.step, x, threads=3)
    lstm.num_threads = 1
    fork(stream.step, x, threads=1)


@on_linux
@pytest.mark.parametrize("number", ["", "1", "3"])
def test_threads_by_default(number):
    child(work_in_as_many_threads_as, int(number or min(cpus(), 64)), FASTLSTM_NUM_THREADS=number)


def work_beside_others():
    """Threads other than the caller's do a part of the work, if not of each call."""
    until, run = time.monotonic() + 100, ready(Work((20,) * 64, 64, 256))
    while time.process_time() < 1.2 * time.thread_time():
        run(2)
        assert time.monotonic() < until or cpus() < 2


def work_in_forks():
    """A fork works after threads have run, in a child of a child, and beside a call."""
    works = {name: ready(WORKS[name]) for name in ("slices", "directions", "units")}
    expected = {name: run() for name, run in works.items()}

    def check(*_):
        for name, run in works.items():
            assert_same_answers(run(3), expected[name])

    def check_in_grandchild():
        check()
        fork(check, threads=3)
        check()

    check()
    fork(check_in_grandchild, threads=3)
    context = multiprocessing.get_context("fork")
    process = context.Process(target=check)
    process.start()
    process.join()
    assert process.exitcode == 0
    stop = threading.Event()

    def call():
        while not stop.is_set():
            check()

    caller = threading.Thread(target=call)
    caller.start()
    for _ in range(20):
        fork(check, threads=3)
    stop.set()
    caller.join()
    check()


def call_with_one_thread_each():
    """Many callers that ask for one thread each leave the pool alone."""
    run, barrier = ready(WORKS["units"]), threading.Barrier(16)
    expected = run()

    def call(_):
        barrier.wait()
        for _ in range(3):
            assert_same_answers(run(1), expected)

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        list(pool.map(call, range(16)))
        assert len(os.listdir("/proc/self/task")) == 17


def work_misused():
    """Two threads step one stream while its weights change: steps are refused, nothing crashes."""
    lstm, x = LSTM(64, 256, engine="native", num_threads=1), np.zeros((400, 64), np.float32)
    stream = lstm.stream(400)

    def step(_):
        try:
            return len(stream.step(x))
        except RuntimeError as refusal:
            return str(refusal)

    refusal = "two threads step one stream at once: a stream belongs to one thread at a time"
    seen = set()
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        while seen < {400, refusal}:  # until two have met
            steps = pool.map(step, range(100))
            for _ in range(50):
                lstm.reset_parameters(0)
            seen |= {*steps}
    assert seen == {400, refusal}


def sleep_after_work():
    """Idle threads burn nothing, once they have had their turn to see that they are idle."""
    for name in ("slices", "units"):
        answer(WORKS[name], 3)
    burnt = []
    for _ in range(5):
        before = time.process_time()
        time.sleep(1)
        burnt.append(time.process_time() - before)
        if burnt[-1] < 0.05:
            break
    assert burnt[-1] < 0.05, burnt


def end_beside_work():
    """The interpreter ends while threads of ours sleep, or work."""
    run, begun = ready(WORKS["units"]), threading.Event()
    run(3)

    def call():
        while True:
            begun.set()
            run(3)

    threading.Thread(target=call, daemon=True).start()
    begun.wait()


def interrupt_work():
    """Ctrl-C in a long call is heard by Python's own thread alone, and the next call is right."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it is ignored
    work = Work((400,) * 64, 64, 256)
    cells, x, h, c = draw(work)
    stack, y = load("native").Stack(cells, 1), np.full((len(x), 256), np.nan, np.float32)
    expected = ready(work)(2)["y"]
    for task in os.listdir("/proc/self/task"):
        status = pathlib.Path("/proc/self/task", task, "status").read_text()
        blocked = int(re.search(r"SigBlk:\s*(\w+)", status)[1], 16)
        assert bool(blocked >> signal.SIGINT - 1 & 1) == (int(task) != os.getpid())
    begun = threading.Event()

    def press():
        begun.wait()
        time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press).start()
    with pytest.raises(KeyboardInterrupt):
        begun.set()
        stack.run(x, np.full(400, 64), h, c, y, 2)
        time.sleep(60)
    assert_same_bits(answer(work, 2)["y"], expected)


def work_beside_torch():
    """In turn and at once, both are right, and torch has as many threads as before."""
    torch = importlib.import_module("torch")
    torch.set_num_threads(2)
    theirs = torch.nn.LSTM(64, 128, 2).requires_grad_(False)
    ours = LSTM(64, 128, 2, engine="native", num_threads=2)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(30, 32, 64)
    expected, output = theirs(x)[0], ours(x)[0]
    np.testing.assert_allclose(output, expected, rtol=0, atol=5e-6)

    def run_theirs():
        np.testing.assert_allclose(theirs(x)[0], expected, rtol=0, atol=1e-6)

    def run_ours():
        assert_same_bits(ours(x)[0], output)

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(run) for run in [run_theirs, run_ours] * 10]:
            run_theirs()
            run_ours()
            done.result()
    assert torch.get_num_threads() == 2


def load_nothing():
    """No OpenMP is loaded that could clash with another library's."""

    def libraries():
        return {*re.findall(r"[^/]*\.so.*", pathlib.Path("/proc/self/maps").read_text())}

    before = libraries()
    LSTM(32, 96, num_threads=3, engine="native")(np.zeros((60, 64, 32), np.float32))
    loaded = " ".join(libraries() - before)
    assert "_native" in loaded and not re.search("omp|mkl|tbb|blas", loaded)


@on_linux
@pytest.mark.parametrize(
    "function",
    [work_in_threads, step_with_more_threads, work_beside_others, work_in_forks,
     call_with_one_thread_each, work_misused, sleep_after_work, end_beside_work, interrupt_work,
     work_beside_torch, load_nothing],
    ids=lambda function: function.__name__,
)  # fmt: skip
def test_in_a_process_of_its_own(function):
    """The function asserts in a process whose only threads are Python's and ours."""
    if function is work_beside_torch:
        pytest.importorskip("torch", reason="runs beside torch")
    child(function, MALLOC_MMAP_THRESHOLD_="65536")  # what is freed is gone: who reads it, crashes


# ---- what is left as it was -----------------------------------------------------------------


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="asks glibc")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="knows x86's register, MXCSR")
@pytest.mark.parametrize(
    "work, threads", [("small", 1), ("slices", 3), ("directions", 2), ("units", 3)]
)
def test_the_setting_of_denormals_stays(work, threads):
    """So do those of rounding and exceptions, whatever they were; none of them changes a bit."""
    run, libm, seen = ready({**WORKS, **SMALL}[work]), ctypes.CDLL("libm.so.6"), []
    expected = run()

    def control():
        environment = (ctypes.c_uint32 * 8)()
        libm.fegetenv(environment)
        return environment

    def check(changes):
        environment = control()
        environment[7] ^= changes
        libm.fesetenv(environment)
        results = run(threads)
        seen.append((environment[7] & 0xFFC0, control()[7] & 0xFFC0, results))

    for changes in (0, 0x8000, 0x0040, 0x6000):  # flush to zero; denormals are zero; rounding
        thread = threading.Thread(target=check, args=(changes,))
        thread.start()
        thread.join()
    for before, after, results in seen:
        assert before == after
        assert_same_answers(results, expected)
    assert len({before for before, _, _ in seen}) == 4


@pytest.mark.parametrize("call", ["run", "step", "record", "back", "update", "is_finite"])
def test_another_thread_goes_on_meanwhile(native, call):
    """It can only go on because the call releases the GIL; nothing else here does."""
    begun, heard, sizes = threading.Event(), [], np.full(4, 4000)
    cells, x, h, c = draw(Work((4,) * 4000, 64, 96))
    stack, y, dx = native.Stack(cells, 1, back=True), np.zeros((16000, 96), np.float32), x.copy()
    dw = [cell.map(np.zeros_like) for cell in cells]
    stream = LSTM(64, 96, engine="native", num_threads=1).stream(4000)
    tape = stack.record(x, sizes, h, c, y, 1)
    parameters, rule = np.zeros((4, 1 << 20), np.float32), Rule("adam", -0.1, 0.0, eps=1.0)
    p, g, *moments = parameters
    work = {
        "update": lambda: native.update(rule, p, g, [*moments, None]),
        "is_finite": lambda: native.is_finite(parameters),
        "run": lambda: stack.run(x, sizes, h, c, y, 1),
        "step": lambda: [stream.step(x_t) for x_t in x.reshape(4, 4000, 64)],
        "record": lambda: stack.record(x, sizes, h, c, y, 1),
        "back": lambda: stack.back(tape, y, h, c, dx, dw, 1),
    }[call]
    work()
    other = threading.Thread(target=lambda: (begun.wait(), heard.append(True)))
    interval = sys.getswitchinterval()
    sys.setswitchinterval(100)
    try:
        other.start()
        begun.set()
        for _ in range(20):  # on a busy machine it may have to wait for a processor
            if not heard:
                work()
        assert heard
    finally:
        sys.setswitchinterval(interval)
        other.join()


# ---- memory ---------------------------------------------------------------------------------

A_LITTLE = 1 << 20  # of Python's and NumPy's own


@pytest.fixture
def held():
    """A function that tells how many bytes more than at first are held."""
    tracemalloc.start()
    first, _ = tracemalloc.get_traced_memory()
    yield lambda: tracemalloc.get_traced_memory()[0] - first
    tracemalloc.stop()


def test_rooms_do_not_add_up(held):
    """One work space of at most 8 MB is kept, four after many callers, and none at the end."""
    lstm, rng = LSTM(5, 64, 2, engine="native", num_threads=1, seed=0), np.random.default_rng(0)
    lstm(np.zeros((1, 1, 5), np.float32))
    weights = held()
    for T, B in rng.integers(1, 200, (60, 2)):
        lstm(np.zeros((T, B, 5), np.float32))
        assert held() - weights < (8 << 20) + A_LITTLE
    lstm(np.zeros((1, 40_000, 5), np.float32))
    assert held() - weights < A_LITTLE
    x, barrier = np.zeros((100, 100, 5), np.float32), threading.Barrier(8)
    lstm(x)
    room = held() - weights
    assert room > 100 * 100 * 64 * 4
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda lstm: (barrier.wait(), lstm(x)[0].sum()), [lstm] * 8))
    assert held() - weights < 4 * room + A_LITTLE
    del lstm
    assert held() < A_LITTLE


def test_streams_and_old_weights_leave_nothing(held):
    lstm, x = LSTM(32, 128, 2, engine="native", seed=0), np.zeros((100, 32), np.float32)
    lstm.stream(100).step(x)
    before = held()
    for _ in range(20):
        stream = lstm.stream(100)
        stream.step(x)
        lstm.reset_parameters(0)
        stream.step(x)
    del stream
    assert abs(held() - before) < A_LITTLE


def test_memory_of_training_does_not_add_up(held):
    """Whatever sizes come, a layer keeps the memory of one step, and nothing at the end."""
    lstm, x = LSTM(5, 64, 2, engine="native", seed=0), np.zeros((400, 40, 5), np.float32)

    def step(lstm, T):
        (output, _), pullback = lstm.vjp(x[:T])
        pullback(output)
        lstm.reset_parameters(0)

    step(lstm, 1)
    weights = held()
    step(lstm, 400)
    kept = held() - weights
    assert kept > 2 * 400 * 40 * 64 * 5 * 4
    for T in (
        *range(200, 401, 10),
        *range(400, 20, -20),
        *np.random.default_rng(0).permutation(400)[:40] + 1,
    ):
        step(lstm, T)
        assert held() - weights < kept + A_LITTLE
    del lstm
    assert held() < A_LITTLE
