"""Inside Hugging Face models: the hidden states and maps that the library itself gives."""

import pytest
import torch
import transformers

from storage.errors import ModelError
from storage.options import LabelOptions, Task
from tasks.huggingface_options import HuggingFaceTeacherOptions
from tasks.huggingface_teacher import HuggingFaceTeacher
from tasks.nn.observe import feature_shapes, num_layers, observe, real_positions
from tasks.sources import LabelSource
from tasks.stream import Stream
from tests.tasks.hf_models import BERT, GPT2, LLAMA, save_model
from tests.tasks.toy import ATTENTION, TOKENS, label_set, text_corpus

NAMES = ("hidden.0", "hidden.1", "hidden.-1", "attention.1", "attention.-1")


def teacher(folder, architecture, config, task):
    save_model(folder, architecture, **config)
    options = HuggingFaceTeacherOptions(kind="huggingface", model=str(folder))
    device = torch.device("cpu")
    return HuggingFaceTeacher(options, folder, (TOKENS, ATTENTION), task, device, "teacher")


def test_stored_hidden_states_and_maps_are_those_of_each_text_alone(tmp_path, store):
    made = teacher(tmp_path, "BertForSequenceClassification", BERT, Task.CLASSIFICATION)
    corpus = text_corpus([[3, 5, 7, 9], [4], [6, 8, 2], [12, 11, 13, 14, 15, 16]])
    features = [{"feature": name, "dtype": "float32"} for name in ("hidden.-1", "attention.1")]
    options = LabelOptions.model_validate({"k": 2, "batch_size": 3, "features": features})
    labels = label_set(store, corpus, made, options)
    source = LabelSource(labels, "train", ["hidden.-1", "attention.1"])
    (batch,) = Stream(source, batch_size=4, shuffle=False)
    for row, length in enumerate((4, 1, 3, 6)):
        ids = batch.inputs[0][row : row + 1, :length]
        _, alone = made.observed((ids, torch.ones_like(ids)), ["hidden.-1", "attention.1"])
        hidden, maps = batch.features["hidden.-1"][row], batch.features["attention.1"][row]
        torch.testing.assert_close(hidden[:length], alone["hidden.-1"][0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(
            maps[:, :length, :length], alone["attention.1"][0], atol=1e-5, rtol=1e-5
        )
        assert not hidden[length:].any()
        assert not maps[:, length:].any()
    labels.close()


def some_inputs():
    ids = torch.randint(1, 32, (3, 7), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    return ids, mask


@pytest.mark.parametrize(
    ("architecture", "config", "task"),
    [
        ("BertForMaskedLM", BERT, Task.MASKED_LM),
        ("LlamaForCausalLM", LLAMA, Task.CAUSAL_LM),
        ("GPT2LMHeadModel", GPT2, Task.CAUSAL_LM),
    ],
)
def test_it_is_what_the_library_gives(tmp_path, architecture, config, task):
    made = teacher(tmp_path, architecture, config, task)
    ids, mask = some_inputs()
    logits, found = made.observed((ids, mask), NAMES)
    torch.testing.assert_close(logits, made.logits((ids, mask)), atol=1e-5, rtol=0)
    plain = getattr(transformers, architecture).from_pretrained(
        tmp_path, attn_implementation="eager"
    )
    arguments = {
        "attention_mask": mask,
        "output_hidden_states": True,
        "output_attentions": True,
    }
    with torch.no_grad():
        output = plain.eval()(input_ids=ids, **arguments)
    expected = {
        "hidden.0": output.hidden_states[0],
        "hidden.1": output.hidden_states[1],
        "hidden.-1": output.hidden_states[-1],
        "attention.1": output.attentions[0],
        "attention.-1": output.attentions[-1],
    }
    real = mask != 0
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
    assert torch.equal(real_positions(made.module, (ids, mask), 7), real)


def test_hidden_states_leave_the_bits_of_the_logits(tmp_path):
    made = teacher(tmp_path, "BertForMaskedLM", BERT, Task.MASKED_LM)
    inputs = some_inputs()
    logits, found = made.observed(inputs, ["hidden.1", "module.bert.embeddings.word_embeddings"])
    assert torch.equal(logits, made.logits(inputs))
    assert found["module.bert.embeddings.word_embeddings"].shape == (3, 7, 16)


def test_attention_is_fast_again_afterwards(tmp_path):
    made = teacher(tmp_path, "BertForMaskedLM", BERT, Task.MASKED_LM)
    before = made.logits(some_inputs())
    made.observed(some_inputs(), ["attention.1"])
    assert made.module.model.config._attn_implementation == "sdpa"
    assert torch.equal(made.logits(some_inputs()), before)


def test_shapes_layers_and_refusals(tmp_path):
    made = teacher(tmp_path, "BertForMaskedLM", BERT, Task.MASKED_LM)
    assert num_layers(made.module) == 2
    shapes = feature_shapes(made.module, (TOKENS, ATTENTION), ["hidden.2", "attention.1"], "t")
    assert shapes == {"hidden.2": (None, 16), "attention.1": (2, None, None)}
    with pytest.raises(ModelError, match=r"^teacher: hidden.3: the model has hidden.0 to hidden.2"):
        made.observed(some_inputs(), ["hidden.3"])
    with pytest.raises(ModelError, match=r"^module.bret: the model has no module 'bret'; did you"):
        observe(made.module, some_inputs(), ["module.bret"])
