"""Hugging Face models in the trainer: they learn, and a run that was stopped ends in the same bits.

BERT's dropout draws at every step.
"""

import dataclasses
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers

from storage.corpus import MemoryCorpus
from storage.files import Folder
from storage.options import Task
from storage.rows import Ragged
from storage.spec import CorpusForm
from tasks.fit import FitJob, fit
from tasks.huggingface_options import HuggingFaceModelOptions
from tasks.loss_options import LossOptions
from tasks.sources import CorpusSource
from tasks.training_options import PhaseOptions, TrainingOptions
from tasks.weights import untied
from tests.tasks.hf_models import BERT, VOCABULARY, WORDS, save_model
from tests.tasks.interruption import assert_interrupted_equals_uninterrupted
from tests.tasks.test_fit import interrupted, outcome
from tests.tasks.toy import ATTENTION, TOKENS, text_corpus

CPU = torch.device("cpu")
TRAINING = TrainingOptions(epochs=2, batch_size=8, learning_rate=0.01, checkpoint_seconds=0)
TEXTS = [[(7 * place + at) % 6 + 1 for at in range(place % 5 + 1)] for place in range(30)]
SMALL = {
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
}


def job(folder, **changes):
    said = {"kind": "huggingface", "model": "bert", "config": SMALL} | changes
    return FitJob(
        title="student toy",
        where="students.toy",
        model=HuggingFaceModelOptions(**said),
        loss=LossOptions(soft_weight=0.0),
        training=TRAINING,
        inputs=(TOKENS, ATTENTION),
        num_classes=3,
        task=Task.CLASSIFICATION,
        recipe_folder=folder,
    )


def masked_corpus(texts):
    """Texts as blocks in which every other token is masked, and is the label there."""
    lengths = np.array([len(text) for text in texts])
    tokens = np.concatenate([np.asarray(text, np.int64) for text in texts])
    masked = np.arange(len(tokens)) % 2 == 0
    rows = {
        "sample_id": np.array([f"block-{place}" for place in range(len(texts))], dtype=object),
        "input.tokens": Ragged(np.where(masked, WORDS.index("[MASK]"), tokens), lengths),
        "input.attention_mask": Ragged(np.ones(len(tokens), np.int64), lengths),
        "label": Ragged(np.where(masked, tokens, -100), lengths),
        "mask": Ragged(masked, lengths),
    }
    form = CorpusForm(Task.MASKED_LM, (TOKENS, ATTENTION), True, ("train",))
    return MemoryCorpus(form, {"train": rows})


@pytest.mark.parametrize(
    "changes",
    [
        {"config": {**SMALL, "hidden_dropout_prob": 0.3, "vocab_size": 8}},
        {"model": "llama", "config": {**SMALL, "vocab_size": 8}},
        {"model": "saved", "pretrained": True, "config": {}},
    ],
)
def test_interrupted_equals_uninterrupted(tmp_path, changes):
    save_model(tmp_path / "saved", "BertForMaskedLM", **BERT)
    source = CorpusSource(text_corpus(TEXTS), "train")
    folders = iter(range(100))

    def run(stops):
        folder = Folder.open(tmp_path / f"run-{next(folders)}")
        return outcome(interrupted(job(tmp_path, **changes), (source, None), folder, stops))

    assert_interrupted_equals_uninterrupted(run, [(1,), (4,), (3, 6)])


def test_with_all_that_training_offers_interrupted_equals_uninterrupted(tmp_path):
    save_model(tmp_path / "saved", "BertForMaskedLM", **BERT)
    source = CorpusSource(text_corpus(TEXTS), "train")
    changes = {
        "micro_batch_size": 3,
        "precision": "bfloat16",
        "keep": "best",
        "optimizer": "muon",
        "frozen": ("*embeddings*",),
        "phases": (PhaseOptions(epochs=1), PhaseOptions(epochs=1, learning_rate=0.002)),
    }
    the_job = dataclasses.replace(
        job(tmp_path, model="saved", pretrained=True, config={}),
        training=TRAINING.model_copy(update=changes),
    )
    folders = iter(range(100))

    def run(stops):
        folder = Folder.open(tmp_path / f"run-{next(folders)}")
        fitted = interrupted(the_job, (source, source), folder, stops)
        return outcome(fitted), fitted.details

    assert_interrupted_equals_uninterrupted(run, [(3,), (4, 5)])


def test_a_pretrained_model_learns(tmp_path):
    save_model(tmp_path / "saved", "BertForMaskedLM", **BERT)
    source = CorpusSource(text_corpus(TEXTS), "train")
    the_job = job(tmp_path, model="saved", pretrained=True, config={})
    long = TRAINING.model_copy(update={"epochs": 20})
    fitted = fit(
        FitJob(**{**vars(the_job), "training": long}),
        source,
        None,
        Folder.open(tmp_path / "f"),
        CPU,
    )
    losses = [row["loss"] for row in fitted.history]
    assert losses[-1] < 0.3 < losses[0]


def test_a_masked_language_head_is_tied_to_a_frozen_body_and_learns(tmp_path):
    """A body without a head gets one whose output layer is the body's own table of embeddings."""
    save_model(tmp_path / "saved", "BertModel", **BERT)
    the_job = replace(
        job(tmp_path, model="saved", pretrained=True, config={}),
        task=Task.MASKED_LM,
        num_classes=VOCABULARY,
        training=TRAINING.model_copy(update={"frozen": ("bert.*",)}),
    )
    body = transformers.BertModel.from_pretrained(tmp_path / "saved", add_pooling_layer=False)
    corpus = masked_corpus(TEXTS)
    fitted = fit(the_job, CorpusSource(corpus, "train"), None, Folder.open(tmp_path / "f"), CPU)
    found = fitted.model.model
    for name, entry in body.named_parameters():
        assert torch.equal(found.bert.get_parameter(name), entry), name
    tied = found.cls.predictions.decoder.weight
    assert tied is found.bert.embeddings.word_embeddings.weight
    assert "cls.predictions.decoder.weight" not in untied(found)
    assert found.cls.predictions.bias.abs().max() > 0  # it began as zeros
    losses = [row["loss"] for row in fitted.history]
    assert losses[-1] < losses[0]
