"""A batch of an axolotl export, as that project's documentation and source say it is read.

Written from what `storage.axolotl` says of it: a collator that pads, and a loss in which the
targets meet the student's logits place by place while the labels are shifted inside.
"""

import numpy as np

TARGETS = ("target_token_ids", "target_logprobs", "target_mask")
FILL = {"target_token_ids": 0, "target_logprobs": -1e9, "target_mask": 0}


def collated(samples):
    """Samples as rectangles: [B, L] for tokens, [B, L, K] for targets."""
    length = max(len(sample["labels"]) for sample in samples)
    width = max(len(entry) for sample in samples for entry in sample["target_logprobs"])
    batch = {"labels": np.full((len(samples), length), -100)}
    for name in TARGETS:
        kind = float if name == "target_logprobs" else int
        batch[name] = np.full((len(samples), length, width), FILL[name], kind)
    for row, sample in enumerate(samples):
        batch["labels"][row, : len(sample["labels"])] = sample["labels"]
        for name in TARGETS:
            for place, entry in enumerate(sample[name]):
                batch[name][row, place, : len(entry)] = entry
    return batch


def forward_kl(batch, student_BLC, temperature, *, normalize_topk):
    """The soft loss summed over a batch, with its factor of the temperature squared."""
    scaled = student_BLC / temperature
    log_q = scaled - _log_sum_exp(scaled)
    log_q = np.take_along_axis(log_q, batch["target_token_ids"], axis=2)
    if normalize_topk:
        log_q = log_q - _log_sum_exp(log_q)
    counts = batch["target_mask"].astype(bool)
    log_p, log_q = batch["target_logprobs"][counts], log_q[counts]
    return float((np.exp(log_p) * (log_p - log_q)).sum()) * temperature**2


def hard_loss(batch, student_BLC):
    """The cross-entropy summed over a batch: place t predicts the label of place t + 1."""
    log_q = student_BLC - _log_sum_exp(student_BLC)
    labels = np.full_like(batch["labels"], -100)
    labels[:, :-1] = batch["labels"][:, 1:]
    chosen = labels != -100
    return -float(log_q[chosen, labels[chosen]].sum())


def _log_sum_exp(values):
    largest = values.max(axis=-1, keepdims=True)
    return np.log(np.exp(values - largest).sum(axis=-1, keepdims=True)) + largest
