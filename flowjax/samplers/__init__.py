"""From noise to data, and back: pure functions of a callable, one compilation a batch shape.

A sampler walks along times. On a grid from 1 to 0 it turns noise into data; on the reversed grid (`times[::-1]`) those without new
noise carry data to the noise that it comes from, which is called inversion.
"""

from flowjax.samplers.deterministic import adaptive, euler, flow_map, heun, midpoint, trajectory
from flowjax.samplers.grids import bent, decoding, fold, from_noise_to_data, grid, karras, shifted
from flowjax.samplers.named import GRIDS, SAMPLERS, Sampler, check_sampler, grid_from_name, sampler_from_name
from flowjax.samplers.stochastic import consistency, drawn_velocity, gamma, restart, restarts, strong, transition

__all__ = [
    "GRIDS",
    "SAMPLERS",
    "Sampler",
    "adaptive",
    "check_sampler",
    "bent",
    "consistency",
    "decoding",
    "drawn_velocity",
    "euler",
    "flow_map",
    "fold",
    "from_noise_to_data",
    "gamma",
    "grid",
    "grid_from_name",
    "heun",
    "karras",
    "midpoint",
    "restart",
    "restarts",
    "sampler_from_name",
    "shifted",
    "strong",
    "trajectory",
    "transition",
]
