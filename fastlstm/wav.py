"""Sound in .wav files: RIFF and RF64, PCM of 8 to 32 bits and floating point, by NumPy alone."""

import os
import struct
from pathlib import Path

import numpy as np

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_CODINGS = {2: "ADPCM", 6: "A-law", 7: "mu-law", 17: "IMA ADPCM", 80: "MPEG", 85: "MP3"}
_GUID = bytes.fromhex("000000001000800000aa00389b71")  # behind the coding, where it is extensible
_UNKNOWN = 0xFFFFFFFF  # the size of what was not finished, or stands in RF64's own chunk
_UNFINISHED = 0, _UNKNOWN  # sizes of a file whose writer could not go back to its head
_MOST_CHUNKS = 10_000  # before the samples


class Sound:
    """The samples of a .wav file, (T, channels), converted as they are taken by ``sound[a:b]``.

    PCM is scaled to -1 <= x < 1, which is exact in float64; floating point stays as it is.

    Parameters
    ----------
    path : str or path-like

    Raises
    ------
    ValueError
        If the file is damaged, cut off or coded otherwise; the sentence names it.
    OSError
        If it cannot be opened.
    """

    def __init__(self, path):
        path = Path(path)
        with open(path, "rb") as file:
            end = os.fstat(file.fileno()).st_size
            try:
                form, start, size = _find(file, end)
                self._is_float, channels, self._width, self.rate = _format(form)
                frame = channels * self._width
                if size is None:  # what its writer did not finish ends with the last whole frame
                    size = (end - start) // frame * frame
                if size % frame:
                    raise ValueError(f"its {size} bytes of samples must be a multiple of {frame}")
            except ValueError as fault:
                raise ValueError(f"{path} cannot be read as PCM .wav: {fault}") from None
            if size > end - start:
                raise ValueError(
                    f"{path} is cut off: expected {size} bytes of samples, got {end - start}"
                )
            self.shape = size // frame, channels
            self._frames = np.zeros((0, frame), np.uint8)
            if size:
                self._frames = np.memmap(file, np.uint8, "r", start, (self.shape[0], frame)).view(
                    np.ndarray
                )

    def __getitem__(self, steps):
        """The samples of a slice of time, (steps, channels)."""
        frames = self._frames[steps]
        if self._is_float:
            return frames.view(f"<f{self._width}")
        if self._width == 1:  # the one unsigned width
            return frames / 128.0 - 1.0
        if self._width == 3:  # as the upper bytes of four
            wide = np.zeros((*frames.shape[:1], self.shape[1], 4), np.uint8)
            wide[..., 1:] = frames.reshape(-1, self.shape[1], 3)
            return wide.view("<i4")[..., 0] / 2.0**31
        return frames.view(f"<i{self._width}") / 2.0 ** (8 * self._width - 1)

    def __array__(self, dtype=None, copy=None):
        return np.array(self[:], dtype)


def write_head(file, frames, channels, rate, dtype):
    """Write what stands before `frames` x `channels` samples of floating point.

    Raises
    ------
    ValueError
        If they are more than a .wav file holds.
    """
    width = np.dtype(dtype).itemsize
    frame, size = width * channels, width * channels * frames
    if size + 50 > _UNKNOWN or channels > 0xFFFF:
        raise ValueError(
            f"{frames} steps of {channels} values are more than a .wav file holds: write a .npy "
            "file"
        )
    file.write(struct.pack("<4sI4s4sI", b"RIFF", size + 50, b"WAVE", b"fmt ", 18))
    bytes_in_a_second = min(rate * frame, _UNKNOWN)
    file.write(
        struct.pack("<HHIIHHH", _FLOAT, channels, rate, bytes_in_a_second, frame, 8 * width, 0)
    )
    file.write(struct.pack("<4sII4sI", b"fact", 4, frames, b"data", size))


def _find(file, end):
    """Return the bytes of the format's chunk, where the samples begin, their size or None."""
    head = file.read(12)
    if head[:4] not in (b"RIFF", b"RF64") or head[8:] != b"WAVE":
        raise ValueError("it does not begin as a RIFF or RF64 file of WAVE does")
    unfinished = int.from_bytes(head[4:8], "little") in _UNFINISHED
    form = long_size = None
    for _ in range(_MOST_CHUNKS):
        head = file.read(8)
        if len(head) < 8:
            raise ValueError("it holds no samples")
        name, size = struct.unpack("<4sI", head)
        start = file.tell()
        if name == b"data":
            if form is None:
                raise ValueError("its samples come before their format")
            if size == _UNKNOWN:
                size = long_size
            elif size == 0 and unfinished:
                size = None
            return form, start, size
        if size > end - start:
            raise ValueError(
                f"its chunk {name.decode('latin-1')!r} of {size} bytes ends behind the file"
            )
        if name == b"fmt ":
            form = file.read(min(size, 40))
        elif name == b"ds64" and size >= 16:
            long_size = struct.unpack("<Q", file.read(16)[8:])[0]
        file.seek(start + size + size % 2)
    raise ValueError(f"it holds more than {_MOST_CHUNKS} chunks before its samples")


def _format(form):
    """Return (whether it is floating point, channels, bytes of a sample, rate)."""
    if len(form) < 16:
        raise ValueError(f"its format must have 16 bytes or more, got {len(form)}")
    coding, channels, rate, _, frame, bits = struct.unpack("<HHIIHH", form[:16])
    if coding == _EXTENSIBLE and len(form) == 40 and form[26:] == _GUID:
        coding = int.from_bytes(form[24:26], "little")
    width = -(-bits // 8)
    if not (coding == _PCM and 1 <= width <= 4 or coding == _FLOAT and bits in (32, 64)):
        name = {_PCM: "PCM", _FLOAT: "floating point"} | _CODINGS
        raise ValueError(
            f"its samples are {bits} bits of {name.get(coding, f'coding {coding}')}; expected PCM "
            "of 8 to 32 bits, or floating point of 32 or 64"
        )
    if not channels or frame != channels * width:
        raise ValueError(
            f"a frame of {channels} channels of {bits} bits must take {channels * width} bytes, "
            f"at least 1, got {frame}"
        )
    if not rate:
        raise ValueError("its rate is 0; expected the samples of a second")
    return coding == _FLOAT, channels, width, rate
