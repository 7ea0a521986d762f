"""What to do where JAX can't differentiate forward through a gradient rule of our own."""

import contextlib
from collections.abc import Iterator

_JAX_SAYS = "forward-mode"


class ForwardModeError(TypeError):
    """A backend's operations have no forward mode of differentiation."""


@contextlib.contextmanager
def naming_the_plain_backend() -> Iterator[None]:
    """Says what helps, where JAX refuses forward mode (``jax.jvp``) within the context.

    Raises:
        ForwardModeError: instead of JAX's own ``TypeError``.
    """
    try:
        yield
    except ForwardModeError:
        raise
    except TypeError as error:
        if _JAX_SAYS not in str(error):
            raise
        raise ForwardModeError(
            "this backend has no forward mode of differentiation (jvp, jacfwd, hessian): build the "
            'network with backend="plain", as Restorer.load(..., backend="plain")'
        ) from error
