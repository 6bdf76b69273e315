"""Tiny Hugging Face models with random weights, saved as people save theirs."""

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "sat", "on", "mat", "##s")
VOCABULARY = 32
_SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
}
BERT = {**_SMALL, "vocab_size": VOCABULARY, "max_position_embeddings": 32, "pad_token_id": 0}
LLAMA = {**_SMALL, "vocab_size": VOCABULARY, "num_key_value_heads": 1, "pad_token_id": 0}
GPT2 = {"vocab_size": VOCABULARY, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
VIT = {**_SMALL, "image_size": 16, "patch_size": 4, "num_channels": 3}
WAV2VEC2 = {
    **_SMALL,
    "vocab_size": 8,
    "conv_dim": (8, 8),
    "conv_kernel": (10, 3),
    "conv_stride": (5, 2),
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "classifier_proj_size": 8,
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
}


def save_model(folder: Path, architecture: str, **config: Any) -> Path:
    """Save a random model of an architecture such as `BertForMaskedLM`."""
    torch.manual_seed(0)
    kind = getattr(transformers, architecture)
    model = kind(kind.config_class(**config)).eval()
    with torch.no_grad():  # first weights are so small that every class is as likely
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(folder)
    return folder


def save_bert_tokenizer(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    words = folder / "vocab.txt"
    words.write_text("\n".join(WORDS))
    transformers.BertTokenizer.from_pretrained(folder).save_pretrained(folder)
    words.unlink()
    return folder


def save_word_tokenizer(folder: Path) -> Path:
    words = {word: place for place, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]"
    ).save_pretrained(folder)
    return folder


def save_images(folder: Path, **settings: Any) -> Path:
    """Save the processor of an image model."""
    transformers.ViTImageProcessorPil(
        **{"size": {"height": 16, "width": 16}, **settings}
    ).save_pretrained(folder)
    return folder


def save_sounds(folder: Path, **settings: Any) -> Path:
    """Save the extractor of an audio model."""
    transformers.Wav2Vec2FeatureExtractor(**settings).save_pretrained(folder)
    return folder
