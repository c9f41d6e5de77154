"""Tables of results, as Markdown to read and as CSV to load."""

import csv


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
    path.with_name(path.name + ".md").write_text(text)
    with open(path.with_name(path.name + ".csv"), "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return text
