"""Tables of results, as Markdown to read and as CSV to load."""

import csv
import io

from flowjax import folders


def markdown(rows):
    """A Markdown table of rows: dicts with the same keys, whose values are strings, numbers or pairs (number, its error)."""
    names = list(rows[0])
    shown = [[_cell(row[n]) for n in names] for row in rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (names, ["---"] * len(names), *shown))


def write(path, rows, about, shown=None):
    """Writes a table as PATH.md and PATH.csv.

    Args:
      path: pathlib.Path of both files, without ending.
      rows: as in `markdown`. In the CSV a pair (number, its error) has two columns.
      about: the line above the Markdown table.
      shown: rows of the Markdown table; None: `rows`.

    Returns:
      The text of the Markdown file.
    """
    text = about + "\n\n" + markdown(shown or rows) + "\n"
    write_csv(path.with_name(f"{path.name}.csv"), [_apart(row) for row in rows])
    folders.write_text(path.with_name(f"{path.name}.md"), text)
    return text


def _cell(value):
    if isinstance(value, str):
        return value
    if isinstance(value, int) and abs(value) < 10**6:
        return str(value)
    if not isinstance(value, tuple):
        return f"{value:.4g}"
    return f"{value[0]:.4g}" + (f" ± {float(f'{value[1]:.1g}'):g}" if value[1] == value[1] else "")


def _apart(row):
    """A row with each pair (number, error) as two columns."""
    flat = {}
    for name, value in row.items():
        flat |= {name: value[0], f"{name} error": value[1]} if isinstance(value, tuple) else {name: value}
    return flat


def write_csv(path, rows):
    """Writes rows, dicts with the same keys, as CSV."""
    numbers = io.StringIO(newline="")
    writer = csv.DictWriter(numbers, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    folders.write_text(path, numbers.getvalue())
