"""Small models over tokens and bytes, and inputs for them."""

import torch

from storage.options import Task
from storage.spec import InputSpec
from tasks.nn.sequence_models import build_sequence_model
from tasks.sequence_options import ByteMlpOptions, ByteTransformerOptions, TokenTransformerOptions

CLASSES = 6
VOCABULARY = 11
WHERE = "students.small.model"
IDS = InputSpec(name="input_ids", dtype="int64", shape=None)
MASK = InputSpec(name="attention_mask", dtype="int64", shape=None)
FILE = InputSpec(name="bytes", dtype="int16", shape=(45,))
SIZES = {"layers": 2, "width": 16, "heads": 2, "feed_forward": 2.5}


def tokens(**changes):
    values = {"kind": "token_transformer", "vocabulary": VOCABULARY, **SIZES, **changes}
    return TokenTransformerOptions(**values)


def some_bytes(**changes):
    return ByteTransformerOptions(**{"kind": "byte_transformer", **SIZES, **changes})


def byte_mlp(**changes):
    return ByteMlpOptions(**{"kind": "byte_mlp", "width": 5, "hidden": (7, 9), **changes})


def built(options, task, inputs=(IDS, MASK), seed=0):
    """In evaluation mode, with weights large enough for every part to matter."""
    torch.manual_seed(seed)
    model = build_sequence_model(options, inputs, CLASSES, task, WHERE).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.2)
    return model


def random_ids(count, length, most=VOCABULARY, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, most, (count, length), generator=generator)


def ones(ids):
    return torch.ones_like(ids)


KINDS = [
    (tokens(), Task.CLASSIFICATION),
    (tokens(), Task.TAGGING),
    (tokens(vocabulary=None), Task.MASKED_LM),
    (tokens(vocabulary=None), Task.CAUSAL_LM),
    (tokens(tie_embeddings=False), Task.CAUSAL_LM),
    (some_bytes(patch=1), Task.CLASSIFICATION),
    (some_bytes(patch=4), Task.CLASSIFICATION),
    (some_bytes(), Task.TAGGING),
    (some_bytes(), Task.CAUSAL_LM),
    (byte_mlp(patch=4), Task.CLASSIFICATION),
]
