"""Models over tokens and bytes: sizes, what each position sees, padding, and clear refusals."""

import pytest
import torch

from storage.errors import ModelError
from storage.options import Task
from storage.spec import InputSpec
from tasks.export import onnx_bytes
from tasks.nn.models import num_parameters
from tasks.nn.sequence_form import SequenceForm
from tasks.nn.sequence_models import build_sequence_model, sequence_parameters
from tests.tasks.nn.sequences import (
    CLASSES,
    FILE,
    IDS,
    KINDS,
    MASK,
    VOCABULARY,
    WHERE,
    built,
    byte_mlp,
    ones,
    random_ids,
    some_bytes,
    tokens,
)

CLOSE = {"rtol": 1e-5, "atol": 1e-6}
PER_POSITION = [(options, task) for options, task in KINDS if task.has_many_positions]
POOLED = [(options, task) for options, task in KINDS if not task.has_many_positions]
CAUSAL = [(options, task) for options, task in KINDS if task is Task.CAUSAL_LM]


def fits(options, ids):
    """Ids that the model knows: without a vocabulary of their own they are its classes."""
    return ids % CLASSES if options.vocabulary is None else ids


@pytest.mark.parametrize(("options", "task"), KINDS)
@pytest.mark.parametrize("inputs", [(IDS, MASK), (IDS,)])
def test_the_number_of_parameters_is_known_before(options, task, inputs):
    model = build_sequence_model(options, inputs, CLASSES, task, WHERE)
    form = SequenceForm.of(inputs, task, WHERE)
    assert num_parameters(model) == sequence_parameters(options, CLASSES, form)


@pytest.mark.parametrize("options", [tokens(), some_bytes(), byte_mlp()])
def test_files_of_one_length_have_learned_places(options):
    form = SequenceForm.of((FILE,), Task.CLASSIFICATION, WHERE)
    model = build_sequence_model(options, (FILE,), CLASSES, Task.CLASSIFICATION, WHERE)
    assert num_parameters(model) == sequence_parameters(options, CLASSES, form)
    varying = SequenceForm(Task.CLASSIFICATION, None)
    assert sequence_parameters(options, CLASSES, form) > sequence_parameters(
        options, CLASSES, varying
    )
    assert model(random_ids(3, 45)).shape == (3, CLASSES)


def test_a_transformer_of_known_size():
    options = tokens(vocabulary=100, layers=3, width=8, heads=2, feed_forward=4)
    layer = 4 * 8 * 8 + 2 * 8 * 32 + 2 * 8
    form = SequenceForm(Task.TAGGING, None)
    assert sequence_parameters(options, 5, form) == 100 * 8 + 3 * layer + 8 + 8 * 5 + 5


@pytest.mark.parametrize(("options", "task"), KINDS)
def test_padding_on_the_right_changes_no_real_position(options, task):
    model = built(options, task)
    ids = fits(options, random_ids(2, 9))
    with torch.no_grad():
        alone = model(ids, ones(ids))
        for filler in (0, 3):
            longer = torch.cat([ids, torch.full((2, 7), filler)], dim=1)
            mask = torch.cat([ones(ids), torch.zeros(2, 7, dtype=torch.int64)], dim=1)
            found = model(longer, mask)
            assert torch.isfinite(found).all()
            found = found[:, :9] if task.has_many_positions else found
            torch.testing.assert_close(found, alone, **CLOSE)


@pytest.mark.parametrize(("options", "task"), [*PER_POSITION, (tokens(), Task.CLASSIFICATION)])
def test_padding_on_the_left_neither(options, task):
    model = built(options, task)
    ids = fits(options, random_ids(2, 9))
    longer = torch.cat([torch.zeros(2, 5, dtype=torch.int64), ids], dim=1)
    mask = torch.cat([torch.zeros(2, 5, dtype=torch.int64), ones(ids)], dim=1)
    with torch.no_grad():
        found, alone = model(longer, mask), model(ids, ones(ids))
    assert torch.isfinite(found).all()
    found = found[:, 5:] if task.has_many_positions else found
    torch.testing.assert_close(found, alone, **CLOSE)


@pytest.mark.parametrize(("options", "task"), KINDS)
def test_a_mask_of_ones_is_no_mask(options, task):
    model = built(options, task)
    ids = fits(options, random_ids(2, 12))
    with torch.no_grad():
        torch.testing.assert_close(model(ids, ones(ids)), model(ids), **CLOSE)


@pytest.mark.parametrize(("options", "task"), KINDS)
def test_a_sample_without_a_real_position_is_finite(options, task):
    model = built(options, task)
    ids = fits(options, random_ids(2, 9))
    logits = model(ids, torch.zeros_like(ids))
    assert torch.isfinite(logits).all()
    logits.sum().backward()
    assert all(torch.isfinite(weight.grad).all() for weight in model.parameters())


@pytest.mark.parametrize(("options", "task"), CAUSAL)
def test_a_causal_model_sees_no_later_token(options, task):
    model = built(options, task)
    ids = fits(options, random_ids(1, 10))
    with torch.no_grad():
        before = model(ids, ones(ids))
        for place in range(10):
            changed = ids.clone()
            changed[0, place] = (changed[0, place] + 1) % CLASSES
            after = model(changed, ones(ids))
            assert torch.equal(after[0, :place], before[0, :place])
            assert not torch.equal(after[0, place], before[0, place])
            moved = (after - before)[0, place:].abs().amax(dim=1)
            assert (moved > 0).all()


@pytest.mark.parametrize(("options", "task"), CAUSAL)
def test_no_gradient_of_a_causal_model_comes_from_later(options, task):
    model = built(options, task)
    seen = []
    layer = model.embedding if hasattr(model, "embedding") else model.patches.embedding

    def keep(_module, _inputs, output):
        output.retain_grad()
        seen.append(output)

    layer.register_forward_hook(keep)
    ids = fits(options, random_ids(1, 8))
    model(ids)[0, 4].sum().backward()
    per_place = seen[0].grad[0].abs().sum(dim=1)
    assert (per_place[:5] > 0).all()
    assert (per_place[5:] == 0).all()


@pytest.mark.parametrize("options", [tokens(), some_bytes()])
def test_a_tagger_sees_both_sides(options):
    model = built(options, Task.TAGGING)
    ids = random_ids(1, 8)
    changed = ids.clone()
    changed[0, 3] = (ids[0, 3] + 1) % VOCABULARY
    with torch.no_grad():
        moved = (model(changed) - model(ids))[0].abs().amax(dim=1)
    assert (moved > 0).all()


@pytest.mark.parametrize(("options", "task"), PER_POSITION)
def test_order_matters(options, task):
    """The same tokens in another order are another text: rotary positions are at work."""
    model = built(options, task)
    ids = fits(options, torch.arange(6)[None])
    swapped = ids[:, [1, 0, 2, 3, 4, 5]]
    with torch.no_grad():
        gap = (model(swapped) - model(ids))[0, -1].abs().max()
    assert gap > 1e-4


@pytest.mark.parametrize("options", [some_bytes(), some_bytes(patch=1), byte_mlp()])
def test_the_id_256_is_padding_of_classified_bytes(options):
    model = built(options, Task.CLASSIFICATION, (IDS,))
    ids = random_ids(3, 21, most=256)
    padded = torch.cat([ids, torch.full((3, 30), 256)], dim=1)
    with torch.no_grad():
        torch.testing.assert_close(model(padded), model(ids), **CLOSE)
        assert torch.isfinite(model(torch.full((1, 40), 256))).all()


def test_in_a_language_model_over_bytes_256_is_an_id_like_others():
    model = built(some_bytes(), Task.CAUSAL_LM, (IDS,))
    ids = random_ids(1, 6, most=256)
    with_border = ids.clone()
    with_border[0, 2] = 256
    with torch.no_grad():
        assert not torch.equal(model(with_border)[0, -1], model(ids)[0, -1])


def test_where_a_byte_lies_in_a_file_matters():
    model = built(some_bytes(), Task.CLASSIFICATION, (FILE,))
    ids = torch.full((2, 45), 256)
    ids[0, :8] = 7
    ids[1, 16:24] = 7
    with torch.no_grad():
        first, second = model(ids)
    assert (first - second).abs().max() > 1e-3


def test_patches_make_attention_short():
    """A file of 2,048 bytes is 256 positions at a patch of 8."""
    file = InputSpec(name="bytes", dtype="int16", shape=(2048,))
    model = build_sequence_model(some_bytes(), (file,), CLASSES, Task.CLASSIFICATION, WHERE)
    assert model.place.shape == (256, 16)


@pytest.mark.parametrize(("options", "task"), KINDS)
@pytest.mark.parametrize("inputs", [(IDS, MASK), (IDS,)])
@pytest.mark.slow
def test_onnx_gives_the_same_for_any_batch_and_length(options, task, inputs):
    import onnxruntime

    model = built(options, task, inputs)
    content = onnx_bytes(model, inputs, WHERE)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    assert [entry.name for entry in session.get_inputs()] == [entry.name for entry in inputs]
    for count, length in ((1, 1), (2, 3), (3, 17), (1, 64)):
        ids = fits(options, random_ids(count, length))
        mask = ones(ids)
        mask[0, length // 2 + 1 :] = 0
        given = (ids, mask)[: len(inputs)]
        feeds = {entry.name: x.numpy() for entry, x in zip(inputs, given, strict=True)}
        (found,) = session.run(None, feeds)
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(found), model(*given), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [some_bytes(), byte_mlp()])
def test_onnx_of_files(options):
    model = built(options, Task.CLASSIFICATION, (FILE,))
    assert onnx_bytes(model, (FILE,), WHERE)


def test_first_weights_give_every_class_the_same_chance():
    torch.manual_seed(0)
    options = tokens(vocabulary=None, width=64, heads=4, layers=4)
    model = build_sequence_model(options, (IDS,), 500, Task.CAUSAL_LM, WHERE)
    logits = model(random_ids(4, 32, most=500))
    entropy = -(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1)
    assert entropy.min() > torch.log(torch.tensor(500.0)) - 0.1


def test_it_learns_to_count():
    torch.manual_seed(0)
    model = build_sequence_model(tokens(vocabulary=None), (IDS,), CLASSES, Task.CAUSAL_LM, WHERE)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    ids = (torch.arange(6)[:, None] + torch.arange(9)) % CLASSES
    for _ in range(30):
        logits = model(ids[:, :-1])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1


FLOAT = InputSpec(name="x", dtype="float32", shape=None)
IMAGE = InputSpec(name="image", dtype="uint8", shape=(3, 4))


@pytest.mark.parametrize(
    ("options", "task", "inputs", "message"),
    [
        (tokens(), Task.TAGGING, (FLOAT,), "needs one input of whole numbers"),
        (tokens(), Task.CLASSIFICATION, (IMAGE,), "needs one input of whole numbers"),
        (tokens(), Task.TAGGING, (MASK, IDS), "'attention_mask' of the same length after it"),
        (tokens(), Task.TAGGING, (IDS, FILE), "needs one input"),
        (tokens(vocabulary=None), Task.TAGGING, (IDS,), "vocabulary: expected how many token ids"),
        (tokens(), Task.CAUSAL_LM, (IDS,), r"expected the 6 classes .* got 11; leave it out"),
        (some_bytes(patch=4), Task.TAGGING, (IDS,), r"logits for each byte; .* patch: 1"),
        (byte_mlp(), Task.CAUSAL_LM, (IDS,), "say kind: byte_transformer"),
    ],
)
def test_what_cannot_work_is_one_clear_error(options, task, inputs, message):
    with pytest.raises(ModelError, match=message) as caught:
        build_sequence_model(options, inputs, CLASSES, task, WHERE)
    assert str(caught.value).startswith(WHERE)
    assert "\n" not in str(caught.value)
