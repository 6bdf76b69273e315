"""A student that begins with its teacher's weights, of some of the teacher's layers.

Weights are found by their names: those of a layer by its number, all others by the same name. Of a
BERT a DistilBERT may be made, whose weights have other names (Sanh et al. 2019, arXiv 1910.01108).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Final

from torch import Tensor, nn

from storage.errors import ModelError
from tasks.feature_options import InitialiseOptions, uniform_layers
from tasks.huggingface_module import HuggingFaceModule
from tasks.nn.observe import num_layers

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")
# The names of BERT's weights, and of the same ones in DistilBERT.
_DISTILBERT: Final = (
    (r"^bert\.encoder\.layer\.", "distilbert.transformer.layer."),
    (r"^bert\.", "distilbert."),
    (r"\.attention\.self\.query\.", ".attention.q_lin."),
    (r"\.attention\.self\.key\.", ".attention.k_lin."),
    (r"\.attention\.self\.value\.", ".attention.v_lin."),
    (r"\.attention\.output\.dense\.", ".attention.out_lin."),
    (r"\.attention\.output\.LayerNorm\.", ".sa_layer_norm."),
    (r"\.intermediate\.dense\.", ".ffn.lin1."),
    (r"(\.layer\.\d+)\.output\.dense\.", r"\1.ffn.lin2."),
    (r"(\.layer\.\d+)\.output\.LayerNorm\.", r"\1.output_layer_norm."),
    (r"^cls\.predictions\.transform\.dense\.", "vocab_transform."),
    (r"^cls\.predictions\.transform\.LayerNorm\.", "vocab_layer_norm."),
    (r"^cls\.predictions\.decoder\.", "vocab_projector."),
)


def initialise(
    student: nn.Module, teacher: nn.Module, options: InitialiseOptions, where: str
) -> None:
    """Give a student the weights of its teacher.

    Args:
        student: as it was built.
        teacher: the whole model.
        options: which layers.
        where: the field of the recipe, for messages.

    Raises:
        ModelError: a weight of the student is not there in the teacher, or has another shape.
        RecipeError: the layers cannot be spread evenly.
    """
    ours, theirs = _inner(student).state_dict(), _named_as(_inner(teacher), _inner(student))
    layers = _layers(student, teacher, options, where)
    our_stem, their_stem = (
        _stem(names, num_layers(model)) for names, model in ((ours, student), (theirs, teacher))
    )
    taken: dict[str, Tensor] = {}
    for name, weight in ours.items():
        wanted = _wanted(name, our_stem, their_stem, layers)
        taken[name] = _fitting(name, weight, wanted, theirs.get(wanted), where)
    _inner(student).load_state_dict(taken)


def _layers(
    student: nn.Module, teacher: nn.Module, options: InitialiseOptions, where: str
) -> dict[int, int]:
    """The teacher's layer for each of the student's, counted from 1."""
    own, given = num_layers(student), num_layers(teacher)
    for whose, count in (("student", own), ("teacher", given)):
        if not count:
            raise ModelError(f"{where}: the layers of the {whose} are not known by number")
    if isinstance(options.layers, str):
        return uniform_layers(own, given, where)
    if len(options.layers) != own or max(options.layers) > given:
        raise ModelError(
            f"{where}.layers: expected one for each of the student's {own} layers, from 1 to the "
            f"teacher's {given}; got {list(options.layers)}"
        )
    return dict(enumerate(options.layers, start=1))


def _wanted(name: str, our_stem: str, their_stem: str, layers: Mapping[int, int]) -> str:
    """The name of the teacher's weight that a student's weight begins with."""
    if not name.startswith(our_stem):
        return name
    number, _, rest = name.removeprefix(our_stem).partition(".")
    return f"{their_stem}{layers[int(number) + 1] - 1}.{rest}"


def _fitting(name: str, weight: Tensor, wanted: str, found: Tensor | None, where: str) -> Tensor:
    if found is None:
        raise ModelError(
            f"{where}: the student has {name!r}, and the teacher no {wanted!r}; begin with a model "
            "of the teacher's kind, with fewer layers"
        )
    if found.shape != weight.shape:
        raise ModelError(
            f"{where}: the student's {name!r} is {list(weight.shape)}, the teacher's {wanted!r} "
            f"{list(found.shape)}; give the student the teacher's sizes, but for its layers"
        )
    return found


def _stem(names: Iterable[str], count: int) -> str:
    """What comes before the number of a layer in the names of its weights.

    Other modules may be numbered as well: of those that have as many, layers have most weights.
    """
    numbers: dict[str, set[int]] = defaultdict(set)
    weights: dict[str, int] = defaultdict(int)
    for name in names:
        for match in _NUMBER.finditer(name):
            stem = name[: match.start()]
            numbers[stem].add(int(match[0]))
            weights[stem] += 1
    fitting = [stem for stem, found in numbers.items() if found == set(range(count))]
    return max(fitting, key=weights.__getitem__, default="")


def _named_as(teacher: nn.Module, student: nn.Module) -> dict[str, Tensor]:
    """The teacher's weights, by the names that a student of another kind has for them."""
    found: dict[str, Tensor] = teacher.state_dict()
    if _is_kind(teacher, "bert") and _is_kind(student, "distilbert"):
        return {_as_distilbert(name): weight for name, weight in found.items()}
    return found


def _as_distilbert(name: str) -> str:
    for theirs, ours in _DISTILBERT:
        name = re.sub(theirs, ours, name)
    return name


def _is_kind(model: nn.Module, kind: str) -> bool:
    return getattr(getattr(model, "config", None), "model_type", None) == kind


def _inner(model: nn.Module) -> nn.Module:
    """A model without what prepares its inputs."""
    if not isinstance(model, HuggingFaceModule):
        return model
    inner: nn.Module = model.model
    return inner
