"""Students that begin with their teacher's weights."""

import pytest
import torch
import transformers

from storage.errors import ModelError, RecipeError
from storage.options import Task
from tasks.feature_options import InitialiseOptions
from tasks.huggingface_module import HuggingFaceModule, Texts
from tasks.initialise import initialise
from tests.tasks.hf_models import BERT
from tests.tasks.nn.sequences import CLASSES, built, random_ids, some_bytes, tokens
from tests.tasks.toy import TokenModel

WHERE = "students.small.initialise"


def begun(student, teacher, **said):
    initialise(student, teacher, InitialiseOptions(**said), WHERE)
    return student


def logits(model, ids):
    with torch.no_grad():
        return model(ids)


@pytest.mark.parametrize("task", [Task.CLASSIFICATION, Task.TAGGING, Task.MASKED_LM])
@pytest.mark.parametrize("options", [tokens(layers=3), some_bytes(layers=3, patch=1)])
def test_with_all_layers_a_student_is_its_teacher_bit_by_bit(options, task):
    if task is Task.MASKED_LM and options.kind == "token_transformer":
        options = options.model_copy(update={"vocabulary": None})
    teacher, student = built(options, task, seed=1), built(options, task, seed=2)
    ids = random_ids(3, 7, CLASSES)
    assert not torch.equal(logits(student, ids), logits(teacher, ids))
    assert torch.equal(logits(begun(student, teacher), ids), logits(teacher, ids))


def test_chosen_layers_follow_each_other():
    teacher = built(tokens(layers=4), Task.TAGGING, seed=1)
    student = begun(built(tokens(), Task.TAGGING, seed=2), teacher, layers=[1, 4])
    for ours, theirs in ((0, 0), (1, 3)):
        state = teacher.body.layers[theirs].state_dict()
        for name, weight in student.body.layers[ours].state_dict().items():
            assert torch.equal(weight, state[name])
    assert torch.equal(student.embedding.weight, teacher.embedding.weight)
    assert torch.equal(student.head.weight, teacher.head.weight)
    uniform = begun(built(tokens(), Task.TAGGING), teacher)
    state = teacher.body.layers[1].state_dict()
    for name, weight in uniform.body.layers[0].state_dict().items():
        assert torch.equal(weight, state[name])


def test_the_student_shares_no_memory_with_the_teacher():
    teacher = built(tokens(), Task.TAGGING, seed=1)
    student = begun(built(tokens(), Task.TAGGING, seed=2), teacher)
    before = teacher.head.weight.clone()
    with torch.no_grad():
        student.head.weight.add_(1.0)
    assert torch.equal(teacher.head.weight, before)


@pytest.mark.parametrize(
    ("student", "said", "error"),
    [
        (
            tokens(width=32, layers=3),
            {},
            r"student's 'embedding.weight' is \[11, 32\], the teacher's 'embedding.weight' "
            r"\[11, 16\]; give the student the teacher's sizes",
        ),
        (tokens(), {"layers": [1]}, r"layers: expected one for each of the student's 2 layers"),
        (tokens(), {"layers": [1, 4]}, r"from 1 to the teacher's 3; got \[1, 4\]"),
        (tokens(), {}, r"layers: uniform needs"),
        (
            some_bytes(layers=3, patch=1),
            {},
            r"student has 'patches.embedding.weight', and the teacher no 'patches.embedding.",
        ),
    ],
)
def test_what_does_not_fit_is_named(student, said, error):
    teacher = built(tokens(layers=3), Task.TAGGING)
    with pytest.raises((ModelError, RecipeError), match=rf"^students\.small\.initialise.*{error}"):
        begun(built(student, Task.TAGGING), teacher, **said)


def test_layers_have_to_be_known_by_number():
    with pytest.raises(ModelError, match="the layers of the student are not known by number"):
        begun(TokenModel(), built(tokens(), Task.TAGGING))
    with pytest.raises(ModelError, match="the layers of the teacher are not known by number"):
        begun(built(tokens(), Task.TAGGING), TokenModel())


def hugging(architecture, seed, **config):
    torch.manual_seed(seed)
    kind = getattr(transformers, architecture)
    model = kind(kind.config_class(**config)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.2)
    return HuggingFaceModule(model, ("input_ids",), Texts(None), {})


def test_a_bert_begins_with_a_larger_one():
    teacher = hugging("BertForMaskedLM", 1, **(BERT | {"num_hidden_layers": 4}))
    student = begun(hugging("BertForMaskedLM", 2, **BERT), teacher, layers=[2, 4])
    ids = random_ids(2, 5, 32)
    whole = hugging("BertForMaskedLM", 3, **(BERT | {"num_hidden_layers": 4}))
    assert torch.equal(logits(begun(whole, teacher), ids), logits(teacher, ids))
    state = teacher.model.bert.encoder.layer[3].state_dict()
    for name, weight in student.model.bert.encoder.layer[1].state_dict().items():
        assert torch.equal(weight, state[name])


def test_a_distilbert_begins_with_a_bert():
    config = {
        "dim": 16,
        "n_layers": 2,
        "n_heads": 2,
        "hidden_dim": 24,
        "vocab_size": 32,
        "max_position_embeddings": 32,
    }
    teacher = hugging("BertForMaskedLM", 1, **BERT)
    student = begun(hugging("DistilBertForMaskedLM", 2, **config), teacher)
    with torch.no_grad():  # what a DistilBERT has no place for
        teacher.model.bert.embeddings.token_type_embeddings.weight.zero_()
    ids = random_ids(2, 5, 32)
    torch.testing.assert_close(logits(student, ids), logits(teacher, ids), atol=1e-5, rtol=1e-5)
