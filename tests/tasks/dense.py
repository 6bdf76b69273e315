"""What the soft labels stand for, worked out plainly from all logits, in float64 and log space.

Shape letters: P positions, C classes, K kept, T temperatures.
"""

from collections.abc import Sequence

import numpy as np
import torch


def lse(values: np.ndarray) -> float:
    """Log of the sum of exponentials, relative to the largest; -inf of nothing."""
    largest = max(values, default=-np.inf)
    if np.isneginf(largest):
        return -np.inf
    return float(largest + np.log(sum(np.exp(value - largest) for value in values)))


def log_softmax(logit_C: np.ndarray, temperature: float) -> np.ndarray:
    scaled = np.asarray(logit_C, np.float64) / temperature
    return scaled - lse(scaled)


def others(index_K: Sequence[int], num_classes: int) -> list[int]:
    """The classes that are not kept."""
    return [number for number in range(num_classes) if number not in set(index_K)]


def kept_and_rest(logit_C, index_K, temperature) -> tuple[np.ndarray, float]:
    """Log-probabilities of the kept classes, and of all others together."""
    log_p_C = log_softmax(logit_C, temperature)
    return log_p_C[list(index_K)], lse(log_p_C[others(index_K, len(logit_C))])


def kl(log_p: np.ndarray, log_q: np.ndarray) -> float:
    """Sum of p (log p - log q); classes without mass add nothing."""
    return float(sum(np.exp(p) * (p - q) for p, q in zip(log_p, log_q, strict=True) if p > -np.inf))


def assert_log_equal(got, want, tolerance: float = 1e-10) -> None:
    """Equal to `tolerance` of their size (or of 1, if that is more); -inf only where wanted."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape
    infinite = np.isinf(want)
    np.testing.assert_array_equal(got[infinite], want[infinite])
    size = np.maximum(np.abs(want[~infinite]), 1.0)
    assert (np.abs(got[~infinite] - want[~infinite]) <= tolerance * size).all(), (got, want)


def soft_loss(student_PC, teacher_PC, kept, mask_P, temperature, tail) -> torch.Tensor:
    """The soft loss from both dense [P, C] tensors: what the loss over stored entries must equal.

    `kept` names the kept classes of each position. One position after the other, with the means of
    torch alone, so that autograd gives the gradient.
    """
    total = student_PC.new_zeros(())
    num_classes = student_PC.shape[1]
    for place in mask_P.nonzero().flatten().tolist():
        log_p_C = torch.log_softmax(teacher_PC[place].double() / temperature, dim=0)
        log_q_C = torch.log_softmax(student_PC[place] / temperature, dim=0)
        with_mass = [number for number in kept[place] if log_p_C[number] > -np.inf]
        log_p, log_q = log_p_C[with_mass], log_q_C[with_mass]
        if tail == "renormalize":
            log_p = log_p - torch.logsumexp(log_p, dim=0)
            log_q = log_q - torch.logsumexp(log_q, dim=0)
        total = total + (log_p.exp() * (log_p - log_q)).sum()
        left = others(kept[place], num_classes)
        if tail == "rest" and left and (log_p_C[left] > -np.inf).any():
            log_p_rest = torch.logsumexp(log_p_C[left], dim=0)
            log_q_rest = torch.logsumexp(log_q_C[left], dim=0)
            total = total + log_p_rest.exp() * (log_p_rest - log_q_rest)
    return total * temperature**2 / max(int(mask_P.sum()), 1)


def hard_loss(student_PC, label_P, mask_P, smoothing) -> torch.Tensor:
    """Cross-entropy with a label that is smoothed over all classes."""
    total = student_PC.new_zeros(())
    for place in mask_P.nonzero().flatten().tolist():
        if label_P[place] < 0:
            continue
        log_q_C = torch.log_softmax(student_PC[place], dim=0)
        total = total - (1 - smoothing) * log_q_C[label_P[place]] - smoothing * log_q_C.mean()
    return total / max(int(mask_P.sum()), 1)
