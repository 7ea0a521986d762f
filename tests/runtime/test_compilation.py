import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from deblur_jax import Restorer
from deblur_jax.runtime.compilation import Compiled, compiler_options, keep_compiled_programs
from deblur_jax.runtime.differentiation import ForwardModeError

IMAGES = np.random.default_rng(0).random((2, 8, 12, 3), np.float32)


@pytest.fixture
def restorer(tiny_weights):
    return Restorer.load(tiny_weights)


@pytest.fixture
def plain(tiny_weights):
    return Restorer.load(tiny_weights, backend="plain")


def transformations(restore, params):
    """``restore_fn`` inside each transformation of JAX: functions of images."""
    mesh = Mesh(np.array(jax.devices()[:2]), ("data",))
    replicated = NamedSharding(mesh, P())
    by_rows = NamedSharding(mesh, P("data"))

    def of_one(image):
        return restore(params, image[None])[0]

    def gradient(images):
        return jax.grad(lambda x: jnp.sum(restore(params, x) ** 2))(images)

    sharded = jax.shard_map(restore, mesh=mesh, in_specs=(P(), P("data")), out_specs=P("data"))
    return {
        "a call": functools.partial(restore, params),
        "jit": jax.jit(functools.partial(restore, params)),
        "jit of parameters too": lambda x: jax.jit(lambda p, x: restore(p, x) * 1.0)(params, x),
        "jit that closes over images": lambda x: jax.jit(lambda: restore(params, x))(),
        "nnx.jit": nnx.jit(functools.partial(restore, params)),
        "vmap": jax.vmap(of_one),
        "lax.map": functools.partial(jax.lax.map, of_one),
        "scan": lambda x: jax.lax.scan(lambda c, i: (c, of_one(i)), 0, x)[1],
        "checkpoint": lambda x: jax.checkpoint(restore)(params, x),
        "pmap": lambda x: jax.pmap(restore, in_axes=(None, 0))(params, x[:, None])[:, 0],
        "shard_map": lambda x: jax.jit(sharded)(
            jax.device_put(params, replicated), jax.device_put(x, by_rows)
        ),
        "sharded arguments": lambda x: restore(
            jax.device_put(params, replicated), jax.device_put(x, by_rows)
        ),
    }, {
        "grad": gradient,
        "jit of grad": jax.jit(gradient),
        "value_and_grad": lambda x: jax.value_and_grad(lambda x: jnp.sum(restore(params, x) ** 2))(
            x
        )[1],
        "grad of checkpoint": jax.grad(lambda x: jnp.sum(jax.checkpoint(restore)(params, x) ** 2)),
        "vjp": lambda x: jax.vjp(lambda x: jnp.sum(restore(params, x) ** 2), x)[1](1.0)[0],
    }


def test_a_compiled_function_works_inside_every_transformation(restorer):
    values, gradients = transformations(restorer.restore_fn, restorer.params)
    expected = restorer.restore_fn(restorer.params, IMAGES)
    for name, function in values.items():
        np.testing.assert_allclose(function(IMAGES), expected, atol=1e-5, err_msg=name)
    expected = gradients["grad"](IMAGES)
    for name, function in gradients.items():
        np.testing.assert_allclose(function(IMAGES), expected, atol=1e-4, err_msg=name)
    jax.grad(lambda p: jnp.sum(restorer.restore_fn(p, IMAGES)))(restorer.params)


def test_with_the_plain_backend_forward_mode_and_export_work(plain):
    restore = functools.partial(plain.restore_fn, plain.params)
    _, along = jax.jvp(restore, (IMAGES,), (IMAGES,))
    _, linear = jax.linearize(restore, IMAGES)
    np.testing.assert_allclose(along, linear(IMAGES), atol=1e-5)
    exported = jax.export.export(jax.jit(plain.restore_fn))(plain.params, IMAGES)
    np.testing.assert_allclose(exported.call(plain.params, IMAGES), restore(IMAGES), atol=1e-5)


def test_forward_mode_of_another_backend_names_the_plain_one(restorer):
    restore = functools.partial(restorer.restore_fn, restorer.params)
    with pytest.raises(ForwardModeError, match='backend="plain"'):
        jax.jvp(restore, (IMAGES,), (IMAGES,))


def test_inside_a_transformation_it_is_one_program_not_single_operations(restorer):
    jaxpr = jax.make_jaxpr(lambda x: restorer.restore_fn(restorer.params, x))(IMAGES)
    assert [equation.primitive.name for equation in jaxpr.eqns] == ["jit"]


def test_options_are_given_at_the_top_level():
    function = Compiled(lambda x: x + 1, compiler_options("cpu"))
    assert function(1.0) == 2.0
    assert function.count_programs() == 1
    assert float(jax.jit(function)(1.0)) == 2.0
    assert function.count_programs() == 1


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
def test_this_version_of_xla_takes_every_option(platform):
    """Programs of the CPU are checked for the names and values of all."""
    assert Compiled(lambda x: x + 1, compiler_options(platform))(1.0) == 2.0


def test_an_option_that_xla_does_not_know_is_left_out_with_one_warning():
    options = {**compiler_options("cpu"), "xla_cpu_no_such_option": "1"}
    function = Compiled(lambda x: x + 1, options)
    with pytest.warns(UserWarning, match="does not take xla_cpu_no_such_option"):
        assert function(1.0) == 2.0
    assert function(np.ones(3)).tolist() == [2, 2, 2]  # a warning would be an error here
    function.compile(np.ones(4))


def test_another_error_of_the_compiler_is_not_hidden():
    function = Compiled(lambda x: x + 1, {"xla_backend_optimization_level": "high"})
    with pytest.raises(jax.errors.JaxRuntimeError, match="not a valid"):
        function(1.0)
    with pytest.raises(TypeError):
        Compiled(lambda x: x + "text", {})(1.0)


def test_programs_are_kept_where_the_user_says(monkeypatch, tmp_path):
    before = jax.config.jax_compilation_cache_dir
    try:
        jax.config.update("jax_compilation_cache_dir", None)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        keep_compiled_programs()
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "deblur_jax")
        jax.config.update("jax_compilation_cache_dir", "elsewhere")
        keep_compiled_programs()
        assert jax.config.jax_compilation_cache_dir == "elsewhere"
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
