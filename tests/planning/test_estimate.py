"""The compiler's estimate, read from programs written here and from one that it made."""

import jax
import jax.numpy as jnp
import pytest

from deblur_jax.planning.chips import CHIPS
from deblur_jax.planning.estimate import estimate_time
from deblur_jax.planning.program_text import parse_program
from tests.tpu import topology_mesh

CHIP = CHIPS["v5e"]
CYCLES = CHIP.clock

PROGRAM = """HloModule jit_step, is_scheduled=true

FileNames
1 "/home/someone/step.py"
2 "/home/someone/network.py"

FunctionNames
1 "step"
2 "network"

FileLocations
1 {file_name_id=1 function_name_id=1 line=7 end_line=7 column=1 end_column=2}
2 {file_name_id=2 function_name_id=2 line=30 end_line=30 column=1 end_column=2}
3 {file_name_id=2 function_name_id=2 line=20 end_line=20 column=1 end_column=2}

StackFrames
1 {file_location_id=1 parent_frame_id=1}
2 {file_location_id=2 parent_frame_id=2}
3 {file_location_id=3 parent_frame_id=3}

%body (p: f32[8,128]) -> f32[8,128] {
  %p = f32[8,128]{1,0} parameter(0)
  %s = f32[8,128]{1,0} copy-start(%p)
  ROOT %n = f32[8,128]{1,0} negate(%p), metadata={op_name="jit(step)/neg" stack_frame_id=3}, CYCLES
}

%condition (q: f32[8,128]) -> pred[] {
  %q = f32[8,128]{1,0} parameter(0)
  %c = s32[] constant(12)
  ROOT %l = pred[] compare(%c, %c), direction=LT
}

ENTRY %main (x: f32[8,128]) -> f32[8,128] {
  %x = f32[8,128]{1,0} parameter(0)
  %w = f32[8,128]{1,0} while(%x), condition=%condition, body=%body
  %r = f32[8,128]{1,0} all-reduce(%w), to_apply=%add
  %k = f32[8,128]{1,0} custom-call(%r), custom_call_target="tpu_custom_call", KERNEL
  ROOT %e = f32[8,128]{1,0} exponential(%k), metadata={op_name="jit(step)/transpose(jvp())/exp" \
stack_frame_id=1}, backend_config={"estimated_cycles":"500"}
}
"""


def program(cycles='backend_config={"estimated_cycles":"1000"}', kernel="backend_config={}"):
    return parse_program(PROGRAM.replace("CYCLES", cycles).replace("KERNEL", kernel))


def test_a_loops_cycles_count_as_often_as_it_runs():
    estimate = estimate_time(program(), CHIP)
    inside, outside = (cost for cost in estimate.costs if "someone" in cost.place)
    assert inside.seconds == pytest.approx(12_000 / CYCLES)
    assert outside.seconds == pytest.approx(500 / CYCLES)
    total = 12_500 / CYCLES + estimate.kernel_seconds
    assert estimate.seconds == pytest.approx(total)


def test_costs_name_the_line_what_called_it_and_gradients():
    costs = estimate_time(program(), CHIP).costs
    assert (costs[0].place, costs[0].operation) == ("/home/someone/network.py:20 from :30", "neg")
    assert ("/home/someone/step.py:7", "exp, gradient") in [cost[:2] for cost in costs]


def test_what_has_no_cycles_is_named_with_how_often_it_runs():
    assert estimate_time(program(), CHIP).not_counted == {
        "asynchronous copies": 12,
        "all-reduces": 1,
    }


def test_a_kernel_takes_the_longer_of_its_bytes_and_its_operations():
    array = 8 * 128 * 4
    by_bytes = estimate_time(program(), CHIP)
    assert by_bytes.kernel_seconds == pytest.approx(2 * array / CHIP.bytes_per_second)
    cost = 'backend_config={"custom_call_config":{"cost_estimate":{"flops":"1000000"}}}'
    by_operations = estimate_time(program(kernel=cost), CHIP)
    assert by_operations.kernel_seconds == pytest.approx(1e6 / CHIP.vector_operations)


def test_a_program_without_cycles_has_no_estimate():
    text = PROGRAM.replace("CYCLES", "").replace("KERNEL", "").replace("estimated_cycles", "other")
    assert estimate_time(parse_program(text), CHIP) is None


@pytest.mark.parametrize(
    "topology",
    [
        "v5e:2x2",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("v4:2x2x1", "v5p:2x2x1", "v6e:2x2")
        ),
    ],
)
def test_cycles_of_a_large_product_are_those_of_the_published_speed(topology):
    """The estimate has to lie between the bound and twice the bound, or the clock is wrong."""
    side, chip = 4096, CHIPS[topology.partition(":")[0]]
    mesh = topology_mesh(topology)
    assert mesh.size == 4
    placed = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    matrix = jax.ShapeDtypeStruct((side, side), jnp.bfloat16, sharding=placed)
    compiled = jax.jit(jnp.matmul).lower(matrix, matrix).compile()
    estimate = estimate_time(parse_program(compiled.as_text()), chip)
    assert 1 <= estimate.seconds / (2 * side**3 / chip.flops) < 2
    assert estimate.costs[0].operation == "dot_general"
    assert "test_estimate.py:" in estimate.costs[0].place
