"""A Hugging Face model as a teacher, and what its card says of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from storage.errors import ModelError, one_line
from storage.options import Task
from storage.spec import InputSpec
from tasks.huggingface_heads import class_names_of, num_outputs
from tasks.huggingface_models import load_teacher_module
from tasks.huggingface_options import HuggingFaceTeacherOptions
from tasks.huggingface_preparation import IDS
from tasks.nn.batch import by_position
from tasks.nn.models import num_parameters
from tasks.nn.observe import Found, observe


class HuggingFaceTeacher:
    """A model of transformers in evaluation mode, on one device or spread over several.

    Attributes:
        num_classes: C: the classes of its head, or its vocabulary.
        parameters: numbers that it holds.
        size_bytes: their bytes, in the precision in which it computes.
        class_names: their names, where its configuration says them.
        sampling_rate: of sounds, the samples of a second that it was trained on.
    """

    def __init__(
        self,
        options: HuggingFaceTeacherOptions,
        folder: Path,
        inputs: Sequence[InputSpec],
        task: Task,
        device: torch.device,
        where: str,
    ) -> None:
        """Load it.

        Raises:
            ModelError: it is not there, is damaged, or is no model for this task and these inputs.
        """
        module = load_teacher_module(options, folder, inputs, task, where)
        spread = options.device_map is not None
        self.module = module if spread else module.to(device)
        # A model that is spread over devices takes its inputs on the first of them.
        self._device = module.model.device if spread else device
        if spread:
            module.preparation.to(self._device)
        self._where = where
        config = module.model.config
        self._limits = _limits_of(config) if str(module.model.main_input_name) == IDS else ""
        self.num_classes = num_outputs(config, task)
        self.size_bytes = sum(entry.nbytes for entry in module.parameters())
        self.class_names = class_names_of(config, task)
        self.parameters = num_parameters(module)
        rate = getattr(module.preparation, "sampling_rate", None)
        self.sampling_rate: int | None = rate

    @property
    def facts(self) -> dict[str, Any]:
        """What its card says of it, where it is known: class names, sampling rate."""
        names = None if self.class_names is None else list(self.class_names)
        known = {"class_names": names, "sampling_rate": self.sampling_rate}
        return {name: value for name, value in known.items() if value is not None}

    @torch.inference_mode()
    def logits(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Logits [P, C] of inputs [B, ...], float32.

        Raises:
            ModelError: the model does not run on them.
            torch.OutOfMemoryError: there is too little memory on the device.
        """
        return self.observed(inputs, ())[0]

    @torch.inference_mode()
    def observed(self, inputs: tuple[Tensor, ...], names: Sequence[str]) -> tuple[Tensor, Found]:
        """Logits [P, C] of inputs [B, ...], and by name what is inside meanwhile.

        Raises:
            ModelError: the model does not run on them, or has no such layer or module.
            torch.OutOfMemoryError: there is too little memory on the device.
        """
        moved = tuple(entry.to(self._device) for entry in inputs)
        try:
            logits, found = observe(self.module, moved, names)
            return by_position(logits), found
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            if isinstance(error, ModelError):
                raise ModelError(f"{self._where}: {error}") from error
            shapes = ", ".join(str(list(entry.shape)) for entry in inputs)
            raise ModelError(
                f"{self._where}: the model does not run on inputs {shapes}{self._limits}: "
                f"{one_line(error)}"
            ) from error


def _limits_of(config: Any) -> str:
    """What most often is wrong with token ids."""
    text = config.get_text_config()
    longest = getattr(text, "max_position_embeddings", None)
    said = f" (it knows the ids 0 to {text.vocab_size - 1}"
    return said + (f" and at most {longest} positions)" if longest else ")")
