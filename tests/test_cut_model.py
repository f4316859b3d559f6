"""How the native engine cuts work among threads: what its model chooses, and that it makes sense.

The program tests/native/cuts.c needs one C file, so that any C compiler builds it in a moment.
Times are those of the model. `MACHINES` are the four that were measured, with their caches, the
lanes of a vector of floats and the rows of a tile.
"""

import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).parents[1]
FLAGS = "-std=c11 -ffp-contract=off -Wall -Wextra -Werror".split()
MACHINES = {
    "Zen 5": "49152 1048576 33554432 16 16 5",
    "Zen 4": "32768 1048576 33554432 16 16 5",
    "Zen 3": "32768 524288 33554432 16 8 3",
    "Emerald Rapids": "49152 2097152 314572800 32 16 5",
}


class Run(NamedTuple):
    """What is to be cut: `rows` in all, or T steps of B sequences; `kind` is 1 with options."""

    T: int
    B: int
    I: int  # noqa: E741
    H: int
    layers: int = 1
    directions: int = 1
    P: int | None = None
    itemsize: int = 4
    kind: int = 0
    norm: int = 0
    tape: int = 0
    rows: int | None = None

    def line(self, machine, threads):
        """The beginning of a question about this run."""
        *caches, lanes, tile = MACHINES[machine].split()
        sizes = [int(lanes) * 4 // self.itemsize, tile, self.itemsize, self.layers, self.directions]
        sizes += [self.I, self.H, self.P or self.H, self.kind, self.norm]
        call = [self.T, self.B, self.rows or self.T * self.B, threads, self.tape]
        return " ".join(map(str, [*caches, *sizes, *call]))


class Cut(NamedTuple):
    threads: int
    groups: int
    teams: int
    seats: int
    shares: int
    inputs_first: int = 0


class BackCut(NamedTuple):
    threads: int
    groups: int
    shares: int


class Model:
    """The program, which answers one question after the other."""

    def __init__(self, program):
        self.process = subprocess.Popen(
            [program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, *parts):
        print(*parts, file=self.process.stdin, flush=True)
        return [int(part) for part in self.process.stdout.readline().split()]

    def cut(self, machine, run, threads):
        """(the cut that is chosen, ns)."""
        *cut, ns = self.ask(run.line(machine, threads), "forward")
        return Cut(*cut), ns

    def back_cut(self, machine, run, threads):
        *cut, ns = self.ask(run.line(machine, threads), "back")
        return BackCut(*cut), ns

    def ns(self, machine, run, cut):
        """The time of a cut, whether it is chosen or not."""
        kind = "forward" if isinstance(cut, Cut) else "back"
        return self.ask(run.line(machine, cut.threads), kind, *cut)[0]

    def linear(self, machine, inputs, outputs, rows, threads):
        """Threads, panels, blocks and parts."""
        return self.ask(MACHINES[machine], 4, inputs, outputs, rows, threads, "linear")


def built(folder, *options):
    compiler = shutil.which("gcc") or shutil.which("clang") or shutil.which("cc")
    if not compiler:
        pytest.skip("no C compiler here")
    program = folder / "cuts"
    source = ROOT / "tests" / "native" / "cuts.c"
    includes = f"-I{ROOT / 'fastlstm' / 'native'}"
    command = [compiler, *FLAGS, *options, includes, source, "-o", program]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return program


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    asked = Model(built(tmp_path_factory.mktemp("cuts"), "-O1"))
    with asked.process:
        yield asked
    assert asked.process.returncode == 0


@pytest.fixture(scope="module")
def optimised(tmp_path_factory):
    return built(tmp_path_factory.mktemp("optimised"), "-O3", "-g")


# ---- what was measured ---------------------------------------------------------------------------

# Of T, B and I = H: us by the number of threads on 16 cores of an Emerald Rapids (commit 19871ec),
# where all threads shared the units of each step. They met at one counter, and each was woken by
# itself.
THREADS = 1, 2, 4, 8, 12, 16
SHARED = {
    (1, 1, 256): [43.5, 15.7, 18.6, 28.1, 33.9, 43.4],
    (1, 1, 512): [330, 138, 70, 61, 65, 94],
    (100, 1, 128): [428, 287, 243, 265, 328, 447],
    (100, 1, 256): [1817, 933, 572, 453, 469, 512],
    (100, 1, 512): [16190, 5182, 1915, 1086, 920, 861],
}
MEETINGS = 0, 318, 723, 1801, 2650, 3558  # ns, measured there; that of 12 is between its neighbours
WAKING = 3000  # ns for each thread, as the times of 1, 1, 256 show


@pytest.mark.parametrize("T, B, H", SHARED)
def test_the_best_number_of_threads_was_foreseen(model, T, B, H):
    """With the meetings of that time, the model takes least where the least was measured."""
    times = []
    for threads, meeting in zip(THREADS, MEETINGS, strict=True):
        ns = model.ns("Emerald Rapids", Run(T, B, H, H), Cut(threads, 1, 1, threads, threads))
        own_meeting, own_start = model.ask(threads, "meeting")
        times.append(
            ns + T * (meeting - own_meeting) + (WAKING * threads - own_start) * (threads > 1)
        )
    measured = SHARED[T, B, H]
    assert times.index(min(times)) == measured.index(min(measured))


# ---- what is chosen ------------------------------------------------------------------------------

# Groups x teams x seats with 1, 2, 4, 8, 12 and 16 threads allowed; one where it is not cut.
CHOSEN = {
    "Zen 5": {
        "1,1,256,256": "1x1x1 1x1x2 1x1x4 1x1x8 1x1x8 1x1x8",
        "1,1,512,512": "1x1x1 1x1x2 1x1x4 1x1x8 1x1x12 1x1x16",
        "100,1,64,64": "1x1x1 1x1x1 1x1x1 1x1x1 1x1x1 1x1x1",
        "100,1,128,128": "1x1x1 1x1x2 1x1x4 1x1x8 1x1x8 1x1x8",
        "100,1,256,256": "1x1x1 1x1x2 1x1x4 1x1x8 1x1x8 1x1x16",
        "100,1,1024,1024": "1x1x1 1x1x2 1x1x4 1x1x8 1x1x12 1x1x16",
        "100,8,128,128": "1x1x1 2x1x1 2x1x2 2x1x4 3x1x4 4x1x4",
        "100,32,128,128": "1x1x1 2x1x1 4x1x1 8x1x1 12x1x1 8x1x2",
        "100,32,256,256": "1x1x1 2x1x1 4x1x1 4x1x2 3x1x4 4x1x4",
        "100,32,512,512": "1x1x1 2x1x1 1x1x4 2x1x4 3x1x4 2x1x8",
        "100,256,256,256": "1x1x1 4x1x1 8x1x1 16x1x1 24x1x1 32x1x1",
        "365,256,5,64": "1x1x1 4x1x1 8x1x1 16x1x1 24x1x1 32x1x1",
        "100,1,256,256,2,2": "1x1x1 1x1x2 1x2x2 1x2x4 1x2x6 1x2x8",
        "100,32,256,256,2,2": "1x1x1 2x1x1 1x2x2 2x2x2 3x2x2 4x2x2",
    },
    "Zen 4": {
        "1,1,256,256": "1x1x1 1x1x2 1x1x4 1x1x8 1x1x8 1x1x8",
        "1,1,512,512": "1x1x1 1x1x2 1x1x4 1x1x8 1x1x12 1x1x16",
        "100,1,64,64": "1x1x1 1x1x1 1x1x1 1x1x1 1x1x1 1x1x1",
        "100,1,128,128": "1x1x1 1x1x2 1x1x4 1x1x8 1x1x8 1x1x8",
        "100,1,256,256": "1x1x1 1x1x2 1x1x4 1x1x8 1x1x8 1x1x16",
        "100,1,1024,1024": "1x1x1 1x1x2 1x1x4 1x1x8 1x1x12 1x1x16",
        "100,8,128,128": "1x1x1 2x1x1 2x1x2 2x1x4 3x1x4 4x1x4",
        "100,32,128,128": "1x1x1 2x1x1 4x1x1 8x1x1 12x1x1 8x1x2",
        "100,32,256,256": "1x1x1 2x1x1 4x1x1 4x1x2 3x1x4 4x1x4",
        "100,32,512,512": "1x1x1 2x1x1 1x1x4 2x1x4 3x1x4 2x1x8",
        "100,256,256,256": "1x1x1 4x1x1 8x1x1 16x1x1 24x1x1 32x1x1",
        "365,256,5,64": "1x1x1 4x1x1 8x1x1 16x1x1 24x1x1 32x1x1",
        "100,1,256,256,2,2": "1x1x1 1x1x2 1x2x2 1x2x4 1x2x6 1x2x8",
        "100,32,256,256,2,2": "1x1x1 2x1x1 1x2x2 2x2x2 3x2x2 4x2x2",
    },
    "Zen 3": {
        "1,1,256,256": "1x1x1 1x1x2 1x1x4 1x1x8 1x1x8 1x1x8",
        "1,1,512,512": "1x1x1 1x1x2 1x1x4 1x1x8 1x1x12 1x1x16",
        "100,1,64,64": "1x1x1 1x1x1 1x1x4 1x1x4 1x1x4 1x1x4",
        "100,1,128,128": "1x1x1 1x1x2 1x1x4 1x1x8 1x1x8 1x1x8",
        "100,1,256,256": "1x1x1 1x1x2 1x1x4 1x1x8 1x1x12 1x1x16",
        "100,1,1024,1024": "1x1x1 1x1x2 1x1x4 1x1x8 1x1x12 1x1x16",
        "100,8,128,128": "1x1x1 2x1x1 4x1x1 4x1x2 3x1x4 4x1x4",
        "100,32,128,128": "1x1x1 2x1x1 4x1x1 8x1x1 12x1x1 16x1x1",
        "100,32,256,256": "1x1x1 2x1x1 4x1x1 2x1x4 3x1x4 4x1x4",
        "100,32,512,512": "1x1x1 2x1x1 1x1x4 1x1x8 2x1x6 2x1x8",
        "100,256,256,256": "1x1x1 4x1x1 8x1x1 16x1x1 24x1x1 32x1x1",
        "365,256,5,64": "1x1x1 4x1x1 8x1x1 16x1x1 24x1x1 32x1x1",
        "100,1,256,256,2,2": "1x1x1 1x1x2 1x1x4 1x2x4 1x2x6 1x2x8",
        "100,32,256,256,2,2": "1x1x1 2x1x1 1x2x2 1x2x4 2x2x3 2x2x4",
    },
    "Emerald Rapids": {
        "1,1,256,256": "1x1x1 1x1x2 1x1x4 1x1x8 1x1x8 1x1x8",
        "1,1,512,512": "1x1x1 1x1x2 1x1x4 1x1x8 1x1x12 1x1x16",
        "100,1,64,64": "1x1x1 1x1x1 1x1x1 1x1x1 1x1x1 1x1x1",
        "100,1,128,128": "1x1x1 1x1x2 1x1x4 1x1x8 1x1x8 1x1x8",
        "100,1,256,256": "1x1x1 1x1x2 1x1x4 1x1x8 1x1x8 1x1x16",
        "100,1,1024,1024": "1x1x1 1x1x2 1x1x4 1x1x8 1x1x12 1x1x16",
        "100,8,128,128": "1x1x1 2x1x1 2x1x2 4x1x2 3x1x4 4x1x4",
        "100,32,128,128": "1x1x1 2x1x1 4x1x1 8x1x1 12x1x1 8x1x2",
        "100,32,256,256": "1x1x1 2x1x1 4x1x1 8x1x1 3x1x4 8x1x2",
        "100,32,512,512": "1x1x1 1x1x2 1x1x4 2x1x4 3x1x4 4x1x4",
        "100,256,256,256": "1x1x1 4x1x1 8x1x1 16x1x1 24x1x1 32x1x1",
        "365,256,5,64": "1x1x1 4x1x1 8x1x1 16x1x1 24x1x1 32x1x1",
        "100,1,256,256,2,2": "1x1x1 1x2x1 1x2x2 1x2x4 1x2x6 1x2x8",
        "100,32,256,256,2,2": "1x1x1 2x1x1 4x1x1 2x2x2 3x2x2 4x2x2",
    },
}

# Groups x shares of the way back.
CHOSEN_BACK = {
    "Zen 5": {
        "10,50,1,10": "1x1 1x1 1x1 1x1 1x1 1x1",
        "100,1,128,128": "1x1 1x2 1x4 1x8 1x8 1x8",
        "100,32,128,128": "1x1 2x1 4x1 8x1 12x1 16x1",
        "100,32,256,256": "1x1 2x1 4x1 8x1 6x2 8x2",
        "100,128,512,512": "1x1 2x1 4x1 8x1 6x2 8x2",
        "365,256,5,64": "1x1 2x1 4x1 8x1 12x1 16x1",
    },
    "Zen 4": {
        "10,50,1,10": "1x1 1x1 1x1 1x1 1x1 1x1",
        "100,1,128,128": "1x1 1x2 1x4 1x8 1x8 1x8",
        "100,32,128,128": "1x1 2x1 4x1 8x1 12x1 16x1",
        "100,32,256,256": "1x1 2x1 4x1 8x1 6x2 8x2",
        "100,128,512,512": "1x1 2x1 4x1 8x1 6x2 8x2",
        "365,256,5,64": "1x1 2x1 4x1 8x1 12x1 16x1",
    },
    "Zen 3": {
        "10,50,1,10": "1x1 2x1 4x1 8x1 10x1 10x1",
        "100,1,128,128": "1x1 1x2 1x4 1x4 1x4 1x8",
        "100,32,128,128": "1x1 2x1 4x1 8x1 12x1 16x1",
        "100,32,256,256": "1x1 2x1 4x1 4x2 4x3 8x2",
        "100,128,512,512": "1x1 2x1 4x1 8x1 6x2 8x2",
        "365,256,5,64": "1x1 2x1 4x1 8x1 12x1 16x1",
    },
    "Emerald Rapids": {
        "10,50,1,10": "1x1 1x1 1x1 1x1 1x1 1x1",
        "100,1,128,128": "1x1 1x2 1x4 1x4 1x4 1x4",
        "100,32,128,128": "1x1 2x1 4x1 8x1 12x1 16x1",
        "100,32,256,256": "1x1 2x1 4x1 8x1 12x1 8x2",
        "100,128,512,512": "1x1 2x1 4x1 8x1 6x2 8x2",
        "365,256,5,64": "1x1 2x1 4x1 8x1 12x1 16x1",
    },
}


def written(cuts):
    return " ".join("x".join(map(str, cut)) for cut in cuts)


@pytest.mark.parametrize("machine, case", [(m, case) for m in CHOSEN for case in CHOSEN[m]])
def test_what_is_chosen(model, machine, case):
    run = Run(*map(int, case.split(",")))
    cuts = [model.cut(machine, run, threads)[0] for threads in THREADS]
    assert written(cut[1:4] for cut in cuts) == CHOSEN[machine][case]


def test_more_threads_make_the_products_of_many_inputs(model):
    """Where few threads can share the units, the others make W_ih x, if the inputs are many."""
    for case, expected in {
        (100, 1, 1024, 128): (16, 1, 1, 8, 8, 1),
        (100, 1, 2048, 64): (16, 1, 1, 4, 4, 1),
        (100, 1, 128, 128): (8, 1, 1, 8, 8, 0),
        (1, 1, 1024, 128): (8, 1, 1, 8, 8, 0),
    }.items():
        assert model.cut("Emerald Rapids", Run(*case), 16)[0] == expected


@pytest.mark.parametrize("machine, case", [(m, case) for m in CHOSEN for case in CHOSEN_BACK[m]])
def test_what_is_chosen_on_the_way_back(model, machine, case):
    run = Run(*map(int, case.split(",")))
    cuts = [model.back_cut(machine, run, threads)[0] for threads in THREADS]
    assert written(cut[1:] for cut in cuts) == CHOSEN_BACK[machine][case]


# ---- what makes sense ----------------------------------------------------------------------------

sizes = st.one_of(st.integers(1, 40), st.sampled_from([64, 100, 128, 256, 512, 1000, 1024]))
runs = st.builds(
    Run,
    T=st.sampled_from([1, 2, 3, 5, 10, 100, 1000]),
    B=st.one_of(st.integers(1, 70), st.sampled_from([128, 256, 1000])),
    I=sizes,
    H=sizes,
    layers=st.integers(1, 3),
    directions=st.integers(1, 2),
    P=st.sampled_from([None, None, 9, 90]),
    itemsize=st.sampled_from([4, 8]),
    kind=st.integers(0, 1),
    norm=st.integers(0, 1),
    tape=st.integers(0, 1),
    rows=st.none(),
)
machines = st.sampled_from(sorted(MACHINES))


@settings(max_examples=200)
@given(machine=machines, run=runs, threads=st.integers(1, 70))
def test_every_cut_is_one(model, machine, run, threads):
    cut, _ = model.cut(machine, run, threads)
    assert 1 <= cut.threads <= min(threads, 64)
    assert cut.threads <= cut.groups * cut.teams * cut.seats or cut.inputs_first
    assert cut.shares >= cut.seats >= 1
    assert 1 <= cut.groups <= run.B
    assert cut.teams in {1, run.directions if run.directions == 2 else run.layers}
    back, _ = model.back_cut(machine, run, threads)
    assert 1 <= back.threads <= min(threads, 64)
    assert back.groups * back.shares <= back.threads <= 4 * back.groups * back.shares
    assert 1 <= back.groups <= run.B
    assert back.shares == 1 or not (run.norm or run.P not in {None, run.H})


@settings(max_examples=100)
@given(machine=machines, run=runs)
def test_more_threads_never_take_longer(model, machine, run):
    for choose in model.cut, model.back_cut:
        times = [
            choose(machine, run, threads)[1] for threads in (*range(1, 18), 31, 32, 63, 64, 65)
        ]
        assert times == sorted(times, reverse=True)


@settings(max_examples=100)
@given(machine=machines, run=runs, threads=st.integers(2, 64))
def test_more_steps_take_no_fewer_threads(model, machine, run, threads):
    """Or few less: 28 groups of sequences may be better than 10 groups of 3 threads each."""
    run = run._replace(T=max(run.T, 100), layers=1, directions=1)
    more = run._replace(T=7 * run.T)
    for choose in model.cut, model.back_cut:
        few, many = (choose(machine, work, threads)[0].threads for work in (run, more))
        assert many >= (0.75 if choose == model.cut else 0.5) * few


@given(machine=machines, run=runs, groups=st.integers(1, 8), seats=st.integers(1, 8))
def test_more_work_takes_longer(model, machine, run, groups, seats):
    """More of anything takes no less time, however it is cut."""
    cuts = (
        Cut(groups * seats, min(groups, run.B), 1, seats, seats),
        BackCut(groups * seats, min(groups, run.B), seats),
    )
    run = run._replace(P=None, T=max(run.T, 4))
    for cut in cuts:
        for more in run._replace(T=2 * run.T), run._replace(H=2 * run.H), run._replace(I=2 * run.I):
            assert model.ns(machine, run, cut) <= model.ns(machine, more, cut)


@pytest.mark.parametrize("machine", MACHINES)
def test_small_work_stays_with_one_thread(model, machine):
    for run in Run(1, 1, 64, 64), Run(10, 1, 32, 32), Run(4, 4, 8, 8):
        assert model.cut(machine, run, 64)[0] == Cut(1, 1, 1, 1, 1)
        assert model.back_cut(machine, run, 64)[0] == BackCut(1, 1, 1)
    assert model.linear(machine, 64, 5, 8, 64) == [1, 1, 1, 1]


@pytest.mark.parametrize(
    "inputs, outputs, rows, threads, expected",  # threads panels blocks parts
    [
        (64, 5, 8, 2, [1, 1, 1, 1]),
        (64, 5, 8, 8, [1, 1, 1, 1]),
        (256, 256, 1, 2, [1, 4, 1, 1]),
        (256, 256, 1, 8, [1, 4, 1, 1]),
        (256, 256, 64, 2, [2, 4, 1, 2]),
        (256, 256, 64, 8, [4, 4, 1, 4]),
        (256, 256, 3200, 2, [2, 4, 50, 1]),
        (256, 256, 3200, 8, [8, 4, 50, 1]),
        (1024, 1024, 1, 2, [2, 16, 1, 2]),
        (1024, 1024, 1, 8, [8, 16, 1, 8]),
        (128, 5, 3200, 2, [2, 1, 50, 1]),
        (128, 5, 3200, 8, [8, 1, 50, 1]),
        (64, 1, 3200, 2, [2, 1, 50, 1]),
        (64, 1, 3200, 8, [8, 1, 50, 1]),
    ],
)
def test_linear(model, inputs, outputs, rows, threads, expected):
    assert model.linear("Zen 5", inputs, outputs, rows, threads) == expected


# The most instructions of a decision: on an Intel Xeon with AVX-512 8, 110, 420 and 1100 ns.
DECISIONS = {
    "a step of a small layer": (Run(1, 1, 32, 32), 64, 60),
    "a step": (Run(1, 1, 256, 256), 16, 2500),
    "a batch": (Run(100, 32, 256, 256), 16, 10000),
    "many threads": (Run(100, 256, 256, 256), 64, 26000),
    "little work, many threads": (Run(2, 64, 32, 32), 64, 8000),
}


@pytest.mark.parametrize("name", DECISIONS)
def test_deciding_costs_little(optimised, name):
    """Every call decides twice, before the memory for it is taken and before it runs."""
    valgrind = shutil.which("valgrind")
    if not valgrind:
        pytest.skip("no valgrind here")
    run, threads, most = DECISIONS[name]
    command = [valgrind, "--tool=callgrind", "--callgrind-out-file=/dev/null"]
    command += ["--toggle-collect=fl_cut_of", optimised]
    question = f"{run.line('Emerald Rapids', threads)} forward\n"
    ran = subprocess.run(command, input=question, capture_output=True, text=True, check=True)
    count = int(re.search(r"Collected : (\d+)", ran.stderr)[1])
    assert 0 < count <= most
