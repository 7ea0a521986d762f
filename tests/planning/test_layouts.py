"""Where the compiler moves feature maps: not in loops over blocks, nor around recurrences."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from deblur_jax.models import ComputeConfig
from deblur_jax.models.mimo_unet import EncoderBlock
from deblur_jax.models.svrnn import SpatialRNN, make_gates
from deblur_jax.planning.program_text import Instruction, Program, parse_program
from tests.tpu import topology_mesh

pytestmark = pytest.mark.slow
_MEMORY = re.compile(r"S\(\d\)")


def compiled_gradient(loss: Callable[..., jax.Array], *arguments: Any) -> Program:
    """The program for v5e of a function's gradient by its first two arguments."""
    placed = jax.sharding.SingleDeviceSharding(topology_mesh("v5e:2x2").devices[0])
    shapes = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=placed), arguments
    )
    gradient = jax.jit(jax.grad(loss, argnums=(0, 1)))
    return parse_program(gradient.lower(*shapes).compile().as_text())


def copies_between_layouts_in_loops(channels: int, side: int, backend: str) -> list[str]:
    """Copies and pads of whole feature maps, in the loops of a stack with its gradient."""
    compute = ComputeConfig(dtype="bfloat16", backend=backend).resolve("tpu")
    stack = nnx.eval_shape(lambda: EncoderBlock(channels, 3, rngs=nnx.Rngs(0), compute=compute))
    graphdef, params = nnx.split(stack)

    def loss(params, x):
        features = compute.ops.enter(x, channels=channels)
        features = compute.ops.leave(nnx.merge(graphdef, params)(features))
        return jnp.sum(features.astype(jnp.float32) ** 2)

    x = jax.ShapeDtypeStruct((4, side, side, channels), jnp.bfloat16)
    program = compiled_gradient(loss, params, x)
    loops = [
        program.computations[instruction.called["body"]]
        for computation in program.computations.values()
        for instruction in computation.values()
        if instruction.opcode == "while"
    ]
    assert len(loops) == 2, "there is one loop forward and one back"
    whole = 4 * side * side * channels * 2
    return [
        instruction.text.partition(", metadata")[0]
        for body in loops
        for instruction in body.values()
        if instruction.bytes(anywhere=True) >= whole and changes_layout(instruction, body)
    ]


def changes_layout(instruction: Instruction, around: dict[str, Instruction]) -> bool:
    if instruction.opcode in ("pad", "transpose"):
        return True
    if instruction.opcode != "copy":
        return False
    types = [instruction.type, around[instruction.operands[0]].type]
    return len({_MEMORY.sub("", kind) for kind in types}) > 1


@pytest.mark.parametrize(("channels", "side"), [(32, 256), (64, 128), (128, 64)])
def test_no_feature_map_changes_its_layout_in_the_loop_of_a_stack(channels, side):
    assert copies_between_layouts_in_loops(channels, side, "tpu") == []


def test_no_states_change_their_layout_between_the_gates_and_what_merges_them():
    """Two of SVRNN's stages, with the gates of 4 images and their gradient."""
    compute = ComputeConfig(dtype="bfloat16", backend="tpu").resolve("tpu")
    stages = nnx.eval_shape(
        lambda: nnx.List(
            [SpatialRNN(32, 256, None, rngs=nnx.Rngs(0), compute=compute) for _ in range(2)]
        )
    )
    graphdef, params = nnx.split(stages)

    def loss(params, x, guidance):
        stages = nnx.merge(graphdef, params)
        features, of_gates = (
            compute.ops.enter(a, channels=a.shape[-1], halvings=2) for a in (x, guidance)
        )
        for stage, gates in zip(stages, make_gates(stages, of_gates), strict=True):
            features = stage(features, gates)
        return jnp.sum(compute.ops.leave(features).astype(jnp.float32) ** 2)

    x, guidance = (jax.ShapeDtypeStruct((4, 64, 64, c), jnp.bfloat16) for c in (32, 256))
    program = compiled_gradient(loss, params, x, guidance)
    entry = program.computations[program.entry]
    of_states = 4 * 64 * 64 * 128 * 2
    changed = [
        instruction.text.partition(", metadata")[0]
        for instruction in entry.values()
        if instruction.bytes(anywhere=True) == of_states and changes_layout(instruction, entry)
    ]
    assert changed == []


def test_it_would_in_the_plain_form():
    assert copies_between_layouts_in_loops(32, 256, "plain") != []
