"""How the inputs of a Hugging Face model are prepared: what its own processor says, done in torch.

Plain image processors (resize, crop, rescale, normalise) and plain waveforms are read as settings,
so that they run on any device, need no torchvision, and can be trained and exported with the
model. For the others a teacher calls the library's own processor.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from storage.errors import ModelError, one_line
from storage.options import ATTENTION_MASK
from tasks.huggingface_files import PROCESSOR
from tasks.huggingface_library import library, quiet
from tasks.huggingface_module import Arguments, Images, Sounds, Texts
from tasks.nn.pixels import RESAMPLINGS, Pixels
from tasks.nn.waveforms import Waveforms

PIXELS = "pixel_values"
IDS = "input_ids"
_PLAIN_STEPS = ("_preprocess", "resize", "rescale", "normalize", "center_crop")


class LibraryImages(nn.Module):
    """Images [B, H, W] or [B, D, H, W], prepared one by one by the library's processor."""

    def __init__(self, processor: Any, channels: int) -> None:
        super().__init__()
        self.processor, self.channels = processor, channels

    def forward(self, arguments: Arguments) -> Arguments:
        """Images as the model wants them, on the device of the given ones."""
        image_BDHW = arguments[PIXELS]
        image_BDHW = image_BDHW[:, None] if image_BDHW.dim() == 3 else image_BDHW
        if image_BDHW.shape[1] == 1:
            image_BDHW = image_BDHW.expand(-1, self.channels, -1, -1)
        levels = not image_BDHW.is_floating_point()
        given = image_BDHW.to(torch.uint8) if levels else image_BDHW
        said = {} if levels else {"do_rescale": False}
        made = self.processor(
            list(given.cpu().numpy()),
            return_tensors="pt",
            input_data_format="channels_first",
            **said,
        )
        return {PIXELS: made[PIXELS].to(image_BDHW.device)}


class LibrarySounds(nn.Module):
    """Waveforms [B, N], each cut to its own length and prepared by the library's extractor."""

    def __init__(self, extractor: Any, name: str) -> None:
        super().__init__()
        self.extractor, self.name = extractor, name
        self.sampling_rate = int(extractor.sampling_rate)

    def forward(self, arguments: Arguments) -> Arguments:
        """What the model takes, on the device of the waveforms."""
        wave_BN, mask_BN = arguments[self.name], arguments.get(ATTENTION_MASK)
        waves = [wave.cpu().numpy() for wave in _own_lengths(wave_BN, mask_BN)]
        rate = self.sampling_rate
        made = self.extractor(waves, sampling_rate=rate, return_tensors="pt", padding=True)
        return {name: entry.to(wave_BN.device) for name, entry in made.items()}


def prepared_by_folder(
    folder: Path, config: Any, main: str, where: str, *, for_training: bool
) -> nn.Module:
    """The preparation that the files of a model say.

    Args:
        folder: the model's.
        config: its configuration.
        main: the first argument of its forward.
        where: the field of the recipe, for messages.
        for_training: whether it has to be differentiable, exported and stored.

    Raises:
        ModelError: the files do not say it, or no student can do it.
    """
    if main == IDS:
        return Texts(pad_id_of(config))
    if not (folder / PROCESSOR).is_file():
        raise ModelError(
            f"{where}: {folder} holds no {PROCESSOR}, which says how images or sounds are prepared"
        )
    transformers = library("transformers", where)
    try:
        with quiet():
            if main == PIXELS:
                processor = transformers.AutoImageProcessor.from_pretrained(
                    folder, backend="pil", trust_remote_code=False
                )
            else:
                processor = transformers.AutoFeatureExtractor.from_pretrained(
                    folder, trust_remote_code=False
                )
    except Exception as error:
        raise ModelError(f"{where}: {folder / PROCESSOR}: {one_line(error)}") from error
    made = _images(processor, config) if main == PIXELS else _sounds(processor, config, main)
    if for_training and not hasattr(made, "settings"):
        raise ModelError(
            f"{where}: the inputs of {type(processor).__name__} are prepared by more than resizing "
            "and scaling, which a student cannot do; say pretrained: false, or take another model"
        )
    return made


def prepared_by_default(config: Any, main: str) -> nn.Module:
    """The preparation for a model without weights: images around 0, sounds of deviation 1."""
    if main == IDS:
        return Texts(pad_id_of(config))
    if main == PIXELS:
        return Images(Pixels(channels=int(getattr(config, "num_channels", 3))))
    return Sounds(Waveforms(least=_least_samples(config)), main, masked=True)


def prepared_again(settings: dict[str, Any]) -> nn.Module:
    """A preparation from its settings, as they were stored."""
    said = dict(settings)
    kind = said.pop("kind")
    if kind == "texts":
        return Texts(**said)
    if kind == "images":
        return Images(Pixels(**said))
    own = {name: said.pop(name) for name in ("name", "masked", "sampling_rate")}
    return Sounds(Waveforms(**said), **own)


def pad_id_of(config: Any) -> int | None:
    """The id of the padding token."""
    pad_id = getattr(config.get_text_config(), "pad_token_id", None)
    return pad_id if isinstance(pad_id, int) and pad_id >= 0 else None


def _images(processor: Any, config: Any) -> nn.Module:
    channels = int(getattr(config, "num_channels", 3))
    size, crop = processor.size, processor.crop_size
    resized = bool(processor.do_resize)
    fixed = (size.height, size.width) if resized and size.height and size.width else None
    short = size.shortest_edge if resized and not fixed and not size.longest_edge else None
    plain = (
        _is_plain(processor)
        and not processor.do_pad
        and (not resized or int(processor.resample) in RESAMPLINGS)
        and (not resized or fixed is not None or short is not None)
    )
    if not plain:
        return LibraryImages(processor, channels)
    return Images(
        Pixels(
            channels=channels,
            size=fixed,
            shortest_edge=short,
            resample=int(processor.resample) if resized else RESAMPLINGS[0],
            crop=(crop.height, crop.width) if processor.do_center_crop else None,
            scale=float(processor.rescale_factor) if processor.do_rescale else 1.0,
            mean=_numbers(processor.image_mean) if processor.do_normalize else (0.0,),
            std=_numbers(processor.image_std) if processor.do_normalize else (1.0,),
        )
    )


def _is_plain(processor: Any) -> bool:
    """Whether a processor does no more than those of most models."""
    base = library("transformers.image_processing_backends", "teacher").PilBackend
    kind = type(processor)
    return isinstance(processor, base) and all(
        getattr(kind, step) is getattr(base, step) for step in _PLAIN_STEPS
    )


def _numbers(value: Any) -> tuple[float, ...]:
    return (float(value),) if isinstance(value, int | float) else tuple(map(float, value))


def _sounds(extractor: Any, config: Any, main: str) -> nn.Module:
    if type(extractor).__name__ != "Wav2Vec2FeatureExtractor" or extractor.padding_value != 0:
        return LibrarySounds(extractor, main)
    waveforms = Waveforms(normalize=bool(extractor.do_normalize), least=_least_samples(config))
    masked, rate = bool(extractor.return_attention_mask), int(extractor.sampling_rate)
    return Sounds(waveforms, main, masked=masked, sampling_rate=rate)


def _least_samples(config: Any) -> int:
    """The samples of which a stack of convolutions makes one position."""
    kernels = getattr(config, "conv_kernel", None) or ()
    strides = getattr(config, "conv_stride", None) or ()
    least = 1
    for kernel, stride in zip(reversed(kernels), reversed(strides), strict=True):
        least = (least - 1) * stride + kernel
    return least


def _own_lengths(wave_BN: Tensor, mask_BN: Tensor | None) -> list[Tensor]:
    if mask_BN is None:
        return list(wave_BN)
    lengths = mask_BN.sum(dim=1).tolist()
    return [wave[: int(length)] for wave, length in zip(wave_BN, lengths, strict=True)]
