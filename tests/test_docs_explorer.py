"""The explorer of flow maps: its JavaScript computes what Python computes, and the page works in a browser."""

import base64
import json
import pathlib
import re
import shutil
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import explorer
from flowjax import methods, samplers

STATIC = pathlib.Path(__file__).parents[1] / "docs" / "_static"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
X = np.array([[0.3, -1.2], [1.5, 0.4], [-2.0, 0.1]], np.float32)


@pytest.fixture(scope="module")
def page():
    text = (STATIC / "explorer_data.js").read_text()
    return json.loads(text[text.index("{") : text.rindex("}") + 1])


def unpacked(text, network):
    """The parameters of `explorer.packed`."""
    numbers, at = np.frombuffer(base64.b64decode(text), "<f2"), 0
    widths = [2 + 2 * (1 + 2 * network["harmonics"]), *[network["width"]] * network["depth"], 2]
    params = {}
    for i, (rows, columns) in enumerate(zip(widths, widths[1:])):
        kernel, bias = numbers[at : at + rows * columns], numbers[at + rows * columns : at + (rows + 1) * columns]
        params[f"Dense_{i}"], at = {"kernel": kernel.reshape(rows, columns), "bias": bias}, at + (rows + 1) * columns
    assert at == len(numbers)
    return params


def test_the_page_has_the_networks_and_errors_that_it_needs(page):
    assert [entry["name"] for entry in page["methods"]] == list(explorer.METHODS)
    assert (STATIC / "explorer_data.js").stat().st_size < 800_000
    for entry in page["methods"]:
        assert entry["rule"] == methods.METHODS[entry["name"]].rule
        params = unpacked(entry["weights"], page["network"])
        assert explorer.packed(params) == entry["weights"]
        for rule in ("true error", "eulerian", "lagrangian", "compositional"):
            errors = np.array(entry["errors"][rule], float)
            assert errors.shape == (page["cells"],) * 2
            assert np.isnan(errors[np.triu_indices(page["cells"], 1)[::-1]]).all() and np.nanmax(errors) > 0
    near = {entry["name"]: entry["distance"]["1"] for entry in page["methods"]}
    assert all(near[name] < 0.3 * near["flow_matching"] for name in near if name != "flow_matching"), near


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed: apt-get install nodejs")
def test_javascript_lands_where_the_python_sampler_lands(page):
    script = f"""
    global.window = {{}};
    const network = require({json.dumps(str(STATIC / "explorer_network.js"))});
    require({json.dumps(str(STATIC / "explorer_data.js"))});
    const data = window.explorerData, out = {{ flow: Array.from(network.lines(data.lines, data.times, data.range).at(0)) }};
    for (const method of data.methods) {{
      const net = network.layers(method.weights, data.network);
      const run = (s, t, steps) => Array.from(network.jump(net, data.network.harmonics, {X.ravel().tolist()}, s, t, steps));
      out[method.name] = [run(1, 0, 1), run(1, 0, 4), run(0.8, 0.3, 1)];
    }}
    console.log(JSON.stringify(out));
    """
    found = json.loads(subprocess.run(["node", "-e", script], check=True, capture_output=True, text=True).stdout)
    for entry in page["methods"]:
        V = explorer.network(unpacked(entry["weights"], page["network"]))
        expected = [
            samplers.flow_map(V, jnp.asarray(X), samplers.grid(1)),
            samplers.flow_map(V, jnp.asarray(X), samplers.grid(4)),
            X + (0.3 - 0.8) * V(jnp.asarray(X), 0.8, 0.3),
        ]
        for there, here in zip(found[entry["name"]], expected):
            np.testing.assert_allclose(np.reshape(there, X.shape), here, atol=1e-4)
    landed = np.reshape(
        found["flow"], (-1, 2)
    )  # the exact flow ends on the squares of the board, but for a few points between them
    on_board = (np.abs(landed) < 2.02).all(axis=1) & (np.floor(landed).sum(axis=1) % 2 == 0)
    assert len(landed) == explorer.LINES and on_board.mean() > 0.9


DRIVER = """<script>
addEventListener("load", () => setTimeout(() => {
  const root = document.getElementById("explorer"), plane = root.querySelector(".explorer-points"), slider = root.querySelector("[name=t]");
  const shown = () => [plane.toDataURL().length, plane.width, root.dataset.landing];
  const before = shown();
  slider.value = 0.6;
  slider.dispatchEvent(new Event("input"));
  setTimeout(() => { root.dataset.seen = JSON.stringify([before, shown()]); }, 500);
}, 500));
</script></body>"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: apt-get install chromium")
def test_the_page_loads_and_a_slider_changes_the_picture(page, tmp_path):
    shutil.copytree(STATIC, tmp_path / "_static")
    body = (STATIC.parent / "_ext" / "explorer.html").read_text()
    (tmp_path / "page.html").write_text(f"<!doctype html><html><body>{body}{DRIVER}</html>")
    address = f"file://{tmp_path}/page.html#meanflow,1,0,1"
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=6000", "--dump-dom", address]
    dom = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout
    tag = re.search(r'<div id="explorer"[^>]*>', dom)[0]
    assert "data-error" not in tag and 'data-ready="yes"' in tag, tag
    read = lambda name: json.loads(re.search(rf'data-{name}="([^"]*)"', tag)[1].replace("&quot;", '"'))
    before, after = read("seen")
    assert before[:2] != after[:2] and before[1] == after[1] > 100
    V = explorer.network(unpacked(next(e["weights"] for e in page["methods"] if e["name"] == "meanflow"), page["network"]))
    numbers = np.frombuffer(base64.b64decode(page["lines"]), "<i2").reshape(-1, page["times"], 2) * (page["range"] / 32767)
    noise = jnp.asarray(numbers[:4, -1], jnp.float32)
    for landing, t in ((before[2], 0.0), (after[2], 0.6)):
        expected = noise + (t - 1) * V(noise, 1.0, t)
        np.testing.assert_allclose(np.reshape(json.loads(landing), (4, 2)), jax.device_get(expected), atol=1e-4)
