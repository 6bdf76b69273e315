import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tasks.inputs.packing import Packer

SEPARATOR = 1000
DOCUMENTS = st.lists(st.lists(st.integers(0, 99), max_size=12), max_size=12)


def pack(documents, block, separator):
    packer = Packer(block, separator)
    blocks = []
    for number, tokens in enumerate(documents):
        blocks += packer.add(f"doc-{number}", np.array(tokens, np.int64))
    return [*blocks, *packer.finish()]


@given(DOCUMENTS, st.integers(1, 9), st.sampled_from([None, SEPARATOR]))
def test_every_token_is_in_one_block_in_its_order(documents, block, separator):
    blocks = pack(documents, block, separator)
    end = [] if separator is None else [separator]
    expected = [token for tokens in documents if tokens for token in [*tokens, *end]]
    assert [token for entry in blocks for token in entry.token_L.tolist()] == expected
    assert all(len(entry.token_L) == block for entry in blocks[:-1])
    assert all(0 < len(entry.token_L) <= block for entry in blocks[-1:])


@given(DOCUMENTS, st.integers(1, 9), st.sampled_from([None, SEPARATOR]))
def test_ids_say_where_a_block_begins_and_are_unique(documents, block, separator):
    blocks = pack(documents, block, separator)
    assert len({entry.sample_id for entry in blocks}) == len(blocks)
    for entry in blocks:
        name, _, offset = entry.sample_id.partition(":")
        tokens = documents[int(name.removeprefix("doc-"))]
        begun = [*tokens, separator][int(offset)]
        assert entry.token_L[0] == begun


@given(DOCUMENTS, st.integers(1, 9))
def test_documents_change_after_each_separator_and_nowhere_else(documents, block):
    for entry in pack(documents, block, SEPARATOR):
        ends = entry.token_L[:-1] == SEPARATOR
        assert np.array_equal(np.diff(entry.document_L), ends.astype(int))
        assert entry.document_L[0] == 0


def test_by_hand():
    blocks = pack([[1, 2, 3], [], [4], [5, 6]], 4, 9)
    assert [b.token_L.tolist() for b in blocks] == [[1, 2, 3, 9], [4, 9, 5, 6], [9]]
    assert [b.document_L.tolist() for b in blocks] == [[0, 0, 0, 0], [0, 0, 1, 1], [0]]
    assert [b.sample_id for b in blocks] == ["doc-0:0", "doc-2:0", "doc-3:2"]
