"""The export `axolotl`: blocks of tokens as axolotl's distillation plugin reads them offline.

One row for each sample of a causal language model, L tokens and K entries a position:

    input_ids           list of L int64
    attention_mask      list of L int8: the model's own input of that name, else ones
    labels              list of L int64: the token itself where it is to be predicted, else -100
    target_token_ids    L lists of K int32: class ids, the most probable first
    target_logprobs     L lists of K float32: log-probabilities at the temperature of the export
    target_mask         L lists of K int8: 1 for entries that count

What reads them, in axolotl at commit 067b021c (July 2026), below src/axolotl:

- `utils/data/shared.py`, `_load_from_local_path`: `datasets: [{path: <this folder>, split: train,
  type: }]`, with an empty type.
- `utils/data/wrappers.py`, `_is_dataset_already_tokenized`: a data set with `input_ids`,
  `attention_mask` and `labels` is taken as it is. No chat template and no rescaling come between:
  the log-probabilities have to be those of `kd_temperature`. `logprobs_field` and the `temperature`
  of a data set belong to the chat template and have no effect.
- `integrations/kd/collator.py`: takes the three `target_*` columns off, pads K with id 0, -1e9 and
  mask 0 to the widest of the batch, and L on the right with masked entries, on whatever side the
  tokenizer pads.
- `integrations/kd/trainer.py` and `kernels/liger.py`: the student's logits at place t, divided by
  `kd_temperature`, meet the targets at place t, so these speak of token t + 1: there is no shift.
  `labels` are shifted by one to the left inside, as Hugging Face models do. That is so since pull
  request 2700, in all releases from 0.10.0 on; before it the trainer shifted the targets too, as a
  comment in `chat_template.py` still says, and these targets would be off by one.
- `kernels/liger.py`: the loss that is shown is times `kd_temperature` squared; its gradient is not,
  so at T = 2 the soft part weighs a quarter of what it does elsewhere. `kd_alpha` and `kd_ce_alpha`
  have no defaults, and both have to lie in 0 to 1: lower the second.
- `integrations/kd/topk_logprob/forward_kl.py` says of the targets: "these should already be
  re-normalized", and `chat_template.py` does so for other data sets. There is no place for the
  rest: what is not kept is lost, and each position is renormalised over what is.
- An entry without mass is masked, for exp(-inf) * -inf is NaN there.
- `kd_normalize_topk: true` renormalises the student over all K entries, those of padding included.
  So it goes with a fixed number of entries only.
- `utils/data/utils.py`: blocks longer than `sequence_len` are dropped, or with
  `excess_length_strategy: truncate` their tokens are cut and their targets are not. So
  `sequence_len` is among the settings: the longest block.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from storage.errors import RecipeError
from storage.options import ATTENTION_MASK, STD, AnyTemperature, Keep, Task
from storage.positions import Positions, positions_of, renormalised
from storage.rows import Array, Ragged, Rows
from storage.schema import NO_LABEL, input_column
from storage.spec import LabelSetSpec

NO_MASS: Final = -1e9
"""The log-probability of an entry that is masked: axolotl's own padding."""


def axolotl_inputs(spec: LabelSetSpec) -> list[str]:
    """The columns of inputs that the export needs."""
    names = [spec.inputs[0].name]
    names += [entry.name for entry in spec.inputs[1:] if entry.name == ATTENTION_MASK]
    return [input_column(name) for name in names]


def require_axolotl(spec: LabelSetSpec, split: str, at: AnyTemperature) -> None:
    """Refuse what the plugin cannot read.

    Raises:
        RecipeError: it is no causal language model's, or holds draws instead of a kept set, or
            each position would have a temperature of its own.
    """
    if at == STD:
        raise RecipeError(
            "--temperature: axolotl's kd_temperature is one number for all positions, got std; "
            "name a stored number, or say --format portable"
        )
    if spec.task is not Task.CAUSAL_LM:
        raise RecipeError(
            f"--format axolotl: expected the label set of a causal_lm, got {spec.task.value}; "
            "say --format portable"
        )
    if spec.selections[split].keep is Keep.SAMPLE:
        raise RecipeError(
            f"--format axolotl: the split {split!r} holds draws, expected a true kept set "
            "(keep: top_k, top_p or all); say --format portable, or --split with another one"
        )


def axolotl_settings(
    spec: LabelSetSpec, splits: Sequence[str], at: AnyTemperature, longest: int
) -> dict[str, Any]:
    """What axolotl's configuration has to say for these splits, with blocks up to `longest`."""
    return {
        "plugins": ["axolotl.integrations.kd.KDPlugin"],
        "kd_trainer": True,
        "kd_temperature": at,
        "kd_normalize_topk": not any(spec.selections[split].varies for split in splits),
        "sequence_len": longest,
    }


def axolotl_table(rows: Rows, spec: LabelSetSpec, split: str, at: AnyTemperature) -> pa.Table:
    """Rows of a split as a table of the columns above, at temperature `at`."""
    del split
    positions = positions_of(rows, spec, at)
    tokens = rows[input_column(spec.inputs[0].name)]
    assert isinstance(tokens, Ragged)
    attention = rows.get(input_column(ATTENTION_MASK))
    attending_N: Array = np.ones(len(tokens.values_NW), np.int8)
    if isinstance(attention, Ragged):
        attending_N = attention.values_NW
    log_p_NK = renormalised(positions)
    has_mass_NK = positions.present_NK & ~np.isneginf(log_p_NK)
    assert positions.mask_N is not None
    lengths_B = tokens.lengths_B
    entries: Mapping[str, tuple[Array, pa.DataType]] = {
        "target_token_ids": (positions.index_NK, pa.int32()),
        "target_logprobs": (np.where(has_mass_NK, log_p_NK, NO_MASS), pa.float32()),
        "target_mask": (has_mass_NK & positions.mask_N[:, None], pa.int8()),
    }
    columns = {
        "input_ids": _lists(tokens.values_NW, lengths_B, pa.int64()),
        "attention_mask": _lists(attending_N, lengths_B, pa.int8()),
        "labels": _lists(_labels(tokens.values_NW, positions), lengths_B, pa.int64()),
    }
    for name, (values_NK, kind) in entries.items():
        flat = values_NK[positions.present_NK]
        inner = _lists(flat, positions.present_NK.sum(axis=1), kind)
        columns[name] = _list_array(inner, lengths_B)
    return pa.table(columns)


def _labels(token_N: Array, positions: Positions) -> NDArray[np.int64]:
    """Each token where the position before it counts; the first of a block is never predicted."""
    assert positions.mask_N is not None
    label_N = np.full(len(token_N), NO_LABEL, np.int64)
    predicted = 1 + np.flatnonzero(positions.mask_N[:-1] & (positions.place_N[1:] > 0))
    label_N[predicted] = token_N[predicted]
    return label_N


def _lists(values: Array, lengths_B: NDArray[np.int64], kind: pa.DataType) -> pa.Array:
    return _list_array(pa.array(values.astype(kind.to_pandas_dtype()), kind), lengths_B)


def _list_array(flat: pa.Array, lengths_B: NDArray[np.int64]) -> pa.Array:
    offsets = np.concatenate([[0], np.cumsum(lengths_B)])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), flat)
