"""The spatially variant recurrent network, SVRNN (Zhang et al., CVPR 2018).

"Dynamic Scene Deblurring Using Spatially Variant Recurrent Neural Networks": undoing a blur is an
IIR filter, and a linear recurrence is one. A network predicts the coefficient of every pixel, the
"gate"; recurrences in four directions with convolutions between them reach across the picture with
few parameters.

Scales are ``full``, ``half``, ``quarter`` and ``eighth``. Convolutions have a bias and pad with
zeros.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from deblur_jax.config import ConfigError
from deblur_jax.models.images import IMAGE_CHANNELS, check_images
from deblur_jax.ops.conv import add_bias, conv_general_dilated, conv_same_each
from deblur_jax.ops.initializers import caffe_xavier
from deblur_jax.ops.pool import max_pool_2x2
from deblur_jax.ops.recurrence import (
    DIRECTIONS,
    Implementation,
    four_way_recurrence,
    gated_recurrence,
)
from deblur_jax.ops.resize import upsample_caffe_bilinear, upsample_half_pixel_bilinear

NUM_STAGES = 4
_STAGES_AT_ONCE = 2
"""Their gates are made together, which takes less time on the CPU; all four stages' gates together
would be the network's largest array."""
_LEAKY_SLOPE = 0.1
RESIZES = {"caffe": upsample_caffe_bilinear, "half_pixel": upsample_half_pixel_bilinear}


class Conv(nnx.Conv):
    """A linear ``kernel_size`` x ``kernel_size`` convolution with Caffe's Xavier start."""

    def __init__(self, in_channels, out_channels, kernel_size, *, stride=1, rngs, **options):
        super().__init__(
            in_channels,
            out_channels,
            (kernel_size, kernel_size),
            strides=stride,
            padding=kernel_size // 2,
            conv_general_dilated=conv_general_dilated,
            kernel_init=caffe_xavier(in_channels * kernel_size**2),
            bias_init=nnx.initializers.zeros_init(),
            rngs=rngs,
            **options,
        )


def _leaky_relu(x: jax.Array) -> jax.Array:
    return nnx.leaky_relu(x, _LEAKY_SLOPE)


class FeatureExtractor(nnx.Module):
    """The picture's own features: at full size, and at half size what the recurrences scan."""

    def __init__(self, rnn_channels: int, **conv):
        self.conv_full = Conv(IMAGE_CHANNELS, rnn_channels // 2, 11, **conv)
        self.conv_half = Conv(rnn_channels // 2, rnn_channels, 7, stride=2, **conv)

    def __call__(self, blurred: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(b, h, w, 3) to (b, h, w, c/2), leaky, and (b, h/2, w/2, c), linear."""
        full = self.full(blurred)
        return full, self.conv_half(full)

    def full(self, blurred: jax.Array) -> jax.Array:
        """(b, h, w, 3) to (b, h, w, c/2), leaky."""
        return _leaky_relu(self.conv_full(blurred))


class VGGEncoder(nnx.Module):
    """The first nine convolutions of VGG-16: the weight generator's start.

    Named "vgg16" it is a network of its own, which holds what ``convert`` reads from VGG's weights
    and ``config.init_from`` takes.

    Args:
        guidance_channels: of the first convolutions, 64 in VGG-16.
        dtype, precision, rngs: as of ``SVRNN``.
    """

    def __init__(
        self,
        *,
        guidance_channels: int = 64,
        dtype: jax.typing.DTypeLike = jnp.float32,
        precision: jax.lax.PrecisionLike = None,
        rngs: nnx.Rngs,
    ):
        c = guidance_channels
        conv = {"dtype": jnp.dtype(dtype), "precision": precision, "rngs": rngs}
        self.conv1_1 = Conv(IMAGE_CHANNELS, c, 3, **conv)
        self.conv1_2 = Conv(c, c, 3, **conv)
        self.conv2_1 = Conv(c, 2 * c, 3, **conv)
        self.conv2_2 = Conv(2 * c, 2 * c, 3, **conv)
        self.conv3_1 = Conv(2 * c, 4 * c, 3, **conv)
        self.conv3_2 = Conv(4 * c, 4 * c, 3, **conv)
        self.conv3_3 = Conv(4 * c, 4 * c, 3, **conv)
        self.conv4_1 = Conv(4 * c, 8 * c, 3, **conv)
        self.conv4_2 = Conv(8 * c, 8 * c, 3, **conv)

    def __call__(self, blurred: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """(b, h, w, 3) to (b, h/2, w/2, 2g), (b, h/4, w/4, 4g) and (b, h/8, w/8, 8g).

        They are the outputs of conv2_2, conv3_2 and conv4_2.
        """
        x = nnx.relu(self.conv1_1(blurred))
        x = max_pool_2x2(nnx.relu(self.conv1_2(x)))
        x = nnx.relu(self.conv2_1(x))
        half = nnx.relu(self.conv2_2(x))
        x = nnx.relu(self.conv3_1(max_pool_2x2(half)))
        quarter = nnx.relu(self.conv3_2(x))
        x = max_pool_2x2(nnx.relu(self.conv3_3(quarter)))
        x = nnx.relu(self.conv4_1(x))
        return half, quarter, nnx.relu(self.conv4_2(x))


class WeightGenerator(nnx.Module):
    """What the gates are made of: an encoder shaped like VGG-16's first nine convolutions.

    Then twice up again, each time beside the encoder's map of that size. Its last layer, the
    paper's and the network's largest, is made by each stage for itself: ``SpatialRNN``.
    """

    def __init__(self, channels: int, resize: Callable, **conv):
        c = channels
        self.encoder = VGGEncoder(guidance_channels=c, **conv)
        self.conv_eighth = Conv(8 * c, 4 * c, 3, **conv)
        self.merge_quarter = Conv(4 * c + 4 * c, 2 * c, 3, **conv)
        self.conv_quarter = Conv(2 * c, 2 * c, 3, **conv)
        self.merge_half = Conv(2 * c + 2 * c, 4 * c, 3, **conv)
        self.resize = resize

    def __call__(self, blurred: jax.Array) -> jax.Array:
        """(b, h, w, 3) to (b, h/2, w/2, 4·channels)."""
        half, quarter, eighth = self.encoder(blurred)
        x = nnx.relu(self.conv_eighth(eighth))
        x = nnx.relu(self.merge_quarter(jnp.concatenate([quarter, self.resize(x)], -1)))
        x = nnx.relu(self.conv_quarter(x))
        return nnx.relu(self.merge_half(jnp.concatenate([half, self.resize(x)], -1)))


class SpatialRNN(nnx.Module):
    """One stage: recurrences in four directions over the same input, merged by a convolution."""

    def __init__(
        self,
        channels: int,
        guidance_channels: int,
        gate_limit: float | None,
        implementation: Implementation,
        **conv,
    ):
        four_ways = len(DIRECTIONS) * channels
        self.conv_gates = Conv(guidance_channels, four_ways, 3, **conv)
        self.merge = Conv(four_ways, channels, 3, **conv)
        self.gate_limit = gate_limit
        self.implementation = implementation

    def __call__(self, x: jax.Array, gates: jax.Array) -> jax.Array:
        """Inputs (b, h, w, c) and gates (b, h, w, 4c), see ``make_gates``, to (b, h, w, c)."""
        return self.merged(four_way_recurrence(x, gates, implementation=self.implementation))

    def merged(self, scanned: jax.Array) -> jax.Array:
        """States in all ``DIRECTIONS``, (b, h, w, 4c), to the stage's result, (b, h, w, c)."""
        return _leaky_relu(self.merge(scanned))

    def scan(self, x: jax.Array, gates: jax.Array, directions: Sequence[str]) -> jax.Array:
        """States in some directions: x (b, h, w, c) and a block of gates each, side by side."""
        blocks = jnp.split(gates, len(directions), axis=-1)
        x = x.astype(gates.dtype)
        states = [
            gated_recurrence(
                x, block, **DIRECTIONS[name]._asdict(), implementation=self.implementation
            )
            for name, block in zip(directions, blocks, strict=True)
        ]
        return jnp.concatenate(states, axis=-1)

    def limited(self, linear: jax.Array) -> jax.Array:
        """Gates from what the convolution makes of the guidance: to (-1, 1)."""
        gates = jnp.tanh(linear)
        if self.gate_limit is not None:
            gates = jnp.clip(gates, -self.gate_limit, self.gate_limit)
        return gates


def make_gates(
    stages: Sequence[SpatialRNN],
    guidance: jax.Array,
    directions: Sequence[str] = tuple(DIRECTIONS),
) -> list[jax.Array]:
    """The gates of some stages in some directions, at their share of the cost.

    Args:
        stages: of one network.
        guidance: the weight generator's (b, h, w, g).
        directions: names in ``DIRECTIONS``.

    Returns:
        For every stage (b, h, w, c·directions) in (-1, 1): a block of c for each of them.
    """
    blocks = [list(DIRECTIONS).index(name) for name in directions]

    def of_directions(parameter):
        of_each = jnp.split(parameter[...], len(DIRECTIONS), -1)
        return jnp.concatenate([of_each[block] for block in blocks], -1)

    convs = [stage.conv_gates for stage in stages]
    dtype, precision = convs[0].dtype, convs[0].precision
    kernels = [of_directions(conv.kernel).astype(dtype) for conv in convs]
    linear = conv_same_each(guidance.astype(dtype), kernels, precision=precision)
    return [
        stage.limited(add_bias(own, of_directions(stage.conv_gates.bias)))
        for stage, own in zip(stages, linear, strict=True)
    ]


def _scan_stages(stages: Sequence[SpatialRNN], x: jax.Array, guidance: jax.Array) -> jax.Array:
    """Some stages one after another: (b, h, w, c) and (b, h, w, g) to (b, h, w, c)."""
    for stage, gates in zip(stages, make_gates(stages, guidance), strict=True):
        x = stage(x, gates)
    return x


class ImageReconstructor(nnx.Module):
    """The restored picture from the scanned features and the picture's own."""

    def __init__(self, rnn_channels: int, resize: Callable, **conv):
        self.conv_half = Conv(2 * rnn_channels, rnn_channels // 2, 9, **conv)
        self.conv_full = Conv(rnn_channels, IMAGE_CHANNELS, 5, **conv)
        self.resize = resize

    def __call__(self, full: jax.Array, half: jax.Array, scanned: jax.Array) -> jax.Array:
        """(b, h, w, c/2), and twice (b, h/2, w/2, c), to (b, h, w, 3), linear."""
        x = _leaky_relu(self.conv_half(jnp.concatenate([half, scanned], -1)))
        return self.conv_full(jnp.concatenate([full, self.resize(x)], -1))


class SVRNN(nnx.Module):
    """The whole network: blurred (b, h, w, 3) to restored of the same shape.

    Args:
        rnn_channels: c, of the recurrences, 32 in the paper; even.
        guidance_channels: of the weight generator's first convolutions, 64 as in VGG-16.
        resize: "caffe", as the official weights need it, or "half_pixel", for training anew.
        gate_limit: clamps the gates to +-this. None, the default, is the official network; a
            PyTorch transcription that circulates has 0.5, a misreading of a limit on a recurrent
            matrix that this network does not use. 0 takes the recurrences out: each returns its
            input.
        implementation: of the recurrences, see ``gated_recurrence``.
        dtype: of activations; parameters, the recurrences' carry and the result are float32.
        precision: of products, as ``jax.lax`` names it; "highest" for parity.
        remat: "blocks" has the gradient compute the stages again, two at a time, gates included.
        rngs: for the parameters' start.
    """

    size_multiple = 8
    """Height and width must be multiples of this."""
    receptive_radius = None
    """The recurrences reach across the picture."""

    def __init__(
        self,
        *,
        rnn_channels: int = 32,
        guidance_channels: int = 64,
        resize: str = "caffe",
        gate_limit: float | None = None,
        implementation: Implementation = "auto",
        dtype: jax.typing.DTypeLike = jnp.float32,
        precision: jax.lax.PrecisionLike = None,
        remat: str | None = None,
        rngs: nnx.Rngs,
    ):
        if resize not in RESIZES:
            raise ConfigError(f"unknown resize {resize!r}: choose from {', '.join(RESIZES)}")
        conv = {"dtype": jnp.dtype(dtype), "precision": precision, "rngs": rngs}
        self.features = FeatureExtractor(rnn_channels, **conv)
        self.weights = WeightGenerator(guidance_channels, RESIZES[resize], **conv)
        stage = (rnn_channels, 4 * guidance_channels, gate_limit, implementation)
        self.stages = nnx.List([SpatialRNN(*stage, **conv) for _ in range(NUM_STAGES)])
        self.remat = remat
        self.reconstructor = ImageReconstructor(rnn_channels, RESIZES[resize], **conv)

    def __call__(
        self, blurred: jax.Array, *, dropout_keys: jax.Array | None = None
    ) -> tuple[jax.Array]:
        """Restores a batch of pictures.

        Args:
            blurred: (b, h, w, 3) float32 in [0, 1], h and w multiples of 8.
            dropout_keys: of no use to a network without dropout.

        Returns:
            The restored pictures, (b, h, w, 3) float32, not clipped, as a tuple of one.

        Raises:
            ValueError: if ``blurred`` is not an RGB batch whose sides are multiples of 8.
        """
        del dropout_keys
        check_images(blurred, self.size_multiple)
        guidance = self.weights(blurred)
        full, half = self.features(blurred)
        scanned = half
        scan = nnx.remat(_scan_stages) if self.remat == "blocks" else _scan_stages
        for first in range(0, NUM_STAGES, _STAGES_AT_ONCE):
            stages = tuple(self.stages[first : first + _STAGES_AT_ONCE])
            scanned = scan(stages, scanned, guidance)
        return (self.reconstructor(full, half, scanned).astype(jnp.float32),)

    def gates(self, blurred: jax.Array) -> list[jax.Array]:
        """The gates of every stage, (b, h/2, w/2, 4c) each, as ``make_gates`` has them."""
        return make_gates(self.stages, self.weights(blurred))
