"""Scripts, each run as python -m experiments.NAME."""

import sys

try:
    import jax  # noqa: F401
except Exception as error:  # a variable of the environment that JAX cannot read: JAX_ENABLE_X64=maybe
    print(f"error: JAX cannot be imported: {' '.join(str(error).split())[:300]}", file=sys.stderr)
    sys.exit(2)
