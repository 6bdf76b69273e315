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


def soft_loss(
    student_PC,
    teacher_PC,
    kept,
    mask_P,
    temperature,
    tail,
    kind="forward_kl",
    share=0.5,
    squared=None,
) -> torch.Tensor:
    """The soft loss from both dense [P, C] tensors: what the loss over stored entries must equal.

    `kept` names the kept classes of each position; `share` is beta of jsd, alpha of skew_kl.
    Temperatures may be lists: (teacher's, student's) of each position, with `squared` for T^2. One
    position after the other, with the means of torch alone, so that autograd gives the gradient.
    """
    total = student_PC.new_zeros(())
    for place in mask_P.nonzero().flatten().tolist():
        of_teacher, of_student = temperature, temperature
        if not isinstance(temperature, float):
            of_teacher, of_student = temperature[place]
        p, q = entries(
            teacher_PC[place].double() / of_teacher,
            student_PC[place] / of_student,
            kept[place],
            tail,
        )
        factor = temperature**2 if squared is None else squared[place]
        total = total + factor * DIVERGENCES[kind](p, q, share, tail)
    return total / max(int(mask_P.sum()), 1)


def entries(teacher_C, student_C, kept_K, tail) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of what is compared: classes with mass, for `rest` all others as one."""
    log_p_C, log_q_C = torch.log_softmax(teacher_C, dim=0), torch.log_softmax(student_C, dim=0)
    with_mass = [number for number in kept_K if log_p_C[number] > -np.inf]
    left = others(with_mass, len(teacher_C))
    log_p, log_q = log_p_C[with_mass], log_q_C[with_mass]
    if tail == "renormalize":
        return log_p - torch.logsumexp(log_p, dim=0), log_q - torch.logsumexp(log_q, dim=0)
    if tail == "rest" and left:
        log_p = torch.cat([log_p, torch.logsumexp(log_p_C[left], dim=0)[None]])
        log_q = torch.cat([log_q, torch.logsumexp(log_q_C[left], dim=0)[None]])
    return log_p, log_q


def _sum(log_p, log_q) -> torch.Tensor:
    return (log_p.exp() * (log_p - log_q)).sum()


def _forward_kl(log_p, log_q, share, tail) -> torch.Tensor:
    some = log_p > -np.inf
    return _sum(log_p[some], log_q[some])


def _reverse_kl(log_p, log_q, share, tail) -> torch.Tensor:
    """What the student has where the teacher has nothing is charged as forward KL charges it."""
    some = log_p > -np.inf
    log_p, log_q = log_p[some], log_q[some]
    if tail == "ignore":
        return _sum(log_q, log_p)
    mass = torch.logsumexp(log_q, dim=0)
    return _sum(log_q - mass, log_p) - mass


def _mixture(log_p, log_q, share) -> torch.Tensor:
    return torch.logsumexp(torch.stack([log_p + np.log(share), log_q + np.log1p(-share)]), dim=0)


def _jsd(log_p, log_q, share, tail) -> torch.Tensor:
    log_m, some = _mixture(log_p, log_q, share), log_p > -np.inf
    return share * _sum(log_p[some], log_m[some]) + (1 - share) * _sum(log_q, log_m)


def _skew_kl(log_p, log_q, share, tail) -> torch.Tensor:
    some = log_p > -np.inf
    return _sum(log_p[some], _mixture(log_p, log_q, share)[some])


def _mse(log_p, log_q, share, tail) -> torch.Tensor:
    gap = (log_q - log_p)[log_p > -np.inf]
    return (gap - gap.mean()).square().mean()


DIVERGENCES = {
    "forward_kl": _forward_kl,
    "reverse_kl": _reverse_kl,
    "jsd": _jsd,
    "skew_kl": _skew_kl,
    "mse": _mse,
}


def hard_loss(student_PC, label_P, mask_P, smoothing) -> torch.Tensor:
    """Cross-entropy with a label that is smoothed over all classes."""
    total = student_PC.new_zeros(())
    for place in mask_P.nonzero().flatten().tolist():
        if label_P[place] < 0:
            continue
        log_q_C = torch.log_softmax(student_PC[place], dim=0)
        total = total - (1 - smoothing) * log_q_C[label_P[place]] - smoothing * log_q_C.mean()
    return total / max(int(mask_P.sum()), 1)
