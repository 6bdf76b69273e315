import gzip
import struct

import numpy as np
import pytest

from storage.errors import DataError
from storage.idx import idx_pairs, read_idx_pair
from tests.storage.refusal import refused


def idx_bytes(values: np.ndarray, kind: int = 0x08) -> bytes:
    head = bytes([0, 0, kind, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    return head + values.astype(values.dtype.newbyteorder(">")).tobytes()


def write_pair(folder, prefix: str, count: int, *, packed: bool = True) -> tuple[str, str]:
    rng = np.random.default_rng(count)
    images = rng.integers(0, 256, (count, 4, 5), np.uint8)
    labels = np.arange(count, dtype=np.uint8) % 10
    urls = []
    for name, values in (("images-idx3-ubyte", images), ("labels-idx1-ubyte", labels)):
        content = idx_bytes(values)
        path = folder / f"{prefix}-{name}{'.gz' if packed else ''}"
        path.write_bytes(gzip.compress(content) if packed else content)
        urls.append(str(path))
    return urls[0], urls[1]


@pytest.mark.parametrize("packed", [True, False])
def test_images_and_labels_come_back_in_pieces(tmp_path, packed):
    pair = write_pair(tmp_path, "train", 9000, packed=packed)
    chunks = list(read_idx_pair(*pair))
    assert [len(chunk["label"]) for chunk in chunks] == [4096, 4096, 808]
    image = np.concatenate([chunk["image"] for chunk in chunks])
    assert image.shape == (9000, 1, 4, 5)
    assert image.dtype == np.uint8
    expected = np.random.default_rng(9000).integers(0, 256, (9000, 4, 5), np.uint8)
    assert np.array_equal(image[:, 0], expected)
    label = np.concatenate([chunk["label"] for chunk in chunks])
    assert np.array_equal(label, np.arange(9000) % 256 % 10)


def test_without_labels(tmp_path):
    images, _ = write_pair(tmp_path, "train", 3)
    (chunk,) = read_idx_pair(images, None)
    assert set(chunk) == {"image"}


def test_wide_numbers_are_big_endian(tmp_path):
    values = np.array([[1.5, -2.0], [3.25, 1e9]], np.float32)
    (tmp_path / "x").write_bytes(idx_bytes(values, 0x0D))
    (chunk,) = read_idx_pair(str(tmp_path / "x"), None)
    assert np.array_equal(chunk["image"], values)
    assert chunk["image"].dtype == np.float32


def test_pairs_are_found_by_name(tmp_path):
    train, test = write_pair(tmp_path, "train", 3), write_pair(tmp_path, "t10k", 2)
    found = idx_pairs(str(tmp_path))
    assert {s: tuple(u.removeprefix("file://") for u in p) for s, p in found.items()} == {
        "train": train,
        "test": test,
    }


def test_a_folder_without_pairs_is_refused(tmp_path):
    with refused(DataError, "train-images-idx3-ubyte.gz"):
        idx_pairs(str(tmp_path))
    with refused(DataError, "nowhere", "cannot be listed"):
        idx_pairs(str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda content: content[:-3], ["is cut off"]),
        (lambda content: content[:7], ["is cut off"]),
        (lambda content: content + b"x", ["goes on"]),
        (lambda content: b"PNG" + content, ["is no IDX file"]),
        (lambda content: b"", ["is no IDX file"]),
        (lambda content: gzip.compress(content)[:-9], ["cannot be read"]),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, damage, words):
    images, labels = write_pair(tmp_path, "train", 3, packed=False)
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(damage(path.read_bytes()))
    with refused(DataError, *words):
        list(read_idx_pair(images, labels))


@pytest.mark.parametrize("count", [2, 4])
def test_as_many_labels_as_images(tmp_path, count):
    images, _ = write_pair(tmp_path, "train", 3)
    _, labels = write_pair(tmp_path, "test", count)
    with refused(DataError, "labels", "images"):
        list(read_idx_pair(images, labels))
