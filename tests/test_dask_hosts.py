"""Clusters of Dask: processes, and hosts with addresses of their own; one is lost in the middle.

Whoever computed a block, and however often, the whole has the bits of `fastlstm.predict`.
"""

import contextlib
import functools
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np
import pytest
from support import assert_same_bits

import fastlstm

pytest.importorskip("dask.array", reason="runs models over Dask's arrays")
distributed = pytest.importorskip("distributed", reason="runs models on Dask's clusters")
import dask.array as da  # noqa: E402
import dask.bag as db  # noqa: E402

import fastlstm.dask  # noqa: E402
from fastlstm.training import Adam, MSELoss  # noqa: E402

pytestmark = pytest.mark.slow

SAMPLES, STEPS, BLOCKS = 120, 30, 40


def wait_for(gate):
    """Return a function that waits until a file is there, unless it is one of the first calls.

    So some tasks are done, and the others are in the middle.
    """
    path, calls = str(gate), f"{gate}.calls"

    def wait():
        os.makedirs(calls, exist_ok=True)
        os.close(tempfile.mkstemp(dir=calls)[0])
        while len(os.listdir(calls)) > 8 and not os.path.exists(path):
            time.sleep(0.01)

    return wait


def made(wait):
    """A model that begins with a wait, samples, lengths, and what it gives in this process."""

    class Wait(fastlstm.Layer):  # goes along in the pickle, as it is defined in a function
        stepwise = True

        def __init__(self, wait):
            super().__init__()
            self.wait = wait

        def forward(self, input):
            self.wait()
            return input

    model = fastlstm.Sequential(
        Wait(wait),
        fastlstm.LSTM(3, 20, 2, dropout=0.5, bidirectional=True, seed=0),
        fastlstm.Linear(40, 2, seed=1),
    )
    rng = np.random.default_rng(0)
    x = rng.standard_normal((SAMPLES, STEPS, 3), dtype=np.float32)
    lengths = rng.integers(1, STEPS + 1, SAMPLES)
    expected = np.zeros((SAMPLES, STEPS, 2), np.float32)
    rows = fastlstm.predict(model[1:], [row[:n] for row, n in zip(x, lengths, strict=True)])
    for row, values in zip(expected, rows, strict=True):
        row[: len(values)] = values
    return model, x, lengths, expected


def lose_in_the_middle(collection, lose, gate):
    """Begin to compute, call `lose` when the first parts are done, and let the others go on."""
    parts = distributed.futures_of(collection)
    while sum(part.done() for part in parts) < 4:
        time.sleep(0.01)
    lose()
    assert not all(part.done() for part in parts)
    gate.touch()


def predicted(client, lose, gate):
    """Predict on a cluster of which a part is lost in the middle; check that all comes right."""
    model, x, lengths, expected = made(wait_for(gate))
    array = da.from_array(x, chunks=(SAMPLES // BLOCKS, -1, -1))
    y = client.persist(fastlstm.dask.predict(model, array, lengths))
    lose_in_the_middle(y, lose, gate)
    assert_same_bits(y.compute(), expected)


@contextlib.contextmanager
def processes(count=2):
    """A cluster of worker processes on 127.0.0.1, each with a nanny that starts another."""
    with (
        distributed.LocalCluster(
            n_workers=count, threads_per_worker=1, processes=True, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def test_a_model_goes_to_each_worker_once():
    """Two processes, 40 blocks: one is given the model with its task, the other has it from it."""

    class Counted(fastlstm.Layer):  # goes along in the pickle, as it is defined in a function
        stepwise = True

        def forward(self, input):
            time.sleep(0.05)  # so that both have something to do
            return input + 1

        def __setstate__(self, state):
            import builtins

            builtins.fastlstm_unpickled = getattr(builtins, "fastlstm_unpickled", 0) + 1
            super().__setstate__(state)

    def count(dask_worker):
        import builtins

        keys = [str(key) for one in dask_worker.transfer_incoming_log for key in one["keys"]]
        return [
            sum(key.startswith("fastlstm-model") for key in keys),
            getattr(builtins, "fastlstm_unpickled", 0),
        ]

    x = np.random.default_rng(0).standard_normal((40, 2, 3), dtype=np.float32)
    with processes() as client:
        y = fastlstm.dask.predict(Counted(), da.from_array(x, chunks=(1, -1, -1)))
        assert_same_bits(y.compute(), x + 1)
        told = client.run(count)
    assert len(told) == 2
    assert sum(sent for sent, _ in told.values()) <= 1  # the other one began with it
    assert [made for _, made in told.values()] == [1, 1]


def test_a_worker_is_killed_in_the_middle(tmp_path):
    with processes() as client:
        workers = client.run(os.getpid)
        assert len(set(workers.values())) == 2
        kill = functools.partial(os.kill, list(workers.values())[0], signal.SIGKILL)
        predicted(client, kill, tmp_path / "gate")


def test_the_only_worker_is_killed_in_the_middle(tmp_path):
    """With it go all the results so far, and the model; its nanny starts another."""
    with processes(1) as client:
        [worker] = client.run(os.getpid).values()
        predicted(client, lambda: os.kill(worker, signal.SIGKILL), tmp_path / "gate")
        assert list(client.run(os.getpid).values()) != [worker]


def test_a_worker_is_killed_in_the_middle_of_trainings(tmp_path):
    """Models and histories are those of this process, but for the seconds that it took."""
    rng = np.random.default_rng(0)
    datasets = [rng.random((30 + n, 6, 1), np.float32) for n in range(30)]
    gate = tmp_path / "gate"
    wait = wait_for(gate)

    def make(data):
        wait()
        return fastlstm.Sequential(
            fastlstm.LSTM(1, 5, seed=0), fastlstm.Dropout(0.2, seed=0), fastlstm.Last(),
            fastlstm.Linear(5, 1, seed=0),
        )  # fmt: skip

    def summary(outcome):
        model, history = outcome
        return model.state_dict(), {n: v for n, v in history.items() if n != "seconds"}

    bag = db.from_sequence([(x, x[:, -2]) for x in datasets], npartitions=len(datasets))
    trained = fastlstm.dask.fit_many(
        make, bag, MSELoss(), functools.partial(Adam, lr=0.01), 2, batch_size=8
    ).map(summary)
    with processes() as client:
        kill = functools.partial(os.kill, list(client.run(os.getpid).values())[0], signal.SIGKILL)
        results = client.persist(trained)
        lose_in_the_middle(results, kill, gate)
        got = results.compute()
    expected = trained.compute(scheduler="synchronous")
    assert len(got) == len(datasets)
    for (weights, history), (right, losses) in zip(got, expected, strict=True):
        assert history == losses
        for name, value in right.items():
            assert_same_bits(weights[name], value)


# ---- hosts ---------------------------------------------------------------------------------------

TESTS = pathlib.Path(__file__).parent
SCHEDULER, *WORKERS = "10.77.0.1", "10.77.0.2", "10.77.0.3"

# Runs on the scheduler's host; prints how many workers are left.
PROGRAM = """
import pathlib, subprocess, sys, distributed, test_dask_hosts
with distributed.Client(sys.argv[1], timeout=30) as client:
    client.wait_for_workers(2, timeout=60)
    hosts = {name.split("//")[1].split(":")[0] for name in client.scheduler_info()["workers"]}
    assert hosts == set(test_dask_hosts.WORKERS), hosts
    lose = lambda: subprocess.run(sys.argv[3:], check=True)
    test_dask_hosts.predicted(client, lose, pathlib.Path(sys.argv[2]))
    print(len(client.scheduler_info()["workers"]), "left")
"""


def ip(*arguments):
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@contextlib.contextmanager
def hosts():
    """Three network namespaces, joined by a bridge in the first, each with one of the addresses."""
    names = [f"fastlstm-{os.getpid()}-{number}" for number in range(3)]
    try:
        for name in names:
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        ip("-n", names[0], "link", "add", "bridge", "type", "bridge")
        ip("-n", names[0], "address", "add", f"{SCHEDULER}/24", "dev", "bridge")
        ip("-n", names[0], "link", "set", "bridge", "up")
        for number, (name, address) in enumerate(zip(names[1:], WORKERS, strict=True)):
            cable = ["link", "add", f"cable{number}", "type", "veth", "peer", "net", "netns", name]
            ip("-n", names[0], *cable)
            ip("-n", names[0], "link", "set", f"cable{number}", "master", "bridge", "up")
            ip("-n", name, "address", "add", f"{address}/24", "dev", "net")
            ip("-n", name, "link", "set", "net", "up")
    except subprocess.CalledProcessError as fault:
        pytest.skip(f"makes network namespaces, which is refused here: {fault.stderr.decode()}")
    else:
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)


@pytest.mark.skipif(not shutil.which("ip"), reason="needs iproute2, which makes hosts")
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid(), reason="only root makes hosts")
@pytest.mark.parametrize("loss", ["killed", "cut off"])
def test_hosts_of_which_one_is_lost_in_the_middle(loss, tmp_path):
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent), *sys.path]),
        "DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": "11s",  # a host is lost if it is silent so long
        "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "5s",
    }
    with contextlib.ExitStack() as stack:
        names = stack.enter_context(hosts())

        def begin(name, *arguments, **options):
            command = ["ip", "netns", "exec", name, sys.executable, *arguments]
            process = subprocess.Popen(command, cwd=tmp_path, env=environment, **options)
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        address = f"tcp://{SCHEDULER}:8786"
        run = "-m", "distributed.cli.dask_scheduler", "--host", SCHEDULER, "--port", "8786"
        begin(names[0], *run, "--no-dashboard", **quiet)
        run = "-m", "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-dashboard"
        workers = [
            begin(name, *run, "--host", host, "--no-nanny", **quiet)
            for name, host in zip(names[1:], WORKERS, strict=True)
        ]
        lose = {
            "killed": ["kill", "-KILL", str(workers[0].pid)],  # ip has become the worker
            "cut off": ["ip", "link", "set", "cable0", "down"],
        }[loss]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        client = begin(names[0], "-c", PROGRAM, address, tmp_path / "gate", *lose, **pipes)
        out, err = client.communicate(timeout=300)
        assert (client.returncode, out) == (0, "1 left\n"), err
        assert workers[0].poll() != 0 or loss == "cut off"  # which ends by itself, after a while
