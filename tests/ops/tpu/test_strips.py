"""Into how many strips images are cut."""

from types import SimpleNamespace

import jax.numpy as jnp
import pytest

from benchmarks import tpu_strips
from deblur_jax import Config, model_config
from deblur_jax.ops.tpu import strips
from deblur_jax.ops.tpu.packed import pack
from tests.configs import changed
from tests.tpu import topology_mesh


@pytest.mark.parametrize("images", [1, 3, 8, 12])
def test_the_rule_fills_the_registers(images):
    assert strips.strips_of((images, 3, 5), jnp.float32) == strips.SUBLANES


def test_the_table_comes_before_the_rule(monkeypatch):
    monkeypatch.setitem(strips.BEST, ((1, 3, 5), "float32"), 16)
    assert strips.strips_of((1, 3, 5), jnp.float32) == 16
    assert strips.strips_of((1, 3, 5), jnp.bfloat16) == 8
    assert pack(jnp.zeros((1, 12, 20, 3)), channels=32, halvings=2).strips == 16


def test_every_number_of_the_table_fills_the_registers():
    for ((images, *_), _), count in strips.BEST.items():
        assert images * count % strips.SUBLANES == 0


def test_the_search_names_the_map_that_a_network_packs(monkeypatch):
    """Of sizes that are no multiples too."""
    named = []
    monkeypatch.setattr(
        "deblur_jax.ops.tpu.packed.strips_of", lambda smallest, dtype: named.append(smallest) or 8
    )
    config = changed(Config(model=model_config("mimo_unet")), data__patch_size=48)
    assert tpu_strips.smallest_map(config, 2, None) == (2, 12, 12)
    pack(jnp.zeros((2, 48, 48, 3)), channels=32, halvings=2)
    assert named == [(2, 12, 12)]
    assert tpu_strips.smallest_map(config, 1, (719, 1278)) == (1, 180, 320)


def test_of_programs_that_are_as_fast_the_smallest_is_best():
    plans = {
        1: SimpleNamespace(estimated_seconds=1.00, needed_bytes=14),
        2: SimpleNamespace(estimated_seconds=1.02, needed_bytes=10),
        4: SimpleNamespace(estimated_seconds=1.04, needed_bytes=9),
        8: SimpleNamespace(estimated_seconds=None, needed_bytes=8),
    }
    assert tpu_strips.best_of(plans) == 2


@pytest.mark.slow
def test_the_search_compiles(monkeypatch, capsys):
    topology_mesh("v5e:2x2")
    tiny = "tests/fixtures/tiny_run.py"
    monkeypatch.setattr(strips, "BEST", {})
    monkeypatch.setattr("sys.argv", f"_ --config {tiny} --images 8 --strips 1 2".split())
    tpu_strips.main()
    one, two, entry = capsys.readouterr().out.splitlines()
    assert one.startswith("1 strips: ")
    assert two.startswith("2 strips: ")
    assert entry.strip().startswith("((8, ")
