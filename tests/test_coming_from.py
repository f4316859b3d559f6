"""Every name of another library's LSTM, and of what is used with it, is on our page about it.

MATLAB's names are in `test_matlab.py`.
"""

import inspect
import pathlib
import re

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


def test_a_missing_name_is_seen(tmp_path):
    assert missing("torch.md", {"batch_first", "no_such_name"}) == ["no_such_name"]
