"""Every name of another library's LSTM, and of what is used with it, is on our page about it.

MATLAB's names are in `test_matlab.py`.
"""

import ast
import importlib.util
import inspect
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]


def missing(page, names):
    """Return the names that the tables of a page do not have in code, as `name`, `name(` or so."""
    text = (ROOT / "docs/coming_from" / page).read_text("utf-8")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    code = {word for row in rows for word in re.findall(r"\w+", " ".join(re.findall("`.*?`", row)))}
    return sorted(set(names) - code)


def arguments(callable_):
    names = set(inspect.signature(callable_).parameters)
    return names - {"self", "args", "kwargs", "_weight", "_freeze"}


def public(module):
    return {name for name in vars(module) if not name.startswith("_")}


def test_torch(torch):
    nn, rnn = torch.nn, torch.nn.utils.rnn
    lstm = nn.LSTM(3, 4, proj_size=2)
    names = arguments(nn.LSTMCell) | {"num_layers", "batch_first", "dropout", "bidirectional"}
    names |= {name for name in {*dir(lstm), *vars(lstm)} if not name.startswith("_")}
    names |= set(rnn.__all__) | arguments(torch.utils.data.DataLoader)
    for module in (nn.Linear, nn.Embedding, nn.Dropout):
        names |= arguments(module)
    for name in ("SGD", "RMSprop", "Adam", "AdamW"):
        names |= arguments(getattr(torch.optim, name)) | {name}
    names |= {name for name in public(torch.optim) if name[0].isupper()} - {"Optimizer"}
    names |= set(torch.optim.lr_scheduler.__all__) - {"LRScheduler"}
    losses = nn.MSELoss, nn.HuberLoss, nn.CrossEntropyLoss, nn.BCEWithLogitsLoss, nn.NLLLoss
    for loss in losses:
        names |= (arguments(loss) | {loss.__name__}) - {"size_average", "reduce"}  # deprecated
    assert missing("torch.md", names) == []


def test_onnx():
    defs = pytest.importorskip("onnx").defs
    schema = defs.get_schema("LSTM")
    names = {*schema.attributes} | {value.name for value in [*schema.inputs, *schema.outputs]}
    assert missing("onnx.md", names) == []


def test_onnxruntime():
    runtime = pytest.importorskip("onnxruntime")
    names = public(runtime.InferenceSession) | public(runtime.SessionOptions)
    names |= {name for name in dir(runtime.InferenceSession) if not name.startswith("_")}
    assert missing("onnx.md", names) == []


def keras_arguments(path, method):
    """Return the arguments of a method that a file of Keras defines, without importing Keras."""
    spec = importlib.util.find_spec("keras")
    if spec is None:
        pytest.skip("reads Keras' sources, which are not installed")
    text = (pathlib.Path(spec.origin).parent / "src" / path).read_text("utf-8")
    found = [
        {argument.arg for argument in [*node.args.args, *node.args.kwonlyargs]}
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef) and node.name == method
    ]
    assert found
    return set().union(*found) - {"self"}


@pytest.mark.parametrize(
    "path, method",
    [
        ("layers/rnn/lstm.py", "__init__"),
        ("layers/rnn/lstm.py", "call"),
        ("layers/rnn/bidirectional.py", "__init__"),
        ("layers/rnn/time_distributed.py", "__init__"),
        ("layers/core/masking.py", "__init__"),
        ("layers/core/embedding.py", "__init__"),
        ("layers/core/dense.py", "__init__"),
        ("layers/regularization/dropout.py", "__init__"),
        ("trainers/trainer.py", "compile"),
        ("trainers/trainer.py", "fit"),
        ("callbacks/early_stopping.py", "__init__"),
        ("callbacks/model_checkpoint.py", "__init__"),
        ("callbacks/reduce_lr_on_plateau.py", "__init__"),
        ("optimizers/adam.py", "__init__"),
        ("optimizers/rmsprop.py", "__init__"),
        ("optimizers/sgd.py", "__init__"),
    ],
)
def test_keras(path, method):
    names = keras_arguments(path, method) - {"states", "inputs"}  # of a cell
    assert missing("keras.md", names) == []


def test_a_missing_name_is_seen(tmp_path):
    assert missing("torch.md", {"batch_first", "no_such_name"}) == ["no_such_name"]
