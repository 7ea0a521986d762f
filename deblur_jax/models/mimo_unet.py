"""MIMO-UNet and MIMO-UNet+ (Cho et al., ICCV 2021).

"Rethinking Coarse-to-Fine Approach in Single Image Deblurring": one U-Net that takes the blurred
image at three scales and gives the restored one at three. Scales are named ``full``, ``half`` and
``quarter``; with base channels c the features have c, 2c and 4c channels there.

The classes follow the paper's section 3 and keep its acronyms. Every convolution has a bias, pads
with zeros, and is followed by a ReLU where the text of the class does not call it linear.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Self

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
from deblur_jax.ops.initializers import pytorch_default
from deblur_jax.ops.operations import Features
from deblur_jax.ops.resize import downsample_nearest


@dataclasses.dataclass(frozen=True)
class MIMOUNetConfig(NetworkConfig):
    """The sizes of MIMO-UNet; the defaults are the paper's."""

    base_channels: int = setting(
        32, "c: channels at full scale; 2c and 4c at half and quarter scale", at_least=2
    )
    num_res_blocks: int = setting(
        8, "residual blocks of each encoder and decoder block", at_least=1
    )
    dropout_rate: float = setting(
        0.0, "of whole channels of both AFF outputs, in training", at_least=0, below=1
    )

    @classmethod
    def plus(cls, **sizes: Any) -> Self:
        """MIMO-UNet+: 20 residual blocks instead of 8, and dropout.

        Args:
            **sizes: fields that replace its own.
        """
        return cls(**{"num_res_blocks": 20, "dropout_rate": 0.1, **sizes})


class Conv(nnx.Module):
    """A ``kernel_size`` x ``kernel_size`` convolution, initialised as PyTorch does."""

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
        initial = pytorch_default(in_channels * kernel_size**2)
        shape = (kernel_size, kernel_size, in_channels, out_channels)
        self.kernel = nnx.Param(initial(rngs.params(), shape))
        self.bias = nnx.Param(initial(rngs.params(), (out_channels,)))
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


class ConcatConv(nnx.Module):
    """A linear 1x1 convolution of several maps, resized (nearest) to one size and concatenated."""

    def __init__(
        self, in_channels: Sequence[int], out_channels: int, *, rngs: nnx.Rngs, compute: Compute
    ):
        initial = pytorch_default(sum(in_channels))
        shape = (1, 1, sum(in_channels), out_channels)
        self.kernel = nnx.Param(initial(rngs.params(), shape))
        self.bias = nnx.Param(initial(rngs.params(), (out_channels,)))
        self.compute = compute

    def __call__(self, *maps: Features, scales: Sequence[int | float]) -> Features:
        """Maps (b, h_k, w_k, c_k), ``scales`` as in ``concat_conv_1x1``, to (b, h, w, o)."""
        compute = self.compute
        return compute.ops.concat_conv_1x1(
            maps,
            self.kernel[...].astype(compute.dtype),
            self.bias[...],
            scales=scales,
            precision=compute.precision,
        )


class UpsamplingConv(nnx.Module):
    """A linear transposed convolution, kernel size 4, stride 2."""

    def __init__(self, in_channels: int, out_channels: int, *, rngs: nnx.Rngs, compute: Compute):
        initial = pytorch_default(out_channels * 4 * 4)
        self.kernel = nnx.Param(initial(rngs.params(), (4, 4, in_channels, out_channels)))
        self.bias = nnx.Param(initial(rngs.params(), (out_channels,)))
        self.compute = compute

    def __call__(self, features: Features) -> Features:
        """(b, h, w, i) to (b, 2h, 2w, o)."""
        compute = self.compute
        return compute.ops.upsampling_conv_4x4(
            features,
            self.kernel[...].astype(compute.dtype),
            self.bias[...],
            precision=compute.precision,
        )


class ResBlock(nnx.Module):
    """``x + conv(relu(conv(x)))``, two 3x3 convolutions, no normalisation."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs, compute: Compute):
        self.conv_in = Conv(channels, channels, 3, rngs=rngs, compute=compute)
        self.conv_out = Conv(channels, channels, 3, rngs=rngs, compute=compute)
        self.ops = compute.ops

    def __call__(self, x: Features) -> Features:
        """(b, h, w, c) to the same shape."""
        return self.ops.add(x, self.conv_out(self.conv_in(x, relu=True)))


class _ResBlockStack(nnx.Module):
    """``num_res_blocks`` residual blocks in a row, their parameters stacked on a leading axis."""

    blocks_after_loop: ClassVar[int] = 0

    def __init__(self, channels: int, num_res_blocks: int, *, rngs: nnx.Rngs, compute: Compute):
        @nnx.split_rngs(splits=num_res_blocks)
        @nnx.vmap
        def make_blocks(rngs: nnx.Rngs) -> ResBlock:
            return ResBlock(channels, rngs=rngs, compute=compute)

        self.blocks = make_blocks(rngs)
        self.ops = compute.ops
        self.unroll = compute.unroll
        self.remat = compute.remat

    def __call__(self, x: Features) -> Features:
        """(b, h, w, c) to the same shape."""
        graphdef, stacked_params = nnx.split(self.blocks)

        def apply_block(x: Features, params: nnx.State) -> tuple[Features, None]:
            return nnx.merge(graphdef, params)(x), None

        if self.remat == "blocks":
            apply_block = jax.checkpoint(apply_block, prevent_cse=self.unroll != 1)

        def params_of(blocks: int | slice) -> nnx.State:
            return jax.tree.map(lambda params: params[blocks], stacked_params)

        num_blocks = len(jax.tree.leaves(stacked_params)[0])
        in_loop = max(1, num_blocks - self.blocks_after_loop)
        x = self.ops.enter_stack(x)
        x, _ = jax.lax.scan(apply_block, x, params_of(slice(in_loop)), unroll=self.unroll)
        for block in range(in_loop, num_blocks):
            x, _ = apply_block(x, params_of(block))
        return self.ops.leave_stack(x)


class EncoderBlock(_ResBlockStack):
    """EB: the residual blocks of one scale of the encoder."""


class DecoderBlock(_ResBlockStack):
    """DB: the residual blocks of one scale of the decoder."""

    # What loops of equal length keep for the gradient begins as the same array of zeros, which the
    # TPU's compiler then writes in full for each of them: a sixth of a training step.
    blocks_after_loop = 1


class SCM(nnx.Module):
    """Shallow convolutional module: features of a downsampled input.

    Four convolutions 3x3, 1x1, 3x3, 1x1 to o - 3 channels; the input and they are then merged by a
    linear 1x1.
    """

    def __init__(self, out_channels: int, *, rngs: nnx.Rngs, compute: Compute):
        quarter, half = out_channels // 4, out_channels // 2
        rest = out_channels - IMAGE_CHANNELS
        conv: dict[str, Any] = {"rngs": rngs, "compute": compute}
        self.conv_1 = Conv(IMAGE_CHANNELS, quarter, 3, **conv)
        self.conv_2 = Conv(quarter, half, 1, **conv)
        self.conv_3 = Conv(half, half, 3, **conv)
        self.conv_4 = Conv(half, rest, 1, **conv)
        self.merge = ConcatConv((IMAGE_CHANNELS, rest), out_channels, **conv)
        self.ops = compute.ops

    def __call__(self, image: Features) -> Features:
        """(b, h, w, 3) to (b, h, w, out_channels)."""
        x = image
        for conv in (self.conv_1, self.conv_2, self.conv_3, self.conv_4):
            x = conv(x, relu=True)
        return self.merge(image, x, scales=(1, 1))


class FAM(nnx.Module):
    """Feature attention module: ``a + conv(a * b)``, a linear 3x3, with b attending to a."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs, compute: Compute):
        self.merge = Conv(channels, channels, 3, rngs=rngs, compute=compute)
        self.ops = compute.ops

    def __call__(self, a: Features, b: Features) -> Features:
        """Two maps (b, h, w, c) to one."""
        return self.ops.add(a, self.merge(self.ops.multiply(a, b)))


class AFF(nnx.Module):
    """Asymmetric feature fusion: all three encoder outputs, merged at one scale.

    1x1 with ReLU over the three maps (resized by nearest, concatenated), then a linear 3x3.
    """

    def __init__(
        self, in_channels: Sequence[int], out_channels: int, *, rngs: nnx.Rngs, compute: Compute
    ):
        self.fuse = ConcatConv(in_channels, out_channels, rngs=rngs, compute=compute)
        self.conv = Conv(out_channels, out_channels, 3, rngs=rngs, compute=compute)
        self.ops = compute.ops

    def __call__(self, *encoded: Features, scales: Sequence[int | float]) -> Features:
        """Encoder outputs, ``scales`` as in ``concat_conv_1x1``, to (b, h, w, out_channels)."""
        return self.conv(self.ops.relu(self.fuse(*encoded, scales=scales)))


@register_network("mimo_unet", MIMOUNetConfig, presets={"mimo_unet_plus": MIMOUNetConfig.plus})
class MIMOUNet(nnx.Module):
    """The whole network: blurred (b, h, w, 3) to restored at full, half and quarter scale.

    Args:
        config: its sizes.
        rngs: for the initial parameters.
        compute: how to compute it; the plain operations in float32 by default.
    """

    size_multiple: ClassVar[int] = 4
    computes_by_table: ClassVar[bool] = True
    """Height and width must be multiples of this."""

    def __init__(self, config: MIMOUNetConfig, *, rngs: nnx.Rngs, compute: Compute | None = None):
        c, n = config.base_channels, config.num_res_blocks
        compute = compute or Compute()
        conv: dict[str, Any] = {"rngs": rngs, "compute": compute}
        self.compute = compute
        self.dropout_rate = config.dropout_rate
        self.receptive_radius = 17 + 28 * n
        """Pixels, along rows and columns, beyond which the input has no influence: 241, 577 in +.

        The two convolutions of a block reach 2 pixels of their own scale: at full, half and quarter
        size, in the encoder and again in the decoder, that is 28 for each of n blocks. The other
        layers reach 17."""

        self.conv_full = Conv(IMAGE_CHANNELS, c, 3, **conv)
        self.encoder_full = EncoderBlock(c, n, **conv)
        self.conv_half = Conv(c, 2 * c, 3, stride=2, **conv)
        self.scm_half = SCM(2 * c, **conv)
        self.fam_half = FAM(2 * c, **conv)
        self.encoder_half = EncoderBlock(2 * c, n, **conv)
        self.conv_quarter = Conv(2 * c, 4 * c, 3, stride=2, **conv)
        self.scm_quarter = SCM(4 * c, **conv)
        self.fam_quarter = FAM(4 * c, **conv)
        self.encoder_quarter = EncoderBlock(4 * c, n, **conv)

        self.aff_full = AFF((c, 2 * c, 4 * c), c, **conv)
        self.aff_half = AFF((c, 2 * c, 4 * c), 2 * c, **conv)

        self.decoder_quarter = DecoderBlock(4 * c, n, **conv)
        self.output_quarter = Conv(4 * c, IMAGE_CHANNELS, 3, **conv)
        self.upsample_half = UpsamplingConv(4 * c, 2 * c, **conv)
        self.merge_half = ConcatConv((2 * c, 2 * c), 2 * c, **conv)
        self.decoder_half = DecoderBlock(2 * c, n, **conv)
        self.output_half = Conv(2 * c, IMAGE_CHANNELS, 3, **conv)
        self.upsample_full = UpsamplingConv(2 * c, c, **conv)
        self.merge_full = ConcatConv((c, c), c, **conv)
        self.decoder_full = DecoderBlock(c, n, **conv)
        self.output_full = Conv(c, IMAGE_CHANNELS, 3, **conv)

    def __call__(
        self, blurred: jax.Array, *, dropout_keys: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Restores a batch of images.

        Under ``jit`` the half and quarter outputs cost nothing where the caller drops them.

        Args:
            blurred: (b, h, w, 3) float32 in [0, 1], h and w multiples of 4.
            dropout_keys: (b,) random keys, one per image; None, the default, for no dropout.

        Returns:
            Restored images, float32 and not clipped: (b, h, w, 3), (b, h/2, w/2, 3) and
            (b, h/4, w/4, 3).

        Raises:
            ValueError: if ``blurred`` is not an RGB batch whose sides are multiples of 4.
        """
        check_images(blurred, self.size_multiple)
        scales = (blurred, downsample_nearest(blurred, 2), downsample_nearest(blurred, 4))
        encoded = self._encode(*map(self._enter, scales, (0, 1, 2)))
        fused_full = self.aff_full(*encoded, scales=(1, 2, 4))
        fused_half = self.aff_half(*encoded, scales=(0.5, 1, 2))
        if dropout_keys is not None and self.dropout_rate > 0:
            fused_full, fused_half = self._drop_channels(fused_full, fused_half, dropout_keys)

        quarter, half, full = self._decode(encoded[-1], fused_half, fused_full)
        outputs = self.output_full(full), self.output_half(half), self.output_quarter(quarter)
        full, half, quarter = (
            images + self.compute.ops.leave(residual).astype(jnp.float32)
            for images, residual in zip(scales, outputs, strict=True)
        )
        return full, half, quarter

    def _enter(self, images: jax.Array, scale: int) -> Features:
        """The images of scale 0, 1 or 2: full, half or quarter size."""
        channels = self.conv_full.kernel.shape[-1] << scale
        images = images.astype(self.compute.dtype)
        return self.compute.ops.enter(images, channels=channels, halvings=2 - scale)

    def _encode(
        self, blurred: Features, blurred_half: Features, blurred_quarter: Features
    ) -> tuple[Features, Features, Features]:
        """MISE, the multi-input single encoder: EB outputs at full, half and quarter scale."""
        full = self.encoder_full(self.conv_full(blurred, relu=True))
        half = self.conv_half(full, relu=True)
        half = self.encoder_half(self.fam_half(half, self.scm_half(blurred_half)))
        quarter = self.conv_quarter(half, relu=True)
        quarter = self.encoder_quarter(self.fam_quarter(quarter, self.scm_quarter(blurred_quarter)))
        return full, half, quarter

    def _drop_channels(
        self, fused_full: Features, fused_half: Features, keys: jax.Array
    ) -> tuple[Features, Features]:
        keys_full, keys_half = jax.vmap(lambda key: jax.random.split(key, 2), out_axes=1)(keys)
        drop = self.compute.ops.channel_dropout
        return (
            drop(fused_full, self.dropout_rate, keys_full),
            drop(fused_half, self.dropout_rate, keys_half),
        )

    def _decode(
        self, encoded_quarter: Features, fused_half: Features, fused_full: Features
    ) -> tuple[Features, Features, Features]:
        """MOSD, the multi-output single decoder: DB outputs at quarter, half and full scale."""
        relu = self.compute.ops.relu
        quarter = self.decoder_quarter(encoded_quarter)
        half = relu(self.upsample_half(quarter))
        half = self.decoder_half(relu(self.merge_half(half, fused_half, scales=(1, 1))))
        full = relu(self.upsample_full(half))
        full = self.decoder_full(relu(self.merge_full(full, fused_full, scales=(1, 1))))
        return quarter, half, full
