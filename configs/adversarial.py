"""A second stage with a discriminator beside the rule that trained the map: --config=configs/adversarial.py:STAGE,NAME,PRESET

    python -m experiments.train --config=configs/adversarial.py:ayf,meanflow,digits --config.start=runs/meanflow --workdir=runs/finish

STAGE says how the discriminator plays:

* ctm, the stage of consistency trajectory models (arXiv 2310.02279): hinge game on jumps to data, one step of each player in turn, as
  long a gradient in the last layer as the rule's and at most ten times its own. Constants from the released code, github.com/sony/ctm,
  but for the times of the jumps, which are uniform here and where the code draws the length of a teacher's trajectory first.
* ayf, the stage of Align Your Flow (arXiv 2506.14603): relativistic game on one step from noise with the penalties R1 and R2, balanced
  in all weights. Weights of the penalties and the gradient's length are not verified.
* dmd2, the term of DMD2 (arXiv 2405.14867): non-saturating game on noised samples and data, weight 3e-3, not balanced, the student
  after every fifth step of the discriminator.
* apt, the game of Adversarial Post-Training (arXiv 2501.08316) beside a rule: a discriminator of the form of V that starts with its
  weights, with the approximate R1.

NAME is a method of configs/method.py that learns jumps to data: ctm and ayf_emd as published, or that of the run which training
starts from; the preset is one of configs/method.py, too. A method that distils also needs --config.teacher=RUN.
Discriminators are networks of ours, small and without features that were learned elsewhere. The map learns at a fiftieth of the rate
of the preset, as published for ctm (8e-6 after 4e-4), for a ninth of its steps, which is ours; published are about 3,000 for ayf. The
discriminator learns at the rate of the preset, which is ours but for ctm.
On two CPU cores points take one or two minutes, digits five to ten.
"""

from configs import method
from flowjax import checks, typing

# What each stage says of config.adversary, and of the optimizer of its discriminator where that is published.
STAGES = {
    "ctm": {"game": "hinge", "times": ("uniform",), "student_every": 2, "most": 10.0},
    "ayf": {"game": "relativistic", "r1": 0.1, "r2": 0.1},
    "dmd2": {"game": "non_saturating", "noised": ("uniform",), "weight": 3e-3, "balanced": False, "student_every": 5},
    "apt": {"game": "non_saturating", "network": "like_V", "r1": 100.0, "probe": 0.01},
}
DISCRIMINATOR = {"ctm": {"learning_rate": 2e-3, "kwargs": {"b1": 0.5, "b2": 0.9}}}
LAST_LAYER = {"mlp": "Dense_{depth}/kernel", "dit": "patch_out/kernel"}


def get_config(choice="ayf,meanflow,checkerboard"):
    """The config of a choice "STAGE,NAME,PRESET"."""
    stage, _, rest = choice.partition(",")
    if rest.count(",") != 1:
        raise typing.InputError(
            f"--config=configs/adversarial.py:{choice} has not three parts; expected STAGE,NAME,PRESET: ayf,meanflow,checkerboard."
        )
    checks.member("stage", stage, STAGES)
    config = method.get_config(rest)
    config.adversary.update(STAGES[stage])
    if stage == "ctm" and config.model.name in LAST_LAYER:
        config.adversary.at = LAST_LAYER[config.model.name].format(depth=config.model.get("depth"))
    if stage in DISCRIMINATOR:
        config.auxiliary = {**config.auxiliary.to_dict(), "discriminator": DISCRIMINATOR[stage]}
    config.adversary.learning_rate = 0.0 if stage in DISCRIMINATOR else config.optim.learning_rate
    config.steps //= 9
    config.optim.learning_rate /= 50
    config.optim.clip_norm = 1.0
    return config
