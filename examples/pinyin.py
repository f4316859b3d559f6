"""Chinese text to pinyin: fastlstm runs the trained network of g2pM.

Many Chinese characters have one reading, which a dictionary gives. Others depend on the sentence
(行 is xíng, "walk", or háng, "row, trade"), and a network chooses: an embedding, an LSTM in both
directions and two linear layers. The dictionary, vocabulary and weights come from the package g2pM
(Park and Lee, Interspeech 2020), and every reading is compared with that of its own NumPy code.

    pip install --no-deps g2pM==0.1.2.5
    python examples/pinyin.py
    python examples/pinyin.py 银行行长行走在路上 重庆的重要会议
"""

import argparse
import itertools
import os
import pickle
import shutil
import statistics
import sys
import time
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

# One thread for both sides: NumPy reads its variable when it is imported, fastlstm when a layer is
# built.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("FASTLSTM_NUM_THREADS", "1")

import numpy as np

import fastlstm

NATURAL = """
她在银行工作，每天步行上班。
重庆的会议很重要。
飞机降落以后，敌人投降了。
他的音乐让大家很快乐。
大家都去了首都北京，他还没有去。
然而，他红了20年以后，他竟退出了大家的视线。
银行行长行走在重庆的银行门前。
这位校长说，孩子的头发又长长了。
他快乐地听音乐，还学着弹弦乐。
朝阳区的人朝东看，等着朝阳升起。
我还没有把那20本书还给图书馆。
他得了第一名，跑得很快，还得再练习。
这种花种在哪里？种子从哪里来？
重要的事情，老师又重复了三遍。
医生说她看中了病，一发就中。
他们调查了空调的价格，又调整了计划。
天空中没有空位，我今天没空。
好学生都好学，也爱好运动。
他背着书包，把课文背下来了。
大夫说，要先量体温，再看药的分量。
为什么他愿意为人民服务？因为他喜欢。
中间的两张照片相似，互相间隔一米。
小明数了数，数学书一共有12本。
他一只脚踩着了火，着急得睡不着觉。
曾先生曾经住在曾家村，姓单的邻居很简单。
这个角色由一位女演员担任，她扮演主角。
他把钉子钉在墙上，把衣服缝好，缝很小。
参加会议的人参差不齐，人参很贵。
铺子里铺着地毯，店铺老板难得一笑，遇难的人得救了。
他用GPS和iPhone导航，走了3.5公里，到了！
差不多每次出差，他都差一点儿误了火车。
旅行社的女职员绿色的行李箱丢了。
""".split()
POOLS = "，。！？、；：“”《》（）…—0123456789%,.!?-ABCDEFGxyzGPT αβ한の🙂\t"


class Pinyin:
    """Reads sentences with the dictionary and vocabulary of `package` and the weights of `state`.

    Parameters
    ----------
    package : g2pM.G2pM
        Gives `cedict` (character -> its readings), `char2idx` (character -> row of the embedding)
        and `idx2class` (output of the network -> reading).
    state : dict of str to numpy.ndarray
        The trained parameters, under torch's names.
    """

    def __init__(self, package: Any, state: dict[str, np.ndarray]) -> None:
        characters, features = state["embedding.weight"].shape
        hidden = state["lstm.weight_hh_l0"].shape[1]
        classes, narrow = state["logit_layer.2.weight"].shape
        self.package = package
        self.model = fastlstm.Sequential(
            {
                "embedding": fastlstm.Embedding(characters, features),
                "lstm": fastlstm.LSTM(features, hidden, batch_first=True, bidirectional=True),
                "logit_layer": fastlstm.Sequential(
                    fastlstm.Linear(2 * hidden, narrow),
                    fastlstm.ReLU(),
                    fastlstm.Linear(narrow, classes),
                ),
            }
        )
        self.model.load_state_dict(state)
        self.model.eval()
        self.encoder = self.model[:2]

    def __call__(self, sentences: Sequence[str]) -> list[list[str]]:
        """Return a reading for each character of each sentence; all sentences run in one batch."""
        readings = [list(sentence) for sentence in sentences]
        unsure = []
        for row, sentence in enumerate(sentences):
            for column, character in enumerate(sentence):
                known = self.package.cedict.get(character, [character])
                readings[row][column] = known[0]
                if len(known) > 1:
                    unsure.append((row, column))
        if not unsure:
            return readings

        ids, lengths = self._encode(sentences)
        hidden = self.encoder(ids, lengths=lengths)  # (B, T, 2 H)
        row, column = np.array(unsure).T
        chosen = self.model.logit_layer(hidden[row, column + 1]).argmax(
            axis=1
        )  # +1: behind the start mark
        for (row, column), index in zip(unsure, chosen, strict=True):
            readings[row][column] = self.package.idx2class[index]
        return readings

    def _encode(self, sentences: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return rows of the embedding (B, T), padded, and the lengths (B,)."""
        index = self.package.char2idx
        start, end, unknown = index["시"], index["끝"], index["<UNK>"]  # the package's own marks
        lengths = np.array([len(sentence) + 2 for sentence in sentences])
        ids = np.full((len(sentences), lengths.max()), index["<PAD>"])
        for row, sentence, length in zip(ids, sentences, lengths, strict=True):
            row[:length] = [start, *(index.get(c, unknown) for c in sentence), end]
        return ids, lengths


def load() -> tuple[Any, dict[str, np.ndarray]]:
    """Return g2pM's own converter and its trained parameters."""
    try:
        import g2pM
    except ImportError:
        sys.exit(
            "pinyin.py needs the package that carries the trained network: "
            "pip install --no-deps g2pM==0.1.2.5"
        )
    # A pickle can run code. This one is part of a package whose code runs here anyway. Read a file
    # of unknown origin with fastlstm.load, which runs no code from it.
    with open(Path(g2pM.__file__).with_name("np_ckpt.pkl"), "rb") as file:
        return g2pM.G2pM(), pickle.load(file)


def varied(package: Any, count: int, seed: int = 0) -> list[str]:
    """Return `count` sentences of 3 to 60 random characters.

    The sentences mean nothing, but have characters of every kind: common and rare ones, some that
    the package does not know, those with several readings, punctuation, digits, Latin and other
    scripts.
    """
    common = [c for c in package.char2idx if c in package.cedict][:1000]  # in order of frequency
    several = [c for c, readings in package.cedict.items() if len(readings) > 1]
    pools = common, several, list(package.cedict), POOLS
    rng = np.random.default_rng(seed)
    return [
        "".join(
            pools[kind][rng.integers(len(pools[kind]))]
            for kind in rng.choice(4, size=rng.integers(3, 61), p=[0.45, 0.35, 0.1, 0.1])
        )
        for _ in range(count)
    ]


def check(sentences: Sequence[str], readings: list[list[str]], expected: list[list[str]]) -> None:
    """Raise AssertionError at the first reading that differs from the package's own."""
    for sentence, ours, theirs in zip(sentences, readings, expected, strict=True):
        if ours != theirs:
            at = [a == b for a, b in zip(ours, theirs, strict=True)].index(False)
            raise AssertionError(
                f"{sentence[at]} (character {at + 1} of {sentence}): "
                f"g2pM reads {theirs[at]}, fastlstm {ours[at]}"
            )


def with_tone_mark(reading: str) -> str:
    """Return a reading with its tone as an accent: ``lu:4`` -> ``lǜ``, ``hou4`` -> ``hòu``."""
    syllables = []
    for syllable in reading.replace("u:", "ü").split():
        letters, tone = syllable[:-1], syllable[-1]
        if tone in "12345":
            # The accent stands on a or e, on the o of ou, or else on the last vowel.
            spots = [letters.find("a"), letters.find("e"), letters.find("ou")]
            spots.append(max(letters.rfind(vowel) for vowel in "iouü"))
            at = next((spot for spot in spots if spot >= 0), 0) + 1
            accent = ("\u0304", "\u0301", "\u030c", "\u0300", "")[int(tone) - 1]
            syllable = unicodedata.normalize("NFC", letters[:at] + accent + letters[at:])
        syllables.append(syllable)
    return " ".join(syllables)


def show(sentence: str, readings: list[str], package: Any) -> None:
    """Print a sentence under its pinyin; * marks the readings that the network chose."""
    columns = []
    pairs = zip(sentence, readings, strict=True)
    for short, group in itertools.groupby(pairs, key=lambda pair: len(pair[1]) == 1):
        group = list(group)
        if short:  # digits, letters and punctuation are kept together, as g2pM does
            columns.append(tuple("".join(row) for row in zip(*group, strict=True))[::-1])
            continue
        for character, reading in group:
            star = "*" if len(package.cedict[character]) > 1 else ""
            columns.append((with_tone_mark(reading) + star, character))

    available = shutil.get_terminal_size().columns
    above = below = ""
    for upper, lower in columns:
        size = max(width(upper), width(lower)) + 1
        if width(above) + size > available:
            print(above.rstrip(), below.rstrip(), sep="\n")
            above = below = ""
        above += upper + " " * (size - width(upper))
        below += lower + " " * (size - width(lower))
    print(above.rstrip(), below.rstrip(), sep="\n", end="\n\n")


def width(text: str) -> int:
    """Return the columns that a text takes in a terminal: a Chinese character takes two."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def seconds(function: Callable[[], object]) -> float:
    """Return how long a call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main(arguments: list[str] | None = None) -> None:
    """Print the pinyin of sentences, check all readings, and print the times."""
    parser = argparse.ArgumentParser(description="Chinese text in, pinyin out.")
    parser.add_argument("sentences", nargs="*", help="Chinese text (default: some of ours)")
    words = parser.parse_args(arguments).sentences
    start = time.perf_counter()
    package, state = load()
    pinyin = Pinyin(package, state)
    loading = time.perf_counter() - start
    shown = words or NATURAL[:6]
    first_call = seconds(lambda: pinyin(shown))
    for sentence, readings in zip(shown, pinyin(shown), strict=True):
        show(sentence, readings, package)

    sentences = [*words, *NATURAL, *varied(package, 220)]

    def by_package() -> list[list[str]]:
        return [package(sentence, char_split=True) for sentence in sentences]

    def one_by_one() -> list[list[str]]:
        return [pinyin([sentence])[0] for sentence in sentences]

    def in_one_batch() -> list[list[str]]:
        return pinyin(sentences)

    # The check also warms up all three. Then they are timed in turn, on the same sentences.
    expected = by_package()
    check(sentences, one_by_one(), expected)
    check(sentences, in_one_batch(), expected)
    chosen = sum(len(package.cedict.get(c, ())) > 1 for sentence in sentences for c in sentence)
    print(f"{len(sentences)} sentences, {sum(map(len, sentences)):,} characters: all readings are")
    print(f"g2pM's own, the {chosen:,} that the network chooses (marked * above) among them.\n")

    ways = {
        "g2pM's NumPy code, one by one": by_package,
        "fastlstm, one by one": one_by_one,
        "fastlstm, in one batch": in_one_batch,
    }
    rounds = [[seconds(way) for way in ways.values()] for _ in range(3)]
    base, *_ = medians = [statistics.median(times) for times in zip(*rounds, strict=True)]
    print(f"{'median of 3, on one thread':30}  {'all':>9}  {'a sentence':>10}")
    for name, median in zip(ways, medians, strict=True):
        each = median / len(sentences)
        print(f"{name:30} {median * 1e3:7.1f} ms {each * 1e3:8.3f} ms {base / median:8.1f} x")
    lstm = pinyin.model.children["lstm"]
    print(f"Engine {lstm.engine}; loading took {loading * 1e3:.0f} ms and the first call, which")
    print(f"may compile, {first_call * 1e3:.0f} ms: neither is in the figures above.")


if __name__ == "__main__":
    try:
        main()
        sys.stdout.flush()
    except BrokenPipeError:  # nobody reads the rest of the output any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
