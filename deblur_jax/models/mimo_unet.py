"""MIMO-UNet and MIMO-UNet+ (Cho et al., ICCV 2021).

"Rethinking Coarse-to-Fine Approach in Single Image Deblurring": one U-Net that takes the blurred
picture at three scales and gives the restored one at three. Scales are named ``full``, ``half`` and
``quarter``; with base channels c the features have c, 2c and 4c channels there.

The classes follow the paper's section 3 and keep its acronyms. Every convolution has a bias, pads
with zeros, and is followed by a ReLU where the text of the class does not call it linear.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from deblur_jax.models.images import IMAGE_CHANNELS, check_images
from deblur_jax.ops.conv import add_bias, concat_conv_1x1, conv_general_dilated, upsampling_conv_4x4
from deblur_jax.ops.initializers import pytorch_default
from deblur_jax.ops.resize import downsample_nearest


class Conv(nnx.Conv):
    """A linear ``kernel_size`` x ``kernel_size`` convolution with PyTorch's default start."""

    def __init__(self, in_channels, out_channels, kernel_size, *, stride=1, rngs, **options):
        start = pytorch_default(in_channels * kernel_size**2)
        super().__init__(
            in_channels,
            out_channels,
            (kernel_size, kernel_size),
            strides=stride,
            padding=kernel_size // 2,
            conv_general_dilated=conv_general_dilated,
            kernel_init=start,
            bias_init=start,
            rngs=rngs,
            **options,
        )


class ConcatConv(nnx.Module):
    """A linear 1x1 convolution of several maps, resized (nearest) to one size and concatenated."""

    def __init__(self, in_channels: Sequence[int], out_channels: int, *, rngs, dtype, precision):
        start = pytorch_default(sum(in_channels))
        shape = (1, 1, sum(in_channels), out_channels)
        self.kernel = nnx.Param(start(rngs.params(), shape))
        self.bias = nnx.Param(start(rngs.params(), (out_channels,)))
        self.dtype = dtype
        self.precision = precision

    def __call__(self, *maps: jax.Array, scales: Sequence[int | float]) -> jax.Array:
        """Maps (b, h_k, w_k, c_k), ``scales`` as in ``concat_conv_1x1``, to (b, h, w, o)."""
        kernel = self.kernel[...].astype(self.dtype)
        fused = concat_conv_1x1(maps, kernel, scales=scales, precision=self.precision)
        return add_bias(fused, self.bias[...])


class UpsamplingConv(nnx.Module):
    """A linear transposed convolution, kernel 4, stride 2."""

    def __init__(self, in_channels: int, out_channels: int, *, rngs, dtype, precision):
        start = pytorch_default(out_channels * 4 * 4)
        self.kernel = nnx.Param(start(rngs.params(), (4, 4, in_channels, out_channels)))
        self.bias = nnx.Param(start(rngs.params(), (out_channels,)))
        self.dtype = dtype
        self.precision = precision

    def __call__(self, features: jax.Array) -> jax.Array:
        """(b, h, w, i) to (b, 2h, 2w, o)."""
        kernel = self.kernel[...].astype(self.dtype)
        upsampled = upsampling_conv_4x4(features, kernel, precision=self.precision)
        return add_bias(upsampled, self.bias[...])


class ResBlock(nnx.Module):
    """``x + conv(relu(conv(x)))``, two 3x3 convolutions, no normalisation."""

    def __init__(self, channels: int, *, rngs, **options):
        self.conv_in = Conv(channels, channels, 3, rngs=rngs, **options)
        self.conv_out = Conv(channels, channels, 3, rngs=rngs, **options)

    def __call__(self, x: jax.Array) -> jax.Array:
        """(b, h, w, c) to the same shape."""
        return x + self.conv_out(nnx.relu(self.conv_in(x)))


class _ResBlockStack(nnx.Module):
    """``num_res_blocks`` residual blocks in a row, their parameters stacked on a leading axis.

    ``unroll`` goes to ``lax.scan``: True on the CPU, whose convolution gradients are slow inside a
    loop, and 1 on TPU and GPU, where the loop compiles faster and needs less memory. ``remat`` is
    that of ``MIMOUNet``.
    """

    def __init__(self, channels: int, num_res_blocks: int, *, unroll, remat, rngs, **options):
        @nnx.split_rngs(splits=num_res_blocks)
        @nnx.vmap
        def make_blocks(rngs):
            return ResBlock(channels, rngs=rngs, **options)

        self.blocks = make_blocks(rngs)
        self.unroll = unroll
        self.remat = remat

    def __call__(self, x: jax.Array) -> jax.Array:
        graphdef, stacked_params = nnx.split(self.blocks)

        def apply_block(x, params):
            return nnx.merge(graphdef, params)(x), None

        if self.remat == "blocks":
            apply_block = jax.checkpoint(apply_block, prevent_cse=self.unroll != 1)
        return jax.lax.scan(apply_block, x, stacked_params, unroll=self.unroll)[0]


class EncoderBlock(_ResBlockStack):
    """EB: the residual blocks of one scale of the encoder."""


class DecoderBlock(_ResBlockStack):
    """DB: the residual blocks of one scale of the decoder."""


class SCM(nnx.Module):
    """Shallow convolutional module: features of a downsampled input.

    Four convolutions 3x3, 1x1, 3x3, 1x1 to o - 3 channels; the input and they are then merged by a
    linear 1x1.
    """

    def __init__(self, out_channels: int, *, rngs, **options):
        quarter, half = out_channels // 4, out_channels // 2
        rest = out_channels - IMAGE_CHANNELS
        self.conv_1 = Conv(IMAGE_CHANNELS, quarter, 3, rngs=rngs, **options)
        self.conv_2 = Conv(quarter, half, 1, rngs=rngs, **options)
        self.conv_3 = Conv(half, half, 3, rngs=rngs, **options)
        self.conv_4 = Conv(half, rest, 1, rngs=rngs, **options)
        self.merge = ConcatConv((IMAGE_CHANNELS, rest), out_channels, rngs=rngs, **options)

    def __call__(self, image: jax.Array) -> jax.Array:
        """(b, h, w, 3) to (b, h, w, out_channels)."""
        x = image
        for conv in (self.conv_1, self.conv_2, self.conv_3, self.conv_4):
            x = nnx.relu(conv(x))
        return self.merge(image.astype(x.dtype), x, scales=(1, 1))


class FAM(nnx.Module):
    """Feature attention module: ``a + conv(a * b)``, a linear 3x3, with b attending to a."""

    def __init__(self, channels: int, *, rngs, **options):
        self.merge = Conv(channels, channels, 3, rngs=rngs, **options)

    def __call__(self, a: jax.Array, b: jax.Array) -> jax.Array:
        """Two maps (b, h, w, c) to one."""
        return a + self.merge(a * b)


class AFF(nnx.Module):
    """Asymmetric feature fusion: all three encoder outputs, merged at one scale.

    1x1 with ReLU over the three maps (resized by nearest, concatenated), then a linear 3x3.
    """

    def __init__(self, in_channels: Sequence[int], out_channels: int, *, rngs, **options):
        self.fuse = ConcatConv(in_channels, out_channels, rngs=rngs, **options)
        self.conv = Conv(out_channels, out_channels, 3, rngs=rngs, **options)

    def __call__(self, *encoded: jax.Array, scales: Sequence[int | float]) -> jax.Array:
        """Encoder outputs, ``scales`` as in ``concat_conv_1x1``, to (b, h, w, out_channels)."""
        return self.conv(nnx.relu(self.fuse(*encoded, scales=scales)))


def channel_dropout(features: jax.Array, rate: float, keys: jax.Array) -> jax.Array:
    """Zeroes whole feature maps with probability ``rate`` and scales the rest by 1/(1 - rate).

    Args:
        features: (b, h, w, c).
        keys: (b,) random keys, one a row of the batch.
    """
    channels = features.shape[-1]
    keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1.0 - rate, (channels,)))(keys)
    return jnp.where(keep[:, None, None, :], features / (1.0 - rate), 0.0).astype(features.dtype)


class MIMOUNet(nnx.Module):
    """The whole network: blurred (b, h, w, 3) to restored at full, half and quarter scale.

    Args:
        base_channels: c, 32 in the paper; a multiple of 2.
        num_res_blocks: residual blocks of each encoder and decoder block: 8 in MIMO-UNet, 20 in +.
        dropout_rate: of whole maps of both AFF outputs, in training: 0 in MIMO-UNet, 0.1 in +.
        dtype: of activations; parameters and the restored pictures are float32.
        precision: of products, as ``jax.lax`` names it; "highest" for parity.
        unroll: see ``ResBlock`` stacks: True on CPU, 1 on TPU and GPU.
        remat: "blocks" has the gradient compute again what is inside residual blocks.
        rngs: for the parameters' start.
    """

    size_multiple = 4
    """Height and width must be multiples of this."""

    def __init__(
        self,
        *,
        base_channels: int = 32,
        num_res_blocks: int = 8,
        dropout_rate: float = 0.0,
        dtype: jax.typing.DTypeLike = jnp.float32,
        precision: jax.lax.PrecisionLike = None,
        unroll: bool | int = True,
        remat: str | None = None,
        rngs: nnx.Rngs,
    ):
        c, n = base_channels, num_res_blocks
        conv = {"dtype": jnp.dtype(dtype), "precision": precision, "rngs": rngs}
        blocks = {"unroll": unroll, "remat": remat, **conv}
        self.dropout_rate = dropout_rate
        self.receptive_radius = 17 + 28 * n
        """Pixels, along rows and columns, beyond which the input has no influence: 241, 577 in +.

        Half a block's two convolutions reach 2 pixels of their own scale, at full, half and quarter
        size in the encoder and again in the decoder: 28 n. The rest is of the layers between."""

        self.conv_full = Conv(IMAGE_CHANNELS, c, 3, **conv)
        self.encoder_full = EncoderBlock(c, n, **blocks)
        self.conv_half = Conv(c, 2 * c, 3, stride=2, **conv)
        self.scm_half = SCM(2 * c, **conv)
        self.fam_half = FAM(2 * c, **conv)
        self.encoder_half = EncoderBlock(2 * c, n, **blocks)
        self.conv_quarter = Conv(2 * c, 4 * c, 3, stride=2, **conv)
        self.scm_quarter = SCM(4 * c, **conv)
        self.fam_quarter = FAM(4 * c, **conv)
        self.encoder_quarter = EncoderBlock(4 * c, n, **blocks)

        self.aff_full = AFF((c, 2 * c, 4 * c), c, **conv)
        self.aff_half = AFF((c, 2 * c, 4 * c), 2 * c, **conv)

        self.decoder_quarter = DecoderBlock(4 * c, n, **blocks)
        self.output_quarter = Conv(4 * c, IMAGE_CHANNELS, 3, **conv)
        self.upsample_half = UpsamplingConv(4 * c, 2 * c, **conv)
        self.merge_half = ConcatConv((2 * c, 2 * c), 2 * c, **conv)
        self.decoder_half = DecoderBlock(2 * c, n, **blocks)
        self.output_half = Conv(2 * c, IMAGE_CHANNELS, 3, **conv)
        self.upsample_full = UpsamplingConv(2 * c, c, **conv)
        self.merge_full = ConcatConv((c, c), c, **conv)
        self.decoder_full = DecoderBlock(c, n, **blocks)
        self.output_full = Conv(c, IMAGE_CHANNELS, 3, **conv)

    def __call__(
        self, blurred: jax.Array, *, dropout_keys: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Restores a batch of pictures.

        Under ``jit`` the half and quarter outputs cost nothing where the caller drops them.

        Args:
            blurred: (b, h, w, 3) float32 in [0, 1], h and w multiples of 4.
            dropout_keys: (b,) random keys, one a picture; None, the default, for no dropout.

        Returns:
            Restored pictures, float32 and not clipped: (b, h, w, 3), (b, h/2, w/2, 3) and
            (b, h/4, w/4, 3).

        Raises:
            ValueError: if ``blurred`` is not an RGB batch whose sides are multiples of 4.
        """
        check_images(blurred, self.size_multiple)
        blurred_half = downsample_nearest(blurred, 2)
        blurred_quarter = downsample_nearest(blurred, 4)

        encoded = self._encode(blurred, blurred_half, blurred_quarter)
        fused_full = self.aff_full(*encoded, scales=(1, 2, 4))
        fused_half = self.aff_half(*encoded, scales=(0.5, 1, 2))
        if dropout_keys is not None and self.dropout_rate > 0:
            fused_full, fused_half = self._drop_channels(fused_full, fused_half, dropout_keys)

        quarter, half, full = self._decode(encoded[-1], fused_half, fused_full)
        return (
            blurred + self.output_full(full).astype(jnp.float32),
            blurred_half + self.output_half(half).astype(jnp.float32),
            blurred_quarter + self.output_quarter(quarter).astype(jnp.float32),
        )

    def _encode(self, blurred, blurred_half, blurred_quarter):
        """MISE, the multi-input single encoder: EB outputs at full, half and quarter scale."""
        full = self.encoder_full(nnx.relu(self.conv_full(blurred)))
        half = nnx.relu(self.conv_half(full))
        half = self.encoder_half(self.fam_half(half, self.scm_half(blurred_half)))
        quarter = nnx.relu(self.conv_quarter(half))
        quarter = self.encoder_quarter(self.fam_quarter(quarter, self.scm_quarter(blurred_quarter)))
        return full, half, quarter

    def _drop_channels(self, fused_full, fused_half, keys):
        keys_full, keys_half = jax.vmap(lambda key: jax.random.split(key, 2), out_axes=1)(keys)
        return (
            channel_dropout(fused_full, self.dropout_rate, keys_full),
            channel_dropout(fused_half, self.dropout_rate, keys_half),
        )

    def _decode(self, encoded_quarter, fused_half, fused_full):
        """MOSD, the multi-output single decoder: DB outputs at quarter, half and full scale."""
        quarter = self.decoder_quarter(encoded_quarter)
        half = nnx.relu(self.upsample_half(quarter))
        half = self.decoder_half(nnx.relu(self.merge_half(half, fused_half, scales=(1, 1))))
        full = nnx.relu(self.upsample_full(half))
        full = self.decoder_full(nnx.relu(self.merge_full(full, fused_full, scales=(1, 1))))
        return quarter, half, full
