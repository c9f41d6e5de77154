"""Tables of results, as Markdown to read and as CSV to load."""

import csv
import io
import os


def markdown(rows):
    """Rows, dicts with the same keys of names and numbers, as a Markdown table."""
    names = list(rows[0])
    shown = [[row[n] if isinstance(row[n], str) else f"{row[n]:.4g}" for n in names] for row in rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (names, ["---"] * len(names), *shown))


def write(path, rows, about, shown=None):
    """Writes rows, dicts with the same keys of names and numbers, as PATH.md (under a line `about` them) and PATH.csv.

    `shown` are the rows of the Markdown, if others. Returns the Markdown.
    """
    text = about + "\n\n" + markdown(shown or rows) + "\n"
    write_csv(path.with_name(f"{path.name}.csv"), rows)
    write_text(path.with_name(f"{path.name}.md"), text)
    return text


def write_csv(path, rows):
    """Writes rows, dicts with the same keys, as CSV."""
    numbers = io.StringIO(newline="")
    writer = csv.DictWriter(numbers, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, numbers.getvalue())


def write_text(path, text):
    """Writes a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(text, newline="")
    os.replace(temporary, path)
