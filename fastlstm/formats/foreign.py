"""What a file of no known format seems to be, for the sentence that refuses it."""

from __future__ import annotations

import codecs
import re

from ..checks import quoted
from .source import Source

_BEGINNINGS = [  # patterns of the first bytes, and words that end the sentence "it is ..."
    (
        rb"version https://git-lfs",
        "a git-LFS pointer, not the file: fetch that with `git lfs pull`",
    ),
    (rb"(?i)\s*(<!doctype html|<html)", "an HTML page, as a failed download leaves it"),
    (rb"\s*<\?xml", "an XML file"),
    (rb"\x1f\x8b", "compressed by gzip (.gz, .tar.gz); unpack it first"),
    (rb"BZh", "compressed by bzip2 (.bz2); unpack it first"),
    (rb"\xfd7zXZ\0", "compressed by xz (.xz); unpack it first"),
    (rb"\x28\xb5\x2f\xfd", "compressed by Zstandard (.zst); unpack it first"),
    (rb"7z\xbc\xaf\x27\x1c", "a 7z archive; unpack it first"),
    (rb"Rar!", "a RAR archive; unpack it first"),
    (rb"(?s).{257}ustar", "a tar archive; unpack it first"),
    (rb"GGUF", "a GGUF file"),
    (  # the kind of its numbers, rows, columns, whether complex, the length of a name, and the name
        rb"(?s)([\x00-\x34]\0{3}.{8}[\0\1]\0{3}[\x02-\x40]\0{3}"
        rb"|\0\0[\x03\x04].{9}\0{3}[\0\1]\0{3}[\x02-\x40])[A-Za-z]\w*\0",
        "a MATLAB file (.mat) of version 4, which holds no structs; `save -v7` writes what is read",
    ),
    (rb"# Created by Octave", "a text of GNU Octave's; `save -v7` writes what is read"),
    (rb"MATLAB ", "a MATLAB file (.mat) that is cut off, or of another version than 5 to 7.3"),
    (rb"\x93NUMPY", "a single array without a name (.npy); np.savez stores arrays by their names"),
    (rb"\x08\x01\x12", "a TensorFlow SavedModel (.pb)"),
    (rb"(?s)\x08[\x02-\x1f][\x12\x1a\x22\x2a\x32\x3a\x42]", "the beginning of an ONNX model"),
    (rb"PK\x05\x06", "an empty zip file"),
    (rb"\s*[{\[]\s*([\"{\[\]}\d-]|true|false|null)", "JSON"),
]


def name(source: Source) -> str | None:
    """Return what a file seems to be, as the end of the sentence "it is ..."; None if unknown."""
    if not source.size:
        return "empty from where it stands on" if source.start else "empty"
    if source.members is not None:
        return f"a zip file of {quoted(source.members, most=5) or 'nothing'}"
    for beginning, words in _BEGINNINGS:
        if re.match(beginning, source.head):
            return words
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(source.head)
    except UnicodeDecodeError:
        return None
    return None if re.search(r"[\x00-\x08\x0e-\x1f\x7f]", text) else "text"
