"""The spatially variant recurrent network, SVRNN (Zhang et al., CVPR 2018).

"Dynamic Scene Deblurring Using Spatially Variant Recurrent Neural Networks": undoing a blur is an
IIR filter, and a linear recurrence is one. A network predicts the coefficient of every pixel, the
"gate"; recurrences in four directions with convolutions between them reach across the image with
few parameters.

Scales are ``full``, ``half``, ``quarter`` and ``eighth``. Convolutions have a bias and pad with
zeros.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from deblur_jax.config import setting
from deblur_jax.models.compute import Compute
from deblur_jax.models.registry import (
    IMAGE_CHANNELS,
    NetworkConfig,
    check_images,
    register_network,
)
from deblur_jax.ops.initializers import caffe_xavier
from deblur_jax.ops.operations import Features, Operations
from deblur_jax.ops.recurrence import DIRECTIONS

NUM_STAGES = 4
_STAGES_AT_ONCE = 2
"""Their gates are made together, which takes less time on the CPU; all four stages' gates together
would be the network's largest array."""
_LEAKY_SLOPE = 0.1
_RESIZES = ("caffe", "half_pixel")


@dataclasses.dataclass(frozen=True)
class SVRNNConfig(NetworkConfig):
    """The sizes of SVRNN; the defaults are the official network's."""

    rnn_channels: int = setting(32, "c: channels of the recurrences, even", at_least=2)
    guidance_channels: int = setting(
        64, "of the weight generator's first convolutions; 64 as in VGG-16", at_least=1
    )
    resize: str = setting(
        "caffe",
        'of the upsampling: "caffe", as the official weights need it, or "half_pixel"',
        choices=_RESIZES,
    )
    gate_limit: float | None = setting(
        None,
        "clamps the gates to plus or minus this; none is the official network, 0 takes the "
        "recurrences out",
        at_least=0,
    )


@dataclasses.dataclass(frozen=True)
class VGG16Config(NetworkConfig):
    """The sizes of the part of VGG-16 that SVRNN's weight generator can start from."""

    guidance_channels: int = setting(64, "of the first convolutions, 64 in VGG-16", at_least=1)


class Conv(nnx.Module):
    """A ``kernel_size`` x ``kernel_size`` convolution, initialised by Caffe's Xavier."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        rngs: nnx.Rngs,
        compute: Compute,
    ):
        initial = caffe_xavier(in_channels * kernel_size**2)
        shape = (kernel_size, kernel_size, in_channels, out_channels)
        self.kernel = nnx.Param(initial(rngs.params(), shape))
        self.bias = nnx.Param(nnx.initializers.zeros(rngs.params(), (out_channels,)))
        self.stride = stride
        self.compute = compute

    def __call__(self, features: Features, *, relu: bool = False) -> Features:
        """(b, h, w, i) to (b, h/stride, w/stride, o), with a ReLU on request."""
        compute = self.compute
        return compute.ops.convolution(
            features,
            self.kernel[...].astype(compute.dtype),
            self.bias[...],
            stride=self.stride,
            relu=relu,
            precision=compute.precision,
        )


def _upsampling(resize: str, ops: Operations) -> Callable[[Features], Features]:
    """Doubles height and width, as ``SVRNNConfig.resize`` names it."""
    if resize == "caffe":
        return ops.upsample_caffe_bilinear
    return ops.upsample_half_pixel_bilinear


class FeatureExtractor(nnx.Module):
    """The image's own features: at full size, and at half size what the recurrences scan."""

    def __init__(self, rnn_channels: int, *, rngs: nnx.Rngs, compute: Compute):
        conv: dict[str, Any] = {"rngs": rngs, "compute": compute}
        self.conv_full = Conv(IMAGE_CHANNELS, rnn_channels // 2, 11, **conv)
        self.conv_half = Conv(rnn_channels // 2, rnn_channels, 7, stride=2, **conv)
        self.ops = compute.ops

    def __call__(self, blurred: Features) -> tuple[Features, Features]:
        """(b, h, w, 3) to (b, h, w, c/2), leaky, and (b, h/2, w/2, c), linear."""
        full = self.full(blurred)
        return full, self.conv_half(full)

    def full(self, blurred: Features) -> Features:
        """(b, h, w, 3) to (b, h, w, c/2), leaky."""
        return self.ops.leaky_relu(self.conv_full(blurred), _LEAKY_SLOPE)


@register_network("vgg16", VGG16Config, restores=False)
class VGGEncoder(nnx.Module):
    """The first nine convolutions of VGG-16: the beginning of the weight generator.

    Named "vgg16" it is a network of its own, which holds what ``convert`` reads from VGG's weights
    and ``config.init_from`` takes.

    Args:
        config: its sizes.
        rngs: for the initial parameters.
        compute: as of ``SVRNN``.
    """

    def __init__(self, config: VGG16Config, *, rngs: nnx.Rngs, compute: Compute | None = None):
        c = config.guidance_channels
        compute = compute or Compute()
        conv: dict[str, Any] = {"rngs": rngs, "compute": compute}
        self.conv1_1 = Conv(IMAGE_CHANNELS, c, 3, **conv)
        self.conv1_2 = Conv(c, c, 3, **conv)
        self.conv2_1 = Conv(c, 2 * c, 3, **conv)
        self.conv2_2 = Conv(2 * c, 2 * c, 3, **conv)
        self.conv3_1 = Conv(2 * c, 4 * c, 3, **conv)
        self.conv3_2 = Conv(4 * c, 4 * c, 3, **conv)
        self.conv3_3 = Conv(4 * c, 4 * c, 3, **conv)
        self.conv4_1 = Conv(4 * c, 8 * c, 3, **conv)
        self.conv4_2 = Conv(8 * c, 8 * c, 3, **conv)
        self.ops = compute.ops

    def __call__(self, blurred: Features) -> tuple[Features, Features, Features]:
        """(b, h, w, 3) to (b, h/2, w/2, 2g), (b, h/4, w/4, 4g) and (b, h/8, w/8, 8g).

        They are the outputs of conv2_2, conv3_2 and conv4_2.
        """
        pool = self.ops.max_pool_2x2
        x = self.conv1_1(blurred, relu=True)
        x = pool(self.conv1_2(x, relu=True))
        x = self.conv2_1(x, relu=True)
        half = self.conv2_2(x, relu=True)
        x = self.conv3_1(pool(half), relu=True)
        quarter = self.conv3_2(x, relu=True)
        x = pool(self.conv3_3(quarter, relu=True))
        x = self.conv4_1(x, relu=True)
        return half, quarter, self.conv4_2(x, relu=True)


class WeightGenerator(nnx.Module):
    """What the gates are made of: an encoder shaped like VGG-16's first nine convolutions.

    After it the map is enlarged twice, and joined each time with the encoder's map of that size.
    The generator's last layer, the paper's and the network's largest, is made by each stage for
    itself: ``SpatialRNN``.
    """

    def __init__(self, channels: int, resize: str, *, rngs: nnx.Rngs, compute: Compute):
        c = channels
        conv: dict[str, Any] = {"rngs": rngs, "compute": compute}
        self.encoder = VGGEncoder(VGG16Config(guidance_channels=c), **conv)
        self.conv_eighth = Conv(8 * c, 4 * c, 3, **conv)
        self.merge_quarter = Conv(4 * c + 4 * c, 2 * c, 3, **conv)
        self.conv_quarter = Conv(2 * c, 2 * c, 3, **conv)
        self.merge_half = Conv(2 * c + 2 * c, 4 * c, 3, **conv)
        self.ops = compute.ops
        self.resize = resize

    def __call__(self, blurred: Features) -> Features:
        """(b, h, w, 3) to (b, h/2, w/2, 4·channels)."""
        join = self.ops.concatenate
        enlarge = _upsampling(self.resize, self.ops)
        half, quarter, eighth = self.encoder(blurred)
        x = self.conv_eighth(eighth, relu=True)
        x = self.merge_quarter(join([quarter, enlarge(x)]), relu=True)
        x = self.conv_quarter(x, relu=True)
        return self.merge_half(join([half, enlarge(x)]), relu=True)


class SpatialRNN(nnx.Module):
    """One stage: recurrences in four directions over the same input, merged by a convolution."""

    def __init__(
        self,
        channels: int,
        guidance_channels: int,
        gate_limit: float | None,
        *,
        rngs: nnx.Rngs,
        compute: Compute,
    ):
        four_ways = len(DIRECTIONS) * channels
        self.conv_gates = Conv(guidance_channels, four_ways, 3, rngs=rngs, compute=compute)
        self.merge = Conv(four_ways, channels, 3, rngs=rngs, compute=compute)
        self.gate_limit = gate_limit
        self.ops = compute.ops

    def __call__(self, x: Features, gates: Features) -> Features:
        """Inputs (b, h, w, c) and gates (b, h, w, 4c), see ``make_gates``, to (b, h, w, c)."""
        return self.merged(self.ops.gated_recurrence(x, gates, tuple(DIRECTIONS)))

    def merged(self, scanned: Features) -> Features:
        """States in all ``DIRECTIONS``, (b, h, w, 4c), to the stage's result, (b, h, w, c)."""
        return self.ops.leaky_relu(self.merge(scanned), _LEAKY_SLOPE)

    def limited(self, linear: Features) -> Features:
        """Gates from what the convolution makes of the guidance: to (-1, 1)."""
        gates = self.ops.tanh(linear)
        return gates if self.gate_limit is None else self.ops.limit(gates, self.gate_limit)


def make_gates(
    stages: Sequence[SpatialRNN],
    guidance: Features,
    directions: Sequence[str] = tuple(DIRECTIONS),
) -> list[Features]:
    """The gates of some stages in some directions; fewer directions cost less.

    Args:
        stages: of one network.
        guidance: the weight generator's map (b, h, w, g).
        directions: names in ``DIRECTIONS``.

    Returns:
        For every stage (b, h, w, c·directions) in (-1, 1): a block of c for each of them.
    """
    blocks = [list(DIRECTIONS).index(name) for name in directions]

    def of_directions(parameter: nnx.Param) -> jax.Array:
        of_each = jnp.split(parameter[...], len(DIRECTIONS), -1)
        return jnp.concatenate([of_each[block] for block in blocks], -1)

    convs = [stage.conv_gates for stage in stages]
    compute = convs[0].compute
    kernels = [of_directions(conv.kernel).astype(compute.dtype) for conv in convs]
    linear = compute.ops.convolve_same_each(guidance, kernels, precision=compute.precision)
    return [
        stage.limited(compute.ops.add_bias(own, of_directions(stage.conv_gates.bias)))
        for stage, own in zip(stages, linear, strict=True)
    ]


def _scan_stages(stages: Sequence[SpatialRNN], x: Features, guidance: Features) -> Features:
    """Some stages one after another: (b, h, w, c) and (b, h, w, g) to (b, h, w, c)."""
    for stage, gates in zip(stages, make_gates(stages, guidance), strict=True):
        x = stage(x, gates)
    return x


class ImageReconstructor(nnx.Module):
    """The restored image from the scanned features and the image's own."""

    def __init__(self, rnn_channels: int, resize: str, *, rngs: nnx.Rngs, compute: Compute):
        conv: dict[str, Any] = {"rngs": rngs, "compute": compute}
        self.conv_half = Conv(2 * rnn_channels, rnn_channels // 2, 9, **conv)
        self.conv_full = Conv(rnn_channels, IMAGE_CHANNELS, 5, **conv)
        self.ops = compute.ops
        self.resize = resize

    def __call__(self, full: Features, half: Features, scanned: Features) -> Features:
        """(b, h, w, c/2), and twice (b, h/2, w/2, c), to (b, h, w, 3), linear."""
        join = self.ops.concatenate
        x = self.ops.leaky_relu(self.conv_half(join([half, scanned])), _LEAKY_SLOPE)
        return self.conv_full(join([full, _upsampling(self.resize, self.ops)(x)]))


@register_network("svrnn", SVRNNConfig)
class SVRNN(nnx.Module):
    """The whole network: blurred (b, h, w, 3) to restored of the same shape.

    ``config.gate_limit`` is not in the official network. A PyTorch transcription that circulates
    clamps the gates to 0.5, which misreads a limit on a recurrent matrix that this network does not
    use. With 0 each recurrence returns its input.

    Args:
        config: its sizes.
        rngs: for the initial parameters.
        compute: how to compute it; the plain operations in float32 by default.
    """

    computes_by_table: ClassVar[bool] = True
    size_multiple: ClassVar[int] = 8
    """Height and width must be multiples of this."""
    receptive_radius: ClassVar[int | None] = None
    """The recurrences reach across the image."""

    def __init__(self, config: SVRNNConfig, *, rngs: nnx.Rngs, compute: Compute | None = None):
        compute = compute or Compute()
        conv: dict[str, Any] = {"rngs": rngs, "compute": compute}
        channels, guidance = config.rnn_channels, config.guidance_channels
        self.compute = compute
        self.rnn_channels, self.guidance_channels = channels, guidance
        self.features = FeatureExtractor(channels, **conv)
        self.weights = WeightGenerator(guidance, config.resize, **conv)
        self.stages = nnx.List(
            [
                SpatialRNN(channels, 4 * guidance, config.gate_limit, **conv)
                for _ in range(NUM_STAGES)
            ]
        )
        self.reconstructor = ImageReconstructor(channels, config.resize, **conv)

    def __call__(
        self, blurred: jax.Array, *, dropout_keys: jax.Array | None = None
    ) -> tuple[jax.Array]:
        """Restores a batch of images.

        Args:
            blurred: (b, h, w, 3) float32 in [0, 1], h and w multiples of 8.
            dropout_keys: ignored: this network has no dropout.

        Returns:
            The restored images, (b, h, w, 3) float32, not clipped, as a tuple of one.

        Raises:
            ValueError: if ``blurred`` is not an RGB batch whose sides are multiples of 8.
        """
        del dropout_keys
        check_images(blurred, self.size_multiple)
        guidance = self.guidance(blurred)
        full, half = self.features(self.enter(blurred, self.rnn_channels // 2))
        scanned = half
        scan = nnx.remat(_scan_stages) if self.compute.remat == "blocks" else _scan_stages
        for first in range(0, NUM_STAGES, _STAGES_AT_ONCE):
            stages = tuple(self.stages[first : first + _STAGES_AT_ONCE])
            scanned = scan(stages, scanned, guidance)
        return (self.leave(self.reconstructor(full, half, scanned)),)

    def guidance(self, blurred: jax.Array) -> Features:
        """What gates are made of: (b, h, w, 3) to (b, h/2, w/2, g)."""
        return self.weights(self.enter(blurred, self.guidance_channels))

    def enter(self, images: jax.Array, channels: int) -> Features:
        """Images (b, h, w, 3) as a feature map; ``channels`` of those that are made of it first."""
        images = images.astype(self.compute.dtype)
        return self.compute.ops.enter(images, channels=channels, halvings=3)

    def leave(self, features: Features) -> jax.Array:
        """A feature map as an NHWC array, float32."""
        return self.compute.ops.leave(features).astype(jnp.float32)

    def gates(self, blurred: jax.Array) -> list[jax.Array]:
        """The gates of every stage, (b, h/2, w/2, 4c) each, as ``make_gates`` has them."""
        gates = make_gates(self.stages, self.guidance(blurred))
        return [self.compute.ops.leave(of_stage) for of_stage in gates]
