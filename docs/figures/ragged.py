"""Three sequences of different lengths: padded, and packed."""

from _style import FAINT, INK, arrow, box, canvas, text
from matplotlib.figure import Figure

COLORS = ["tab:blue", "tab:orange", "tab:green"]
LENGTHS = [5, 2, 4]
SIZE = 0.92


def draw() -> Figure:
    figure, axes = canvas(17.6, 5.2, 0.5)
    text(axes, 4.3, 4.9, "padded, with lengths=[5, 2, 4]", fontsize=12, weight="bold")
    text(axes, 13.4, 4.9, "packed: real steps only", fontsize=12, weight="bold")
    for number, (length, color) in enumerate(zip(LENGTHS, COLORS, strict=True)):
        y = 3.6 - number * SIZE
        text(axes, 1.4, y, f"sequence {number}", color, fontsize=10, ha="right")
        for step in range(max(LENGTHS)):
            real = step < length
            place(axes, 2.2 + step * SIZE, y, letter(number, step) if real else "0", color, real)
    arrow(axes, (1.8, 0.95), (6.4, 0.95), color=FAINT)
    text(axes, 4.1, 0.6, "time", FAINT)
    # Longest first; then step by step.
    order = sorted(range(3), key=lambda number: -LENGTHS[number])
    x = 9.2
    for step in range(max(LENGTHS)):
        present = [number for number in order if step < LENGTHS[number]]
        start = x
        for number in present:
            place(axes, x, 2.68, letter(number, step), COLORS[number], True, 0.68)
            x += 0.72
        middle = (start + x - 0.72) / 2
        arrow(axes, (start - 0.3, 2.0), (x - 0.42, 2.0), color=INK, head=False, width=1.2)
        text(axes, middle, 1.65, str(len(present)), fontsize=11)
        text(axes, middle, 3.4, f"step {step}", FAINT, fontsize=8.5)
        x += 0.12
    text(axes, 8.6, 1.65, "batch_sizes", fontsize=10, ha="right")
    return figure


def letter(number: int, step: int) -> str:
    return f"${'abc'[number]}_{step}$"


def place(axes, x: float, y: float, words: str, color, real: bool, width: float = 0.84) -> None:
    """Draw one step of one sequence, or the padding behind its end."""
    edge, share = (color, 0.3) if real else (FAINT, 0.0)
    box(axes, x, y, "", edge, width, 0.78, share=share, rounded=0.06)
    text(axes, x, y, words, INK if real else FAINT, fontsize=10)
