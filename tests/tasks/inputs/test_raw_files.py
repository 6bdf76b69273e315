from pathlib import Path

import numpy as np
import pytest
from fsspec.implementations.local import LocalFileSystem
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import BadSampleError
from storage.file_corpus import OpenFile
from storage.input_options import BytesOptions
from tasks.inputs.raw_files import BytesDecoder
from tests.storage.refusal import refused

MAGIKA = BytesOptions(begin=1024, end=1024, pad=256, strip=True, block=4096)


class Content:
    """A file in memory."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.size_bytes = len(content)

    def read(self, start: int, stop: int) -> bytes:
        return self.content[start:stop]


def numbers(content: bytes, options: BytesOptions) -> list[int]:
    decoder = BytesDecoder(options)
    (found,) = decoder.decode(decoder.load(Content(content)))
    (spec,) = decoder.inputs
    assert found.dtype.name == spec.dtype
    assert found.shape == spec.shape
    return found.tolist()


def reference(content: bytes, options: BytesOptions) -> list[int]:
    """As Magika's documentation words it."""
    count = min(len(content), options.block)
    head, tail = content[:count], content[len(content) - count :]
    if options.strip:
        head, tail = head.lstrip(), tail.rstrip()
    head = head[: options.begin]
    tail = tail[-options.end :] if options.end else b""
    pad = options.pad
    left = list(head) + [pad] * (options.begin - len(head))
    return left + [pad] * (options.end - len(tail)) + list(tail)


@given(
    st.text(" \n\tab\x0b\x00é", max_size=40),
    st.integers(0, 9),
    st.integers(0, 9),
    st.integers(9, 15),
    st.booleans(),
)
def test_both_ends_are_those_of_a_plain_reference(text, begin, end, block, strip):
    if begin + end == 0:
        begin = 1
    options = BytesOptions(begin=begin, end=end, block=block, strip=strip)
    content = text.encode()
    assert numbers(content, options) == reference(content, options)


def test_by_hand():
    options = BytesOptions(begin=3, end=2, strip=True, block=8)
    assert numbers(b"  abcd ", options) == [97, 98, 99, 99, 100]
    assert numbers(b"a", options) == [97, 256, 256, 256, 97]
    assert numbers(b"", options) == [256] * 5
    assert numbers(b"abc", BytesOptions(length=5, pad=0)) == [97, 98, 99, 0, 0]
    assert numbers(b"abcdef", BytesOptions(length=5)) == [97, 98, 99, 100, 101]


def test_only_the_ends_of_a_large_file_are_its_content(tmp_path):
    options = BytesOptions(begin=4, end=4, block=8)
    decoder = BytesDecoder(options)
    loaded = [decoder.load(Content(b"A" * 8 + middle * 100 + b"B" * 8)) for middle in (b"x", b"y")]
    assert loaded[0] == loaded[1]
    assert len(loaded[0]) == 8 + 16


def test_a_file_that_is_gone_or_shorter_is_a_bad_sample(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"abc")
    decoder = BytesDecoder(BytesOptions(length=9))
    with refused(BadSampleError, "ends at byte 3", "had 7"):
        decoder.load(OpenFile(LocalFileSystem(), str(path), 7))
    path.unlink()
    with refused(BadSampleError, "cannot be read", "No such file"):
        decoder.load(OpenFile(LocalFileSystem(), str(path), 3))


@pytest.mark.slow
def test_the_numbers_are_magikas_own_features():
    magika = pytest.importorskip("magika")
    from magika.types.seekable import Seekable

    files = [p for p in sorted(Path("/usr/share").rglob("*")) if p.is_file() and not p.is_symlink()]
    decoder = BytesDecoder(MAGIKA)
    chosen = files[:: max(1, len(files) // 200)][:200]
    assert len(chosen) >= 100
    for path in chosen:
        with path.open("rb") as stream:
            features = magika.Magika._extract_features_from_seekable(
                Seekable(stream), 1024, 0, 1024, 256, 4096, False
            )
        opened = OpenFile(LocalFileSystem(), str(path), path.stat().st_size)
        (found,) = decoder.decode(decoder.load(opened))
        assert np.array_equal(found, features.beg + features.end), path
