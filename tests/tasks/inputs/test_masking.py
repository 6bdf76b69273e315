import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tasks.inputs.masking import masked_positions

LENGTHS = st.lists(st.integers(1, 40), max_size=8)


@given(LENGTHS, st.floats(0.01, 0.99), st.integers(0, 5))
def test_a_block_is_masked_in_the_same_way_whoever_is_beside_it(lengths, share, seed):
    ids = [f"block-{place}" for place in range(len(lengths))]
    lengths_B = np.array(lengths, np.int64)
    together = masked_positions(ids, lengths_B, share, seed)
    parts = np.split(together, np.cumsum(lengths_B)[:-1]) if lengths else []
    for name, length, part in zip(ids, lengths, parts, strict=True):
        assert np.array_equal(masked_positions([name], np.array([length]), share, seed), part)
        assert part.any()


def test_the_share_is_kept_and_the_seed_matters():
    ids, lengths = [f"{n}" for n in range(200)], np.full(200, 512)
    first = masked_positions(ids, lengths, 0.15, 0)
    assert abs(first.mean() - 0.15) < 0.005
    assert (masked_positions(ids, lengths, 0.15, 1) != first).any()
    more = masked_positions(ids, lengths, 0.3, 0)
    assert (more | ~first).all()
