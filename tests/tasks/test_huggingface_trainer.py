"""Hugging Face's Trainer on stored labels: the stream's own batches, and an exact resume."""

import itertools

import pytest
import torch
from transformers import TrainerCallback, TrainingArguments
from transformers.modeling_outputs import TokenClassifierOutput

from storage.options import LabelOptions
from tasks.huggingface_trainer import DistillationTrainer, StreamDataset
from tasks.loss_options import LossOptions
from tasks.nn.losses import distillation_loss
from tasks.sources import LabelSource
from tasks.stream import Stream
from tests.tasks.interruption import assert_interrupted_equals_uninterrupted
from tests.tasks.toy import TableTeacher, TokenModel, block_corpus, label_set, random_table

BLOCKS = [[(first + place) % 7 for place in range(1 + first % 4)] for first in range(11)]
OPTIONS = LabelOptions(
    k=2, temperature=2.0, batch_size=4, positions_per_shard=9, positions_per_row_group=4
)
LOSS = LossOptions(soft_weight=0.7)
EPOCHS = 3


class Tagger(TokenModel):
    """As Hugging Face models are called."""

    def forward(self, input_ids):
        return TokenClassifierOutput(logits=super().forward(input_ids))


@pytest.fixture
def source(store):
    corpus = block_corpus(BLOCKS, [[True] * len(block) for block in BLOCKS])
    labels = label_set(store, corpus, TableTeacher(random_table(7, 7)), OPTIONS)
    yield LabelSource(labels, "train")
    labels.close()


def trainer_of(source, folder, **said):
    torch.manual_seed(0)
    args = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=EPOCHS,
        learning_rate=0.05,
        save_strategy="steps",
        save_steps=1,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        seed=1,
        **said,
    )
    stream = Stream(source, 4, seed=2, window=2, rank=args.process_index, world=args.world_size)
    return DistillationTrainer(Tagger(), args, stream, LOSS)


class Noted(TrainerCallback):
    """Which batches were learnt from; stops after some steps."""

    def __init__(self, stop=None):
        self.stop = stop

    def on_step_end(self, args, state, control, **context):
        control.should_training_stop = state.global_step == self.stop


def test_a_run_that_goes_on_from_a_checkpoint_ends_in_the_same_weights(source, tmp_path):
    folders = (tmp_path / str(number) for number in itertools.count())

    def run(stops):
        folder = next(folders)
        for stop in stops:
            trainer = trainer_of(source, folder)
            trainer.add_callback(Noted(stop))
            trainer.train(resume_from_checkpoint=(stop != stops[0]) or None)
        trainer = trainer_of(source, folder)
        trainer.train(resume_from_checkpoint=bool(stops) or None)
        assert trainer.state.global_step == EPOCHS * 3
        return {name: value.tolist() for name, value in trainer.model.state_dict().items()}

    assert_interrupted_equals_uninterrupted(run, [(1,), (3,), (5,), (2, 7)])


def test_it_learns_what_a_plain_loop_learns(source, tmp_path):
    trainer = trainer_of(source, tmp_path, lr_scheduler_type="constant", max_grad_norm=0.0)
    trainer.train()
    torch.manual_seed(0)
    model = Tagger()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.0)
    stream = Stream(source, 4, seed=2, window=2)
    for _ in range(EPOCHS):
        for batch in stream:
            optimizer.zero_grad()
            logits = model(*batch.inputs).logits.reshape(-1, 7)
            distillation_loss(logits, batch, LOSS).total.backward()
            optimizer.step()
    for mine, theirs in zip(trainer.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_a_data_set_is_as_long_as_an_epoch_and_names_what_it_gives(source):
    data = StreamDataset(Stream(source, 4))
    batches = list(data)
    assert len(batches) == len(data) == 3
    assert all(list(entry) == ["input_ids", "batch"] for entry in batches)
    assert all(entry["input_ids"] is entry["batch"].inputs[0] for entry in batches)
