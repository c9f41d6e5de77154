"""Flow maps on other spaces than R^n: --config=configs/manifold.py:NAME,DATA

    python -m experiments.train --config=configs/manifold.py:rmf,cities --workdir=runs/cities

NAME is a method whose losses hold on any space: rmf, lmf, gfm_esd, gfm_lsd, gfm_psd, flow_matching, and lmd and emd, which learn
from a run of flow_matching on the same data, --config.teacher=runs/NAME. DATA is

* cities: the cities of the world on the sphere; pip install "flowjax-flowmaps[cities]".
* sphere: four caps on the sphere.
* torus: torsions of a protein's backbone, drawn from a law.
* so3: orientations of upright things, drawn from a law.

The constants of the methods are published ones (flowjax/methods/riemannian.py); network, optimizer and duration are ours, for two CPU
cores: RMF's authors train an MLP of 12 layers and width 2,048 on the earth, 500 epochs, AdamW at 1e-4, batches of 8,192. Numbers that
were reached are in docs/methods/manifolds.md.
"""

from configs import common
from flowjax import checks, methods, typing

# {DATA: (data set, path)}
DATA = {
    "cities": ("cities", "sphere"),
    "sphere": ("sphere_caps", "sphere"),
    "torus": ("torsions", "torus"),
    "so3": ("orientations", "so3"),
}


def get_config(choice="rmf,sphere"):
    """The config of a choice "NAME,DATA"."""
    name, comma, chosen = choice.partition(",")
    if not comma:
        raise typing.InputError(f"--config=configs/manifold.py:{choice} names no data; expected NAME,DATA: rmf,sphere.")
    known = [method for method, info in methods.METHODS.items() if info.any_space]
    checks.member("method for any space", name, known)
    checks.member("data on a space", chosen, DATA)
    config = common.base("checkerboard", method=name)
    config.data.name, config.method.path = DATA[chosen]
    config.sampler = methods.METHODS[name].sampler
    config.method.label_drop = 0.0  # the data has no labels
    config.model.periodic = chosen == "torus"
    config.optim.clip_norm = 1.0
    config.optim.schedule = "cosine"
    return config
