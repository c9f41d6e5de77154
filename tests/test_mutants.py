"""The mutation run: changes are valid, the same for a seed, and noticed or listed."""

import ast
import sys

import pytest

from experiments import mutants


def test_changes_are_valid_small_and_follow_the_seed():
    result = mutants.chosen(0, 12)
    assert result == mutants.chosen(0, 12) != mutants.chosen(1, 12)
    drawn = result[len(mutants.FIXED) :]
    assert len(drawn) == 12
    assert len({mutant.path.rpartition("/")[0] for mutant in drawn}) == 4  # losses, recipes, samplers and the step
    for mutant in result:
        text = (mutants.ROOT / mutant.path).read_text()
        changed = mutant.applied(text)
        assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(text)), mutant
        assert all(list(mutants.ROOT.glob(pattern)) for pattern in mutant.tests.split()), mutant


@pytest.mark.parametrize(
    ("source", "changes"),
    [
        ("sg(x)", {"(lambda stopped: stopped)(x)"}),
        ("jnp.maximum(a, 0.5)", {"jnp.minimum(a, 0.5)", "jnp.maximum(a, 0.625)"}),
        ("V(x, s, t)", {"V(x, t, s)"}),
        ("(a + b) * c", {"(a - b) * c", "(a + b) / c"}),
        ("a if b < c else 1", {"a if b <= c else 1"}),
    ],
)
def test_what_is_changed(source, changes, tmp_path, monkeypatch):
    (tmp_path / "f.py").write_text(f'def f():\n    """1.5 + x"""\n    return {source}\n')
    monkeypatch.setattr(mutants, "ROOT", tmp_path)
    text = (tmp_path / "f.py").read_text()
    result = {mutant.applied(text).splitlines()[-1].removeprefix("    return ") for mutant in mutants.mutants("f.py", "")}
    assert result == changes


@pytest.mark.parametrize(("body", "noticed"), [("2.0", "test_f.py::test_f"), ("1.0", "ALIVE")])
def test_a_change_is_noticed_or_alive_and_taken_back(body, noticed, tmp_path):
    (tmp_path / "f.py").write_text("def f():\n    return 2.0\n")
    (tmp_path / "test_f.py").write_text(f"import f\n\n\ndef test_f():\n    assert f.f() >= {body}\n")
    before = (tmp_path / "f.py").read_text()
    mutant = mutants.Mutant("f.py", 2, before.index("2.0"), "2.0", "1.5", "test_*.py")
    assert mutants.notice(mutant, tmp_path)[0] == noticed
    assert (tmp_path / "f.py").read_text() == before
    assert "f" not in sys.modules
