"""Recipes that match distributions; `TABLE` has what is known of each, a part of flowjax.methods.landscape.

By scores: `scores`, `fisher`, `denoised`. By a discriminator: `adversaries`. By sets of samples: `samples`. Each file has a TABLE;
`students` has what their recipes share.
"""

from flowjax.methods.distributional import adversaries, denoised, fisher, samples, scores
from flowjax.methods.method_info import MethodInfo

TABLE: dict[str, MethodInfo] = {
    **scores.TABLE, **fisher.TABLE, **denoised.TABLE, **samples.TABLE, **adversaries.TABLE
}  # fmt: skip
