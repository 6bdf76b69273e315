"""What a recipe may say about Hugging Face models. Imports nothing heavy."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from storage.identity import Json
from storage.options_base import Options

Attention = Literal["sdpa", "eager", "flash_attention_2"]


class HuggingFaceTeacherOptions(Options):
    """A Hugging Face model: a classifier, a tagger or a language model, as `data.task` says.

    Of a model only JSON and safetensors (or GGUF) are read; none of its code is run.
    """

    kind: Literal["huggingface"]
    model: Annotated[str, Field(min_length=1)]
    """A folder, relative to the recipe, or a name on the hub."""
    gguf_file: Annotated[str, Field(min_length=1)] | None = None
    """The GGUF file in that folder; it is converted once, into the user's cache."""
    revision: Annotated[str, Field(min_length=1)] | None = None
    """Of a name on the hub: a branch, a tag or a commit."""
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = "float32"
    """What it computes in; `auto` is what its weights are stored in."""
    attention: Attention = "sdpa"
    """How attention is computed."""
    device_map: Literal["auto", "balanced", "balanced_low_0", "sequential"] | None = None
    """How a model that is too large for one device is spread over several; None: one device."""

    def identity(self) -> Json:
        """What decides the logits, but for the weights' content."""
        where = {"model", "gguf_file", "revision", "device_map"}
        return self.model_dump(mode="json", exclude=where)

    @property
    def source(self) -> str:
        """Where it comes from, in one line."""
        parts = (self.model, self.revision and f"@{self.revision}", self.gguf_file)
        return " ".join(part for part in parts if part)


class HuggingFaceModelOptions(Options):
    """A Hugging Face model that is trained: from its first weights, or from pretrained ones."""

    kind: Literal["huggingface"]
    model: Annotated[str, Field(min_length=1)]
    """A folder, relative to the recipe, a name on the hub, or (with pretrained: false) a kind of
    model that the library knows, such as `llama`."""
    pretrained: bool = False
    """Whether training begins with its weights; the head is new where classes differ."""
    config: dict[str, Any] = Field(default_factory=dict)
    """What of its configuration is changed: `num_hidden_layers: 4`. The number of classes is that
    of the labels."""
    gguf_file: Annotated[str, Field(min_length=1)] | None = None
    """The GGUF file in that folder."""
    revision: Annotated[str, Field(min_length=1)] | None = None
    """Of a name on the hub: a branch, a tag or a commit."""
    attention: Literal["sdpa", "eager"] = "sdpa"
    """How attention is computed."""

    @model_validator(mode="after")
    def _classes_come_from_the_labels(self) -> Self:
        for name in ("num_labels", "id2label", "label2id", "problem_type", "auto_map"):
            if name in self.config:
                raise ValueError(f"config.{name} is not to be said: it follows from the labels")
        return self

    def identity(self) -> Json:
        """What decides the weights, but for the content of the model's files."""
        return self.model_dump(mode="json", exclude={"model", "gguf_file", "revision"})
