"""Tables of results, as Markdown to read and as CSV to load."""

import csv
import io

from flowjax import folders


def markdown(rows):
    """Rows, dicts with the same keys of names, numbers and pairs (number, its error), as a Markdown table."""
    names = list(rows[0])
    shown = [[_cell(row[n]) for n in names] for row in rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (names, ["---"] * len(names), *shown))


def write(path, rows, about, shown=None):
    """Writes rows, as in `markdown`, as PATH.md (under a line `about` them) and PATH.csv; there an error has a separate column.

    `shown` are the rows of the Markdown, if others. Returns the Markdown.
    """
    text = about + "\n\n" + markdown(shown or rows) + "\n"
    write_csv(path.with_name(f"{path.name}.csv"), [_apart(row) for row in rows])
    folders.write_text(path.with_name(f"{path.name}.md"), text)
    return text


def _cell(value):
    if isinstance(value, str):
        return value
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
