"""Sound in .wav files: RIFF and RF64, PCM of 8 to 32 bits and floating point, by NumPy alone."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_CODINGS = {2: "ADPCM", 6: "A-law", 7: "mu-law", 17: "IMA ADPCM", 80: "MPEG", 85: "MP3"}
_GUID = bytes.fromhex("000000001000800000aa00389b71")  # behind the coding, where it is extensible
_UNKNOWN = 0xFFFFFFFF  # the size while a file is being written, and in RF64, which has its own
_UNFINISHED = 0, _UNKNOWN  # sizes in the head of a file whose writer could not return to it
_MOST_CHUNKS = 10_000  # before the samples


class Sound:
    """The samples of a .wav file, (T, channels), converted as they are taken by ``sound[a:b]``.

    PCM is scaled to -1 <= x < 1, which is exact in float64; floating point stays as it is.

    Parameters
    ----------
    path : str or path-like

    Attributes
    ----------
    rate : int
        Samples in a second.
    shape : (int, int)
        The number of samples T, and of channels.

    Raises
    ------
    ValueError
        If the file is damaged, cut off or coded in another way; the message names the file.
    OSError
        If the file cannot be opened.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        path = Path(path)
        with open(path, "rb") as file:
            end = os.fstat(file.fileno()).st_size
            try:
                form, start, size = _find_samples(file, end)
                self._is_float, channels, self._width, self.rate = _format(form)
                frame = channels * self._width
                if size is None:  # the writer did not finish, so the last whole frame ends it
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
            self._frames: NDArray[np.uint8] = np.zeros((0, frame), np.uint8)
            if size:
                mapped = np.memmap(file, np.uint8, "r", start, (self.shape[0], frame))
                self._frames = mapped.view(np.ndarray)

    def __repr__(self) -> str:
        frames, channels = self.shape
        return f"<Sound of {frames} samples, {channels} channels, {self.rate} a second>"

    def __getitem__(self, steps: slice) -> NDArray[np.floating]:
        """Return the samples of a slice of time, (steps, channels)."""
        frames = self._frames[steps]
        if self._is_float:
            return frames.view(f"<f{self._width}")
        if self._width == 1:  # the only width that is unsigned
            return frames / 128.0 - 1.0
        if self._width == 3:  # taken as the upper bytes of four
            wide = np.zeros((*frames.shape[:1], self.shape[1], 4), np.uint8)
            wide[..., 1:] = frames.reshape(-1, self.shape[1], 3)
            return wide.view("<i4")[..., 0] / 2.0**31
        return frames.view(f"<i{self._width}") / 2.0 ** (8 * self._width - 1)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self[:], dtype)


def write_pieces(
    file: IO[bytes], pieces: Iterable[NDArray[np.floating]], frames: int | None, rate: int
) -> None:
    """Write a sound of `frames` samples, at `rate` samples a second, that comes in pieces.

    Parameters
    ----------
    file : binary file
    pieces : iterable of float arrays (T_i, channels)
        Their T_i add up to `frames`. Where `frames` is None, there is one piece.
    frames : int or None
    rate : int

    Raises
    ------
    ValueError
        If the samples are more than a .wav file holds.
    """
    for number, piece in enumerate(pieces):
        if not number:
            frames = len(piece) if frames is None else frames
            _write_head(file, frames, piece.shape[1], rate, piece.dtype)
        file.write(np.ascontiguousarray(piece, piece.dtype.newbyteorder("<")).data)


def _write_head(
    file: IO[bytes], frames: int, channels: int, rate: int, dtype: np.dtype[np.floating]
) -> None:
    """Write what stands before the samples; ValueError if they are too many."""
    width = dtype.itemsize
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


def _find_samples(file: IO[bytes], end: int) -> tuple[bytes, int, int | None]:
    """Return the bytes of the format's chunk, where the samples begin, and their size if known."""
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


def _format(form: bytes) -> tuple[bool, int, int, int]:
    """Return whether samples are floating point, their channels, bytes of one, and the rate."""
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
        raise ValueError("its rate must be at least one sample a second, got 0")
    return coding == _FLOAT, channels, width, rate
