"""The notebooks as pages: docs/notebooks/NAME.md and its pictures, from the stored outputs of notebooks/*.ipynb."""

import base64
import json
import pathlib
import re


def write(notebooks: pathlib.Path, folder: pathlib.Path):
    """Writes a page for each notebook and an index into `folder`."""
    folder.mkdir(exist_ok=True)
    for path in sorted(notebooks.glob("[0-9]*.ipynb")):
        text = _page(json.loads(path.read_text()), path.stem, folder)
        target = folder / f"{path.stem}.md"
        if not target.exists() or target.read_text() != text:
            target.write_text(text)


def _page(notebook, name, folder):
    parts, pictures = [], 0
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(re.sub(r"\]\((\w+)\.ipynb\)", r"](\1.md)", source))
        elif source.strip():
            parts.append(f"```python\n{source}\n```")
        for output in cell.get("outputs", []):
            png = output.get("data", {}).get("image/png")
            if png:
                pictures += 1
                file = folder / f"{name}_{pictures}.png"
                content = base64.b64decode("".join(png))
                if not file.exists() or file.read_bytes() != content:
                    file.write_bytes(content)
                parts.append(f"![Output of the cell above]({file.name})")
            elif output.get("name") == "stdout" or "text/plain" in output.get("data", {}):
                text = "".join(output.get("text") or output["data"]["text/plain"]).rstrip()
                if text:
                    parts.append(f"````{{code-block}} text\n:class: output\n\n{text}\n````")
    return (
        "\n\n".join(parts)
        + f"\n\nThis page is [notebooks/{name}.ipynb](../../notebooks/{name}.ipynb) with its stored outputs.\n"
    )
