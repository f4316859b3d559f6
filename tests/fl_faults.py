"""Files of models with one fault each, which nothing may load."""

import struct

import numpy as np
from fl_files import (
    EMBEDDING,
    JOIN,
    LAST,
    MAGNITUDE,
    RESTORE,
    SELECT,
    STANDARDIZE,
    SUM,
    Model,
    Node,
    lstm,
    with_checksum,
    write,
)
from fl_models import act, amplifier, cells, convolution, drawn, linear, model, scaled

from fastlstm.engines.contract import Options


def put(data, at, layout, *values):
    """The file with other numbers at a place, and the right checksum."""
    data = bytearray(data)
    struct.pack_into(layout, data, at, *values)
    return with_checksum(data)


RIGHT = write(amplifier(8))


def damaged():
    """Files with one fault each, by its name: (the file, its status)."""
    files = statuses_of_bytes()
    files |= {name: (data, "FILE_DAMAGED") for name, data in head_faults().items()}
    files |= {name: (write(m), "FILE_DAMAGED") for name, m in node_faults().items()}
    files |= {name: (data, "FILE_DAMAGED") for name, data in record_faults().items()}
    return files


def statuses_of_bytes():
    """Faults of the bytes as a whole."""
    flipped = bytearray(RIGHT)
    flipped[-70] ^= 1
    return {
        "right": (RIGHT, "OK"),
        "empty": (b"", "FILE_TRUNCATED"),
        "magic": (b"\x89PNG" + RIGHT[4:], "FILE_MAGIC"),
        "magic of few bytes": (b"abc", "FILE_MAGIC"),
        "magic as text": (RIGHT.replace(b"\r\n", b"\n", 1), "FILE_MAGIC"),
        "seven bytes": (RIGHT[:7], "FILE_TRUNCATED"),
        "a part of the head": (RIGHT[:127], "FILE_TRUNCATED"),
        "a part": (RIGHT[:-64], "FILE_TRUNCATED"),
        "more": (RIGHT + bytes(64), "FILE_TRUNCATED"),
        "size": (put(RIGHT, 16, "<q", -1), "FILE_TRUNCATED"),
        "order": (put(RIGHT, 8, ">I", 0x01020304), "FILE_ENDIAN"),
        "no order": (put(RIGHT, 8, "<I", 0x01020305), "FILE_DAMAGED"),
        "version 0": (put(RIGHT, 12, "<I", 0), "FILE_VERSION"),
        "version 2": (put(RIGHT, 12, "<I", 2), "FILE_VERSION"),
        "a bit": (bytes(flipped), "FILE_CHECKSUM"),
        "checksum": (RIGHT[:24] + b"\0\0\0\0" + RIGHT[28:], "FILE_CHECKSUM"),
    }


def head_faults():
    """Faults of the head."""
    (text_at,) = struct.unpack_from("<q", RIGHT, 72)
    return {
        f"head at {at}: {values}": put(RIGHT, at, layout, *values)
        for at, layout, *values in [
            (28, "<I", 2), (28, "<I", 8), (28, "<I", 0), (32, "<I", 0), (32, "<I", 2),
            (32, "<I", 4), (32, "<I", 4097), (32, "<I", 2**32 - 1), (36, "<I", 0), (36, "<I", 17),
            (36, "<I", 15), (36, "<I", 65537), (36, "<I", 2**32 - 1), (40, "<q", 0), (40, "<q", 2),
            (40, "<q", -1), (40, "<q", 2**62), (48, "<q", 2), (48, "<q", 0), (56, "<I", 1),
            (56, "<I", 2), (60, "<I", 1), (64, "<d", -1), (64, "<d", np.nan), (64, "<d", np.inf),
            (72, "<q", text_at + 64), (72, "<q", text_at - 64), (72, "<q", 0), (80, "<q", 1),
            (80, "<q", 64), (80, "<q", -1), (80, "<q", 2**63 - 1), (88, "<B", 1), (127, "<B", 1),
        ]
    }  # fmt: skip


def record_faults():
    """Faults of records and of places: file 0 begins with a node at 128."""
    nodes = 3 * 208
    arrays = 128 + nodes + -nodes % 64
    padding = RIGHT.index(b"\0", 128 + nodes)
    faults = {
        f"node at {at}: {values}": put(RIGHT, 128 + at, layout, *values)
        for at, layout, *values in [
            (0, "<I", 0), (0, "<I", 13), (0, "<I", 2**32 - 1), (4, "<I", 1), (4, "<I", 2**32 - 1),
            (8, "<I", 1), (12, "<I", 1), (12, "<I", 2**32 - 1), (16, "<I", 13), (16, "<I", 15),
            (16, "<I", 2**32 - 2), (20, "<I", 1), (24, "<q", 2), (24, "<q", 2**31),
            (24, "<q", -1), (32, "<q", 9), (32, "<q", 16), (32, "<q", 0), (32, "<q", 2**62),
            (104, "<q", 1), (200, "<d", 1), (200, "<d", -0.0), (112, "<d", 1),
            (208 + 4, "<I", 2), (208 + 4, "<I", 0), (208 + 40, "<q", 1), (416 + 8, "<I", 3),
            (416 + 16, "<I", 1),
        ]
    }  # fmt: skip
    first, size = struct.unpack_from("<2q", RIGHT, arrays)
    faults |= {
        f"array: {values}": put(RIGHT, arrays, "<2q", *values)
        for values in [
            (first + 64, size), (first - 64, size), (0, size), (first, 0), (first, size - 4),
            (first, size + 64), (first, -size), (2**62, size), (0, 0), (first, 2**63 - 1),
        ]
    }  # fmt: skip
    faults["array that may not be there"] = put(RIGHT, arrays + 16 * 4, "<2q", first, 32)
    faults["behind the nodes"] = put(RIGHT, padding, "<B", 1)
    faults["behind an array"] = put(write(amplifier(5)), -1, "<B", 1)
    faults["behind all"] = put(RIGHT + bytes(64), 16, "<q", len(RIGHT) + 64)
    with_text = write(amplifier(8)._replace(text=b"abc"))
    faults["behind the text"] = put(with_text, with_text.index(b"abc") + 3, "<B", 1)
    return faults


def changed(node, **whole):
    """A node with other whole numbers: of an LSTM by name, else by place."""
    names = "layers directions H reverse general coupled layer_norm functions last".split()
    values = [*node.whole, *[0] * (9 - len(node.whole))]
    for name, value in whole.items():
        values[names.index(name) if name in names else int(name[1:])] = value
    return node._replace(whole=tuple(values))


def with_array(node, n, array):
    """A node with another array."""
    arrays = list(node.arrays)
    arrays[n] = array
    return node._replace(arrays=tuple(arrays))


def number(node, n, value):
    """A node with another number."""
    numbers = [*node.numbers, *[0.0] * (12 - len(node.numbers))]
    numbers[n] = value
    return node._replace(numbers=tuple(numbers))


def node_faults():
    """Models that cannot be, written as if they could."""
    plain, stack = lstm(0, cells(2, 6)), lstm(0, cells(2, 6, layers=2, directions=2), 2)
    clips = Options(gate_clip=1.0)
    general = lstm(0, cells(2, 6, options=clips))
    haste = lstm(0, cells(2, 6, options=Options(layer_norm="haste")))
    tflite = lstm(0, cells(2, 6, options=Options(layer_norm="tflite")))
    projected = lstm(0, cells(2, 6, 5))
    conv = convolution(0, 9, 2, 3, 4, 2, 1)
    embedding = Node(EMBEDDING, (0,), 1, 3, (5,), (), (drawn(5, 3),))
    last, one = Node(LAST, (0,), 2, 2), linear(0, 2, 2)
    lstms = {
        "layers 0": changed(plain, layers=0),
        "layers 2": changed(plain, layers=2),
        "layers 2**40": changed(plain, layers=2**40),
        "directions 0": changed(plain, directions=0),
        "directions 2": changed(plain, directions=2),
        "directions 3": changed(stack, directions=3),
        "H": changed(plain, H=7),
        "H 0": changed(plain, H=0),
        "H -6": changed(plain, H=-6),
        "H 2**62": changed(plain, H=2**62),
        "reverse 2": changed(plain, reverse=2),
        "reverse of both": changed(stack, reverse=1),
        "general 2": changed(general, general=2),
        "general 0": changed(general, general=0),
        "general 1": changed(plain, general=1),
        "coupled of a plain one": changed(plain, coupled=1),
        "coupled 3": changed(general, coupled=3),
        "norm 3": changed(general, layer_norm=3),
        "norm without gains": changed(general, layer_norm=1),
        "other norm": changed(haste, layer_norm=1),
        "no norm": changed(tflite, layer_norm=0),
        "functions": changed(general, functions=11),
        "functions of the output": changed(general, functions=11 << 16),
        "functions 2**24": changed(general, functions=1 << 24),
        "functions -1": changed(general, functions=-1),
        "the last whole number": changed(plain, last=1),
        "gate_clip 0": number(general, 0, 0.0),
        "cell_clip nan": number(general, 1, np.nan),
        "proj_clip -1": number(general, 2, -1.0),
        "alpha of sigmoid": number(general, 3, 1.0),
        "alpha inf": number(changed(general, functions=3), 3, np.inf),
        "zoneout_h": number(general, 9, 1.5),
        "zoneout_c": number(general, 10, np.nan),
        "a twelfth number": number(general, 11, 1.0),
        "no w_ih": with_array(plain, 0, None),
        "no w_hh": with_array(plain, 1, None),
        "w_hr of a plain one": with_array(plain, 3, drawn(6, 6)),
        "no w_hr": with_array(projected, 3, None),
        "peephole of a plain one": with_array(plain, 4, drawn(6)),
        "gains of a plain one": with_array(plain, 7, drawn(24)),
        "no gains": with_array(tflite, 7, None),
        "no b_c": with_array(haste, 11, None),
        "h_0": with_array(plain, 12, drawn(7)),
        "b": with_array(plain, 2, drawn(23)),
        "arrays": plain._replace(arrays=plain.arrays[:-1]),
        "more arrays": plain._replace(arrays=(*plain.arrays, None)),
    }
    others = {
        "embedding of values": [embedding],
        "rows": [changed(embedding, _0=6)],
        "linear": [with_array(one, 0, drawn(3, 2))],
        "linear without W": [with_array(one, 0, None)],
        "a whole number of a linear": [changed(one, _0=1)],
        "function 11": [changed(act(0, 2), _0=11)],
        "function 257": [changed(act(0, 2), _0=257)],
        "function -1": [changed(act(0, 2), _0=-1)],
        "alpha of relu": [number(act(0, 2), 0, 1.0)],
        "alpha of softmax": [number(act(0, 2, "softmax"), 0, 1.0)],
        "beta of elu": [number(act(0, 2, "elu", 1.0), 1, 1.0)],
        "nan of elu": [act(0, 2, "elu", np.nan)],
        "widths of an activation": [act(0, 2)._replace(O=3)],
        "widths of a sum": [linear(0, 2, 3), Node(SUM, (0, 1), 2, 2)],
        "width of a sum": [Node(SUM, (0, 0), 2, 4)],
        "width of a join": [Node(JOIN, (0, 0), 2, 2)],
        "steps of a sum": [last, Node(SUM, (0, 1), 2, 2)],
        "steps of a join": [last, Node(JOIN, (1, 0), 2, 4)],
        "mean": [with_array(scaled(STANDARDIZE, 0, 2), 0, None)],
        "scale": [with_array(scaled(RESTORE, 0, 2), 1, drawn(3))],
        "last of 3": [changed(last, _0=3)],
        "last of -1": [changed(last, _0=-1)],
        "last of one step": [last, last._replace(takes=(1,))],
        "lstm of one step": [last, plain._replace(takes=(1,))],
        "select behind the end": [Node(SELECT, (0,), 5, 3, (3,))],
        "select of 2**62": [Node(SELECT, (0,), 5, 3, (2**62,))],
        "select of -1": [Node(SELECT, (0,), 5, 3, (-1,))],
        "select of more": [Node(SELECT, (0,), 5, 6)],
        **{
            f"convolution {place} {value}": [changed(conv, **{f"_{place}": value})]
            for place, value in [
                (0, 8), (0, 0), (0, 2**31), (1, 1), (2, 5), (2, 3), (3, 2), (4, 3), (4, 2**31 - 1),
                (5, 1), (5, 0), (5, -1), (6, 0), (6, 4), (6, -1), (6, 2**62), (7, 1),
            ]
        },
        "magnitude": [Node(MAGNITUDE, (0,), 12, 6, (2, 2))],
        "magnitude of half": [Node(MAGNITUDE, (0,), 12, 12, (3, 4))],
        "magnitude 0": [Node(MAGNITUDE, (0,), 12, 6, (0, 6))],
        "magnitude 2**62": [Node(MAGNITUDE, (0,), 12, 6, (2**62, 6))],
        "a value of its own": [act(1, 2)],
        "a later value": [act(0, 2), act(9, 2)],
        "a value of another width": [linear(0, 2, 3), act(1, 2)],
        "a second value": [act(0, 2)._replace(takes=(0, 1)), act(1, 2)],
    }  # fmt: skip
    models = {name: model(node) for name, node in lstms.items()}
    models |= {name: Model(tuple(nodes), nodes[0].I) for name, nodes in others.items()}
    narrow = embedding._replace(O=1, arrays=(drawn(5, 1),))
    indices = {
        "linear of indices": [linear(0, 1, 2)],
        "sum with indices": [narrow, Node(SUM, (1, 0), 1, 1)],
        "embedding of an embedding": [narrow, embedding._replace(takes=(1,))],
    }
    models |= {name: Model(tuple(nodes), 1, indices=True) for name, nodes in indices.items()}
    models["two indices of a step"] = Model((one,), 2, indices=True)
    return models
