"""A label set in numbers: what it keeps, how big it is, how faithful."""

from __future__ import annotations

from typing import Any

from storage.reader import LabelSet


def describe_label_set(labels: LabelSet) -> dict[str, Any]:
    """A label set as plain values; fidelity is that of the split to train on."""
    manifest, spec = labels.manifest, labels.spec
    split = spec.splits[0]
    return {
        "url": labels.folder.url,
        "digest": manifest.digest,
        "fingerprint": manifest.fingerprint,
        "keep": spec.selections[split].keep.value,
        "k": spec.entries[split],
        "codec": spec.codec.value,
        "layout": spec.layout.value,
        "temperatures": list(spec.temperatures),
        "shards": len(manifest.shards),
        "rows": sum(shard.rows for shard in manifest.shards),
        "positions": manifest.positions,
        "bytes": manifest.size_bytes,
        "bytes_per_position": manifest.size_bytes / max(manifest.positions, 1),
        "samples": samples_of(labels),
        "fidelity": manifest.fidelity[split],
    }


def samples_of(labels: LabelSet) -> dict[str, int]:
    """Samples of each split, the training split first."""
    return {
        split: sum(shard.rows for shard in labels.manifest.of_split(split))
        for split in labels.splits
    }
