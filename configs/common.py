"""What every config has in common: data, network, optimizer, bookkeeping."""

import ml_collections

from flowjax import checks, guidance, methods, models
from flowjax.training import settings

GUIDED_SCALES = (1.0, 4.0)  # of the preset "guided"
IMAGES = ("digits", "guided", "earth")
PRESETS = ("checkerboard", "digits", "guided", "earth", "test")


def base(preset, *, method):
    """A config for a preset, to which the method's file adds its constants.

    Args:
      preset: "checkerboard" (points), "digits" (real 8 x 8 images), "guided" (digits; guidance is part of the training target),
        "earth" (real 32 x 32 colour images) or "test" (seconds).
      method: registry name of the method.

    Raises:
      InputError: for an unknown preset.
    """
    checks.member("preset", preset, PRESETS)
    config = ml_collections.ConfigDict()
    # Modules on PYTHONPATH that register methods, networks or data; they are imported first: ("my_method",).
    config.modules = ()
    config.seed = 0
    config.seeds = 1  # trained side by side in one program, with seeds seed, seed + 1, ...
    config.steps = 3_000
    config.batch_size = 1_024
    # Evaluation averages, the first of which is evaluated during training: decays, or as flowjax.training.averages reads them,
    # "constant:decay=0.9999,every=16" or "half_life:images=500_000,ramp=0.05".
    config.ema = (0.999,)
    _bookkeeping(config)

    _data(config)
    # One harmonic of each time: with four, derivatives in time are rough, and one-step distances are two to three times larger.
    config.model = network("mlp", width=256, depth=3, harmonics=1)
    config.optim = {
        "name": "adam",
        "learning_rate": 1e-3,
        "schedule": "constant",
        "warmup_steps": 0,
        "clip_norm": 0.0,  # 0: no clipping
        "every": 1,  # steps from one update to the next
        "kwargs": {"b1": 0.9, "b2": 0.95},
    }
    # The teacher of a method that distils: "exact" (the closed-form velocity of points) or the folder of a run.
    config.teacher = ""
    # Initial weights. "": random; "teacher": the teacher's; otherwise the folder of a run, or a file of published weights
    # (.npz, .safetensors).
    config.start = ""
    _beside(config)
    config.method = {"name": method, "total_steps": config.get_ref("steps"), **methods.constants(method)}
    if preset in IMAGES:
        _digits(config)
    if preset == "earth":
        _earth(config)
    if preset == "guided":  # the guidance of the method's paper, otherwise MeanFlow's; the scale is an input of the network
        config.guidance.kind = {"pmf": "imf"}.get(method, method if method in guidance.TARGETS else "meanflow")
        config.guidance.scale = GUIDED_SCALES
        config.method.label_drop = 0.1
    if preset == "test":
        _test(config)
    # Auxiliary networks: the fields of config.optim in which their optimizers differ from V's.
    along = methods.outline(**config.method.to_dict()).networks
    config.auxiliary = {name: auxiliary(config, **declared.optim) for name, declared in along.items()}
    return config


def _data(config):
    """Where the rows come from, and what the network sees of them."""
    # dir "": TFDS_DATA_DIR or the default of TFDS; the folder of ImageNet's arrays (flowjax/data/stored.py). coupling "": independent
    # noise; "ot": minibatch optimal transport; otherwise a folder of experiments.reflow. augment "": none; "edm:probability=0.12" and
    # further options: flowjax.data.augmentation, whose labels are the input "augmentation" of the network. The network sees
    # (x - mean) / deviation, each a number or one a channel; samples are brought back: 1 / 0.18215 is Stable Diffusion's factor. labels
    # False: the network is unconditional. normalisation: in the place of mean and deviation, a name of
    # flowjax.autoencoders.NORMALISATIONS, such as "sd". features: in which samples are measured, "" for those of the dataset; a protocol
    # of flowjax.evals.protocols with the file of its network: "adm:pt_inception.pth". even: each class is read as often.
    config.data = {
        "name": "checkerboard", "dir": "", "flip": False, "coupling": "", "augment": "",
        "mean": _one_or_several(0.0), "deviation": _one_or_several(1.0),
        "labels": True, "normalisation": "", "features": "", "even": False,
    }  # fmt: skip


def _beside(config):
    """What stands beside the method: guidance, a discriminator, low-rank factors."""
    # kind "": no guidance. Inside the training target: a key of flowjax.guidance.TARGETS, with its constants k, mix, decay, or power
    # (of the density w^-power of the scales). On the
    # teacher: "classifier_free", or "autoguidance" (away from the run in the folder `weak`). The scale and the times of the interval
    # are ranges (low, high). Each row draws its scale, which is an input of the network if low < high (and for imf).
    config.guidance = settings.Guidance()._asdict()
    # game "": none; otherwise a key of flowjax.methods.GAMES, for an adversarial stage with the constants of
    # flowjax.methods.with_adversary. learning_rate: of the discriminator, 0.0 for V's; its optimizer is V's besides.
    config.adversary = settings.Adversary()._asdict()
    # rank 0: all weights are trained. Otherwise those of config.start stay as they are, and what is trained are their factors, of this
    # rank and times `scale`: beside the weights whose path the expression `at` occurs in, and the whole change of those of `whole`, such
    # as bias$. See flowjax.adapters.
    config.adapter = settings.Adapter()._asdict()


def _bookkeeping(config):
    """When to log, evaluate and save; what may go wrong; how the batch lies on the devices."""
    config.log_every = 50
    config.eval_every = 500  # 0: never
    config.eval_samples = 8_192
    config.eval_steps = (1, 2, 4)
    # Scale and times of the guidance at which a network that learned several is sampled. 0.0 and (): the median, at all times.
    config.eval_guidance = 0.0
    config.eval_interval = ()
    # Name and options, as flowjax.samplers.sampler_from_name reads them: "gamma:gamma=0.3"; "euler" or "heun" where V is
    # trained on the diagonal only.
    config.sampler = "flow_map"
    config.grid = "uniform"  # times of the steps, as flowjax.samplers.grid_from_name reads them: "bent:middle=0.55"
    config.save_every = 1_000
    config.keep = 2  # newest checkpoints that stay
    # A metric of the evaluations, such as "1step/frechet_pixels": its best checkpoint stays too, and every evaluation saves
    # one. "": none.
    config.best = ""
    # At most this many steps with a loss or gradient that is not finite are skipped; the next one ends the training.
    config.max_nonfinite_steps = 0
    config.accumulate = 1  # parts of the batch that go through the network one after the other
    # Sizes of the mesh of devices: weights are repeated along "data" and sliced along "fsdp"; -1: all devices that are left.
    # With fsdp 0 it is 1, or on TPUs and GPUs as much more as their memory makes necessary.
    config.mesh = {"data": -1, "fsdp": 0}
    config.communication = ""  # "bfloat16": half the bytes for gathered weights and summed gradients, see docs/pods.md


def auxiliary(config, **optim):
    """The optimizer of an auxiliary network: given fields of config.optim; the learning rate follows V's unless it is given."""
    return ml_collections.ConfigDict({"learning_rate": config.optim.get_oneway_ref("learning_rate"), "every": 1, **optim})


def network(name, **fields):
    """All fields of a network: the given ones and the defaults of the others, so that each can be overridden.

    The inputs guidance and interval follow from config.guidance; the field `inputs` names further ones.
    """
    return ml_collections.ConfigDict({"name": name, **models.defaults(name), **fields})


def _digits(config):
    config.steps = 4_500
    config.batch_size = 128
    config.eval_samples = 512
    config.data.name = "digits"
    config.model = network("dit", width=64, depth=3, heads=2, patch=2, unroll=3)
    config.optim.schedule = "cosine"
    config.optim.warmup_steps = 100
    config.method.label_drop = 0.0


def _one_or_several(number):
    """A field that takes a number or a tuple of numbers, one for each channel, also on the command line."""
    return ml_collections.FieldReference(number, field_type=object)


def _earth(config):
    """Patches of 32 x 32 pixels: what differs from the digits. All of it is ours, for half an hour on two CPU cores.

    After 273 steps of it the samples of a plain DiT are squares of one colour, those of this network are not.
    """
    config.steps = 5_000
    config.batch_size = 32
    config.ema = (0.995,)
    config.eval_samples = 256
    config.eval_every = 1_000
    # One patch in thirty-four is ice; mean and deviation are those of all training patches.
    config.data.update({"name": "earth32", "flip": True, "even": True, "mean": -0.49, "deviation": 0.42})
    config.model = network("smooth_dit", width=96, depth=3, heads=3, patch=4, unroll=3)
    muon(config)


def muon(config):
    """Muon, with steps of matrices as long as Adam's."""
    config.optim.update({"name": "muon", "learning_rate": 5e-3, "clip_norm": 1.0})
    with config.optim.unlocked():
        config.optim.kwargs = {"consistent_rms": 0.2, "adam_b2": 0.95}


def _test(config):
    config.steps = 20
    config.batch_size = 64
    config.log_every = 5
    config.eval_every = 10
    config.eval_samples = 256
    config.save_every = 10
    config.model.width = 32
