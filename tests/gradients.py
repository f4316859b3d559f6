"""Gradients as test data: problems, finite differences, and how far rounding may take a gradient.

`Problem` is about layers; `Work` and `go_back` are about engines, through their contract alone.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from support import ACTIVATION, Guarded, draw, noise_of

import fastlstm
from fastlstm.engines import _numpy
from fastlstm.engines.contract import PLAIN, Cell, Noise
from fastlstm.sequences.packing import batch_sizes_of

# ---- layers ---------------------------------------------------------------------------------


def parts(value):
    """The arrays in what a layer or a pullback returns: of (output, (h_n, c_n)) three or more."""
    if hasattr(value, "batch_sizes"):
        return [value.data]
    return [part for v in value for part in parts(v)] if isinstance(value, tuple) else [value]


class Problem(NamedTuple):
    """A layer, all that goes into it, and the gradients of all that comes out.

    `make(engine, dtype)` gives the layer, the same one every time. `arrays` has the input as "x",
    states as "h_0" and "c_0", the gradients of the outputs as "d0", "d1", ..., and the parameters
    under their names. `options` are the run's; "packed": the input becomes a pack of its `lengths`;
    "hx": False runs `vjp` without the states, which are zeros then. Without states in `arrays` none
    are ever given.
    """

    make: object
    arrays: dict
    options: dict = {}

    def outputs(self, arrays, engine="numpy", dtype="float64"):
        """What a call gives, as a list of arrays."""
        layer, arguments, options = self.ready(arrays, engine, dtype)
        for name in ("checkpoint_every", "hx"):
            options.pop(name, None)
        return parts(layer(*arguments, **options))

    def gradients(self, arrays=None, engine="numpy", dtype="float64"):
        """What the pullback gives and adds, by the names of the `arrays`."""
        arrays = self.arrays if arrays is None else arrays
        layer, arguments, options = self.ready(arrays, engine, dtype)
        if not options.pop("hx", True):
            arguments = arguments[:1]
        y, pullback = layer.vjp(*arguments, **options)
        d = [arrays[f"d{k}"].astype(dtype) for k in range(len(parts(y)))]
        if len(d) > 3:  # states of layers of different widths
            half = 1 + len(d) // 2
            d = d[0], (d[1:half], d[half:])
        else:
            d = (d[0], d[1:]) if len(d) == 3 else (d,) if len(d) == 2 else d
        got = pullback(*d)
        if "packed" in self.options:
            dx, states = got
            got = fastlstm.pad_packed_sequence(dx, layer.batch_first)[0], states
        named = zip(("x", "h_0", "c_0"), parts(got), strict=False)
        known = {name: g for name, g in named if g is not None and name in arrays}
        return known | layer.grads

    def ready(self, arrays, engine, dtype):
        """(the layer with these parameters, the arguments of a run, its keywords)."""
        layer, options = self.make(engine, dtype), dict(self.options)
        layer.load_state_dict({name: arrays[name] for name in layer.state_dict()})
        x = arrays["x"]
        if x.dtype.kind == "f":
            x = x.astype(dtype)
        if options.pop("packed", False):
            lengths = options.pop("lengths")
            x = fastlstm.pack_padded_sequence(x, lengths, layer.batch_first, enforce_sorted=False)
        if "h_0" in arrays:
            return layer, (x, (arrays["h_0"].astype(dtype), arrays["c_0"].astype(dtype))), options
        return layer, (x,), options


def make_problem(make, x, states=None, seed=0, **options):
    """Draw what a problem needs beside its input; all values are exact in float32."""
    rng = np.random.default_rng(seed)

    def normal(shape):
        return rng.standard_normal(shape).astype(np.float32).astype(np.float64)

    layer = make("numpy", "float32")
    arrays = {"x": x.astype(np.float32).astype(np.float64) if x.dtype.kind == "f" else x}
    arrays |= {name: value.astype(np.float64) for name, value in layer.state_dict().items()}
    if states is not None:
        drawn = normal if options.get("hx", True) else np.zeros
        arrays |= {name: drawn(shape) for name, shape in zip(("h_0", "c_0"), states, strict=True)}
    problem = Problem(make, arrays, options)
    for k, output in enumerate(problem.outputs(arrays)):
        arrays[f"d{k}"] = normal(output.shape)
    return problem


_STEP = 1e-4
_ROUNDINGS = 100  # of one output, `support.tolerance` of the sums here, of less than 20 terms


def assert_derivative(problem, engine):
    """Assert that the gradients are those of the outputs: central differences in float64.

    Of f = sum of d * output, along one random direction through all inputs, states and parameters
    at once: whatever is wrong with a gradient, its product with that vanishes by a chance of
    nothing. The difference D(s) has the error s^2 f''' / 6, of which D(2s) - D(s) is thrice as
    much, and rounding's, eps times roundings times the size of f's terms, over s.
    """
    gradients, arrays = problem.gradients(engine=engine), problem.arrays
    rng = np.random.default_rng(1)
    direction = {name: rng.standard_normal(g.shape) for name, g in gradients.items()}
    size = np.sqrt(sum(np.sum(v * v) for v in direction.values()))
    d = [value for name, value in arrays.items() if name.startswith("d") and name[1:].isdigit()]
    largest = max(np.abs(y).max(initial=1) for y in problem.outputs(arrays))
    noise = np.sqrt(sum(np.sum(v * v) for v in d)) * largest * _ROUNDINGS * np.finfo(float).eps

    def off(names):
        def f(step):
            moved = {name: arrays[name] + step / size * direction[name] for name in names}
            return sum(map(np.vdot, d, problem.outputs(arrays | moved)))

        near, far = ((f(step) - f(-step)) / (2 * step) for step in (_STEP, 2 * _STEP))
        got = sum(np.vdot(gradients[name], direction[name]) / size for name in names)
        return abs(got - near) / (abs(far - near) + noise / _STEP)

    for name, gradient in gradients.items():
        assert gradient.shape == arrays[name].shape, name
    assert off(gradients) <= 1, {name: off([name]) for name in gradients}


# ---- rounding -------------------------------------------------------------------------------


def roundings(engine, terms, options=False):
    """How many roundings, of u = eps / 2 each, the parts of a sum of so many terms are off by.

    As in `support.tolerance`: a sum is off by u / 2 sqrt(terms) times the norm of its terms in the
    mean, which is what errors of so much in each of its terms would do; on the way to one output
    are four activations and five products and sums. The options add 25 of these at most: two for
    each peephole and for each alpha and beta, five for each norm, three for each zoneout.
    """
    return np.sqrt(terms) / 2 + 4 * ACTIVATION[engine] + 5 + 25 * options


def spread(function, values, draws=3):
    """(results of `function`, how far each moves if the values move): dicts, as the `values`.

    In float64: every value by a random error in proportion to the largest of its kind; the largest
    change of each result, per size of the errors. Times u and `roundings` it is what rounding does,
    to first order, wherever on the way it is done; we allow six times that, as `support.tolerance`.
    """
    size, rng, exact = 1e-6, np.random.default_rng(2), function(values)
    moves = dict.fromkeys(exact, 0.0)
    for _ in range(draws):
        moved = {
            name: v + size * np.abs(v).max(initial=0) * rng.standard_normal(v.shape)
            if v.dtype.kind == "f" else v
            for name, v in values.items()
        }  # fmt: skip
        for name, result in function(moved).items():
            moves[name] = max(moves[name], np.abs(result - exact[name]).max(initial=0) / size)
    return exact, moves


def assert_within(got, expected, moves, count, dtype):
    """Assert that each result is `expected`, but for `count` roundings; see `spread`."""
    assert got.keys() == expected.keys()
    u = float(np.finfo(dtype).eps) / 2
    for name, result in got.items():
        assert result.dtype == dtype, name
        atol = 6 * count * u * moves[name]
        np.testing.assert_allclose(result, expected[name], rtol=0, atol=atol, err_msg=name)


# ---- engines --------------------------------------------------------------------------------


def values_of(work):
    """What a work of one layer takes: weights, x, h and c, and the gradients dy, dh and dc.

    The weights have the names of a cell's arrays and the number of the direction: "w_ih0".
    """
    cells, x, h, c = draw(work)
    values = {f"{n}{k}": w for k, cell in enumerate(cells) for n, w in cell.arrays().items()}
    rng = np.random.default_rng(3)
    shapes = {"dy": (len(x), work.directions * h.shape[2]), "dh": h.shape, "dc": c.shape}
    if work.dcells:
        shapes |= {f"dcells{k}": (len(x), work.H) for k in range(work.directions)}
    drawn = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    return values | {"x": x, "h": h, "c": c} | {n: v.astype(x.dtype) for n, v in drawn.items()}


def cells_of(work, values):
    """The cells of `values_of`, one for each direction."""
    names = [field.name for field in dataclasses.fields(Cell)]
    return [
        Cell(
            **{name: values[f"{name}{k}"] for name in names if f"{name}{k}" in values},
            reverse=k == 1,
            options=work.options,
        )
        for k in range(work.directions)
    ]


def go_back(module, work, values, gap=0, every=0, threads=1, cut=None):
    """Record a work on an engine and go back; return all that it must fill, by name.

    Rows of x, y and dy lie `gap` values apart. Nothing else may be written. A work with `dcells`
    gives the gates and cells of every step too, unless there are checkpoints. `cut` is how the
    native engine must cut the way back.
    """
    cells, x = cells_of(work, values), values["x"]
    stack = module.Stack(cells, work.directions, back=True)
    if cut:
        stack.force_cuts(back=cut)
    sizes = batch_sizes_of(np.array(work.lengths))

    nothing = np.full_like(values["dy"], np.nan)
    kept = {name: Guarded(values[name], gap) for name in ("x", "dy")}
    filled = {"y": Guarded(nothing, gap), "dx": Guarded(np.full_like(x, np.nan))}
    for name in ("h", "c", "dh", "dc"):
        filled[name] = Guarded(values[name].reshape(-1, values[name].shape[2]))
    dw = []
    for k, cell in enumerate(cells):
        rooms = {n: Guarded(np.zeros_like(w).reshape(len(w), -1)) for n, w in cell.arrays().items()}
        filled |= {f"d{name}{k}": room for name, room in rooms.items()}
        shapes = {name: w.shape for name, w in cell.arrays().items()}
        dw.append(Cell(**{n: room.array.reshape(shapes[n]) for n, room in rooms.items()}))

    def array(name):
        return filled[name].array.reshape(values[name].shape)

    arguments = kept["x"].array, sizes, array("h"), array("c"), filled["y"].array
    masks, cells_and_gates = {}, {}
    if work.noise:
        masks["noise"] = [Noise(*(m.astype(x.dtype) for m in own)) for own in noise_of(work)]
    tape = stack.record(*arguments, threads, every, **masks)
    if work.dcells and not every:
        for k, (gates, cells) in enumerate(stack.saved(tape)):
            cells_and_gates |= {f"gates{k}": gates, f"cells{k}": cells}
    gradients = filled["dx"].array, dw, threads
    if work.dcells:
        gradients += ([values[f"dcells{k}"] for k in range(work.directions)],)
    stack.back(tape, kept["dy"].array, array("dh"), array("dc"), *gradients)

    for name, buffer in kept.items():
        assert buffer.array.tobytes() == values[name].tobytes(), f"{name} was written"
    for name, buffer in {**kept, **filled}.items():
        buffer.check(name)
    return {name: buffer.array for name, buffer in filled.items()} | cells_and_gates


def assert_goes_back(module, work, engine, **options):
    """Assert that each buffer which `module` fills holds what `_numpy` gives in float64."""
    values = values_of(work)
    doubled = {n: v.astype(np.float64) for n, v in values.items()}

    def truth(given):
        return go_back(_numpy, work, given, every=options.get("every", 0))

    P = work.P or work.H
    terms = max(work.I + P + 1, 4 * work.H, len(values["x"]))
    got = go_back(module, work, values, **options)
    count = roundings(engine, terms, work.options != PLAIN or work.peephole or work.noise)
    assert_within(got, *spread(truth, doubled), count, work.dtype)
