"""Training by processes that mpirun starts: the same values and bits, and what ends them.

`test_mpi.py` has the same in threads, and much more of it.
"""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import ranks
from support import assert_same_bits

pytest.importorskip("mpi4py")
MPIRUN = shutil.which("mpirun")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not MPIRUN, reason="needs mpirun (Debian: apt-get install openmpi-bin)"),
]
ROOT = pathlib.Path(__file__).parents[1]
LIMIT = 60  # seconds, after which something hangs

PROGRAM = """
import json, os, pathlib, signal, sys, time
import numpy as np
import fastlstm
from fastlstm.training import MPI, SGD, Adam, Checkpoint, EarlyStopping, MSELoss, OneCycleLR, fit


def train(parallel, folder, epochs=4, resume=False, stays=None, fails=None, plain=False):
    dtype = "float64" if plain else "float32"
    rng = np.random.default_rng(0)
    x = rng.standard_normal((50, 12, 3)).astype(dtype)
    y = x.sum((1, 2))[:, None]
    model = fastlstm.Sequential(
        fastlstm.LSTM(3, 8, 2, dropout=0.0 if plain else 0.3, seed=0, dtype=dtype),
        fastlstm.Last(),
        fastlstm.Linear(8, 1, seed=0, dtype=dtype),
    )
    optimizer = SGD(model, lr=0.02) if plain else Adam(model)
    schedule = None if plain else OneCycleLR(optimizer, 0.02, 4 * max(epochs, 4))
    path = folder / "training.npz"
    rank = 0 if parallel is None else parallel.rank

    def tells(state):
        (folder / f"pid-{rank}").write_text(str(os.getpid()))
        (folder / f"epoch-{rank}").write_text(str(state.epoch))
        if state.epoch == stays:
            time.sleep(600)  # until it is killed
        if fails == [rank, state.epoch]:
            raise OSError("the disk has gone")

    history = fit(
        model, (x, y), MSELoss(), optimizer, epochs, 16, validation=(x, y), clip_norm=1.0,
        schedule=schedule, callbacks=[EarlyStopping(50), Checkpoint(path), tells],
        resume=path if resume else None, parallel=parallel, progress=False,
    )
    return model, history


if __name__ == "__main__":
    folder, options = pathlib.Path(sys.argv[1]), json.loads(sys.argv[2])
    parallel = MPI(parts=options.pop("parts", None))
    if options.pop("leaves", None) == parallel.rank:
        raise OSError("gone before it began")
    model, history = train(parallel, folder, **options)
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    np.savez(
        folder / f"done-{parallel.rank}.npz", interrupted=history.interrupted,
        loss=history["loss"], validation_loss=history["validation_loss"], **state,
    )
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    path = tmp_path_factory.mktemp("program") / "program.py"
    path.write_text(PROGRAM)
    return path


@pytest.fixture(scope="module")
def train(program):
    names = {"__name__": "program"}
    exec(compile(PROGRAM, str(program), "exec"), names)
    return names["train"]


def start(program, size, folder, patience=1, **options):
    """Start a program on so many ranks; mpirun waits so many seconds before it kills any."""
    folder.mkdir(exist_ok=True)
    for old in folder.glob("[!t]*"):  # all but the checkpoint
        old.unlink()
    root = ["--allow-run-as-root"] if hasattr(os, "getuid") and os.getuid() == 0 else []
    patient = ["--mca", "odls_base_sigkill_timeout", str(patience)]
    command = [MPIRUN, *root, "--oversubscribe", "--bind-to", "none", *patient, "-n", str(size)]
    command += [sys.executable, "-m", "mpi4py", program, folder, json.dumps(options)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        list(map(str, command)), env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def end(job):
    """Wait for the end of a job; return its code and what it has written."""
    try:
        out, err = job.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        job.kill()
        raise
    return job.returncode, out + err


def results(folder, size):
    """What all ranks have saved, after a look whether they have the same bits."""
    saved = [dict(np.load(folder / f"done-{rank}.npz")) for rank in range(size)]
    for own in saved:
        assert own.keys() == saved[0].keys()
        for name, value in own.items():
            assert_same_bits(value, saved[0][name])
    return saved[0]


def ran(program, size, folder, **options):
    code, text = end(start(program, size, folder, **options))
    assert code == 0, text
    return results(folder, size)


def assert_same(got, expected):
    for name, value in expected.items():
        assert_same_bits(got[name], value)


def as_saved(model, history):
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    return state | {name: np.array(history[name]) for name in ("loss", "validation_loss")}


@pytest.mark.parametrize("size", [2, 4])
def test_ranks_train_as_one_process(program, train, tmp_path, size):
    """In float64 by SGD, without dropout, whose masks are other ones for each part."""
    model, history = train(None, tmp_path, plain=True)
    got = ran(program, size, tmp_path, plain=True)
    # the bound of test_mpi.py, with 16 * 12 terms in a gradient, and 16 steps
    bound = 2 * 16 * 0.02 * 30 * 192 * np.finfo(np.float64).eps
    for name, value in as_saved(model, history).items():
        np.testing.assert_allclose(got[name], value, rtol=1e-12, atol=bound)


def test_parts_give_the_same_bits_as_in_threads(program, train, tmp_path):
    from fastlstm.training import MPI

    [outcome] = ranks.run(1, lambda comm: train(MPI(comm, parts=5), tmp_path))
    expected = as_saved(*outcome)
    for size in (2, 4):
        assert_same(ran(program, size, tmp_path / "apart", parts=5), expected)


def wait_for(path, job, epoch=1):
    """Wait until a rank has written that this epoch, or a later one, is done."""
    until = time.monotonic() + LIMIT
    while not (path.exists() and int(path.read_text() or 0) >= epoch):
        assert job.poll() is None, end(job)
        assert time.monotonic() < until, f"{path} does not come"
        time.sleep(0.01)


def test_a_killed_rank_and_what_goes_on_from_its_checkpoint(program, tmp_path):
    """kill -9 ends the job; another number of ranks goes on, to the bits of an undisturbed run."""
    expected = ran(program, 2, tmp_path / "whole", parts=4, epochs=8)
    folder = tmp_path / "killed"
    job = start(program, 2, folder, parts=4, epochs=8, stays=4)
    wait_for(folder / "epoch-1", job, 4)
    os.kill(int((folder / "pid-1").read_text()), signal.SIGKILL)
    code, text = end(job)
    assert code and "signal 9" in text
    assert not list(folder.glob("done*"))
    saved = (folder / "training.npz").read_bytes()
    for size in (1, 3):
        (folder / "training.npz").write_bytes(saved)
        assert_same(ran(program, size, folder, parts=4, epochs=8, resume=True), expected)


@pytest.mark.parametrize("to", ["a rank", "mpirun"])
def test_a_signal_ends_all_at_the_same_step(program, tmp_path, to):
    """SIGTERM to one rank; Ctrl-C for mpirun, which sends SIGTERM to its ranks."""
    job = start(program, 2, tmp_path, patience=5, epochs=10**6)
    wait_for(tmp_path / "epoch-1", job)
    if to == "a rank":
        os.kill(int((tmp_path / "pid-1").read_text()), signal.SIGTERM)
    else:
        job.send_signal(signal.SIGINT)
    code, text = end(job)
    assert code == 0 or to == "mpirun", text
    assert results(tmp_path, 2)["interrupted"]


def test_an_error_on_one_rank(program, tmp_path):
    code, text = end(start(program, 2, tmp_path, fails=[1, 2]))
    assert code
    assert "OSError: the disk has gone" in text
    assert "RuntimeError: rank 1 of 2 failed: OSError: the disk has gone" in text


def test_an_error_before_fit_ends_all(program, tmp_path):
    code, text = end(start(program, 2, tmp_path, leaves=1))
    assert code and "OSError: gone before it began" in text
