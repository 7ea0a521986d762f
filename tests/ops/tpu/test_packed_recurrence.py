"""The recurrence of packed maps against the plain one, its kernels interpreted."""

import jax
import jax.numpy as jnp
import pytest

from deblur_jax.ops.recurrence import DIRECTIONS
from deblur_jax.ops.tpu import (
    TPU,
    TPU_INTERPRETED,
    packed_recurrence,
    recurrence_blocks,
    recurrence_lanes,
)
from deblur_jax.ops.tpu.packed import Packed, pack
from tests.ops.tpu.packing import assert_same, random_arrays, random_kernel
from tests.tpu import topology_mesh


def scanned(ops, x, guidance, kernel, directions):
    """With gates of a convolution, as the network has them."""
    (linear,) = ops.convolve_same_each(guidance, [kernel], precision="highest")
    return ops.gated_recurrence(x, ops.tanh(linear), directions)


@pytest.mark.parametrize(
    ("shape", "directions"),
    [
        *[pytest.param((1, 18, 11, 32), (name,), id=name) for name in DIRECTIONS],
        pytest.param((2, 24, 16, 32), tuple(DIRECTIONS), id="all, a multiple"),
        pytest.param((1, 9, 7, 64), tuple(DIRECTIONS), id="all, 2 columns"),
        pytest.param((3, 8, 3, 128), ("right_to_left", "bottom_to_top"), id="two, 1 column"),
        pytest.param((1, 10, 6, 24), tuple(DIRECTIONS), id="lanes that are not full"),
    ],
)
def test_states_and_gradients_are_the_plain_ones(shape, directions):
    c = shape[-1]
    maps = random_arrays(shape, (*shape[:-1], 5))
    form = {"channels": c, "halvings": 0}
    assert_same(
        lambda ops, maps, kernels: scanned(ops, *maps, *kernels, directions),
        maps,
        [form, form],
        [random_kernel(3, 5, c * len(directions))],
    )


@pytest.mark.parametrize(
    ("images", "strips"),
    [(8, 1), *(pytest.param(*n, marks=pytest.mark.slow) for n in [(4, 2), (1, 16)])],
)
def test_images_of_any_number_of_strips(images, strips, monkeypatch):
    monkeypatch.setattr("deblur_jax.ops.tpu.packed.strips_of", lambda *_: strips)
    maps = random_arrays((images, 20, 6, 32), (images, 20, 6, 5))
    form = {"channels": 32, "halvings": 0}
    assert_same(
        lambda ops, maps, kernels: scanned(ops, *maps, *kernels, tuple(DIRECTIONS)),
        maps,
        [form, form],
        [random_kernel(3, 5, 4 * 32)],
    )


@pytest.mark.parametrize(
    ("shape", "mib", "kernels", "buffers"),
    [
        pytest.param((1, 24, 21, 32), 2.0, (2, 2), 2, id="a kernel for each axis"),
        pytest.param((2, 16, 7, 64), 0.9, (2, 2), 2, id="a kernel for each 128 lanes"),
        pytest.param((1, 16, 21, 32), 0.7, (2, 2), 1, id="one buffer"),
        pytest.param((1, 16, 21, 32), 0.4, (2, 0), 1, id="no kernel for the gradient"),
        pytest.param((1, 16, 21, 32), 0.1, (0, 0), None, id="no kernel"),
    ],
)
def test_maps_of_which_little_fits_on_the_chip(shape, mib, kernels, buffers, monkeypatch):
    """Blocks that are smaller than a map, at its end less than one, give the same values."""
    monkeypatch.setattr(recurrence_blocks, "BYTES_ON_CHIP", int(mib * 2**20))
    called = []

    def call_kernel(kernel, plan, *rest, **options):
        called.append((kernel.func.__name__, plan))
        return recurrence_blocks.call_kernel(kernel, plan, *rest, **options)

    monkeypatch.setattr(packed_recurrence, "call_kernel", call_kernel)
    c = shape[-1]
    maps = random_arrays(shape, (*shape[:-1], 5))
    form = {"channels": c, "halvings": 0}
    assert_same(
        lambda ops, maps, kernels: scanned(ops, *maps, *kernels, tuple(DIRECTIONS)),
        maps,
        [form, form],
        [random_kernel(3, 5, 4 * c)],
    )
    # The states are computed twice, for the outputs and for the gradient.
    names = [name for name, _ in called]
    assert (names.count("_forward"), names.count("_backward")) == (2 * kernels[0], kernels[1])
    assert min((plan.blocks.buffers for _, plan in called), default=None) == buffers


def test_lanes_of_float32_are_moved_exactly():
    """Of values that need all bits: the kernels multiply them in bfloat16 with a table."""
    (values,) = random_arrays((4, 8, 128))
    values *= 10.0 ** jnp.arange(-16, 16).reshape(4, 8, 1)
    table = jnp.asarray(jnp.eye(128)[::-1], jnp.bfloat16)
    moved = jax.jit(recurrence_lanes.mix_lanes)(values, table)
    assert jnp.array_equal(moved, values[..., ::-1])


def test_the_carry_is_float32():
    """Of bfloat16 maps: a sum of 256 small steps would stop at half of it in bfloat16."""
    x = jnp.ones((1, 8, 256, 32), jnp.bfloat16)
    gates = jnp.full((1, 8, 256, 32), 0.996, jnp.bfloat16)
    forms = [pack(array, channels=32) for array in (x, gates)]
    states = TPU_INTERPRETED.gated_recurrence(*forms, ("left_to_right",))
    actual = TPU_INTERPRETED.leave(states)[0, 0, -1, 0]
    assert states.array.dtype == jnp.bfloat16
    assert abs(float(actual) - (1 - float(gates[0, 0, 0, 0]) ** 256)) < 0.01


def test_forward_differentiation_names_the_plain_backend():
    x, gates = (pack(array, channels=32) for array in random_arrays(*[(1, 8, 8, 32)] * 2))
    scan = TPU_INTERPRETED.gated_recurrence
    with pytest.raises(Exception, match="plain"):
        jax.jvp(lambda x: scan(x, gates, ("left_to_right",)).array, (x,), (x,))


@pytest.mark.parametrize("dtype", [pytest.param("float32", marks=pytest.mark.slow), "bfloat16"])
@pytest.mark.parametrize("strips", [1, 2, pytest.param(8, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("width", "kernels"), [(16, 2), (163, 4)])
def test_the_kernels_compile_for_tpus(dtype, strips, width, kernels):
    device = topology_mesh("v5e:2x2").devices.ravel()[0]
    placed = jax.sharding.SingleDeviceSharding(device)

    def loss(x, gates):
        forms = [
            Packed(array, height=90, width=width, columns=columns, strips=strips)
            for array, columns in ((x, 4), (gates, 1))
        ]
        return jnp.sum(jnp.square(TPU.gated_recurrence(*forms).array.astype(jnp.float32)))

    arrays = [
        jax.ShapeDtypeStruct((16, 12, positions, 128), dtype, sharding=placed)
        for positions in (-(-width // 4), width)
    ]
    program = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(*arrays).compile().as_text()
    # For the states and for the gradient: one of both axes, or one of each.
    assert program.count('custom_call_target="tpu_custom_call"') == kernels
