"""What samples and logits have to be before they are labelled; each refusal names the samples."""

from __future__ import annotations

import numpy as np

from storage import schema
from storage.errors import DataError, ModelError, NotFiniteError
from storage.quarantine import BadSample
from storage.rows import Array, Rows, num_rows, take, values_of
from storage.spec import LabelSetSpec
from tasks.shard_labels import BatchLabels
from tasks.teachers import ObservableTeacher, Teacher

_NAMED_IDS = 3
_NAMED_CLASSES = 5


def set_aside(rows: Rows, start: int, *, quarantine: bool) -> tuple[Rows, Array, list[BadSample]]:
    """The samples that could be made, their places in the split, and those that could not.

    Args:
        rows: samples as a corpus gives them.
        start: the place of the first one in its split.
        quarantine: whether samples that could not be made may be left out.

    Raises:
        DataError: there are some, and they are not to be set aside.
    """
    places = np.arange(start, start + num_rows(rows))
    if schema.BAD not in rows:
        return rows, places, []
    good = {name: column for name, column in rows.items() if name != schema.BAD}
    reason_B = np.asarray(rows[schema.BAD])
    bad_B = reason_B != ""
    if not bad_B.any():
        return good, places, []
    ids = np.asarray(rows[schema.SAMPLE_ID])
    bad = [BadSample(int(places[i]), str(ids[i]), str(reason_B[i])) for i in np.flatnonzero(bad_B)]
    if not quarantine:
        said = "; ".join(f"{sample.sample_id}: {sample.reason}" for sample in bad[:_NAMED_IDS])
        more = "; ..." if len(bad) > _NAMED_IDS else ""
        raise DataError(
            f"data: {len(bad)} samples cannot be used: {said}{more}; mend them, leave them out, or "
            "say labels.on_bad_sample: quarantine"
        )
    kept = np.flatnonzero(~bad_B)
    return take(good, kept), places[kept], bad


def require_teacher(teacher: Teacher, spec: LabelSetSpec) -> None:
    """Refuse a teacher with other classes than the label set, or whose inside cannot be seen.

    Raises:
        ModelError: with both numbers.
    """
    if teacher.num_classes != spec.teacher_classes:
        raise ModelError(
            f"teacher: it gives {teacher.num_classes} classes, {spec.teacher_classes} were "
            "expected from data.classes and its card"
        )
    if spec.features and not isinstance(teacher, ObservableTeacher):
        raise ModelError(
            "labels.features: this teacher cannot be looked into while it runs; expected one of "
            "kind fit, torch or huggingface, or no features"
        )


def require_known_classes(rows: Rows, spec: LabelSetSpec) -> None:
    """Refuse hard labels that the teacher does not know.

    Raises:
        DataError: naming the largest.
    """
    column = rows.get(schema.LABEL)
    if column is None:
        return
    highest = int(values_of(column).max(initial=schema.NO_LABEL))
    if highest >= spec.num_classes:
        raise DataError(
            f"data.label: there is a hard label {highest}, the teacher knows the classes 0 to "
            f"{spec.num_classes - 1}"
        )


def require_finite(part: BatchLabels, rows: Rows) -> None:
    """Refuse logits that are NaN or +inf, or -inf throughout; and features that are not finite.

    Raises:
        NotFiniteError: naming the first samples.
    """
    bad = part.bad()
    if not bad:
        return
    ids = np.asarray(rows[schema.SAMPLE_ID])[list(bad)]
    named = ", ".join(map(str, ids[:_NAMED_IDS])) + (", ..." if len(ids) > _NAMED_IDS else "")
    reason = next(iter(bad.values()))
    raise NotFiniteError(
        f"{reason} in {len(ids)} samples: {named}; look at these samples, or at the teacher's "
        "precision, or say labels.on_bad_sample: quarantine"
    )


def require_padding(part: BatchLabels, num_classes: int) -> None:
    """Outputs beyond the real classes are padding only if the teacher never prefers them.

    Raises:
        ModelError: naming the ids.
    """
    counts_R = part.mask_R & ~part.reduced.bad_R
    best = np.unique(part.reduced.best_R[counts_R].numpy())
    ids = [int(name) for name in best[best >= num_classes]]
    if ids:
        more = ", ..." if len(ids) > _NAMED_CLASSES else ""
        named = ", ".join(map(str, ids[:_NAMED_CLASSES])) + more
        raise ModelError(
            f"data.padded: the teacher's best class is one of the ids {named} at some positions, "
            f"which data.classes: {num_classes} calls padding; say how many real ids there are"
        )
