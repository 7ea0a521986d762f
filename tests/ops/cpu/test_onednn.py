import functools
import platform

import jax
import jax.numpy as jnp
import jaxlib.version
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from deblur_jax.ops.cpu import CPU, onednn
from deblur_jax.ops.cpu.convolution import convolve_same
from deblur_jax.ops.operations import PLAIN
from deblur_jax.runtime.operations import multiply_accumulates
from tests.accelerator import ON_CPU

pytestmark = [
    pytest.mark.skipif(not ON_CPU, reason="oneDNN computes on the CPU"),
    pytest.mark.skipif(
        (platform.system(), platform.machine()) != ("Linux", "x86_64"),
        reason="oneDNN comes with jaxlib for Linux on x86-64",
    ),
]

CALL = "__onednn$convolution"
DTYPES = ["float32", "bfloat16"] if onednn._multiplies_bfloat16() else ["float32"]


def random_arrays(*shapes, dtype=jnp.float32):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.standard_normal(shape, np.float32), dtype) for shape in shapes]


def xla_conv(inputs, kernel, padding):
    return jax.lax.conv_general_dilated(
        inputs, kernel, (1, 1), [padding] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def test_it_is_used_with_the_versions_that_were_tried():
    assert onednn.is_available() == (jaxlib.version.__version__ in onednn._TRIED_VERSIONS)


@settings(max_examples=15)
@given(
    b=st.integers(1, 3),
    h=st.integers(1, 9),
    w=st.sampled_from([1, 7, 40]),
    channels=st.sampled_from([(1, 1), (3, 16), (16, 3), (17, 9), (64, 32)]),
    size=st.sampled_from([1, 2, 3, 5, 11]),
    dtype=st.sampled_from(DTYPES),
)
def test_a_convolution_is_that_of_xla(b, h, w, channels, size, dtype):
    i, o = channels
    inputs, kernel = random_arrays((b, h, w, i), (size, size, i, o), dtype=dtype)
    padding = ((size - 1) // 2, size // 2)
    result = onednn.convolve(inputs, kernel, padding)
    expected = xla_conv(inputs.astype(jnp.float32), kernel.astype(jnp.float32), padding)
    assert result.dtype == inputs.dtype
    tolerance = (2e-6 if dtype == "float32" else 2**-8) * float(abs(expected).max())
    np.testing.assert_allclose(result.astype(jnp.float32), expected, atol=tolerance)


@given(
    h=st.integers(1, 6),
    channels=st.sampled_from([(1, 1), (3, 17), (32, 48)]),
    size=st.sampled_from([1, 3]),
)
def test_a_bias_and_a_relu_may_follow_with_gradients_by_what_they_made(h, channels, size):
    i, o = channels
    inputs, kernel, bias = random_arrays((2, h, 5, i), (size, size, i, o), (o,))

    def by(ops):
        def loss(*operands):
            return jnp.sum(jnp.sin(ops.convolution(*operands, relu=True)))

        return jax.value_and_grad(loss, argnums=(0, 1, 2))(inputs, kernel, bias)

    for actual, expected in zip(*(jax.tree.leaves(by(ops)) for ops in (CPU, PLAIN)), strict=True):
        np.testing.assert_allclose(actual, expected, atol=1e-5 * max(1, abs(expected).max()))


def test_a_relu_leaves_nothing_else_for_the_gradient():
    _, pull_back = jax.vjp(
        lambda *operands: CPU.convolution(*operands, relu=True),
        *random_arrays((1, 64, 64, 16), (3, 3, 16, 48), (48,)),
    )
    kept = sum(leaf.size for leaf in jax.tree.leaves(pull_back) if leaf.ndim == 4)
    assert kept == 64 * 64 * (16 + 48) + 3 * 3 * 16 * 48


@pytest.mark.parametrize("bias_dtype", ["float32", "bfloat16"])
def test_with_a_relu_it_can_be_differentiated_twice(bias_dtype):
    inputs, kernel, bias = random_arrays((1, 6, 6, 24), (3, 3, 24, 48), (48,))
    bias = bias.astype(bias_dtype)

    def slope_of_slope(ops):
        def loss(*operands):
            return (ops.convolution(*operands, relu=True) ** 3).sum()

        def size_of_slope(*operands):
            slopes = jax.grad(loss, argnums=(0, 1, 2))(*operands)
            return sum((slope.astype(jnp.float32) ** 2).sum() for slope in slopes)

        return jax.grad(size_of_slope, argnums=(0, 1, 2))(inputs, kernel, bias)

    for actual, expected in zip(slope_of_slope(CPU), slope_of_slope(PLAIN), strict=True):
        assert actual.dtype == expected.dtype
        tolerance = 1e-5 if bias_dtype == "float32" else 2**-7
        np.testing.assert_allclose(
            actual.astype(jnp.float32),
            expected.astype(jnp.float32),
            atol=tolerance * float(abs(expected).max()),
        )


@pytest.mark.parametrize("which", [0, 1, 2])
def test_what_is_no_number_stays_none(which):
    operands = random_arrays((1, 8, 8, 24), (3, 3, 24, 48), (48,))
    operands[which] = operands[which].at[(0,) * operands[which].ndim].set(jnp.nan)
    by_cpu, by_xla = (ops.convolution(*operands, relu=True) for ops in (CPU, PLAIN))
    inside = np.s_[:, 1:-1, 1:-1]  # at the border only one of them multiplies with the padding
    np.testing.assert_array_equal(jnp.isnan(by_cpu)[inside], jnp.isnan(by_xla)[inside])
    gradients = jax.grad(
        lambda *operands: CPU.convolution(*operands, relu=True).sum(), argnums=(1, 2)
    )(*operands)
    assert any(jnp.isnan(gradient).any() for gradient in gradients)


@given(n=st.integers(1, 70), i=st.integers(1, 40), o=st.integers(1, 40))
def test_a_product_is_that_of_numpy(n, i, o):
    a, b = random_arrays((n, i), (n, o))
    expected = np.asarray(a).T @ np.asarray(b)
    np.testing.assert_allclose(onednn.product_over_rows(a, b), expected, atol=1e-4)


def convolutions(*shapes):
    inputs, kernel = random_arrays((8, 6, 7, 4), (3, 3, 4, 5))
    return inputs, kernel, xla_conv(inputs, kernel, (1, 1))


def test_vmap_over_images_joins_them_and_over_kernels_is_right():
    inputs, kernel, expected = convolutions()
    one = jax.jit(jax.vmap(lambda image: convolve_same(image[None], kernel)[0]))
    assert one.lower(inputs).as_text().count(CALL) == 1
    np.testing.assert_allclose(one(inputs), expected, atol=1e-5)
    both = jax.vmap(convolve_same, (None, 0))(inputs, jnp.stack([kernel, 2 * kernel]))
    np.testing.assert_allclose(both, jnp.stack([expected, 2 * expected]), atol=1e-5)
    products = jax.vmap(onednn.product_over_rows)(inputs[:, :, 0], inputs[:, :, 1])
    np.testing.assert_allclose(
        products, jnp.einsum("bni,bno->bio", inputs[:, :, 0], inputs[:, :, 1]), atol=1e-5
    )


def test_devices_that_the_program_divides_itself_call_it():
    inputs, kernel, expected = convolutions()
    mesh = Mesh(np.array(jax.devices()), ("rows",))
    specs = {"in_specs": (P("rows"), P()), "out_specs": P("rows")}
    mapped = jax.jit(jax.shard_map(convolve_same, mesh=mesh, **specs))
    assert CALL in mapped.lower(inputs, kernel).as_text()
    np.testing.assert_allclose(mapped(inputs, kernel), expected, atol=1e-5)


def test_devices_among_which_xla_divides_the_program_do_not():
    # XLA can't divide a call: each device would compute the whole batch.
    inputs, kernel, expected = convolutions()
    rows = NamedSharding(Mesh(np.array(jax.devices()), ("rows",)), P("rows"))
    compiled = jax.jit(convolve_same).lower(jax.device_put(inputs, rows), kernel).compile()
    assert CALL not in compiled.as_text()
    result = compiled(jax.device_put(inputs, rows), kernel)
    assert result.sharding == rows
    np.testing.assert_allclose(result, expected, atol=1e-5)


def test_what_is_exported_runs_without_it():
    inputs, kernel, expected = convolutions()
    exported = jax.export.export(jax.jit(convolve_same))(inputs, kernel)
    assert CALL not in exported.mlir_module()
    np.testing.assert_allclose(exported.call(inputs, kernel), expected, atol=1e-5)


def test_what_is_exported_for_other_platforms_keeps_its_precision():
    inputs, kernel, _ = convolutions()
    function = jax.jit(functools.partial(convolve_same, precision="highest"))
    module = jax.export.export(function, platforms=["tpu"])(inputs, kernel).mlir_module()
    assert "precision_config = [#stablehlo<precision HIGHEST>" in module.replace("  ", " ")


def test_no_values_are_left_to_xla():
    _, kernel, _ = convolutions()
    assert convolve_same(jnp.zeros((0, 6, 7, 4)), kernel).shape == (0, 6, 7, 5)


def test_a_program_that_calls_it_is_not_kept(monkeypatch):
    # XLA can't write such a program: it would read memory that is not its own.
    inputs, kernel, _ = convolutions()
    written = []
    monkeypatch.setattr(
        "jax._src.compilation_cache.put_executable_and_time",
        lambda key, name, *rest: written.append(name),
    )
    jax.jit(lambda x: convolve_same(x, kernel) + 1).lower(inputs).compile()
    assert written == []
    jax.jit(lambda x: xla_conv(x, kernel, (1, 1)) + 1).lower(inputs).compile()
    assert len(written) == 1


def test_who_asks_jax_for_a_cache_gets_programs_that_can_be_kept(tmp_path):
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    try:
        assert not onednn.is_available()
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    assert onednn.is_available()


@pytest.fixture
def looked_up_again():
    onednn._runs.cache_clear()
    yield
    onednn._runs.cache_clear()


@pytest.mark.usefixtures("looked_up_again")
def test_another_jaxlib_is_left_alone(monkeypatch):
    monkeypatch.setattr(jaxlib.version, "__version__", "0.10.99")
    assert not onednn.is_available()


@pytest.mark.usefixtures("looked_up_again")
def test_a_jaxlib_that_was_built_without_it_takes_xlas_own(monkeypatch):
    missing = onednn._primitive(
        "missing", "__missing$convolution", onednn._plain_convolution, onednn._convolution_config
    )
    monkeypatch.setattr(onednn, "_convolve", missing)
    assert not onednn.is_available()
    inputs, kernel, expected = convolutions()
    np.testing.assert_allclose(convolve_same(inputs, kernel), expected, atol=1e-5)


@pytest.mark.usefixtures("looked_up_again")
def test_wrong_results_are_noticed(monkeypatch):
    wrong = functools.partial(onednn._convolution_config, padding=(0, 2))
    twisted = onednn._primitive("twisted", CALL, onednn._plain_convolution, lambda **_: wrong())
    monkeypatch.setattr(onednn, "_convolve", twisted)
    assert not onednn.is_available()


@pytest.mark.parametrize("relu", [False, True])
def test_its_multiplications_are_counted(relu):
    operands = random_arrays((1, 8, 8, 24), (3, 3, 24, 48), (48,))

    def count(ops):
        def loss(*operands):
            return ops.convolution(*operands, relu=relu).sum()

        return multiply_accumulates(jax.grad(loss, argnums=(0, 1)), *operands)

    assert count(CPU) >= count(PLAIN) > 2 * 8 * 8 * 9 * 24 * 48
