"""What is taken for a lack of memory."""

from tasks.nn.memory import is_out_of_memory


def test_other_errors_are_not_taken_for_memory():
    assert not is_out_of_memory(RuntimeError("shapes differ"))
    assert not is_out_of_memory(KeyError("out of memory"))
    assert is_out_of_memory(
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
    )
