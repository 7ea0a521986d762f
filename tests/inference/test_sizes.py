import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from deblur_jax.inference.sizes import framed, plan_sizes

SIZES = st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), min_size=1, max_size=12)


@given(SIZES, st.integers(1, 4))
@settings(max_examples=100)
def test_a_plan_holds_every_image_in_few_sizes(sizes, max_sizes):
    plan = plan_sizes(sizes, max_sizes)
    assert set(plan) == set(sizes)
    assert len(set(plan.values())) <= max_sizes
    assert all(p[0] >= s[0] and p[1] >= s[1] for s, p in plan.items())
    if len(set(sizes)) <= max_sizes:
        assert all(planned == size for size, planned in plan.items())


def test_a_plan_wastes_little():
    sizes = [(100, 100)] * 50 + [(100, 104), (400, 300), (396, 300)]
    plan = plan_sizes(sizes, 2)
    assert plan == {
        (100, 100): (100, 104),
        (100, 104): (100, 104),
        (400, 300): (400, 300),
        (396, 300): (400, 300),
    }


def test_a_frame_holds_the_image_and_its_mask():
    image = np.random.default_rng(0).random((3, 5, 3), np.float32)
    array = framed(image, (4, 8))
    assert array.shape == (1, 4, 8, 4)
    np.testing.assert_array_equal(array[0, :3, :5, :3], image)
    assert array[..., 3].sum() == 15
    assert array[..., :3].sum() == np.float32(array[0, :3, :5, :3].sum())
