import pytest
from hypothesis import given
from hypothesis import strategies as st

from deblur_jax.data.layouts import PairError
from deblur_jax.data.names import match_loosely


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (["1", "2", "10"], ["0001", "0002", "0010"]),
        (["img_1_restored", "img_2_restored"], ["img_1", "img_2"]),
        (["a_blur", "b_blur"], ["a_sharp", "b_sharp"]),
        (["restored-house", "restored-mouse"], ["house", "mouse"]),
        (["x/0001_blur", "x/0002_blur"], ["x/1", "x/2"]),
        (["only"], ["other"]),
        (["scene12_fake_B", "scene13_fake_B"], ["scene12_real_B", "scene13_real_B"]),
    ],
)
def test_what_belongs_together(ours, theirs):
    for first, second in ((ours, theirs), (theirs, ours)):
        assert match_loosely(first, second) == dict(zip(first, second, strict=True))


def test_a_name_without_partner_is_named():
    with pytest.raises(PairError, match=r"^b_restored: has no partner among 2 names"):
        match_loosely(["a_restored", "b_restored"], ["a", "c"])
    with pytest.raises(PairError, match=r"^c: has no partner"):
        match_loosely(["a", "b"], ["a", "b", "c"])


@given(
    st.sets(st.integers(0, 500), min_size=2, max_size=12),
    st.text("abc_-", max_size=4),
    st.text("abc_-", max_size=4),
    st.integers(0, 5),
)
def test_padding_and_affixes_never_pair_up_wrong(numbers, beginning, ending, digits):
    plain = [str(number) for number in numbers]
    dressed = [f"{beginning}{number:0{digits}}{ending}" for number in numbers]
    assert match_loosely(dressed, plain) == dict(zip(dressed, plain, strict=True))
