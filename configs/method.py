"""Any method of the landscape: --config=configs/method.py:NAME,PRESET

    python -m experiments.train --config=configs/method.py:psd,checkerboard --workdir=runs/psd

NAME is a row of `python -m experiments.landscape --table`, PRESET is checkerboard, digits, guided or test. All start from the
published constants of flowjax.methods and the published parameterisation. On points (checkerboard, test) times are uniform and
powers 0.5, because the published ones are for images; learned log-variances are bounded (log_variance_bound 0.5), because
unbounded they diverged there; and a method that distils gets the closed-form velocity of the points as its teacher; pfmm needs
a flow map: --config.teacher=runs/psd. On digits each that distils must be given a run: --config.teacher=runs/flow_matching;
rectified_meanflow and cmt, which learn from a teacher's trajectories, what experiments.reflow wrote:
--config.data.coupling=runs/pairs. "guided" is digits with guidance (docs/guidance.md): a teacher must have learned with
method.label_drop above 0, and ct, ict, ect, scm, pfmm and cmt refuse. Gradients are clipped at norm 1, and warm-ups last a
tenth of the steps: ours too. The methods with a file of their own (configs/NAME.py) are what that file says.

On two CPU cores checkerboard takes one to three minutes, digits 5 to 15. What checkerboard gives, three seeds, every method
learning from a trained teacher: docs/landscape_checkerboard.md; digits after 500 steps, ten methods: docs/landscape_digits.md.
Digits of the others, and digits at full length of those without a file of their own, we have not run.
"""

import importlib

from configs import common
from flowjax import checks, methods, typing

HEADLINE = ("flow_matching", "meanflow", "imf", "tvm", "soflow")
TRIANGLE, UNIFORM, DIAGONAL = ("uniform_triangle",), ("uniform",), ("sorted_pair", ("uniform",))
# What differs on points from the published constants, which are for images.
POINTS = {
    "alphaflow": {"times": DIAGONAL, "p": 0.5},
    "ayf_emd": {"times": TRIANGLE},
    "ayf_lmd": {"times": TRIANGLE},
    "ctm": {"teacher_steps": 4},
    "dmf": {"times": TRIANGLE, "anchor_times": UNIFORM},
    "facm": {"times": UNIFORM},
    "pmf": {"times": DIAGONAL, "p": 0.5},
    "rectified_meanflow": {"times": DIAGONAL, "p": 0.5},
    "scm": {"times": UNIFORM},
    "shortcut": {"ema": 0.95, "diagonal": "3/4"},
    "split_meanflow": {"times": TRIANGLE, "anchor_times": UNIFORM},
}
# Methods that learn from the trajectories of a teacher; these are the closed-form velocity's.
COUPLED = {"rectified_meanflow": "checkerboard_reflow", "cmt": "checkerboard_trajectories"}


def get_config(choice="meanflow,checkerboard"):
    """The config of a choice "NAME,PRESET"."""
    name, comma, preset = choice.partition(",")
    if not comma:
        raise typing.InputError(
            f"--config=configs/method.py:{choice} names no preset; expected NAME,PRESET: {choice},checkerboard."
        )
    checks.member("method", name, methods.METHODS)
    if name in HEADLINE:
        return importlib.import_module(f"configs.{name}").get_config(preset)
    config, info = common.base(preset, method=name), methods.METHODS[name]
    config.model.parameterisation = info.parameterisation
    config.sampler = info.sampler
    config.eval_steps = info.eval_steps(config.method) or config.eval_steps
    if preset not in common.IMAGES:
        config.method.update(POINTS.get(name, {}))
        if "log_variance" in info.needs:  # unbounded, the weight of the rule outgrows the anchor's, and the map diverges
            config.method.log_variance_bound = 0.5
        config.data.name = COUPLED.get(name, config.data.name)
        config.teacher = "exact" if "teacher" in info.needs else ""
    config.optim.clip_norm = 1.0
    if "warmup_steps" in config.method:  # published: 10,000 of several hundred thousand
        config.method.warmup_steps = config.get_ref("steps") // 10
    return config
