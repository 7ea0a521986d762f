"""Training losses. All are float32, whatever the dtype of the network."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from deblur_jax.config import Section, Table, setting
from deblur_jax.ops.resize import downsample_bilinear

LossFn = Callable[[Sequence[jax.Array], jax.Array], tuple[jax.Array, dict[str, jax.Array]]]
"""``(outputs of the network, sharp) -> (loss, its terms)``."""
CONTENT_NORMS = ("l1", "l2")


@dataclasses.dataclass(frozen=True)
class LossConfig(Section):
    """Which loss: ``content + frequency_weight * frequency`` for "mimo_unet"."""

    section: ClassVar[str] = "loss"

    name: str = setting(
        "mimo_unet",
        '"mimo_unet", over three scales; "squared_error", SVRNN\'s; or one of your own',
        choices=lambda: LOSSES.names(),
    )
    content_norm: str = setting("l1", 'of the content term of "mimo_unet"', choices=CONTENT_NORMS)
    frequency_weight: float = setting(0.1, 'of the frequency term of "mimo_unet"', at_least=0)


LOSSES: Table[Callable[[LossConfig], LossFn]] = Table("loss")


def register_loss(
    name: str,
) -> Callable[[Callable[[LossConfig], LossFn]], Callable[[LossConfig], LossFn]]:
    """Registers the decorated function as the maker of a loss.

    It takes the section ``loss`` of the configuration and returns the loss:
    ``(outputs of the network, sharp) -> (loss, its terms by name)``.

    Args:
        name: for ``config.loss.name``.

    Raises:
        ConfigError: if the name is taken.
    """

    def register(make: Callable[[LossConfig], LossFn]) -> Callable[[LossConfig], LossFn]:
        LOSSES.add(name, make)
        return make

    return register


def multi_scale_targets(sharp: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The sharp image at full, half and quarter scale, as MIMO-UNet is trained (section 3.4).

    Args:
        sharp: (b, h, w, c), h and w multiples of 4.
    """
    return sharp, downsample_bilinear(sharp, 2), downsample_bilinear(sharp, 4)


def content_loss(
    restored: Sequence[jax.Array], targets: Sequence[jax.Array], norm: str = "l1"
) -> jax.Array:
    """Mean absolute ("l1", equation 5) or squared ("l2", the paper's ablation) error.

    Each scale is averaged over its own values; the scales are summed.

    Args:
        restored: images (b, h_k, w_k, c), one array per scale.
        targets: the same shapes.
        norm: one of ``CONTENT_NORMS``.
    """
    if norm not in CONTENT_NORMS:
        raise ValueError(f"unknown content loss {norm!r}: choose from {', '.join(CONTENT_NORMS)}")
    measure = jnp.abs if norm == "l1" else jnp.square
    errors = [jnp.mean(measure(d)) for d in _differences(restored, targets)]
    return functools.reduce(jnp.add, errors)


def frequency_loss(restored: Sequence[jax.Array], targets: Sequence[jax.Array]) -> jax.Array:
    """Multi-scale frequency reconstruction loss, MSFR (equation 6).

    For D, the unnormalised 2-D Fourier transform of the error of one scale, the mean of |Re D| and
    |Im D| over all bins; the scales are summed. It is the L1 distance of the two spectra as real
    pairs, not of their complex moduli.

    Args:
        restored: images (b, h_k, w_k, c), one array per scale.
        targets: the same shapes.
    """
    errors = [_mean_spectrum_magnitude(d) for d in _differences(restored, targets)]
    return functools.reduce(jnp.add, errors)


def mimo_unet_loss(
    restored: Sequence[jax.Array],
    sharp: jax.Array,
    *,
    content_norm: str = "l1",
    frequency_weight: float = 0.1,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """``content_loss + frequency_weight * frequency_loss`` over three scales (equation 7).

    Args:
        restored: the network's outputs at full, half and quarter scale.
        sharp: (b, h, w, 3), the truth at full scale.

    Returns:
        The loss, and its terms by name, as float32 scalars.
    """
    targets = multi_scale_targets(sharp)
    terms = {
        "content_loss": content_loss(restored, targets, content_norm),
        "frequency_loss": frequency_loss(restored, targets),
    }
    return terms["content_loss"] + frequency_weight * terms["frequency_loss"], terms


def squared_error(
    restored: Sequence[jax.Array], sharp: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """SVRNN's loss: half the squared error, summed over an image and averaged over the batch.

    Args:
        restored: the network's outputs; the first, at full scale, counts.
        sharp: (b, h, w, 3), the truth.

    Returns:
        The loss, as a float32 scalar, and no terms.
    """
    (error,) = _differences(restored[:1], [sharp])
    return jnp.sum(jnp.square(error)) / (2 * len(error)), {}


def make_loss(config: LossConfig) -> LossFn:
    """The loss that a configuration names."""
    return LOSSES[config.name](config)


@register_loss("mimo_unet")
def _make_mimo_unet_loss(config: LossConfig) -> LossFn:
    return functools.partial(
        mimo_unet_loss,
        content_norm=config.content_norm,
        frequency_weight=config.frequency_weight,
    )


@register_loss("squared_error")
def _make_squared_error(config: LossConfig) -> LossFn:
    del config
    return squared_error


def _differences(
    restored: Sequence[jax.Array], targets: Sequence[jax.Array]
) -> Iterator[jax.Array]:
    for prediction, target in zip(restored, targets, strict=True):
        yield prediction.astype(jnp.float32) - target.astype(jnp.float32)


def _mean_spectrum_magnitude(error: jax.Array) -> jax.Array:
    """Mean of |Re| and |Im| over the full spectrum, from the half that a real signal needs."""
    width = error.shape[2]
    spectrum = jnp.fft.rfft2(error, axes=(1, 2))
    # Every column but the first and, for an even width, the last stands for its mirror image too.
    multiplicity = np.full((spectrum.shape[2], 1), 2.0, np.float32)
    multiplicity[0] = 1.0
    if width % 2 == 0:
        multiplicity[-1] = 1.0
    magnitude = jnp.abs(spectrum.real) + jnp.abs(spectrum.imag)
    return jnp.sum(magnitude * multiplicity) / (2 * error.size)
