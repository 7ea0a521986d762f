import dataclasses

import numpy as np
import pytest

from deblur_jax.data.config import DataConfig
from deblur_jax.data.layouts import PairError
from deblur_jax.data.sources import (
    fingerprint,
    open_pairs,
    open_training_pairs,
    validation_indices,
)


def test_splits_are_folders(make_pairs, tmp_path):
    make_pairs({"a_1": (8, 8), "a_2": (8, 8)}, root=tmp_path / "train")
    make_pairs({"b_1": (8, 8)}, root=tmp_path / "test")
    assert open_pairs(str(tmp_path), "test").names == ["b_1"]
    assert open_pairs(str(tmp_path), "train").names == ["a_1", "a_2"]
    with pytest.raises(PairError, match="has no split 'validation', only train, test"):
        open_pairs(str(tmp_path), "validation")


def test_a_set_without_splits_gives_all_it_has(make_pairs):
    root = make_pairs({"a": (8, 8)})
    assert open_pairs(str(root), "test").names == ["a"]


def test_the_sharp_images_of_a_set_can_be_pairs_of_their_own(make_pairs, tmp_path):
    root = str(make_pairs({"a_1": (8, 12), "b_1": (8, 8)}, root=tmp_path / "pairs"))
    pairs, both = open_pairs(f"sharp:{root}", "train"), open_pairs(root, "train")
    assert pairs.names == both.names
    for index in range(2):
        np.testing.assert_array_equal(pairs[index]["blurred"], both[index]["sharp"])
        np.testing.assert_array_equal(pairs[index]["sharp"], both[index]["sharp"])
    assert fingerprint(f"sharp:{root}") not in (None, fingerprint(root))
    config = DataConfig(train=f"{root}=0.9,sharp:{root}=0.1", validation_fraction=0.5)
    train, validation = open_training_pairs(config, seed=0)
    assert train.names == ["a_1", "a_1"]
    assert validation is not None
    assert validation.names == ["b_1", "b_1"]


def test_an_unknown_data_set_is_named():
    with pytest.raises(PairError, match=r"nowhere: no such folder"):
        open_pairs("nowhere", "test")
    with pytest.raises(PairError, match="unknown family"):
        open_pairs("synthetic:nothing", "test")


@pytest.mark.parametrize(
    ("names", "fraction", "expected"),
    [
        (["a_1", "a_2", "b_1", "b_2", "c_1", "c_2"], 0.3, ["c_1", "c_2"]),
        (["c_1", "a_1", "b_1", "b_2"], 0.5, ["b_1", "b_2", "c_1"]),
        (["a/1", "a/2", "b/1"], 0.01, ["b/1"]),
        (["a_1", "a_2", "a_3", "a_4"], 0.5, ["a_3", "a_4"]),
        (["x", "y", "z"], 0.99, ["y", "z"]),
        (["a_1", "b_1"], 0.99, ["b_1"]),
    ],
)
def test_validation_takes_whole_sequences(names, fraction, expected):
    assert sorted(names[i] for i in validation_indices(names, fraction)) == expected


def test_one_pair_can_not_be_divided():
    with pytest.raises(PairError, match="one pair is too few"):
        validation_indices(["a"], 0.1)


def test_training_and_validation_never_share_a_pair(make_pairs, tmp_path):
    make_pairs({f"{s}_{i}": (8, 8) for s in "abcd" for i in range(3)}, root=tmp_path / "train")
    make_pairs({"t_1": (8, 8)}, root=tmp_path / "test")
    config = DataConfig(train=str(tmp_path), validation_fraction=0.25, validation_limit=2)
    train, validation = open_training_pairs(config, seed=0)
    assert train.names == [f"{s}_{i}" for s in "abc" for i in range(3)]
    assert validation.names == ["d_0", "d_2"]
    config = dataclasses.replace(config, validation_fraction=0.0)
    train, validation = open_training_pairs(config, seed=0)
    assert len(train) == 12
    assert validation is None


def test_a_validation_split_or_set_of_its_own_is_used(make_pairs, tmp_path):
    make_pairs({"a_1": (8, 8), "b_1": (8, 8)}, root=tmp_path / "train")
    make_pairs({"v_1": (8, 8)}, root=tmp_path / "validation")
    train, validation = open_training_pairs(DataConfig(train=str(tmp_path)), seed=0)
    assert (train.names, validation.names) == (["a_1", "b_1"], ["v_1"])
    other = make_pairs({"o_1": (8, 8)}, root=tmp_path / "other")
    config = DataConfig(train=str(tmp_path), validation=str(other))
    assert open_training_pairs(config, seed=0)[1].names == ["o_1"]


def test_the_embedded_set_validates_on_scenes_of_its_own():
    config = DataConfig(train="synthetic:pan", length=3, validation_limit=2, image_size=32)
    train, validation = open_training_pairs(config, seed=0)
    assert len(train) == 3
    assert all("validation" in name for name in validation.names)
