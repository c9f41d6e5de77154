"""What fields of a config may be: each has a range, bad values end in one sentence, published ones are in their ranges."""

import math

import jax
import pytest

from configs import common, method, network
from flowjax import methods, models, times, typing
from flowjax.training import config_checks, ranges, room, settings

CHOICES = [f"{name},{preset}" for name in {**methods.METHODS, **methods.DISTRIBUTIONAL} for preset in common.PRESETS]
NETWORKS = ["imf,mit", "pmf,mit", "dmf,decoupled_dit", "tvm,semi_lipschitz_dit", "meanflow,unet"]


@pytest.fixture(scope="module")
def configs():
    """{choice: settings} of every preset of every method and network."""
    made = {choice: method.get_config(choice) for choice in CHOICES}
    return {choice: settings.read(config) for choice, config in (made | {c: network.get_config(c) for c in NETWORKS}).items()}


def test_every_field_of_every_preset_has_a_range_and_is_in_it(configs):
    for choice, chosen in configs.items():
        for name, value in chosen.flat():
            assert ranges.of(name) is not None, f"{choice}: give config.{name} a line in flowjax/training/ranges.py"
            ranges.check(name, value)
        ranges.check_rising(chosen.method.constants)


def test_every_network_and_every_sampler_of_times_has_ranges():
    for name in models.MODELS:
        for field, value in models.defaults(name).items():
            ranges.check(f"model.{field}", value)
            assert field in ranges.MODEL
    assert set(ranges.TIMES) == set(times.SAMPLERS)


BAD = {
    "optim.kwargs.b1": 2.0,
    "optim.learning_rate": math.inf,
    "optim.clip_norm": -1.0,
    "auxiliary.velocity.learning_rate": -1e-3,
    "auxiliary.velocity.every": 0,
    "model.depth": 0,
    "model.harmonics": -1,
    "model.dropout": 1.0,
    "model.width": 10**9,
    "method.p": -1.0,
    "method.label_drop": 1.5,
    "method.times": ("sorted_pair", ("logit_normal", 0.0, -1.0)),
    "method.unknown_to_the_table": math.nan,
    "guidance.k": math.nan,
    "guidance.scale": (1.0, math.inf),
    "seed": 2**32,
    "seeds": 0,
    "steps": True,
    "batch_size": 2.0,
    "ema": (1.0,),
    "eval_steps": (),
    "eval_samples": 7,
    "data.dir": "a\0b",
    "teacher": "x" * 5_000,
    "data.flip": 1,
    "modules": "abc",
    "mesh.fsdp": -2,
    "communication": "float16",
}


@pytest.mark.parametrize("name", BAD)
def test_a_value_out_of_its_range_is_named_with_what_was_expected(name):
    with pytest.raises(typing.InputError, match=rf"^config\.{name} is .*; expected [^\n]+\.$"):
        ranges.check(name, BAD[name])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 2**32 - 1, "seeds": 2}, "the last seed must be below 2"),
        ({"optim": 3}, "config.optim is 3; expected fields by name"),
        ({"modules": "my_method"}, "config.modules is 'my_method'; expected a tuple"),
        ({"model": {"width": 3}}, "config.model lacks name"),
    ],
)
def test_sections_and_sums_are_judged_too(changes, message):
    config = method.get_config("meanflow,test").to_dict() | changes
    with pytest.raises(typing.InputError, match=message):
        config_checks.fields(settings.read(config), None)


def test_ends_must_rise():
    with pytest.raises(typing.InputError, match="sigma_min is 80.0 and config.method.sigma_max 0.1; expected the first below"):
        ranges.check_rising({"sigma_min": 80.0, "sigma_max": 0.1})


def test_what_does_not_fit_into_the_memory_is_refused_with_its_size():
    room.check_host("this", room.host_bytes())
    with pytest.raises(typing.InputError, match=r"this takes [\d,.e+]+ GiB, and this machine has [\d.]+; make the batch"):
        room.check_host("this", 10 * room.host_bytes())


def test_a_device_that_does_not_tell_its_memory_refuses_nothing():
    """One of another process, or one that is only compiled for."""

    class Elsewhere:
        platform = "tpu"

        def memory_stats(self):
            raise jax.errors.JaxRuntimeError("MemoryStats is only supported for addressable PjRt devices.")

    assert room.device_bytes(Elsewhere()) is None
