"""Stored labels for Hugging Face's Trainer, whose loop, logging, checkpoints and launchers stay.

The stream makes whole batches and gives each process its part, so neither the Trainer nor
accelerate may divide the data again: batches go to it as they are, by a loader of its own that is
not prepared. A run that goes on from a checkpoint sees the batches that the other would have seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset
from transformers import Trainer, TrainerCallback

from tasks.loss_options import LossOptions
from tasks.nn.batch import Batch, by_position
from tasks.nn.losses import distillation_loss
from tasks.stream import Stream

_BATCH: Final = "batch"
_NAMES: Final = ("input_ids", "attention_mask")


class StreamDataset(IterableDataset[dict[str, Any]]):
    """The batches of a stream as what a Hugging Face model is called with.

    Each is a dict of the model's inputs and, under `batch`, the batch itself.
    """

    def __init__(self, stream: Stream, names: Sequence[str] = _NAMES) -> None:
        """Give the inputs of `stream` these `names`, in their order."""
        self.stream = stream
        self.names = tuple(names)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in self.stream:
            yield {**dict(zip(self.names, batch.inputs, strict=False)), _BATCH: batch}

    def __len__(self) -> int:
        return self.stream.batches_per_epoch

    def set_epoch(self, epoch: int) -> None:
        """Begin with an epoch."""
        self.stream.restore({**self.stream.state(), "epoch": epoch, "consumed": 0})


class DistillationTrainer(Trainer):  # type: ignore[misc]
    """A Trainer whose model learns from stored labels."""

    def __init__(
        self,
        model: nn.Module,
        args: Any,
        stream: Stream,
        loss: LossOptions | None = None,
        names: Sequence[str] = _NAMES,
        **further: Any,
    ) -> None:
        """Train `model` on the batches of a stream; the batch size is the stream's.

        Args:
            model: a Hugging Face model, or any that gives a dict with `logits`.
            args: transformers' TrainingArguments.
            stream: with `rank=args.process_index` and `world=args.world_size`.
            loss: by default that of a recipe that says nothing of it.
            names: what the model calls its inputs, in their order.
            further: what Trainer takes besides.
        """
        super().__init__(
            model=model, args=args, train_dataset=StreamDataset(stream, names), **further
        )
        self.distillation = loss or LossOptions()
        self.add_callback(_Epochs())

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The stream's batches as they are."""
        return DataLoader(self.train_dataset, batch_size=None)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The distillation loss, divided by the positions of the batches of all processes."""
        del num_items_in_batch
        batch: Batch = inputs.pop(_BATCH).to(self.args.device)
        outputs = model(**inputs)
        logit_PC = by_position(outputs["logits"])
        done = self.state.global_step / max(self.state.max_steps, 1)
        summed = distillation_loss(logit_PC, batch, self.distillation, 1, done).total
        loss = summed / self._mean_over_processes(batch.num_positions)
        return (loss, outputs) if return_outputs else loss

    def _mean_over_processes(self, count: int) -> float:
        """The mean, at least 1: gradients become the mean over processes too."""
        if self.args.world_size > 1:
            counts = torch.tensor(float(count), device=self.args.device)
            return max(1.0, float(self.accelerator.reduce(counts, reduction="mean")))
        return max(1.0, count)


class _Epochs(TrainerCallback):  # type: ignore[misc]
    """Tells the data which epoch begins, also after a run went on from a checkpoint."""

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **context: Any) -> None:
        del args, control
        context["train_dataloader"].dataset.set_epoch(int(state.epoch or 0))
