"""Toy corpora, teachers and models whose numbers can be worked out by hand.

Input `row` of a sample is a number, and a table says the teacher's logits for each number. Token
blocks hold such numbers; they count up, so that a model can know the next token.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from storage import layout
from storage.corpus import Corpus, MemoryCorpus
from storage.files import Folder
from storage.options import LabelOptions, Task
from storage.reader import LabelSet
from storage.records import write_record
from storage.rows import Ragged
from storage.spec import CorpusForm, InputSpec, spec_of
from tasks.label import LabelJob, finish_label_set, label_shards
from tasks.nn.batch import Batch, by_position
from tasks.nn.reduction import capture
from tasks.planning import plan_labels
from tasks.teachers import Teacher

FINGERPRINT = "00112233445566ff"
ROW = InputSpec(name="row", dtype="int64", shape=(1,))
VECTOR = InputSpec(name="x", dtype="float32", shape=(3,))
TOKENS = InputSpec(name="tokens", dtype="int64", shape=None)
ATTENTION = InputSpec(name="attention_mask", dtype="int64", shape=None)


class TableTeacher:
    """Looks its logits up: line n of the table belongs to the number n."""

    def __init__(self, table_NC: Any) -> None:
        self.table_NC = torch.as_tensor(table_NC)
        self.num_classes = self.table_NC.shape[1]
        self.batch_sizes: list[int] = []

    def logits(self, inputs: tuple[Tensor, ...]) -> Tensor:
        self.batch_sizes.append(len(inputs[0]))
        return self.table_NC[inputs[0].long().reshape(-1)]


class TableModel(nn.Module):
    """The same as a module: [B, C] for inputs [B, 1], [B, L, C] for tokens [B, L]."""

    def __init__(self, table_NC: Any, *, blocks: bool = False) -> None:
        super().__init__()
        self.blocks = blocks
        self.table_NC = nn.Parameter(torch.as_tensor(table_NC, dtype=torch.float32).clone())

    def forward(self, numbers: Tensor) -> Tensor:
        logits = self.table_NC[numbers.long()]
        return logits if self.blocks else logits[:, 0]


class TokenModel(nn.Module):
    """An embedding and a linear layer: each token by itself."""

    def __init__(self, vocabulary: int = 7, num_classes: int = 7, dropout: float = 0.0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, 8)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(8, num_classes)

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.head(self.dropout(self.embedding(tokens)))
        return logits


class TextModel(nn.Module):
    """The mean of the embeddings of a text's tokens, padding left out, and a linear layer."""

    def __init__(self, vocabulary: int = 7, num_classes: int = 3) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, 8)
        self.head = nn.Linear(8, num_classes)

    def forward(self, tokens: Tensor, attention_mask: Tensor) -> Tensor:
        mask = attention_mask[..., None].float()
        mean = (self.embedding(tokens) * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1.0)
        logits: Tensor = self.head(mean)
        return logits


class SquareRoot(nn.Module):
    """Its output is finite and its gradient is not: the root of 0."""

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.weight).abs().sqrt()


def linear(**sizes: int) -> nn.Module:
    """A target."""
    return nn.Linear(sizes["inputs"], sizes["outputs"])


def failing() -> nn.Module:
    """A target that cannot be built."""
    raise OSError("there is no\nsuch model")


def not_a_model() -> str:
    """A target that gives something else."""
    return "a string"


def tuple_model() -> nn.Module:
    """A module that gives no tensor."""

    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    return Pair()


def counting_blocks() -> dict[str, Any]:
    """A target for data: blocks of tokens, each one more than the last, modulo 7."""
    lengths = [5, 3, 1, 6, 2, 4, 5, 3]
    blocks = [[(first + place) % 7 for place in range(n)] for first, n in enumerate(lengths)]
    split = ["train"] * 5 + ["test"] * 3
    return {"tokens": blocks, "split": split}


def counting_table(sharpness: float = 20.0) -> np.ndarray:
    """Logits of one who knows the next token of `counting_blocks`: n is followed by n + 1."""
    return sharpness * np.eye(7, dtype=np.float32)[(np.arange(7) + 1) % 7]


def numbered_corpus(
    sizes: Mapping[str, int], num_classes: int = 5, label: bool = True
) -> MemoryCorpus:
    """Samples with the numbers 0, 1, ... over all splits; the label of n is n modulo C."""
    splits = {}
    start = 0
    for split, size in sizes.items():
        numbers = np.arange(start, start + size)
        start += size
        splits[split] = {
            "sample_id": np.array([f"{split}-{number}" for number in numbers], dtype=object),
            "input.row": numbers[:, None],
        }
        if label:
            splits[split]["label"] = numbers % num_classes
    form = CorpusForm(Task.CLASSIFICATION, (ROW,), label, tuple(sizes))
    return MemoryCorpus(form, splits)


def block_corpus(blocks: Sequence[Sequence[int]], mask: Sequence[Sequence[bool]]) -> MemoryCorpus:
    """Blocks of tokens for tagging: the label of token n is n modulo 3."""
    lengths = np.array([len(block) for block in blocks])
    tokens = np.concatenate([np.asarray(block, np.int64) for block in blocks])
    counts = np.concatenate([np.asarray(block, np.bool_) for block in mask])
    rows = {
        "sample_id": np.array([f"block-{place}" for place in range(len(blocks))], dtype=object),
        "input.tokens": Ragged(tokens, lengths),
        "label": Ragged(np.where(counts, tokens % 3, -100), lengths),
        "mask": Ragged(counts, lengths),
    }
    return MemoryCorpus(CorpusForm(Task.TAGGING, (TOKENS,), True, ("train",)), {"train": rows})


def text_corpus(texts: Sequence[Sequence[int]]) -> MemoryCorpus:
    """Texts of tokens, each of one class: its first token modulo 3."""
    lengths = np.array([len(text) for text in texts])
    tokens = np.concatenate([np.asarray(text, np.int64) for text in texts])
    rows = {
        "sample_id": np.array([f"text-{place}" for place in range(len(texts))], dtype=object),
        "input.tokens": Ragged(tokens, lengths),
        "input.attention_mask": Ragged(np.ones(len(tokens), np.int64), lengths),
        "label": np.array([text[0] % 3 for text in texts]),
    }
    form = CorpusForm(Task.CLASSIFICATION, (TOKENS, ATTENTION), True, ("train",))
    return MemoryCorpus(form, {"train": rows})


def random_table(rows: int, num_classes: int = 5, seed: int = 0, scale: float = 3.0) -> np.ndarray:
    """Logits of a teacher who is neither sure nor clueless."""
    return np.random.default_rng(seed).normal(0, scale, (rows, num_classes)).astype(np.float32)


def label_set(
    store: Folder,
    corpus: Corpus,
    teacher: Teacher,
    options: LabelOptions,
    fingerprint: str = FINGERPRINT,
) -> LabelSet:
    """Plan, label and finish."""
    folder = store / layout.product(layout.LABELS, fingerprint)
    spec = spec_of(corpus.form, options, teacher.num_classes, None)
    index = corpus.index(options.positions_per_shard)
    write_record(folder, layout.SPEC, spec)
    plan = plan_labels(folder, fingerprint, index)
    job = LabelJob(folder, spec, corpus, options.batch_size)
    label_shards(job, plan.missing, teacher, lambda _: None)
    finish_label_set(folder, fingerprint, spec, plan_labels(folder, fingerprint, index).records)
    return LabelSet.open(folder)


def batch_of(
    teacher_PC: Tensor,
    label_P: Tensor,
    k: int,
    temperatures: Sequence[float],
    mask_P: Tensor | None = None,
    padding: int = 0,
    inputs: tuple[Tensor, ...] = (),
) -> Batch:
    """A batch as a stream gives it: `padding` empty entries, and nothing at all where masked."""
    kept = capture(teacher_PC, label_P, k, temperatures)
    count = len(teacher_PC)
    mask_P = torch.ones(count, dtype=torch.bool) if mask_P is None else mask_P
    empty_PK = torch.full((count, padding), -torch.inf, dtype=kept.logit_PK.dtype)
    index_PK = torch.cat([kept.index_PK, torch.zeros((count, padding), dtype=torch.int64)], dim=1)
    logit_PK = torch.cat([kept.logit_PK, empty_PK], dim=1)
    return Batch(
        inputs=inputs,
        index_PK=index_PK.masked_fill(~mask_P[:, None], 0),
        logit_PK=logit_PK.masked_fill(~mask_P[:, None], -torch.inf),
        rest_PT=kept.rest_PT.masked_fill(~mask_P[:, None], -torch.inf),
        weight_PK=None,
        label_P=label_P,
        label_logit_P=kept.label_logit_P,
        mask_P=mask_P,
        real_P=torch.ones(count, dtype=torch.bool),
        temperatures=tuple(temperatures),
        sample_ids=[f"sample-{place}" for place in range(count)],
    )


def logits_of(model: nn.Module, batch: Batch) -> Tensor:
    """[P, C]."""
    with torch.no_grad():
        return by_position(model(*batch.inputs))
