import pytest

from storage import layout
from storage.cards import Card, all_cards, find_card, publish, read_card, read_file
from storage.errors import IntegrityError, MissingProductError, StoreError
from storage.files import Folder
from storage.verify import verify
from tests.storage.refusal import refused

FINGERPRINT = "a" * 16
FILES = {"model.safetensors": b"weights", "history.parquet": b"history"}


def publish_model(store: Folder, **changes) -> Card:
    parts = {"name": "small", "intent": {"k": 1}, "details": {"loss": 0.5}, "files": FILES}
    return publish(store, layout.STUDENTS, FINGERPRINT, **(parts | changes))


def find_model(store: Folder) -> Card | None:
    return find_card(store, layout.STUDENTS, FINGERPRINT)


@pytest.fixture
def folder(store):
    return store / layout.product(layout.STUDENTS, FINGERPRINT)


def test_what_is_published_is_found(store, folder):
    card = publish_model(store)
    assert find_model(store) == card == read_card(folder)
    assert card.details == {"loss": 0.5}
    assert list(verify(store)) == []


@pytest.mark.parametrize("name", FILES)
def test_its_files_are_read_and_checked(store, folder, name):
    card = publish_model(store)
    assert read_file(store, card, name) == FILES[name]
    folder.write_bytes(name, b"changed")
    with refused(IntegrityError, folder.url_of(name), "run the stage again"):
        read_file(store, card, name)


def test_a_file_that_no_card_lists_is_missing(store, folder):
    card = publish_model(store)
    with refused(MissingProductError, "none.bin", folder.url):
        read_file(store, card, "none.bin")


def test_nothing_published_is_not_there(store):
    assert find_model(store) is None
    assert all_cards(store, layout.STUDENTS) == []


@pytest.mark.parametrize("name", ["model.safetensors", layout.CARD])
def test_a_product_that_lacks_a_file_is_not_there(store, folder, name):
    publish_model(store)
    folder.delete(name)
    assert find_model(store) is None


@pytest.mark.parametrize("content", [b"", b"{}", b"nonsense"])
def test_a_product_with_a_damaged_card_is_not_there(store, folder, content):
    publish_model(store)
    folder.write_bytes(layout.CARD, content)
    assert find_model(store) is None
    assert all_cards(store, layout.STUDENTS) == []
    with refused(IntegrityError, folder.url_of(layout.CARD)):
        read_card(folder)


def test_a_card_of_another_product_is_not_that_of_this_one(store, folder):
    publish_model(store)
    other = store / layout.product(layout.STUDENTS, "b" * 16)
    for name in (*FILES, layout.CARD):
        other.write_bytes(name, folder.read_bytes(name))
    assert find_card(store, layout.STUDENTS, "b" * 16) is None


def test_the_card_comes_last(store, folder):
    folder.write_bytes("history.parquet/in", b"the way")
    with refused(StoreError, "history.parquet"):
        publish_model(store)
    assert find_model(store) is None


def test_a_half_replaced_product_is_not_there(store, folder):
    publish_model(store, files={"model.safetensors": b"weights"})
    folder.write_bytes("history.parquet/in", b"the way")
    with refused(StoreError, "history.parquet"):
        publish_model(store, files={"model.safetensors": b"other", **FILES})
    assert find_model(store) is None


def test_publishing_again_replaces_it(store):
    publish_model(store)
    card = publish_model(store, files={"model.safetensors": b"other"})
    assert find_model(store) == card
    assert read_file(store, card, "model.safetensors") == b"other"


def test_all_cards_are_those_of_finished_products(store):
    card = publish_model(store)
    store.write_bytes(f"{layout.STUDENTS}/{'b' * 16}/checkpoints/1", b"half")
    assert all_cards(store, layout.STUDENTS) == [card]
    assert all_cards(store, layout.REPORTS) == []
