"""A student's product: its files, and a card that tells where it comes from."""

import json

import pytest
import torch
import transformers

from storage import layout
from storage.cards import find_card, read_file
from storage.errors import ModelError, RecipeError
from storage.options import LabelOptions
from storage.verify import verify
from tasks import intents
from tasks.export import session_of
from tasks.inputs.tokenizers import HuggingFaceTokenizer
from tasks.lineage import Origin
from tasks.mixed import Mixed
from tasks.options import StudentOptions
from tasks.student_files import export_student
from tasks.students import load_student, train_student
from tests.tasks.hf_models import save_bert_tokenizer
from tests.tasks.toy import (
    TableTeacher,
    label_set,
    numbered_corpus,
    random_table,
    text_corpus,
)

CPU = torch.device("cpu")
LABELS = LabelOptions(k=2, temperature=2.0, batch_size=8, positions_per_shard=16)
TRAINING = {"epochs": 1, "batch_size": 8, "seed": 4}
MLP = {"kind": "mlp", "hidden": [32], "input_scale": 0.05}
RECIPE = {"name": "toy", "data": {"name": "numbers"}, "students": {"small": {}}}


@pytest.fixture
def labels(store):
    corpus = numbered_corpus({"train": 24, "validation": 9})
    made = label_set(store, corpus, TableTeacher(random_table(60)), LABELS)
    yield made
    made.close()


def trained(store, labels, origin=Origin(), **said):  # noqa: B008
    options = StudentOptions.model_validate({"model": MLP, "training": TRAINING} | said)
    intent = intents.student(options, labels.manifest.fingerprint, labels.digest)
    return options, train_student(store, "small", options, labels, intent, CPU, origin=origin)


def test_the_card_holds_the_whole_lineage(store, labels):
    origin = Origin(RECIPE, "toy.yaml", ("labels.k=2",), "0123456789abcdef")
    _, card = trained(store, labels, origin)
    details = card.details
    lineage = details["lineage"]
    assert lineage["recipe"] == RECIPE
    assert lineage["recipe_source"] == "toy.yaml"
    assert lineage["overrides"] == ["labels.k=2"]
    assert lineage["data"] == "numbers"
    assert lineage["label_set"] == {
        "url": labels.folder.url,
        "fingerprint": labels.manifest.fingerprint,
        "digest": labels.digest,
    }
    assert lineage["teacher"]["fingerprint"] == "0123456789abcdef"
    assert lineage["seed"] == 4
    assert lineage["fit_code_version"] == intents.FIT_CODE_VERSION
    assert lineage["versions"]["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert {"softlabel", "python", "onnx"} <= set(lineage["versions"])
    assert details["steps"] == 3
    assert details["seconds"] > 0
    assert details["onnx_bytes"] == len(read_file(store, card, layout.ONNX_MODEL))
    assert json.loads(json.dumps(details)) == details
    assert "mixed" not in lineage


def test_a_student_learns_from_several_label_sets(store, labels):
    corpus = numbered_corpus({"train": 10})
    options = LABELS.model_copy(update={"k": 3, "batch_size": 4})
    other = label_set(store / "elsewhere", corpus, TableTeacher(random_table(10, seed=1)), options)
    mixed = [Mixed(other, 0.25)]
    student = StudentOptions.model_validate({"model": MLP, "training": TRAINING})
    own = (labels.manifest.fingerprint, labels.digest)
    intent = intents.student(student, *own, mixed=[one.identity() for one in mixed])
    assert intent.fingerprint != intents.student(student, *own).fingerprint
    card = train_student(store, "small", student, labels, intent, CPU, mixed=mixed)
    # 24 samples of its own, and 7 of the other set before the last of them.
    assert card.details["steps"] == 4
    assert card.details["lineage"]["mixed"] == [
        {
            "url": other.folder.url,
            "fingerprint": other.manifest.fingerprint,
            "digest": other.digest,
            "share": 0.25,
        }
    ]
    other.close()


def test_a_temperature_that_only_its_own_set_stores_is_refused(store, labels):
    corpus = numbered_corpus({"train": 10})
    teacher = TableTeacher(random_table(10))
    said = {"k": 2, "temperature": 2.0, "batch_size": 4}
    one = label_set(
        store / "one", corpus, teacher, LabelOptions(**said, temperatures=(2.0, 1.0, 4.0))
    )
    other = label_set(store / "other", corpus, teacher, LabelOptions(**said))
    student = StudentOptions.model_validate({"model": MLP, "loss": {"temperature": 4.0}})
    intent = intents.student(student, one.manifest.fingerprint, one.digest)
    with pytest.raises(
        RecipeError, match=r"loss\.temperature: expected one of the stored .* 2, 1, "
    ):
        train_student(store, "small", student, one, intent, CPU, mixed=[Mixed(other, 0.5)])
    one.close()
    other.close()


def test_int8_is_made_when_it_is_asked_for(store, labels):
    options, card = trained(store, labels, export={"int8": True})
    content = read_file(store, card, layout.INT8_MODEL)
    assert card.details["int8"]["size_bytes"] == len(content)
    assert card.details["int8"]["positions"] == 9
    assert card.details["int8"]["split"] == "validation"
    assert 0 <= card.details["int8"]["agreement"] <= 1
    session_of(content)
    plain, _ = trained(store, labels)
    assert plain.identity() == options.identity()


def test_int8_that_is_asked_for_later_needs_no_training(store, labels):
    _, card = trained(store, labels)
    assert layout.INT8_MODEL not in card.files
    more = export_student(store, card, labels, "students.small.export.int8")
    assert more == find_card(store, layout.STUDENTS, card.fingerprint)
    assert set(more.files) == {*card.files, layout.INT8_MODEL}
    assert {name: more.files[name] for name in card.files} == card.files
    assert more.details == {**card.details, "int8": more.details["int8"]}
    assert list(verify(store)) == []


def test_a_model_that_cannot_be_exported_is_named(store, labels):
    model = {"kind": "torch", "target": "tests.tasks.toy:linear",
             "arguments": {"inputs": 1, "outputs": 7}}  # fmt: skip
    with pytest.raises(ModelError, match=r"^students\.small\.model: "):
        trained(store, labels, model=model)


def test_a_hugging_face_student_is_a_folder_of_its_own(store, tmp_path):
    texts = [[place % 5 + 1, 2, 3] for place in range(24)]
    teacher = TableTeacher(random_table(24, 3))
    teacher.logits = lambda inputs: torch.eye(3)[inputs[0][:, 0] % 3]
    made = label_set(store, text_corpus(texts), teacher, LABELS)
    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
             "intermediate_size": 8, "vocab_size": 11}  # fmt: skip
    model = {"kind": "huggingface", "model": "bert", "config": small}
    save_bert_tokenizer(tmp_path / "tokenizer")
    tokenizer = HuggingFaceTokenizer("tokenizer", tmp_path, None, None, "")
    origin = Origin(tokenizer=tokenizer)
    options, card = trained(store, made, origin, model=model, export={"int8": True})
    folder = store.url_of(layout.product(layout.STUDENTS, card.fingerprint))
    loaded = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    ours = load_student(store, card, options, made.spec)
    ids, mask = torch.tensor([[3, 2, 1], [1, 4, 0]]), torch.tensor([[1, 1, 1], [1, 1, 0]])
    with torch.no_grad():
        expected = loaded(input_ids=ids, attention_mask=mask).logits
        assert torch.equal(ours(ids, mask), expected)
    assert "tokenizer.json" in card.files
    known = transformers.AutoTokenizer.from_pretrained(folder)
    assert known("the cat")["input_ids"] == tokenizer.texts(["the cat"], None, None)[0].ids
    assert list(verify(store)) == []
    made.close()
