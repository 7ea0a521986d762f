import collections
import itertools

import numpy as np
import pytest

from deblur_jax import DataConfig, open_pairs
from deblur_jax.data import open_training_pairs
from deblur_jax.data.layouts import PairError
from deblur_jax.data.mixture import Mixture, named_shares
from deblur_jax.data.pipeline import training_batches
from deblur_jax.data.sources import fingerprint


class Constant:
    """``length`` pairs whose pixels all have one value."""

    def __init__(self, value, length):
        self.names = [f"{value}_{i}" for i in range(length)]
        self.sizes = [(8, 8)] * length
        self._value = value

    def __len__(self):
        return len(self.names)

    def __getitem__(self, index):
        image = np.full((8, 8, 3), self._value, np.uint8)
        image[..., 0] = index
        return {"blurred": image, "sharp": image}


def batches(source, count, **options):
    options = {"batch_size": 4, "patch_size": 8, "seed": 0, **options}
    iterator = training_batches(source, **options)
    found = [batch["sharp"][:, 0, 0] for batch in itertools.islice(iterator, count)]
    iterator.close()
    return np.concatenate(found)


@pytest.fixture
def mixture():
    return Mixture([Constant(10, 3), Constant(20, 7), Constant(30, 5)], [0.5, 0.3, 0.2])


def test_each_data_set_gives_its_share(mixture):
    values = collections.Counter(batches(mixture, 50)[:, 1].tolist())
    assert values == {10: 100, 20: 60, 30: 40}


def test_all_pairs_of_each_data_set_are_visited_before_any_again(mixture):
    pixels = batches(mixture, 50)
    first = [index for index, value, _ in pixels.tolist() if value == 20][:7]
    assert sorted(first) == list(range(7))


def test_a_run_goes_on_with_the_batches_that_it_would_have_had(mixture):
    np.testing.assert_array_equal(batches(mixture, 12)[20:], batches(mixture, 7, start_step=5))


def test_the_batch_does_not_depend_on_the_number_of_processes(mixture):
    halves = [batches(mixture, 6, process_index=i, process_count=2) for i in range(2)]
    joined = np.concatenate([half.reshape(6, 2, 3) for half in halves], axis=1).reshape(-1, 3)
    np.testing.assert_array_equal(joined, batches(mixture, 6))


def test_two_equal_data_sets_are_cut_in_different_orders():
    twice = Mixture([Constant(10, 40), Constant(20, 40)], [1, 1])
    pixels = batches(twice, 20).tolist()
    orders = [[index for index, value, _ in pixels if value == wanted] for wanted in (10, 20)]
    assert orders[0] != orders[1]


def test_its_pairs_are_those_of_its_data_sets_in_order(mixture):
    assert len(mixture) == 15
    assert mixture.names[3] == "20_0"
    assert [int(mixture[i]["sharp"][0, 0, 1]) for i in (0, 2, 3, 9, 10, 14)] == [
        10,
        10,
        20,
        20,
        30,
        30,
    ]
    assert mixture.sizes == [(8, 8)] * 15


@pytest.mark.parametrize(
    ("name", "shares"),
    [
        ("A=0.7,B=0.3", [("A", 0.7), ("B", 0.3)]),
        ("A=2, folder/B=1", [("A", 2.0), ("folder/B", 1.0)]),
        ("A", [("A", 1.0)]),
        ("a,b", [("a,b", 1.0)]),
        ("a=b", [("a=b", 1.0)]),
        ("a=1,b", [("a=1,b", 1.0)]),
    ],
)
def test_shares_are_read_from_a_name(name, shares):
    assert named_shares(name) == shares


@pytest.mark.parametrize("name", ["A=0,B=1", "A=-1,B=1", "A=1,A=2", "A=nan,B=1", "=1,B=1"])
def test_wrong_shares_are_refused(name):
    with pytest.raises(PairError, match=r"data\.train"):
        named_shares(name)


def test_a_configuration_may_list_data_sets():
    assert DataConfig(train=[("A", 0.7), ("B", 0.3)]).train == "A=0.7,B=0.3"


def test_validation_takes_from_every_data_set(make_pairs, tmp_path):
    first = make_pairs({f"a_{i}": (16, 16) for i in range(4)}, tmp_path / "first")
    second = make_pairs({f"b_{i}": (16, 16) for i in range(4)}, tmp_path / "second")
    config = DataConfig(train=f"{first}=1,{second}=1", validation_fraction=0.25)
    train, validation = open_training_pairs(config, seed=0)
    assert validation.names == ["a_3", "b_3"]
    assert len(train) == 6
    own = DataConfig(train=f"{first}=1,{second}=1", validation=str(second))
    train, validation = open_training_pairs(own, seed=0)
    assert (len(train), validation.names) == (8, open_pairs(str(second), "train").names)


def test_the_fingerprint_depends_on_data_and_shares_not_on_places(make_pairs, tmp_path):
    first = make_pairs({"a": (16, 16)}, tmp_path / "first")
    second = make_pairs({"b": (16, 16)}, tmp_path / "second")
    before = fingerprint(f"{first}=0.5,{second}=0.5")
    moved = first.rename(tmp_path / "moved")
    assert fingerprint(f"{moved}=0.5,{second}=0.5") == before
    assert fingerprint(f"{moved}=0.6,{second}=0.4") != before
