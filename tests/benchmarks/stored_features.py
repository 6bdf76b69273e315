"""Stored features: bytes, reading rate, what they cost the label stage; and what `std` costs."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow.parquet as pq
import torch

from storage import layout as paths
from storage.corpus import MemoryCorpus
from storage.features import FEATURE_COLUMN
from storage.files import Folder
from storage.options import LabelOptions, Layout, Task
from storage.reader import LabelSet
from storage.records import write_record
from storage.rows import Ragged
from storage.sizes import part_sizes
from storage.spec import CorpusForm, InputSpec, LabelSetSpec, spec_of
from tasks.estimate import estimate_by_probe
from tasks.label import LabelJob, finish_label_set, label_shards
from tasks.nn.reduction import Reduction, reduce_logits
from tasks.nn.sequence_models import build_sequence_model
from tasks.nn.softlabels import top_k
from tasks.planning import plan_labels
from tasks.sequence_options import TokenTransformerOptions
from tasks.sources import LabelSource
from tasks.stream import Stream
from tasks.teachers import TorchTeacher
from tests.benchmarks.figures import Figure, paired

_FINGERPRINT = "00112233445566ff"
_BLOCKS, _LENGTH, _VOCABULARY, _WIDTH, _BATCH = 128, 128, 4096, 256, 8
_REPEATS = 5
_INPUTS = (InputSpec(name="tokens", dtype="int64", shape=None),)
_NAME = "hidden.-1"
_ROWS, _CLASSES, _K = 512, 49_152, 64


def run() -> list[Figure]:
    """A teacher of 2 layers and width 256 over blocks of 128 tokens."""
    torch.manual_seed(0)
    corpus, teacher = _corpus(), _teacher()
    figures = []
    for form in Layout:
        for dtype in ("float16", "float32"):
            figures.append(_stored(corpus, teacher, form, {"feature": _NAME, "dtype": dtype}))
    for asked in ({"pool": "mean"}, {"size": 64}):
        figures.append(_stored(corpus, teacher, Layout.PLAIN, {"feature": _NAME, **asked}))
    figures.append(_stored(corpus, teacher, Layout.PLAIN, {"feature": "attention.-1"}))
    return [*figures, _labelled(corpus, teacher), _std()]


def _stored(
    corpus: MemoryCorpus, teacher: TorchTeacher, form: Layout, asked: dict[str, object]
) -> Figure:
    """Bytes, the estimate beside them, and the reading rate over pyarrow's own."""
    with tempfile.TemporaryDirectory() as folder:
        labels, expected, _ = _made(Folder.open(folder), corpus, teacher, form, [asked])
        size_bytes = part_sizes(labels, "train").bytes["features"]
        name = str(asked["feature"])
        ours, bare = paired(
            _timed(lambda: _read(labels, name)), _timed(lambda: _read_bare(labels, name)), _REPEATS
        )
        error = expected / labels.manifest.size_bytes - 1
        positions = labels.manifest.positions
        labels.close()
    said = ", ".join(str(value) for value in asked.values())
    return Figure(
        f"feature {said}, {form.value}",
        f"{size_bytes / positions:.1f} B a position; estimate {error:+.1%}; read at "
        f"{size_bytes / ours / 1e6:,.0f} MB/s, {bare / ours:.2f} of pyarrow alone",
        "estimate within a few percent",
        f"{positions:,} positions of width {_WIDTH}, one thread, median of {_REPEATS}",
    )


def _labelled(corpus: MemoryCorpus, teacher: TorchTeacher) -> Figure:
    """The label stage with a feature over the one without, in turn."""

    def work(features: Sequence[dict[str, object]]) -> Callable[[], float]:
        def seconds() -> float:
            with tempfile.TemporaryDirectory() as folder:
                store = Folder.open(folder)
                labels, _, spent = _made(store, corpus, teacher, Layout.FAST, features)
                labels.close()
            return spent

        return seconds

    with_it, without = paired(work([{"feature": _NAME}]), work([]), _REPEATS)
    return Figure(
        "the label stage with a hidden state of each position, over without",
        f"{with_it / without:.2f} ({with_it:.2f} of {without:.2f} s)",
        "-",
        f"fast, float16, {_BLOCKS * _LENGTH:,} positions, in turn, median of {_REPEATS}",
    )


def _std() -> Figure:
    """What `std` adds to the reduction of logits, beside a further number."""
    logit_PC = 2.5 * torch.randn(_ROWS, _CLASSES)
    real_P = torch.ones(_ROWS, dtype=torch.bool)

    def work(*temperatures: float | str) -> Callable[[], float]:
        reduction = Reduction(top_k(_K), temperatures, _CLASSES)  # type: ignore[arg-type]
        return _timed(lambda: reduce_logits(logit_PC, real_P, None, reduction))

    std, plain = paired(work(2.0, 1.0, "std"), work(2.0, 1.0), 3 * _REPEATS)
    number, again = paired(work(2.0, 1.0, 3.0), work(2.0, 1.0), 3 * _REPEATS)
    row = 1e6 / _ROWS
    return Figure(
        f"the reduction with std among the temperatures, {_CLASSES:,} classes",
        f"{std / plain:.2f} ({std * row:.0f} of {plain * row:.0f} us a row); with 3.0 instead "
        f"{number / again:.2f}",
        "-",
        f"T = 2, 1, k={_K}, {torch.get_num_threads()} threads, in turn, median of {3 * _REPEATS}",
    )


def _made(
    store: Folder,
    corpus: MemoryCorpus,
    teacher: TorchTeacher,
    form: Layout,
    features: Sequence[dict[str, object]],
) -> tuple[LabelSet, int, float]:
    """A label set, what was expected of its bytes, and the seconds that it took."""
    options = LabelOptions.model_validate(
        {
            "k": 8,
            "layout": form,
            "features": list(features),
            "batch_size": _BATCH,
            "positions_per_shard": 4096,
        }
    )
    spec: LabelSetSpec = spec_of(corpus.form, options, _VOCABULARY, None)
    folder = store / paths.product(paths.LABELS, _FINGERPRINT)
    write_record(folder, paths.SPEC, spec)
    plan = plan_labels(folder, _FINGERPRINT, corpus.index(options.positions_per_shard))
    expected = estimate_by_probe(plan.missing, spec, corpus, teacher, _BATCH)
    started = time.perf_counter()
    job = LabelJob(folder, spec, corpus, _BATCH)
    records = label_shards(job, plan.missing, teacher, lambda _: None)
    seconds = time.perf_counter() - started
    finish_label_set(folder, _FINGERPRINT, spec, records)
    return LabelSet.open(folder), expected, seconds


def _read(labels: LabelSet, name: str) -> None:
    """Every sample's feature as float32, through the stream that students read."""
    source = LabelSource(labels, "train", (name,))
    column = f"{FEATURE_COLUMN}{name}"
    source.columns = ["sample_id", "input.tokens", column]
    for batch in Stream(source, _BATCH, shuffle=False):
        assert batch.features[name].dtype is torch.float32


def _read_bare(labels: LabelSet, name: str) -> None:
    for shard in labels.shards("train"):
        path = f"{labels.folder.path}/shards/{shard.file}"
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            for group in range(file.num_row_groups):
                file.read_row_group(group, columns=[f"{FEATURE_COLUMN}{name}"], use_threads=False)


def _timed(work: Callable[[], object]) -> Callable[[], float]:
    def seconds() -> float:
        started = time.perf_counter()
        work()
        return time.perf_counter() - started

    return seconds


def _corpus() -> MemoryCorpus:
    rng = np.random.default_rng(0)
    lengths_B = np.full(_BLOCKS, _LENGTH)
    tokens = rng.zipf(1.3, _BLOCKS * _LENGTH) % _VOCABULARY
    rows = {
        "sample_id": np.array([f"block-{place:06d}" for place in range(_BLOCKS)], dtype=object),
        "input.tokens": Ragged(tokens, lengths_B),
        "mask": Ragged(np.ones(len(tokens), np.bool_), lengths_B),
    }
    return MemoryCorpus(CorpusForm(Task.CAUSAL_LM, _INPUTS, False, ("train",)), {"train": rows})


def _teacher() -> TorchTeacher:
    options = TokenTransformerOptions(
        kind="token_transformer", layers=2, width=_WIDTH, heads=4, vocabulary=_VOCABULARY
    )
    model = build_sequence_model(options, _INPUTS, _VOCABULARY, Task.CAUSAL_LM, "teacher.model")
    return TorchTeacher(model, _INPUTS, torch.device("cpu"), "teacher")
