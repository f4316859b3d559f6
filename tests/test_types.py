"""What a type checker and an editor see of the package."""

import inspect
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

import fastlstm

ROOT = pathlib.Path(__file__).parents[1]

# A user's program, as it should be checked without one complaint.
RIGHT = '''
import numpy as np
import numpy.typing as npt

import fastlstm
from fastlstm.training import Adam, EarlyStopping, MSELoss, Standardizer, Windows

Array = npt.NDArray[np.floating]

lstm = fastlstm.LSTM(3, 4, num_layers=2, batch_first=True, dtype="float64", seed=0)
x = np.zeros((2, 5, 3))
output, (h_n, c_n) = lstm(x, lengths=[5, 3])
mean: float = float(output.mean() + h_n.mean())
weight: Array = lstm.weight_ih_l0
hidden: int = lstm.hidden_size
twin = fastlstm.LSTM(3, lstm.hidden_size, dtype=lstm.dtype, engine=lstm.engine)
fastlstm.LSTM(3, 4, dtype=np.float32).astype(np.float64)
(output, states), pullback = lstm.vjp(x, (h_n, c_n))
dx, (dh_0, dc_0) = pullback(output, states)
state: dict[str, Array] = lstm.state_dict()
lstm.load_state_dict(state).missing_keys.append("none")

graph = fastlstm.load("model.onnx")
if isinstance(graph, fastlstm.GraphModel):
    outputs: list[Array] = graph.run(["y"], {"x": x})
    going: fastlstm.GraphStream = graph.stream(batch_size=2)
    names = [port.name for port in graph.inputs]

trace: fastlstm.visualize.Trace = fastlstm.visualize.trace(lstm, x, lengths=[5, 3])
forget: Array = trace["l1"].sequence(0).f
fastlstm.visualize.plot_gates(trace, "l1", signals="fc", path="gates.png").set_size_inches(8, 4)
which = fastlstm.visualize.attribution(lstm, x, output=(0, -1, 2), method="gradient")
share: float = which.output - which.baseline_output
fastlstm.plot.plot_history({"loss": [1.0, 0.5]})

stream = lstm.stream(batch_size=2)
y: Array = stream.step(x[:, 0])
stream.step(x[:, 0], out=y)
h, c = stream.state
stream.reset(np.array([True, False]))

packed = fastlstm.pack_sequence([np.ones((2, 3)), np.ones((1, 3))])
packed_output, _ = lstm(packed)
sizes: list[int] = packed_output.batch_sizes.tolist()

model = fastlstm.Sequential(
    {"lstm": fastlstm.LSTM(1, 8, batch_first=True), "last": fastlstm.Last()}
)
model.eval().freeze("lstm.*")
first: fastlstm.Layer = model[0]
part: fastlstm.Sequential = model[:1]
probabilities: Array = fastlstm.Softmax()(output)

series = np.sin(np.arange(200.0))
scale = Standardizer.fit(series)
data = Windows(series, 20, horizon=1, standardizer=scale, flat=True)
history = fastlstm.fit(
    model, data, MSELoss(), Adam(model, lr=1e-3), epochs=2, batch_size=8,
    callbacks=[EarlyStopping(patience=1)],
)
loss: float = history["loss"][-1]
prediction: Array = fastlstm.predict(model, data)

fastlstm.save(model, "model.npz")
loaded: fastlstm.Layer = fastlstm.load("model.npz", dtype="float32")
reason = fastlstm.engine_info()["numpy"]["available"]


class Doubled(fastlstm.Layer):
    """A user's own layer."""

    weight: Array

    def __init__(self) -> None:
        super().__init__({"weight": (1,)})

    def forward(self, input: Array, *, lengths: npt.ArrayLike | None = None) -> Array:
        return 2 * input * self.weight


fastlstm.Sequential(fastlstm.Linear(2, 2), Doubled())
'''

# Calls that must be flagged, each on a line of its own.
WRONG = """
import numpy as np

import fastlstm
from fastlstm.training import Adam, MSELoss

lstm = fastlstm.LSTM("3", 4)  # wrong
fastlstm.LSTM(3, 4, layers=2)  # wrong
fastlstm.LSTM(3, 4, 1, True, False, 0.0, False, 0, "float32")  # wrong
fastlstm.LSTM(3, 4, dtype="float16")  # wrong
fastlstm.LSTM(3, 4, engine="abacus")  # wrong
output, h_n, c_n = fastlstm.LSTM(3, 4)(np.zeros((5, 2, 3)))  # wrong
fastlstm.LSTM(3, 4).stream(batch_size="2")  # wrong
fastlstm.Linear(3)  # wrong
fastlstm.Sequential(fastlstm.Linear(3, 3), "linear")  # wrong
fastlstm.Adam  # wrong
fastlstm.engines()  # wrong
Adam(fastlstm.Linear(3, 3), lr="high")  # wrong
fastlstm.fit(fastlstm.Linear(3, 3), (np.zeros(3), np.zeros(3)), MSELoss(), epochs=2)  # wrong
fastlstm.load("model.npz", batchfirst=True)  # wrong
size: str = fastlstm.LSTM(3, 4).hidden_size  # wrong
"""


def _flagged(folder, name, program):
    """The numbers of the lines that mypy complains of, and what it says."""
    path = folder / f"{name}.py"
    path.write_text(program)
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--follow-imports=silent",
        "--config-file=",
        str(path),
    ]
    run = subprocess.run(
        [*command, f"--cache-dir={folder}"], cwd=folder, env={"MYPYPATH": str(ROOT)},
        capture_output=True, text=True,
    )  # fmt: skip
    found = re.findall(rf"^{path.name}:(\d+): error: .*", run.stdout, re.M)
    elsewhere = [line for line in run.stdout.splitlines() if "error:" in line and name not in line]
    assert not elsewhere and not run.stderr, run.stdout + run.stderr
    return {int(line) for line in found}, run.stdout


@pytest.mark.slow
def test_a_users_program_is_checked(tmp_path):
    pytest.importorskip("mypy", reason="checks types")
    flagged, said = _flagged(tmp_path, "right", RIGHT)
    assert not flagged, said
    flagged, said = _flagged(tmp_path, "wrong", WRONG)
    expected = {n for n, line in enumerate(WRONG.splitlines(), 1) if line.endswith("# wrong")}
    assert flagged == expected, said


def test_the_package_says_that_it_has_types():
    assert (pathlib.Path(fastlstm.__file__).parent / "py.typed").is_file()


def _functions():
    """Every public function and method of the package, as (name, function)."""
    for package in (fastlstm, fastlstm.training):
        for name in package.__all__:
            thing = getattr(package, name)
            if inspect.isfunction(thing):
                yield name, thing
            elif inspect.isclass(thing):
                for attribute, value in vars(thing).items():
                    function = getattr(value, "fget", None) or getattr(value, "__func__", value)
                    if inspect.isfunction(function) and (
                        attribute == "__init__" or attribute[0] != "_"
                    ):
                        yield f"{name}.{attribute}", function


FUNCTIONS = dict(_functions())


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_argument_and_result_has_a_type(name):
    signature = inspect.signature(FUNCTIONS[name])
    untyped = [
        argument.name
        for argument in signature.parameters.values()
        if argument.annotation is argument.empty and argument.name not in ("self", "cls")
    ]
    assert not untyped and signature.return_annotation is not signature.empty


def test_an_editor_sees_parameters_and_layers():
    model = fastlstm.Sequential({"lstm": fastlstm.LSTM(3, 4), "fc": fastlstm.Linear(4, 1)})
    assert {"lstm", "fc", "state_dict"} <= set(dir(model))
    assert {"weight_ih_l0", "bias_hh_l0", "hidden_size", "stream"} <= set(dir(model.lstm))


@pytest.mark.parametrize("engine", ["native", "numba", "numpy"])
def test_help_of_a_streams_step_shows_the_method(engine):
    try:
        stream = fastlstm.LSTM(3, 4, engine=engine).stream()
    except ImportError as error:
        pytest.skip(str(error))
    assert inspect.getdoc(stream.step) == inspect.getdoc(fastlstm.Stream.step)
    assert list(inspect.signature(stream.step).parameters) == ["x", "out"]
    assert stream.step(np.ones((1, 3), np.float32), out=None).shape == (1, 4)
