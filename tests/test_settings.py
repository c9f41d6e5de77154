"""The config as named tuples, the checks over them, and a package that offers its modules."""

import subprocess
import sys

import ml_collections
import pytest
from support import small

import flowjax
from flowjax import typing
from flowjax.training import config_checks, run_checks, settings


def test_a_config_becomes_sections_with_the_same_values():
    config = small("freeflow", teacher="exact", ema=(0.5, 0.9))
    config.auxiliary.velocity.every = 3
    result = settings.read(config)
    assert result.steps == result.method.constants["total_steps"] == 8  # a reference, resolved
    assert result.method.name == "freeflow" and result.method.path == "linear" and result.data.name == "checkerboard"
    assert result.evaluation.averages == (0.5, 0.9) and result.evaluation.average == "0.5" and result.evaluation.every == 0
    assert result.bookkeeping.save_every == 4 and result.guidance == settings.Guidance()
    assert result.auxiliary["velocity"] == result.optim._replace(every=3)
    assert result.model.name == "mlp" and result.model.fields["width"] == 32
    again = settings.read(ml_collections.FrozenConfigDict(config))  # as it is read from the folder of a run
    assert again == result


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config: config.pop("ema"), "config lacks ema; expected all fields of configs/common.py"),
        (lambda config: config["optim"].pop("every"), "config.optim lacks every"),
        (lambda config: config.update(epochs=3), "unknown field of config 'epochs'"),
        (lambda config: config["method"].pop("name"), "config.method lacks name"),
        (lambda config: config["data"].update(nam="x"), "unknown field of config.data 'nam'; did you mean name"),
        (lambda config: config["guidance"].update(omega=2.0), "unknown field of config.guidance 'omega'"),
        (
            lambda config: config["auxiliary"].update(V={"evry": 3}),
            "unknown field of config.auxiliary.V 'evry'; did you mean every",
        ),
    ],
)
def test_a_field_that_is_missing_or_unknown_is_named(change, message):
    config = small().to_dict()
    change(config)
    with pytest.raises(typing.InputError, match=message):
        settings.read(config)


def test_every_check_is_in_the_list():
    public = {
        value
        for module in (config_checks, run_checks)
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", "") == module.__name__
    }
    assert public - {config_checks.check, run_checks.teacher_needs} == set(config_checks.CHECKS)


def test_flowjax_offers_its_modules_and_training_draws_nothing():
    assert {"data", "evals", "losses", "models", "plots", "residuals", "training"} <= set(dir(flowjax))
    with pytest.raises(AttributeError, match="has no attribute 'rules'; it has .*residuals"):
        flowjax.rules  # noqa: B018
    code = "import sys, flowjax; flowjax.training.train; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
