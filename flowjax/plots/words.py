"""Texts side by side."""

import os
from collections.abc import Mapping, Sequence

from flowjax import typing
from flowjax.plots import canvas

ROW, LETTER, HEAD = 18, 9, 40  # pixels of a line, of a letter and above the first line


def word_grid(
    path: str | os.PathLike | None,
    columns: Mapping[str, Sequence[str]],
    title: str | None = None,
    marked: Sequence[str] = (),
) -> canvas.Picture:
    """Columns of words: `{"data": [...], "1 step": [...], "4 steps": [...]}`.

    Args:
      path: the PNG file; None: none, the picture is only returned.
      columns: heading -> words, as many as are to be seen.
      title: the line above everything.
      marked: words that are drawn in colour, those that exist for example; the others are grey. (): all alike.

    Raises:
      InputError: if there is no word.
    """
    if not columns or not all(columns.values()):
        raise typing.InputError("word_grid: a column has no words; expected {heading: words}.")
    widths = [LETTER * max(map(len, (name, *words))) + 36 for name, words in columns.items()]
    head = HEAD + (28 if title else 0)
    full_width = max(sum(widths) + 24, LETTER * len(title or "") + 48)
    full_height = head + ROW * max(map(len, columns.values())) + 16
    fig = canvas.Picture((full_width / canvas.DPI, full_height / canvas.DPI), dpi=canvas.DPI)
    # In points of the picture, from its upper left corner. Notebooks show no figure without axes.
    ax = fig.add_axes((0, 0, 1, 1), xlim=(0, full_width), ylim=(full_height, 0))
    ax.set_axis_off()
    ax.plot((16, full_width - 16), (head - 4, head - 4), color="0.8", linewidth=0.8)
    known, left = set(marked), 24
    for (name, words), width in zip(columns.items(), widths, strict=True):
        ax.text(left, head - 12, name, fontsize=11, color=canvas.INK)
        for number, word in enumerate(words):
            colour = canvas.INK if not known else canvas.BLUE if word in known else "0.6"
            ax.text(left, head + ROW * (number + 0.7), word, fontsize=10, family="monospace", color=colour)
        left += width
    if title:
        ax.text(full_width / 2, 10, title, ha="center", va="top", fontsize=13, color=canvas.INK)
    return canvas.write(fig, path)
