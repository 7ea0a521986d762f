"""What the compiler makes of the loops over residual blocks."""

import re

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from deblur_jax.models import ComputeConfig
from deblur_jax.models.mimo_unet import EncoderBlock
from deblur_jax.planning.program_text import Instruction, parse_program
from tests.tpu import topology_mesh

pytestmark = pytest.mark.slow
_MEMORY = re.compile(r"S\(\d\)")


def copies_between_layouts_in_loops(channels: int, side: int, backend: str) -> list[str]:
    """Copies and pads of whole feature maps, in the loops of a stack with its gradient."""
    mesh = topology_mesh("v5e:2x2")
    placed = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    compute = ComputeConfig(dtype="bfloat16", backend=backend).resolve("tpu")
    stack = nnx.eval_shape(lambda: EncoderBlock(channels, 3, rngs=nnx.Rngs(0), compute=compute))
    graphdef, params = nnx.split(stack)

    def loss(params, x):
        features = compute.ops.enter(x, channels=channels)
        features = compute.ops.leave(nnx.merge(graphdef, params)(features))
        return jnp.sum(features.astype(jnp.float32) ** 2)

    x = jax.ShapeDtypeStruct((4, side, side, channels), jnp.bfloat16)
    arguments = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=placed), (params, x)
    )
    gradient = jax.jit(jax.grad(loss, argnums=(0, 1)))
    program = parse_program(gradient.lower(*arguments).compile().as_text())
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


def test_it_would_in_the_plain_form():
    assert copies_between_layouts_in_loops(32, 256, "plain") != []
