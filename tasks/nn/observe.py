"""What is inside a model while it runs: hidden states, attention maps, outputs of its modules.

The names are those of `storage.features`. The built-in transformers and any torch module are
watched by hooks, so that the logits come the way they always do; an attention map is computed
beside them, only where it is asked for. A model that knows better, as those of Hugging Face do,
offers a `watching` of its own. Only what is asked for is kept.

Shape letters: B samples, L positions of a block, N positions inside a model (those of the block,
or patches of it), W width, H heads.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from storage.errors import ModelError
from storage.features import ATTENTION, HIDDEN, MODULE, layer_of, path_of
from storage.spec import InputSpec
from tasks.nn.models import probe_inputs, probe_length
from tasks.nn.transformer import Transformer

Found = dict[str, Tensor]
Shape = tuple[int | None, ...]
_SAMPLES = 2


@runtime_checkable
class Watched(Protocol):
    """A model that tells by itself what is inside it."""

    @property
    def num_layers(self) -> int:
        """Its layers."""

    def watching(self, names: Sequence[str]) -> AbstractContextManager[Found]:
        """As the function `watching`."""

    def real_positions(self, inputs: tuple[Tensor, ...], count: int) -> Tensor | None:
        """As the function `real_positions`."""


def observe(
    model: nn.Module, inputs: tuple[Tensor, ...], names: Sequence[str]
) -> tuple[Tensor, Found]:
    """A model's logits of some inputs, and what is inside it meanwhile.

    Args:
        model: a built-in transformer, a Hugging Face module, or any module for `module.<path>`.
        inputs: [B, ...], by position.
        names: of `storage.features`.

    Returns:
        What `model(*inputs)` gives, and by name `hidden.<n>` [B, N, W], `attention.<n>`
        [B, H, N, N] after its softmax, or what a module gave.

    Raises:
        ModelError: the model has no such layer or module; what there is, is said.
    """
    with watching(model, names) as found:
        logits = model(*inputs)
    return logits, found


@contextmanager
def watching(model: nn.Module, names: Sequence[str]) -> Iterator[Found]:
    """What a model gives inside during its passes forward, the last one's, by name.

    Raises:
        ModelError: the model has no such layer or module.
    """
    if not names:
        yield {}
        return
    if isinstance(model, Watched):
        with model.watching(names) as found:
            yield found
        return
    with watching_modules(model, names) as found:
        yield found
    _require_all(found, names)


@contextmanager
def watching_modules(model: nn.Module, names: Sequence[str]) -> Iterator[Found]:
    """The same by hooks alone."""
    found: Found = {}
    with ExitStack() as hooks:
        for name in names:
            hooks.callback(_hook(model, name, found).remove)
        yield found


def num_layers(model: nn.Module) -> int:
    """Layers whose hidden states and attention maps are known by number; 0 where none are."""
    if isinstance(model, Watched):
        return model.num_layers
    body = _body(model)
    return 0 if body is None else len(body.layers)


def real_positions(model: nn.Module, inputs: tuple[Tensor, ...], count: int) -> Tensor | None:
    """Which positions inside a model hold something of the samples.

    Args:
        model: any.
        inputs: what it gets, [B, ...].
        count: N, the positions of what was found inside it.

    Returns:
        bool [B, N], or None where all do, or where the model does not say.
    """
    says = getattr(model, "real_positions", None)
    found: Tensor | None = None if says is None else says(inputs, count)
    return found if found is None or found.shape[1] == count else None


def feature_shapes(
    model: nn.Module, inputs: Sequence[InputSpec], names: Sequence[str], where: str
) -> dict[str, Shape]:
    """The shapes of what is inside a model, for one sample, found by running it on zeros.

    Args:
        model: on the CPU or elsewhere.
        inputs: what it gets.
        names: of `storage.features`.
        where: the field of the recipe, for messages.

    Returns:
        For each name its shape without B; None stands for a length that varies with the sample.

    Raises:
        ModelError: there is no such layer or module, or it gives no tensor [B, ...].
    """
    least = probe_length(model)
    short, long = (_probed(model, inputs, names, where, length) for length in (least, 2 * least))
    return {
        name: tuple(
            one if one == other else None for one, other in zip(shape, long[name], strict=True)
        )
        for name, shape in short.items()
    }


def require_tensor(name: str, value: Any) -> Tensor:
    """A module's output, or the first of several.

    Raises:
        ModelError: it is no tensor.
    """
    first = value[0] if isinstance(value, tuple | list) and value else value
    if not isinstance(first, Tensor):
        raise ModelError(f"{name}: expected a tensor, the module gives {type(value).__name__}")
    return first


def place_of_layer(name: str, layers: int) -> int:
    """Which layer a name means, counted from the first one.

    Args:
        name: `hidden.<n>` or `attention.<n>`.
        layers: how many there are.

    Raises:
        ModelError: there is no such layer.
    """
    number = layer_of(name)
    place = number + layers + 1 if number < 0 else number
    first = 0 if name.startswith(HIDDEN) else 1
    if not layers:
        raise ModelError(
            f"{name}: the layers of this model are not known by number; say module.<path>, the "
            "name of a module in it"
        )
    if not first <= place <= layers:
        kind = name.partition(".")[0]
        raise ModelError(f"{name}: the model has {kind}.{first} to {kind}.{layers}")
    return place


def _probed(
    model: nn.Module, inputs: Sequence[InputSpec], names: Sequence[str], where: str, length: int
) -> dict[str, tuple[int, ...]]:
    device = next((entry.device for entry in model.parameters()), torch.device("cpu"))
    zeros = tuple(entry.to(device) for entry in probe_inputs(inputs, _SAMPLES, length))
    training = model.training
    try:
        with torch.no_grad():
            _, found = observe(model.eval(), zeros, names)
    except ModelError as error:
        raise ModelError(f"{where}: {error}") from error
    finally:
        model.train(training)
    for name, tensor in found.items():
        if tensor.dim() < 2 or len(tensor) != _SAMPLES:
            raise ModelError(
                f"{where}: {name}: expected [B, ...] for B samples, got {list(tensor.shape)} for "
                f"{_SAMPLES}"
            )
    return {name: tuple(found[name].shape[1:]) for name in names}


def _hook(model: nn.Module, name: str, found: Found) -> RemovableHandle:
    """A hook that keeps what a name means."""
    if name.startswith(MODULE):
        return _module(model, path_of(name)).register_forward_hook(_keeping(name, found))
    body = _body(model)
    place = place_of_layer(name, 0 if body is None else len(body.layers))
    assert body is not None
    layers: Sequence[Any] = [*body.layers]
    if name.startswith(ATTENTION):
        hook: RemovableHandle = layers[place - 1].attention.register_forward_hook(
            _keeping_map(name, found)
        )
        return hook
    if place == 0:
        return body.layers[0].register_forward_pre_hook(_keeping_input(name, found))
    # What the last layer gives is seen through the last norm, as the head sees it.
    module = body.norm if place == len(layers) else body.layers[place - 1]
    return module.register_forward_hook(_keeping(name, found))


def _keeping(name: str, found: Found) -> Callable[..., None]:
    def keep(module: nn.Module, given: Any, output: Any) -> None:
        found[name] = require_tensor(name, output)

    return keep


def _keeping_input(name: str, found: Found) -> Callable[..., None]:
    def keep(module: nn.Module, given: Any) -> None:
        found[name] = given[0]

    return keep


def _keeping_map(name: str, found: Found) -> Callable[..., None]:
    def keep(module: nn.Module, given: Any, output: Any) -> None:
        found[name] = module.weights(*given)  # type: ignore[operator]

    return keep


def _module(model: nn.Module, path: str) -> nn.Module:
    known: dict[str, nn.Module] = dict(model.named_modules())
    if path in known:
        return known[path]
    close = difflib.get_close_matches(path, known, n=1)
    said = close or [name for name in known if name][:3]
    raise ModelError(
        f"{MODULE}{path}: the model has no module {path!r}; "
        + (f"did you mean {said[0]!r}?" if close else f"it has {', '.join(said) or 'none'}")
    )


def _body(model: nn.Module) -> Transformer | None:
    body = getattr(model, "body", None)
    return body if isinstance(body, Transformer) else None


def _require_all(found: Found, names: Sequence[str]) -> None:
    missing = [name for name in names if name not in found]
    if missing:
        raise ModelError(f"{missing[0]}: the model did not run it")
