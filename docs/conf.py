"""The documentation site: `make docs` builds it, with warnings as errors; it works from a folder, without a network."""

import os
import pathlib
import sys

os.environ.setdefault("JAX_PLATFORMS", "cpu")
DOCS = pathlib.Path(__file__).parent
sys.path[:0] = [str(DOCS.parent), str(DOCS / "_ext")]

import api_pages  # noqa: E402
import docstrings  # noqa: E402
import notebook_pages  # noqa: E402

import flowjax  # noqa: E402

project = "flowjax"
author = copyright = "The flowjax authors"
version = release = flowjax.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton", "formulas", "method_sections", "commands_table"]
exclude_patterns = ["_ext", "_static"]
html_theme = "furo"
html_title = "flowjax"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_show_sphinx = False
html_copy_source = False
html_theme_options = {"footer_icons": [], "top_of_page_buttons": []}
pygments_style, pygments_dark_style = "friendly", "native"
copybutton_prompt_text = ">>> "
myst_enable_extensions = ["dollarmath", "attrs_inline", "attrs_block", "colon_fence", "deflist"]
myst_heading_anchors = 3
myst_links_external_new_tab = False
autodoc_preserve_defaults = True
autodoc_typehints = "signature"
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"
maximum_signature_line_length = 100
# Lexers that do not know a shell command keep it as it is.
highlight_language = "text"
smartquotes = False

# Titles of pages that scripts write as a table and a sentence.
TITLES = {
    "attention_cost": "Cost of attention",
    "attention_kernels": "Fused kernels, compiled ahead of time",
    "attention_step": "Training steps, compiled ahead of time",
    "guidance_digits": "Guidance on digits",
    "jvp_accuracy": "Error of derivatives",
    "jvp_cost": "Cost of derivatives",
    "jvp_training": "MeanFlow trained with differences",
    "landscape_checkerboard": "All methods on the checkerboard",
    "landscape_digits": "Ten methods on the digits",
    "measures_cost": "Measures beside libraries",
    "method_costs": "Cost of every method",
    "rules_checkerboard": "Errors of the rules",
}


# Pages that are listed where they exist.
OPTIONAL = ("results", "deviations", "security")


def setup(app):
    api_pages.write(DOCS / "api")
    notebook_pages.write(DOCS.parent / "notebooks", DOCS / "notebooks")
    names = {module.__name__.rpartition(".")[2] for module in api_pages.modules()}

    def processed(app, what, name, obj, options, lines):
        lines[:] = docstrings.rst("\n".join(lines), names)

    def titled(app, page, source):
        if page in TITLES and not source[0].startswith("# "):
            source[0] = f"# {TITLES[page]}\n\n{source[0]}"
        for optional in OPTIONAL:
            if page == "index" and not (DOCS / f"{optional}.md").exists():
                source[0] = source[0].replace(f"\n{optional}\n", "\n")

    app.add_config_value("page_titles", TITLES, "env")  # a new title builds all pages anew
    app.connect("autodoc-process-docstring", processed)
    app.connect("source-read", titled)
