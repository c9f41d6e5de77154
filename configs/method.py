"""Any method of the landscape: --config=configs/method.py:NAME,PRESET

    python -m experiments.train --config=configs/method.py:psd,checkerboard --workdir=runs/psd

NAME is a row of `python -m experiments.landscape --table`, a method that matches distributions (dmd2, sid, ...), or one of
posteriors, rewards and likelihoods (meta_flow_map, f2d2, ..., docs/methods/posterior.md), PRESET is checkerboard, digits, guided, earth or test. The constants and
the parameterisation are the published ones (flowjax.methods), with these exceptions, which are ours:

* On points (checkerboard, test) times are uniform and powers are 0.5, because the published values are for images. Errors are not
  weighed by a learned log-variance (learned_weight), as in the published config for points of LSD, PSD and ESD; that of dmf is
  bounded (log_variance_bound 0.5), because it diverged without a bound. meta_flow_map and transition_matching learn by LSD, because
  errors that are no squares move the mean of a posterior (docs/methods/posterior.md). Several steps are jumps of the flow map, where
  some papers sample images with new noise (MethodInfo.few_steps).
* On points methods that match distributions train until the student has moved 3,000 times.
* Where a second network follows the student Adam has b1 = 0, as published for sid: with 0.9 the student runs ahead of it. Not so
  moment_matching, which was run with 0.9.
* Gradients are clipped at norm 1, and warm-ups last a tenth of the steps.
* The methods flow_matching, meanflow, imf, tvm and soflow have files, configs/NAME.py, whose presets are used.

Teachers. On points a method that distils learns from the closed-form velocity; pfmm needs a flow map:
--config.teacher=runs/psd. On digits a method that distils needs a run: --config.teacher=runs/flow_matching. rectified_meanflow
and cmt learn from trajectories of a teacher, which experiments.reflow writes: --config.data.coupling=runs/pairs. The preset
guided is digits with guidance (docs/guidance.md): its teacher must be trained with method.label_drop above 0, and ct, ict, ect,
scm, pfmm and cmt refuse it.

On two CPU cores checkerboard takes one to three minutes, digits 5 to 15. Results of every method on checkerboard, three seeds,
with a trained teacher: docs/landscape_checkerboard.md. Results of ten methods on digits after 500 steps:
docs/landscape_digits.md. Other methods on digits, and full trainings on digits of methods without a file, have not been run.
"""

import importlib

from configs import common
from flowjax import checks, methods, typing

HEADLINE = ("flow_matching", "meanflow", "imf", "tvm", "soflow")
TRIANGLE, UNIFORM, DIAGONAL = ("uniform_triangle",), ("uniform",), ("sorted_pair", ("uniform",))
INSIDE = ("uniform", 0.02, 0.98)
# Where points differ from the published constants, which are for images.
POINTS = {
    "add": {"distillation_times": ("uniform", 0.02, 0.2)},  # of much noise the teacher makes the mean: samples would shrink
    "alphaflow": {"times": DIAGONAL, "anchor_times": UNIFORM, "p": 0.5},
    "ayf_emd": {"times": TRIANGLE},
    "ayf_lmd": {"times": TRIANGLE},
    "ctm": {"teacher_steps": 4},
    "dmf": {"times": TRIANGLE, "anchor_times": UNIFORM},
    "facm": {"times": UNIFORM},
    **dict.fromkeys(("meta_flow_map", "transition_matching"), {"rule": "lsd:learned_weight=0"}),
    "pmf": {"times": DIAGONAL, "anchor_times": UNIFORM, "p": 0.5},
    "rectified_meanflow": {"times": DIAGONAL, "anchor_times": UNIFORM},
    "scm": {"times": UNIFORM},
    **dict.fromkeys(("sid", "sim"), {"times": INSIDE, "fake_times": INSIDE}),
    "shortcut": {"ema": 0.95, "diagonal": "3/4"},
    "strong_flow_map": {"times": ("gap_uniform", ("uniform", 0.01, 1.0))},  # one step is sampled, too
    "split_meanflow": {"times": TRIANGLE, "anchor_times": UNIFORM},
    "uni_instruct": {"times": ("uniform", 0.1, 0.98)},  # its errors grow like 1 / r
}
# Where small data differ from published constants: a jump from noise begins at s = 1; short runs need samples of the last steps.
SMALL = {"imm": {"times": UNIFORM, "least_step": 0.01}, "fd_loss": {"decay": 0.9}}
GROUPS = ("mmd", "drifting", "sinkhorn_drifting", "imle")
ADVERSARIAL = ("add", "afm", "apt", "cafm", "ladd")
FOLLOWED = ("adaptive_matching", "diffratio", "dmd", "dmd2", "f_distill", "sid", "sim", "uni_instruct", "vsd")


def get_config(choice="meanflow,checkerboard"):
    """The config of a choice "NAME,PRESET"."""
    name, comma, preset = choice.partition(",")
    if not comma:
        raise typing.InputError(
            f"--config=configs/method.py:{choice} names no preset; expected NAME,PRESET: {choice},checkerboard."
        )
    known = {**methods.METHODS, **methods.EXTENDED, **methods.DISTRIBUTIONAL}
    checks.member("method", name, known)
    if name in HEADLINE:
        return importlib.import_module(f"configs.{name}").get_config(preset)
    config, info = common.base(preset, method=name), known[name]
    if info.jumps == "transitions":
        config.model = transitions(preset)
    config.model.parameterisation = info.parameterisation
    config.model.inputs = info.inputs
    config.sampler = info.few_steps or info.sampler
    config.eval_steps = info.eval_steps(config.method) or config.eval_steps
    if preset not in common.IMAGES:
        config.method.update(POINTS.get(name, {}))
        config.sampler = info.sampler
        if "log_variance_bound" in config.method:  # without it the rule outweighs the anchor, and the map diverges
            config.method.log_variance_bound = 0.5
        if "learned_weight" in config.method:
            config.method.learned_weight, config.auxiliary = False, {}
        config.data.name = info.trajectory_data or config.data.name
        config.teacher = "exact" if "teacher" in info.needs else ""
    if preset == "checkerboard":  # steps of the student, which rests in some
        config.steps *= config.method.get("student_every", 1)
    config.method.update(SMALL.get(name, {}))
    if name in GROUPS:  # of ten labels, a group of the whole batch has a dozen rows each
        config.method.group = {"test": 8, "earth": 32}.get(preset, 128)
    if name in (*ADVERSARIAL, *FOLLOWED):  # as GANs are trained: the mean of gradients would lag behind the other player
        config.optim.update({"name": "adam", "learning_rate": 1e-3})
        with config.optim.unlocked():
            config.optim.kwargs = {"b1": 0.0, "b2": 0.9 if name in ADVERSARIAL else 0.95}
    config.optim.clip_norm = 1.0
    if "inner" in config.method:
        config.sampler = f"{info.sampler}:inner={config.method.inner}"
    if "warmup_steps" in config.method:  # published: 10,000 of several hundred thousand
        config.method.warmup_steps = config.get_ref("steps") // 10
    return config


def transitions(preset):
    """A network with a backbone and a head, for points or digits."""
    if preset in common.IMAGES:
        patch = 4 if preset == "earth" else 2
        return common.network("transition_dit", width=64, depth=3, heads=2, patch=patch, unroll=3)
    return common.network("transition_mlp", width=32 if preset == "test" else 256, depth=3, harmonics=1)
