"""A label set in numbers: what it keeps, how big it is, how faithful, and what it came from."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from storage import layout
from storage.feature_options import StoredFeature
from storage.features import Pool
from storage.options import Selection
from storage.quarantine import frequent_reasons
from storage.records import read_record

if TYPE_CHECKING:
    from storage.reader import LabelSet


def describe_label_set(labels: LabelSet) -> dict[str, Any]:
    """A label set as plain values; fidelity is that of the split to train on. Reads nothing."""
    manifest, spec = labels.manifest, labels.spec
    split = spec.splits[0]
    return {
        "url": labels.folder.url,
        "digest": manifest.digest,
        "fingerprint": manifest.fingerprint,
        **describe_selection(spec.selections[split]),
        "codec": spec.codec.value,
        "layout": spec.layout.value,
        "temperatures": list(spec.temperatures),
        "features": [describe_feature(feature) for feature in spec.features],
        "shards": len(manifest.shards),
        "rows": sum(shard.rows for shard in manifest.shards),
        "quarantined": manifest.quarantined,
        "positions": manifest.positions,
        "bytes": manifest.size_bytes,
        "bytes_per_position": manifest.size_bytes / max(manifest.positions, 1),
        "samples": samples_of(labels),
        "fidelity": manifest.fidelity[split],
    }


def describe_feature(feature: StoredFeature) -> str:
    """A stored feature in words: `hidden.-1, mean, 64 of float16`."""
    pool = () if feature.pool is Pool.NONE else (feature.pool.value,)
    size = feature.dtype if feature.size is None else f"{feature.size} of {feature.dtype}"
    return ", ".join((feature.feature, *pool, size))


def describe_quarantine(labels: LabelSet) -> dict[str, Any]:
    """How many samples were set aside, and the most frequent reasons; empty without any.

    Costs one reading of each list of such samples.

    Raises:
        IntegrityError: such a list is gone or damaged.
    """
    records = [shard for shard in labels.manifest.shards if shard.quarantined]
    if not records:
        return {}
    by_split = Counter[str]()
    for record in records:
        by_split[record.split] += record.quarantined
    reasons = [
        {"reason": reason, "samples": count}
        for reason, count in frequent_reasons(labels.folder, records)
    ]
    return {"samples": dict(by_split), "reasons": reasons}


def samples_of(labels: LabelSet) -> dict[str, int]:
    """Samples of each split, the training split first."""
    return {
        split: sum(shard.rows for shard in labels.manifest.of_split(split))
        for split in labels.splits
    }


def describe_splits(labels: LabelSet) -> dict[str, Any]:
    """What each split keeps, how big it is and how faithful."""
    return {split: _describe_split(labels, split) for split in labels.splits}


def _describe_split(labels: LabelSet, split: str) -> dict[str, Any]:
    shards = labels.manifest.of_split(split)
    positions = sum(shard.positions for shard in shards)
    size_bytes = sum(shard.size_bytes for shard in shards)
    return {
        **describe_selection(labels.spec.selections[split]),
        "rows": sum(shard.rows for shard in shards),
        "positions": positions,
        "shards": len(shards),
        "bytes": size_bytes,
        "bytes_per_position": size_bytes / max(positions, 1),
        "fidelity": labels.manifest.fidelity[split],
    }


def describe_selection(selection: Selection) -> dict[str, Any]:
    """How entries are chosen; options without an effect are left out."""
    content: dict[str, Any] = {"keep": selection.keep.value, "k": selection.k}
    if selection.p is not None:
        content["p"] = selection.p
    if selection.draws is not None:
        content |= {"draws": selection.draws, "seed": selection.seed}
    if selection.varies:
        content["select_temperature"] = selection.temperature
    return content


def describe_origin(labels: LabelSet) -> dict[str, Any]:
    """The teacher, the data and the recipe that a set was made from, as its `spec.json` says.

    Empty where it does not say so.

    Raises:
        IntegrityError: the file is damaged.
    """
    if not labels.folder.exists(layout.SPEC):
        return {}
    content = read_record(labels.folder, layout.SPEC)
    intent = content.get("intent")
    if not isinstance(intent, dict):
        return {}
    return {
        "teacher": intent["teacher"],
        "data": intent["data"],
        "recipe": content["recipe"],
        "recipe_folder": content["recipe_folder"],
    }


def earlier_digests(labels: LabelSet) -> list[str]:
    """The digests of the other states that are kept, sorted."""
    names = (labels.folder / layout.MANIFESTS).sizes()
    kept = {name.removesuffix(".json") for name in names}
    return sorted(kept - {labels.digest})
