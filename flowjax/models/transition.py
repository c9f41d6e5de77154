"""Networks of transitions: a backbone that sees the noisy observation x_c, and a smaller head that draws by what it saw.

The head is evaluated several times for one answer of the backbone: `V(y, s, t | x_c, c) = head(y, s, t, backbone(x_c, c))`.
"""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp

from flowjax import conditioning
from flowjax.models import dit, embeddings, mlp
from flowjax.typing import Array, Time


def _observation(y: Array, cond) -> tuple[Array, Array]:
    """(x_c, c) of a condition, like rows y; without them pure noise that says nothing."""
    return conditioning.value("x_c", cond, y).astype(y.dtype), conditioning.value("c", cond, y)


def _further(inputs: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in inputs if name not in conditioning.OBSERVATION)


class _Transition(nn.Module):
    """What both networks share: `backbone` and `head` are made by `setup`."""

    def __call__(self, y: Array, s: Time, t: Time, cond=None) -> Array:
        """y [B, ...], times scalar or [B, 1, ..., 1] in [0, 1], cond a dict of [B, ...] arrays or None -> V like y."""
        return self.answer(y, s, t, cond, self.features(y, cond))

    def features(self, y: Array, cond=None) -> Array:
        """What the backbone makes of the observation in `cond`; of y the shape counts alone."""
        x_c, c = _observation(y, cond)
        return self.backbone(x_c, c, cond)

    def answer(self, y: Array, s: Time, t: Time, cond, features: Array) -> Array:
        """V by the head, from features of the backbone."""
        return self.head(y, s, t, cond, features)


class _PointsBackbone(mlp.MLP):
    @nn.compact
    def __call__(self, x: Array, c: Array, cond) -> Array:
        h = nn.Dense(self.width, dtype=self.dtype)(jnp.concatenate([x.astype(self.dtype), self._features(c)], axis=-1))
        return self._hidden(self._conditioned(h, x, cond))


class _PointsHead(mlp.MLP):
    @nn.compact
    def __call__(self, y: Array, s: Time, t: Time, cond, features: Array) -> Array:
        s, t = embeddings.flatten_times(s, y), embeddings.flatten_times(t, y)
        times = jnp.concatenate([self._features(s), self._features(s - t)], axis=-1)
        h = nn.Dense(self.width, dtype=self.dtype)(jnp.concatenate([y.astype(self.dtype), times], axis=-1))
        h = h + (1 + self._from_zero("gate")(times)) * nn.Dense(self.width, dtype=self.dtype, name="fusion")(nn.gelu(features))
        return self._answer(self._hidden(h), y)


class TransitionMLP(_Transition):
    """Transitions of points: a perceptron as backbone, and another as head.

    Attributes:
      num_classes: labels, 0 for none; the backbone sees them.
      width: of the hidden layers of both.
      depth: hidden layers of the backbone.
      head_depth: hidden layers of the head.
      harmonics, dtype: as of MLP.
      inputs: further inputs besides x_c and c, keys of flowjax.conditioning.INPUTS; the backbone sees them.

    Reference: Nie et al. 2026, Transition Matching Distillation (arXiv 2601.09881), for the split; the layers are ours.
    """

    num_classes: int = 0
    width: int = 256
    depth: int = 3
    head_depth: int = 2
    harmonics: int = 4
    inputs: tuple[str, ...] = ()
    dtype: str = "float32"

    def setup(self):
        shared = {"width": self.width, "harmonics": self.harmonics, "dtype": self.dtype}
        self.backbone = _PointsBackbone(num_classes=self.num_classes, depth=self.depth, inputs=_further(self.inputs), **shared)
        self.head = _PointsHead(depth=self.head_depth, **shared)


class _ImageBackbone(dit.DiT):
    @nn.compact
    def __call__(self, x: Array, c: Array, cond) -> Array:
        level = self._embed("level")(embeddings.flatten_times(c, x))
        return self._blocks(self.depth, "blocks")(self._tokens(x, cond), sum(self._embed_cond(x, cond), level))[0]


class _ImageHead(dit.DiT):
    @nn.compact
    def __call__(self, y: Array, s: Time, t: Time, cond, features: Array) -> Array:
        c, dtype = self._conditioning(y, s, t, cond), jnp.dtype(self.dtype)
        gate = 1 + dit.from_zero(self.width, dtype, "gate")(nn.silu(c))[:, None]
        h = self._tokens(y, cond) + gate * dit.dense(self.width, dtype, "fusion")(features)
        return self._image(self._blocks(self.depth, "blocks")(h, c)[0], c, y)


class TransitionDiT(_Transition):
    """Transitions of images: blocks of a diffusion transformer as backbone, and as head.

    Attributes:
      depth: blocks of the backbone.
      head_depth: blocks of the head.

    The other attributes are those of flowjax.models.DiT; both parts see label and further inputs. Published are the last blocks of the
    teacher as the head; here nothing is copied from a teacher, and the gate of the features starts at 1.

    Reference: Nie et al. 2026, Transition Matching Distillation (arXiv 2601.09881).
    """

    num_classes: int = 0
    width: int = 64
    depth: int = 3
    head_depth: int = 1
    heads: int = 4
    patch: int = 2
    mlp_ratio: float = 4.0
    time_scale: float = 1.0
    inputs: tuple[str, ...] = ()
    remat: str = "auto"
    unroll: int = 1
    dtype: str = "float32"
    attention: str = "auto"

    def setup(self):
        names = ("num_classes", "width", "heads", "patch", "mlp_ratio", "time_scale", "remat", "dtype", "attention")
        shared = {name: getattr(self, name) for name in names} | {"inputs": _further(self.inputs)}
        self.backbone = _ImageBackbone(depth=self.depth, unroll=min(self.unroll, self.depth), **shared)
        self.head = _ImageHead(depth=self.head_depth, unroll=min(self.unroll, self.head_depth), **shared)


def bound(net: nn.Module, params, cond) -> Callable[..., Array]:
    """`V(x, s, t, inputs=None)` of any network with its weights and conditioning; of transitions it holds features, see
    flowjax.samplers.drawn_velocity.
    """

    def V(x: Array, s: Time, t: Time, inputs=None) -> Array:
        return net.apply({"params": params}, x, s, t, {**cond, **(inputs or {})})

    def held(y: Array, inputs) -> Callable[..., Array]:
        given = {**cond, **inputs}
        features = net.apply({"params": params}, y, given, method="features")
        return lambda y, s, t: net.apply({"params": params}, y, s, t, given, features, method="answer")

    if isinstance(getattr(net, "net", net), _Transition):
        V.held = held  # type: ignore[attr-defined]
    return V
