"""The benchmarks' own rules: names of machines, ratios over machines, bars, peers that are missing.

Nothing is timed. The package must be imported before NumPy, so each test has a process of its own.
"""

import json
import pathlib
import platform
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]


def run(*arguments):
    """Return what Python prints with these arguments, in the folder that has the benchmarks."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout


def evaluated(code, *names):
    """Return the values of these expressions after the code has run in a process of its own."""
    ending = f"\nimport json\nprint(json.dumps([{', '.join(names)}]))"
    return json.loads(run("-c", code + ending).splitlines()[-1])


# ---- ratios over machines -----------------------------------------------------------------------


def stored(cases, peers=("torch", "torch packed", "onnxruntime", "MNN")):
    """Return the results of a machine, from {name: {contestant: seconds}}; a name begins with T."""
    return {
        "date": "2026-11-26T12:00:00+00:00",
        "commit": "0123456789+",
        "engines": ["native", "numpy"],
        "peers": list(peers),
        "limits": {"peak": {"float32": 100.4}, "read_by_level": {"L1": 178, "memory": 15.2}},
        "cases": [
            {"name": name, "steps": int(name.split(",")[0]), "seconds": seconds}
            for name, seconds in cases.items()
        ],
    }


@pytest.fixture
def printed(tmp_path):
    """What the tables are of three machines: a, b, and c, which had few peers."""
    machines = {
        "a": {
            "1,1,8,8": {"native": 1, "numpy": 9, "torch": 30, "onnxruntime": 20, "MNN": 4},
            "100,1,8,8": {"native": 2, "torch": 5, "onnxruntime": 3},
            "9,9,9,9": {"native": 4, "torch packed": 2},
        },
        "b": {
            "1,1,8,8": {"native": 2, "torch": 30, "onnxruntime": 50, "MNN": 11},
            "100,1,8,8": {"native": 3, "torch": 2.4, "onnxruntime": 6},
        },
        "c": {"1,1,8,8": {"native": 1, "torch": 99}, "100,1,8,8": {"native": 1, "torch": 1.2}},
    }
    for name, cases in machines.items():
        peers = {"peers": ("torch",)} if name == "c" else {}
        (tmp_path / name).mkdir()
        (tmp_path / name / "compare.json").write_text(json.dumps(stored(cases, **peers)))
    trained = stored({"100,1,8,8": {"native": 1, "torch": 2, "JAX": 1.04}}, ("torch", "JAX"))
    del trained["cases"][0]["steps"]
    (tmp_path / "b" / "train.json").write_text(json.dumps(trained))
    code = (
        f"import pathlib\nfrom benchmarks import ranges\nfolder = pathlib.Path({str(tmp_path)!r})"
    )
    return evaluated(code, "ranges.text(folder)")[0].splitlines()


def test_ranges_of_ratios(printed):
    """The best peer counts, a loss is bold, and steps need peers that are quick at them."""
    assert "| T,B,I,H | running | running, 2 threads | training | training, 2 threads |" in printed
    assert "| 1,1,8,8 | 4.00 to 5.50 (2) | - | - | - |" in printed
    assert "| 100,1,8,8 | **0.80** to 1.50 (3) | - | 1.04 (1) | - |" in printed
    assert "| 9,9,9,9 | **0.50** (1) | - | - | - |" in printed


def test_losses_are_named(printed):
    assert "- running: 100,1,8,8 (0.80, b); 9,9,9,9 (0.50, a)." in printed
    assert "- training: nowhere." in printed


def test_machines_and_their_peers_are_named(printed):
    (row,) = (line for line in printed if line.startswith("| [b]"))
    assert row == (
        "| [b](benchmarks/results/b/compare.md) | 100 | L1 178, memory 15 | "
        "torch, onnxruntime, MNN | torch, JAX | 2026-11-26, 0123456 |"
    )
    assert any(line.startswith("| [c]") and "| torch | - |" in line for line in printed)


def test_steps_against_the_usual_peers_and_all(printed):
    assert "| 1,1,8,8 | a | 30.0 | 20.0 | MNN | 4.0 |" in printed
    assert "| 1,1,8,8 | b | 15.0 | 25.0 | MNN | 5.5 |" in printed
    assert not any(line.startswith("| 1,1,8,8 | c ") for line in printed)


def test_readme_has_the_tables_of_the_stored_results():
    """After new results: ``python -m benchmarks.ranges --write``."""
    assert f"<!-- benchmarks.ranges -->\n{run('-m', 'benchmarks.ranges')[:-1]}<!-- end -->" in (
        ROOT / "README.md"
    ).read_text(encoding="utf-8")


# ---- the machine --------------------------------------------------------------------------------

NAMES = {
    ("Intel(R) Xeon(R) Processor", "rocketlake", 512, 2): "intel-xeon-avx512-2cores",
    ("Intel(R) Xeon(R) CPU E5-2680 v4 @ 2.40GHz", "broadwell", 256, 28): (
        "intel-xeon-e5-2680-v4-avx2-28cores"
    ),
    ("AMD EPYC", "znver5", 512, 2): "amd-epyc-zen5-avx512-2cores",
    ("AMD Ryzen 9 5950X 16-Core Processor", "znver3", 256, 32): (
        "amd-ryzen-9-5950x-zen3-avx2-32cores"
    ),
}


def test_names_and_cores_of_machines():
    pytest.importorskip("numba")
    described = [
        {
            "cpu": cpu,
            "architecture": kind,
            "vector_bits": bits,
            "cores": cores,
            "system": "Linux x86_64",
        }
        for cpu, kind, bits, cores in NAMES
    ]
    arm = {**described[0], "cpu": "Neoverse-V2", "vector_bits": 128, "system": "Linux aarch64"}
    names, counts = evaluated(
        f"from benchmarks import machine\nall_of_them = {[*described, arm]!r}",
        "[machine.slug(one) for one in all_of_them]",
        "[machine.count_cpus(text) for text in ('0', '0-1', '0-3,8-11', '0,2,4-5')]",
    )
    assert names == [*NAMES.values(), "neoverse-v2-neon-2cores"]
    assert counts == [1, 2, 8, 4]


# ---- cases and peers ----------------------------------------------------------------------------


def test_bars():
    """Nothing may be behind, and a step's bars hold against all peers there are."""
    bars, training, jax = evaluated(
        "from benchmarks.cases import CASES, JAX_BARS, TRAINING",
        "{case.name: case.bar for case in CASES.values()}",
        "{case.name: case.bar for case in TRAINING.values()}",
        "JAX_BARS",
    )
    assert min(bars.values()) >= 1.03
    assert min(training.values()) >= 1.1
    steps = {"1,1,32,32": 5, "1,1,64,64": 3.5, "1,1,128,128": 2.5, "1,1,512,512": 1.6}
    assert steps.items() <= bars.items()
    assert bars["100,1,512,512"] >= 1.1
    alone = {"100,1,32,32": 2.3, "100,1,64,64": 1.8, "100,1,128,128": 1.6}
    others = {"365,256,5,64": 1.7, "100,32,256,256,float64": 1.6}
    assert (alone | others).items() <= bars.items()
    assert jax == {"100,1,32,32": 4, "100,1,128,128": 1.6}
    assert jax.keys() <= training.keys()


def test_further_peers_take_part_or_are_named_as_absent():
    """Those that are installed are right; those that are not leave word why."""
    pytest.importorskip("numba")
    pytest.importorskip("matplotlib")
    code = """
from benchmarks.cases import Case
from benchmarks.compare import RUN, checked
from benchmarks.field import FIELD
absent, errors = {}, []
for case in (Case(1, 1, 3, 4), Case(5, 1, 3, 4), Case(5, 2, 3, 4)):
    errors.append(checked(RUN, case, FIELD, absent)[1])
others = Case(2, 2, 3, 4, dtype="float64"), Case(2, 2, 3, 4, proj_size=2)
others += Case(9, 2, 3, 4, shortest=2), Case(2, 2, 3, 4, options=("peephole",))
made = [FIELD[name](case, *case.draw()) for case in others for name in FIELD]
"""
    names, absent, errors, made = evaluated(code, "list(FIELD)", "absent", "errors", "made")
    assert {*errors[1]} | {*absent} == {*names}
    assert {*errors[0]} | {*absent} | {"JAX"} == {*names}  # which has no steps
    assert {*errors[2]} | {*absent} | {"ncnn"} == {*names}  # which has no batches
    assert all("No module named" in reason for reason in absent.values())
    assert made == [None] * 4 * len(names)


# ---- programs in C ------------------------------------------------------------------------------


@pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")
def test_step_in_c(tmp_path):
    """It is right in each form whose instructions are counted, and says what a step takes."""
    code = f"""
from benchmarks import alone, instructions
alone.FLAGS = ("-std=c11", "-O0", "-ffp-contract=off", "-pthread")  # built in seconds
program = alone.build({str(tmp_path)!r})
errors = [alone.check(program, *sizes) for sizes in instructions.KERNELS]
printed = alone.subprocess.check_output([program, "1", "8"], text=True).split()
"""
    errors, printed = evaluated(code, "errors", "printed")
    assert all(0 < error for error in errors)
    assert all(float(time) > 0 for time in printed[:2])


@pytest.mark.skipif(platform.machine() != "x86_64", reason="builds for AVX2")
@pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")
@pytest.mark.parametrize("fault", [None, ("sigmoid(gates.rows[n])", "sigmoid(gates.rows[H + n])")])
def test_fixed_sizes_in_c(tmp_path, fault):
    """Outputs are near those of the exact functions; a copy that takes f for i is refused."""
    source = (ROOT / "benchmarks" / "fixed.c").read_text(encoding="utf-8")
    if fault:
        assert source.count(fault[0]) == 1
        source = source.replace(*fault)
    (tmp_path / "fixed.c").write_text(source)
    code = f"""
import pathlib
from benchmarks import alone
alone.HERE = pathlib.Path({str(tmp_path)!r})
seen = ""
try:
    alone.check_fixed(alone.build_fixed(alone.HERE, 1, 12, "-march=haswell"))
except AssertionError as error:
    seen = str(error)
except alone.subprocess.CalledProcessError:
    seen = "this machine lacks AVX2"
"""
    (seen,) = evaluated(code, "seen")
    if seen.startswith("this machine"):
        pytest.skip(seen)
    assert seen.startswith("fixed.c is wrong: its outputs are ") == bool(fault)
