"""What a teacher and a student differ by, from log-probabilities of the entries they share.

Shape letters: P positions, E entries: the kept classes, and perhaps all others together.

Functions take `log_p_PE` of the teacher and `log_q_PE` of the student and give [P], in nats. An
entry where both are -inf is none at all. Where p is 0 and q is not, nothing here is infinite: each
function says what it does instead. Where q is 0 and p is not, it is infinite, unless `log_p` has a
share in what it is compared with. Gradients are finite wherever the value is.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tasks.loss_options import LossOptions, SoftLoss, Tail


def divergence(log_p_PE: Tensor, log_q_PE: Tensor, options: LossOptions) -> Tensor:
    """What a loss minimises; [P].

    Args:
        log_p_PE: the teacher's.
        log_q_PE: the student's.
        options: which loss; its parameters; whether entries sum to one (not with `tail: ignore`).
    """
    match options.soft:
        case SoftLoss.REVERSE_KL:
            whole = options.tail is not Tail.IGNORE
            return reverse_kl(log_p_PE, log_q_PE, whole=whole)
        case SoftLoss.JSD:
            return jsd(log_p_PE, log_q_PE, options.beta)
        case SoftLoss.SKEW_KL:
            return skew_kl(log_p_PE, log_q_PE, options.alpha)
        case SoftLoss.MSE:
            return mse(log_p_PE, log_q_PE)
    return forward_kl(log_p_PE, log_q_PE)


def forward_kl(log_p_PE: Tensor, log_q_PE: Tensor) -> Tensor:
    """KL(p || q). Entries to which the teacher gives no mass add nothing."""
    return kl_terms(log_p_PE, log_q_PE).sum(dim=1)


def reverse_kl(log_p_PE: Tensor, log_q_PE: Tensor, *, whole: bool = True) -> Tensor:
    """KL(q || p), infinite in truth where the student has mass and the teacher has none.

    There it is KL(q given S || p) - log q(S), S being the entries to which the teacher gives mass:
    finite, 0 where q = p alone, and KL(q || p) itself where S is all. The student leaves what is
    not in S as it does under `forward_kl`, which is KL(p || q given S) - log q(S).

    Args:
        log_p_PE: the teacher's.
        log_q_PE: the student's.
        whole: whether entries sum to one; if not, it is the plain sum over S, which may be below 0.
    """
    log_q_PE = log_q_PE.masked_fill(torch.isneginf(log_p_PE), -math.inf)
    if not whole:
        return kl_terms(log_q_PE, log_p_PE).sum(dim=1)
    total_P1 = torch.logsumexp(log_q_PE, dim=1, keepdim=True)
    return kl_terms(log_q_PE - total_P1, log_p_PE).sum(dim=1) - total_P1[:, 0]


def jsd(log_p_PE: Tensor, log_q_PE: Tensor, beta: float) -> Tensor:
    """The generalised Jensen-Shannon divergence of Agarwal et al. 2024 (GKD, arXiv 2306.13649).

    beta KL(p || m) + (1 - beta) KL(q || m) with m = beta p + (1 - beta) q: at most the entropy of
    (beta, 1 - beta). A student's mass where the teacher has none costs -(1 - beta) log(1 - beta) of
    itself.
    """
    log_m_PE = mixture(log_p_PE, log_q_PE, beta)
    of_teacher_P = kl_terms(log_p_PE, log_m_PE).sum(dim=1)
    return beta * of_teacher_P + (1 - beta) * kl_terms(log_q_PE, log_m_PE).sum(dim=1)


def skew_kl(log_p_PE: Tensor, log_q_PE: Tensor, alpha: float) -> Tensor:
    """KL(p || alpha p + (1 - alpha) q) of Ko et al. 2024 (DistiLLM, arXiv 2402.03898).

    At most -log(alpha); entries to which the teacher gives no mass add nothing.
    """
    return kl_terms(log_p_PE, mixture(log_p_PE, log_q_PE, alpha)).sum(dim=1)


def mse(log_p_PE: Tensor, log_q_PE: Tensor) -> Tensor:
    """The mean squared difference over the entries with mass, at the best of all shifts.

    Softmax does not see a constant that is added to all logits, and neither are a teacher's stored
    logits relative to anything but their best nor a student's to anything at all; so the mean
    difference is taken off. Log-probabilities are logits but for such a constant: with every class
    kept this is the mean squared error of centred logits.
    """
    has_mass_PE = ~torch.isneginf(log_p_PE)
    gap_PE = _where(has_mass_PE, log_q_PE) - _where(has_mass_PE, log_p_PE)
    count_P1 = has_mass_PE.sum(dim=1, keepdim=True)
    gap_PE = gap_PE - gap_PE.sum(dim=1, keepdim=True) / count_P1
    return torch.where(has_mass_PE, gap_PE, 0.0).square().sum(dim=1) / count_P1[:, 0]


def kl_terms(log_p: Tensor, log_q: Tensor) -> Tensor:
    """The terms p (log p - log q), exactly 0 with gradient 0 where p is 0."""
    has_mass = ~torch.isneginf(log_p)
    safe_p, safe_q = _where(has_mass, log_p), _where(has_mass, log_q)
    return torch.where(has_mass, safe_p.exp() * (safe_p - safe_q), 0.0)


def mixture(log_p: Tensor, log_q: Tensor, share: float) -> Tensor:
    """The logarithm of share p + (1 - share) q; anything where both are 0."""
    if share == 0:
        return log_q
    nothing = torch.isneginf(log_p) & torch.isneginf(log_q)
    log_q = log_q.masked_fill(nothing, 0.0)
    return torch.logaddexp(log_p + math.log(share), log_q + math.log1p(-share))


def _where(has_mass: Tensor, values: Tensor) -> Tensor:
    return torch.where(has_mass, values, 0.0)
