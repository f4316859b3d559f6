"""A tagger in torch, trained with and without the one line that makes it faster.

The tagger colours Python code, as an editor does: it says of every character whether it belongs to
a comment, a string, a number, a keyword or to the rest. A quote far to the left or to the right can
decide that, so the model is an embedding, an LSTM in both directions and a linear layer. The texts
are functions of Python's own standard library, of 10 to 400 characters, and `tokenize` tells what
is right. They are packed, as torch does with sequences of many lengths: nothing is padded.

    pip install ".[torch]"
    python examples/torch_tagger.py
    python examples/torch_tagger.py --both 5 --more 95

There are two models with the same weights, and one line that is not torch: it calls
`fastlstm.torch.accelerate` on one of them. Both are trained on the same batches, in turn: their
losses are the same but for rounding, their times are not. Then the fast one goes on, and colours a
line of code. On one thread the program takes half a minute, most of which the plain model needs for
15 updates.
"""

import argparse
import ast
import copy
import io
import keyword
import statistics
import sysconfig
import textwrap
import time
import tokenize
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import PackedSequence, pack_sequence, unpack_sequence

import fastlstm.torch

Function = tuple[torch.Tensor, torch.Tensor]  # codes of characters (T,), and the tag of each (T,)

TAGS = ["rest", "comment", "string", "number", "keyword"]
SHORTEST, LONGEST = 10, 400  # characters of a function
TRAIN, TEST = 2_000, 200  # functions
BATCH, FEATURES, HIDDEN = 64, 32, 64
PLAIN, FAST = "torch.nn.LSTM", "fastlstm.torch"
LINES = "def area(r=2.5):  # it's a circle\n    return 3.14 * r**2 if r else '#no'"


def load() -> list[Function]:
    """Return functions of the standard library, module by module, the modules in a random order.

    So the last functions, which are for the test, come from modules that are not trained on.
    """
    functions: list[Function] = []
    modules = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    for number in np.random.default_rng(0).permutation(len(modules)):
        source = modules[number].read_text("utf-8")
        lines = source.split("\n")
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef):
                code = textwrap.dedent("\n".join(lines[node.lineno - 1 : node.end_lineno]))
                if SHORTEST <= len(code) <= LONGEST and code.isascii():
                    functions.append((characters(code), torch.from_numpy(tags(code))))
        if len(functions) >= TRAIN + TEST:
            return functions[: TRAIN + TEST]
    raise SystemExit("torch_tagger.py needs the source of Python's standard library")


def characters(code: str) -> torch.Tensor:
    """Return the numbers of the characters of an ASCII text, each from 0 to 127."""
    return torch.tensor(list(code.encode("ascii")))


def tags(code: str) -> np.ndarray:
    """Return for every character of Python code which of the TAGS it has, by Python's tokenizer."""
    begins = np.cumsum([0] + [len(line) for line in code.splitlines(keepends=True)])
    found = np.zeros(len(code), np.int64)
    for token in tokenize.generate_tokens(io.StringIO(code).readline):
        kind = tokenize.tok_name[token.type].lower()  # "fstring_start" is one, from Python 3.12 on
        if keyword.iskeyword(token.string):
            kind = "keyword"
        for tag, name in enumerate(TAGS):
            if name in kind:
                (row, column), (end_row, end_column) = token.start, token.end
                found[begins[row - 1] + column : begins[end_row - 1] + end_column] = tag
    return found


class Tagger(torch.nn.Module):
    """Scores of the TAGS for each character of packed texts."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(128, FEATURES)
        self.lstm = torch.nn.LSTM(FEATURES, HIDDEN, bidirectional=True)
        self.linear = torch.nn.Linear(2 * HIDDEN, len(TAGS))

    def forward(self, texts: PackedSequence) -> PackedSequence:
        """Return scores, (5,) for each character."""
        hidden, _ = self.lstm(texts._replace(data=self.embedding(texts.data)))
        return hidden._replace(data=self.linear(hidden.data))


def pack(sequences: Sequence[torch.Tensor]) -> PackedSequence:
    """Return sequences of different lengths in torch's form, which has no padding."""
    return pack_sequence(sequences, enforce_sorted=False)


def update(
    model: Tagger, optimizer: torch.optim.Optimizer, batch: Sequence[Function]
) -> tuple[float, float]:
    """Train on a batch; return its loss, and the seconds that this took."""
    texts, truth = (pack(part) for part in zip(*batch, strict=True))
    begin = time.perf_counter()
    optimizer.zero_grad()
    loss = torch.nn.functional.cross_entropy(model(texts).data, truth.data)
    loss.backward()
    optimizer.step()
    return loss.item(), time.perf_counter() - begin


@torch.no_grad()
def classify(model: Tagger, texts: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return the tag of each character (T,) of each text, by the model."""
    return [scores.argmax(dim=1) for scores in unpack_sequence(model(pack(texts)))]


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Train, print, and return losses and seconds of each way's updates, and the accuracy."""
    parser = argparse.ArgumentParser(description="A tagger in torch, with and without fastlstm")
    parser.add_argument("--both", type=int, default=15, help="updates of both models (15)")
    parser.add_argument("--more", type=int, default=285, help="more of the fast one (285)")
    options = parser.parse_args(arguments)

    functions = load()
    train, test = functions[:TRAIN], functions[TRAIN:]

    torch.manual_seed(0)
    model = Tagger()
    models = {PLAIN: model, FAST: copy.deepcopy(model)}
    fastlstm.torch.accelerate(models[FAST])  # the line

    optimizers = {way: torch.optim.Adam(models[way].parameters(), lr=0.01) for way in models}
    losses: dict[str, list[float]] = {way: [] for way in models}
    seconds: dict[str, list[float]] = {way: [] for way in models}
    rng = np.random.default_rng(0)
    print(f"update   loss with {PLAIN}   with {FAST}")
    for number in range(1, options.both + options.more + 1):
        batch = [train[k] for k in rng.choice(TRAIN, BATCH, replace=False)]
        for way in [PLAIN, FAST] if number <= options.both else [FAST]:
            loss, taken = update(models[way], optimizers[way], batch)
            losses[way].append(loss)
            seconds[way].append(taken)
        if number <= options.both:
            print(f"{number:6}{losses[PLAIN][-1]:26.7f}{losses[FAST][-1]:22.7f}")
        elif number % 50 == 0:
            print(f"{number:6}{'':26}{losses[FAST][-1]:22.7f}")

    told = torch.cat(classify(models[FAST], [text for text, _ in test]))
    accuracy = (told == torch.cat([truth for _, truth in test])).double().mean().item()
    print(f"\nOf the characters of {TEST} other functions, {accuracy:.1%} are right. An example:\n")
    (told,) = classify(models[FAST], [characters(LINES)])
    marks = "".join("." if tag == 0 else TAGS[tag][0] for tag in told)
    for line in LINES.split("\n"):
        print(f"    {line}\n    {marks[: len(line)]}")
        marks = marks[len(line) + 1 :]

    print(f"\n{'':16}{'ms an update':>14}{f'loss {options.both}':>14}")
    for way in models:
        median = 1e3 * statistics.median(seconds[way][: options.both])
        print(f"{way:16}{median:14.1f}{losses[way][options.both - 1]:14.7f}")
    return {"losses": losses, "seconds": seconds, "accuracy": accuracy}


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
