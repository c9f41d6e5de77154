"""Tables of results, as Markdown to read and as CSV to load."""

import csv
import io
import os


def markdown(rows):
    """Rows, dicts with the same keys of names and numbers, as a Markdown table."""
    names = list(rows[0])
    shown = [[row[n] if isinstance(row[n], str) else f"{row[n]:.4g}" for n in names] for row in rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (names, ["---"] * len(names), *shown))


def write(path, rows, about):
    """Writes rows, dicts with the same keys of names and numbers, as PATH.md (under a line `about` them) and PATH.csv.

    Returns the Markdown.
    """
    text = about + "\n\n" + markdown(rows) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    numbers = io.StringIO(newline="")
    writer = csv.DictWriter(numbers, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    for ending, content in (("csv", numbers.getvalue()), ("md", text)):  # a file appears whole or not at all
        temporary = path.with_name(f".{path.name}.{ending}")
        temporary.write_text(content, newline="")
        os.replace(temporary, path.with_name(f"{path.name}.{ending}"))
    return text
