"""The states of a pool's streams as bytes, and in files."""

import os
import signal
import struct
import subprocess
import sys
import textwrap
import threading
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pool_twin import Twin, arrays_of
from support import assert_same_bits
from values import normal

import fastlstm.layers.snapshots
from fastlstm import LSTM, Linear, Sequential


def _model(seed=0, **options):
    return Sequential({"a": LSTM(2, [4, 3], seed=seed, **options),
                       "b": LSTM(3, 3, proj_size=2, seed=seed, **options),
                       "fc": Linear(2, 1, seed=seed, **options)})  # fmt: skip


def _pool(capacity=4, live=3, **options):
    """A pool, and the sids of its streams, which are somewhere in the middle."""
    pool = _model(**options).pool(capacity)
    sids = [pool.open() for _ in range(live)]
    for step in range(3):
        pool.step(sids[step % 2 :], normal(live - step % 2, 2, dtype=pool._model.dtype, seed=step))
    return pool, sids


def _same(one, other, sids):
    for got, expected in zip(arrays_of(one.state(sids)), arrays_of(other.state(sids)), strict=True):
        assert_same_bits(got, expected)


def _sealed(data):
    """Bytes with the right length and checksum, whatever was done to them."""
    data = data[:16] + struct.pack("<Q", len(data)) + data[24:-4]
    return data + struct.pack("<I", zlib.crc32(data))


POOL = _pool()  # which nothing changes


# ---- bytes ----


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_streams_move(dtype):
    pool, sids = _pool(dtype=dtype)
    other, _ = _pool(capacity=9, live=1, dtype=dtype)
    sid = other.open(pool.to_bytes(sids[1]))
    for got, expected in zip(
        arrays_of(other.state(sid)), arrays_of(pool.state(sids[1])), strict=True
    ):
        assert_same_bits(got, expected)
    pool.reset(sids[0])
    pool.set_state(sids[0], bytearray(other.to_bytes(sid)))
    pool.set_state(sids[2], memoryview(other.to_bytes(sid)))
    x = normal(1, 2, dtype=dtype, seed=9).repeat(3, axis=0)
    y = pool.step(sids, x)
    assert_same_bits(y[0], other.step(sid, x[0]))
    assert_same_bits(y[0], y[1])
    assert_same_bits(y[0], y[2])


def test_bytes_are_the_same_on_every_machine():
    """Worked by hand: an LSTM of one unit, h = 1 and c = -2."""
    pool = LSTM(1, 1).pool(1)
    sid = pool.open(([[1.0]], [[-2.0]]))
    layout = b"float32 h 1 x 1 and c 1 x 1"
    body = b"\x93FLSTATE" + struct.pack("<IIQ", 1, len(layout), 24 + len(layout) + 12) + layout
    body += bytes.fromhex("0000803f 000000c0")
    assert pool.to_bytes(sid) == body + struct.pack("<I", zlib.crc32(body))


def test_damaged_bytes_are_refused():
    pool, sids = _pool()
    data = pool.to_bytes(sids[0])
    for end in range(len(data)):
        with pytest.raises(ValueError, match="state is not one of this pool's: it "):
            pool.open(data[:end])
    for place in range(len(data)):
        for flip in (1, 0x80, 0xFF):
            damaged = bytearray(data)
            damaged[place] ^= flip
            with pytest.raises(ValueError, match="state is not one of this pool's: it "):
                pool.open(bytes(damaged))
    with pytest.raises(ValueError, match="it is cut off or damaged"):
        pool.open(data + b"\0")
    assert len(pool) == 3


@given(data=st.binary(max_size=200), sealed=st.booleans(), head=st.integers(0, 24))
def test_any_bytes_are_refused(data, sealed, head):
    pool, sids = POOL
    data = pool.to_bytes(sids[0])[:head] + data
    if sealed and len(data) >= 28:
        data = _sealed(data)
    for take in (pool.open, lambda given: pool.set_state(sids[0], given)):
        with pytest.raises(ValueError, match="state is not one of this pool's: it "):
            take(data)


@pytest.mark.parametrize(("change", "message"), [
    (lambda d: b"PK" + d[2:], "it is not the state of one stream$"),
    (lambda d: b"\x93FLPOOL\n" + d[8:], "not the state of one stream, but a snapshot of a po"),
    (lambda d: d[:8] + struct.pack("<I", 2) + d[12:], "it has version 2 of its format, of which"),
    (lambda d: d[:8] + d[8:12][::-1] + d[12:], "it has version 16777216 of its format"),
    (lambda d: _sealed(d[:-8] + d[-4:]), "it is damaged: it has fewer values than it says"),
    (lambda d: _sealed(d[:-4] + d[:4] + d[-4:]), "it is damaged: it has more values than it says"),
    (lambda d: _sealed(d[:12] + b"\xff\xff\xff\xff" + d[16:]), "it is of another model: it holds"),
    (lambda d: d[:-1] + bytes([d[-1] ^ 1]), "it is damaged: its checksum is that of other bytes"),
])  # fmt: skip
def test_what_is_wrong_with_bytes_is_said(change, message):
    pool, sids = _pool()
    with pytest.raises(ValueError, match=message):
        pool.open(change(pool.to_bytes(sids[0])))


@pytest.mark.parametrize("other", [
    LSTM(2, 4), LSTM(2, [4, 3]), _model(dtype="float64"), Sequential(_model()),
    Sequential({"a": LSTM(2, [4, 3]), "b": LSTM(3, 3)}),
    Sequential({"a": LSTM(2, [4, 3]), "c": LSTM(3, 3, proj_size=2)}),
])  # fmt: skip
def test_states_of_other_models_are_refused(other, tmp_path):
    pool, sids = _pool()
    pool.save(tmp_path / "pool")
    wrong = other.pool(4)
    message = (
        r"it is of another model: it holds 'float32 a: h 1 x 4, 1 x 3 and c 1 x 4, 1 x 3; "
        r"b: h 1 x 2 and c 1 x 3', and this pool '"
    )
    with pytest.raises(ValueError, match=message):
        wrong.open(pool.to_bytes(sids[0]))
    with pytest.raises(ValueError, match="pool cannot be restored: (it is longer|" + message + ")"):
        wrong.restore(tmp_path / "pool")
    assert len(wrong) == 0


# ---- files ----


def test_files_hold_everything(tmp_path):
    pool, sids = _pool(capacity=5)
    pool.close(sids[1])
    pool.save(tmp_path / "pool")
    for capacity in (5, 12):
        other = _model().pool(capacity)
        gone = [other.open() for _ in range(5)]
        other.restore(tmp_path / "pool")
        assert sorted(other.sids) == sorted([sids[0], sids[2]])
        _same(other, pool, [sids[2], sids[0]])
        assert other.steps_since(sids[::2]).tolist() == pool.steps_since(sids[::2]).tolist()
        assert other.oldest(5).tolist() == pool.oldest(5).tolist()
        new = [other.open() for _ in range(capacity - 2)]
        assert not {*new} & {*gone, *sids} and len(other) == capacity
        x = normal(2, 2, seed=4)
        other.step([sids[0], sids[2]], x)
        pool.step([sids[0], sids[2]], x)
        _same(other, pool, [sids[0], sids[2]])
        pool.restore(tmp_path / "pool")


def test_a_pool_goes_back(tmp_path):
    """Streams and sids are those of the file; what came later is gone, and its sids with it."""
    twin = Twin(LSTM(3, 4, seed=0), 4)
    a, b = twin.open(), twin.open()
    twin.step(np.array([a, b]))
    twin.pool.save(tmp_path / "pool")
    kept = twin.pool.state([a, b])
    twin.pool.step([b], normal(1, 3))
    twin.pool.close(a)
    later = twin.pool.open()
    twin.pool.restore(tmp_path / "pool")
    assert later not in twin.pool and later != twin.open()
    for got, expected in zip(twin.pool.state([a, b]), kept, strict=True):
        assert_same_bits(got, expected)
    twin.go(20)


def test_damaged_files_change_nothing(tmp_path):
    pool, sids = _pool()
    path = tmp_path / "pool"
    pool.save(path)
    data, kept = path.read_bytes(), pool.state(sids)
    pool.step(sids, normal(3, 2, seed=5))
    now = pool.state(sids)

    def refused(changed, message="it "):
        path.write_bytes(changed)
        with pytest.raises(ValueError, match=f"pool cannot be restored: {message}"):
            pool.restore(path)

    for end in range(0, len(data), 5):
        refused(data[:end])
    for place in range(0, len(data), 2):
        refused(data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :])
    start = 24 + int.from_bytes(data[12:16], "little")
    numbers = list(struct.unpack_from("<4q", data, start))
    for k, value, message in [
        (0, 5, "it is that of a pool of 5 streams, and this has 4"),
        (0, 2, "it is damaged: it holds 3 streams of 2"),
        (1, -1, "it is damaged: it holds -1 streams of 4"),
        (1, 2, "it is damaged"),
        (2, 2, "it is damaged: its sids cannot"),
        (2, 2**62, "it is damaged: its sids cannot"),
        (2, -1, "it is damaged: its sids cannot"),
        (2, 2**38, "it is damaged: its sids cannot"),  # there would soon be no more sids
        (3, 1, "it is damaged: its sids cannot"),
        (3, -1, "it is damaged: its sids cannot"),
        (3, 2**62, "it is damaged: its sids cannot"),  # nor numbers of calls
        (4, sids[1], "it is damaged: its sids cannot"),
        (4, -1, "it is damaged: its sids cannot"),
        (4, 3, "it is damaged: its sids cannot"),
        (5, (9 << 24) + 1, "it is damaged: its sids cannot"),
        (7, -1, "it is damaged: its sids cannot"),
    ]:
        place = start + 8 * k
        refused(_sealed(data[:place] + struct.pack("<q", value) + data[place + 8 :]), message)
    refused(_sealed(data[:-8] + data[-4:]), "it is damaged: it has fewer values")
    refused(_sealed(data[:-4] + bytes(8)), "it is damaged: it has more values")
    refused(data + bytes(10_000), "it is longer than ")
    refused(pool.to_bytes(sids[0]), "it is not a snapshot of a pool, but the state of one stream")
    assert numbers == [4, 3, 3, 3]
    for got, expected in zip(arrays_of(pool.state(sids)), arrays_of(now), strict=True):
        assert_same_bits(got, expected)
    path.write_bytes(data)
    pool.restore(path)
    for got, expected in zip(arrays_of(pool.state(sids)), arrays_of(kept), strict=True):
        assert_same_bits(got, expected)


def test_missing_files(tmp_path):
    pool, _ = _pool()
    with pytest.raises(FileNotFoundError, match="nowhere"):
        pool.restore(tmp_path / "nowhere")
    with pytest.raises(OSError, match="cannot be written: there is no folder"):
        pool.save(tmp_path / "no" / "folder")


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    pool, sids = _pool()
    pool.save(tmp_path / "pool")
    data = (tmp_path / "pool").read_bytes()
    pool.step(sids, normal(3, 2, seed=5))

    def fail(*args, **options):
        raise OSError("no room on the device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no room"):
        pool.save(tmp_path / "pool")
    assert (tmp_path / "pool").read_bytes() == data
    assert os.listdir(tmp_path) == ["pool"]
    pool.step(sids, normal(3, 2, seed=5))  # nothing is held back


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="kills a process by a signal")
def test_a_killed_process_leaves_a_whole_file(tmp_path):
    program = """
        import sys
        import numpy as np
        import fastlstm

        pool = fastlstm.LSTM(2, 64, seed=0).pool(4000)
        sids = [pool.open() for _ in range(4000)]
        x = np.ones((4000, 2), np.float32)
        while True:
            pool.step(sids, x)
            pool.save(sys.argv[1])
            print("saved", flush=True)
    """
    path = tmp_path / "pool"
    pool = LSTM(2, 64, seed=0).pool(4000)
    for lines in range(1, 4):
        with subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(program), str(path)], stdout=subprocess.PIPE
        ) as process:
            for _ in range(lines):
                assert process.stdout.readline() == b"saved\n"
            threading.Event().wait(0.003 * lines)  # in the middle of the next one
            process.send_signal(signal.SIGKILL)
            process.communicate()
        pool.restore(path)
        h, _ = pool.state(pool.sids)
        assert h.shape == (1, 4000, 64) and (h == h[:, :1]).all() and h.any()


def test_what_is_written_is_what_is_said(monkeypatch):
    """The test of damaged bytes can fail: without a checksum, it does."""
    monkeypatch.setattr(fastlstm.layers.snapshots.zlib, "crc32", lambda *args: 0)
    with pytest.raises(pytest.fail.Exception):
        test_damaged_bytes_are_refused()
