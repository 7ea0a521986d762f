"""Into how many strips images are cut."""

import jax.numpy as jnp
import pytest

from benchmarks import tpu_strips
from deblur_jax.ops.tpu import strips
from deblur_jax.ops.tpu.packed import pack
from tests.tpu import topology_mesh


@pytest.mark.parametrize(("images", "expected"), [(1, 8), (3, 8), (8, 1), (12, 8), (24, 1)])
def test_the_rule_fills_the_registers(images, expected):
    assert strips.strips_of((images, 3, 5), jnp.float32) == expected


def test_the_table_comes_before_the_rule(monkeypatch):
    monkeypatch.setitem(strips.BEST, ((1, 3, 5), "float32"), 16)
    assert strips.strips_of((1, 3, 5), jnp.float32) == 16
    assert strips.strips_of((1, 3, 5), jnp.bfloat16) == 8
    images = jnp.zeros((1, 12, 20, 3))
    assert pack(images, channels=32, halvings=2).strips == 16
    assert pack(images, channels=32, halvings=2, strips=2).strips == 2


def test_every_number_of_the_table_fills_the_registers():
    for ((images, *_), _), count in strips.BEST.items():
        assert images * count % strips.SUBLANES == 0


def test_the_search_prints_the_table(monkeypatch, capsys):
    """With estimates that grow by the distance from what the table says."""

    def estimated_seconds(dtype, images, height, width, count):
        return 1.0 + abs(count - strips.BEST[(images, height // 4, width // 4), dtype])

    monkeypatch.setattr(tpu_strips, "estimated_seconds", estimated_seconds)
    monkeypatch.setattr("sys.argv", ["tpu_strips"])
    tpu_strips.main()
    entries = [line.strip() for line in capsys.readouterr().out.splitlines()[1::2]]
    assert entries == [f'({size}, "{dtype}"): {n},' for (size, dtype), n in strips.BEST.items()]


@pytest.mark.slow
def test_the_search_compiles():
    topology_mesh("v5e:2x2")
    few, many = (tpu_strips.estimated_seconds("bfloat16", 1, 64, 64, n) for n in (8, 32))
    assert 0 < few < many
