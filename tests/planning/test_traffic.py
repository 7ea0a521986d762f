import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deblur_jax.planning.program_text import parse_program
from deblur_jax.planning.traffic import bytes_moved, collectives_in
from tests.tpu import topology_mesh


def test_collectives_are_counted_with_their_bytes():
    program = """
ENTRY %main (x: f32[8,128], y: f32[4], z: bf16[2,3], w: s32[4]) -> f32[8,128] {
  %x = f32[8,128]{1,0} parameter(0)
  %a = f32[8,128]{1,0:T(8,128)S(1)} all-reduce(%x), replica_groups={{0,1}}, to_apply=%add
  %b = (f32[4]{0}, bf16[2,3]{1,0}) all-reduce-start(%y, %z), to_apply=%add
  %b.1 = (f32[4]{0}, bf16[2,3]{1,0}) all-reduce-done(%b)
  %c = s32[16]{0} all-gather(%w), dimensions={0}
  ROOT %d = f32[8,128]{1,0} add(%a, %a)
}
"""
    assert collectives_in(parse_program(program)) == {
        "all-gather": {"count": 1, "bytes": 64},
        "all-reduce": {"count": 2, "bytes": 4096 + 16 + 12},
    }


def program_of(function, *arguments):
    return parse_program(jax.jit(function).lower(*arguments).compile().as_text())


def test_an_addition_moves_three_arrays():
    x = jnp.zeros((64, 128))
    assert bytes_moved(program_of(jnp.add, x, x)) == 3 * x.nbytes


@pytest.mark.parametrize("turns", [3, 11])
def test_a_loop_counts_as_often_as_it_runs_and_a_slice_for_what_it_takes(turns):
    rows = jnp.zeros((turns, 4096))

    def add_up(rows):
        return jax.lax.scan(lambda total, row: (total + row, total * row), rows[0], rows)

    one_turn = 4 * 4096 * 4  # at least: read the carry and a row, write both results
    moved = bytes_moved(program_of(add_up, rows))
    assert turns * one_turn <= moved < 3 * turns * one_turn


def test_a_slice_is_charged_for_what_it_takes():
    rows = jnp.zeros((1000, 128))
    assert bytes_moved(program_of(lambda x: x[10:18] + 1, rows)) == 2 * 8 * 128 * 4


def test_a_slice_that_is_read_ahead_is_charged_once():
    program = """
ENTRY %main (x: f32[1000,128]) -> f32[8,128] {
  %x = f32[1000,128]{1,0} parameter(0)
  %s = ((f32[1000,128]{1,0}), f32[8,128]{1,0:S(1)}, s32[]{:S(2)}) slice-start(%x)
  %d = f32[8,128]{1,0:S(1)} slice-done(%s)
  ROOT %n = f32[8,128]{1,0} negate(%d)
}
"""
    assert bytes_moved(parse_program(program)) == 2 * 8 * 128 * 4


def test_a_slice_within_a_fusion_of_a_fusion_is_charged_for_what_it_takes():
    """As XLA fuses a loop's convolution with the slice of what the loop before it kept."""
    program = """
%relaid (r: f32[1000,128]) -> f32[1000,128] {
  %r = f32[1000,128]{1,0} parameter(0)
  ROOT %c = f32[1000,128]{0,1} copy(%r)
}

%sliced (a: f32[1000,128]) -> f32[8,128] {
  %a = f32[1000,128]{1,0} parameter(0)
  %l = f32[1000,128]{0,1} fusion(%a), kind=kLoop, calls=%relaid
  ROOT %s = f32[8,128]{1,0} slice(%l), slice={[0:8], [0:128]}
}

%fused (p: f32[1000,128], q: f32[8,128]) -> f32[8,128] {
  %p = f32[1000,128]{1,0} parameter(0)
  %q = f32[8,128]{1,0} parameter(1)
  %t = f32[8,128]{1,0} fusion(%p), kind=kLoop, calls=%sliced
  ROOT %m = f32[8,128]{1,0} multiply(%t, %q)
}

ENTRY %main (x: f32[1000,128], y: f32[8,128]) -> f32[8,128] {
  %x = f32[1000,128]{1,0} parameter(0)
  %y = f32[8,128]{1,0} parameter(1)
  ROOT %f = f32[8,128]{1,0} fusion(%x, %y), kind=kOutput, calls=%fused
}
"""
    assert bytes_moved(parse_program(program)) == 3 * 8 * 128 * 4


def test_a_fusion_that_only_copies_moves_all():
    program = """
%relaid (r: f32[1000,128]) -> f32[1000,128] {
  %r = f32[1000,128]{1,0} parameter(0)
  ROOT %c = f32[1000,128]{0,1} copy(%r)
}

ENTRY %main (x: f32[1000,128]) -> f32[1000,128] {
  %x = f32[1000,128]{1,0} parameter(0)
  ROOT %f = f32[1000,128]{0,1} fusion(%x), kind=kLoop, calls=%relaid
}
"""
    assert bytes_moved(parse_program(program)) == 2 * 1000 * 128 * 4


def test_both_branches_of_a_conditional_are_read():
    program = """
%one (a: f32[8]) -> f32[8] {
  %a = f32[8]{0} parameter(0)
  ROOT %n = f32[8]{0} negate(%a)
}

%two (b: f32[8]) -> f32[8] {
  %b = f32[8]{0} parameter(0)
  %e = f32[8]{0} exponential(%b)
  ROOT %m = f32[8]{0} negate(%e)
}

ENTRY %main (p: pred[], x: f32[8]) -> f32[8] {
  %p = pred[] parameter(0)
  %x = f32[8]{0} parameter(1)
  ROOT %c = f32[8]{0} conditional(%p, %x, %x), FORM
}
"""
    for form in (
        "true_computation=%one, false_computation=%two",
        "branch_computations={%one, %two}",
    ):
        assert bytes_moved(parse_program(program.replace("FORM", form))) == 4 * 8 * 4


def test_what_stays_on_a_tpus_chip_is_not_charged():
    """A chain of products of 4 MB in all reads its input and writes its result."""
    mesh = topology_mesh("v5e:2x2")
    placed = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    matrix = jax.ShapeDtypeStruct((512, 512), np.float32, sharding=placed)
    moved = bytes_moved(program_of(lambda x: jnp.tanh(x @ x) @ x + x, matrix))
    assert 2 * 512 * 512 * 4 <= moved <= 4 * 512 * 512 * 4
