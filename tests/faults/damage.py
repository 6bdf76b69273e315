"""Label sets to damage: small ones of each layout, with an earlier state and a group of records."""

from __future__ import annotations

from pathlib import Path

from storage.compaction import write_groups
from storage.files import Folder
from storage.options import Codec, Layout
from storage.reader import LabelSet
from storage.records import seal, unseal
from storage.spec import LabelSetSpec
from storage.verify_labels import verify_label_set
from tests.storage.toy import token_spec, toy_spec, write_toy_set


def specs() -> dict[str, LabelSetSpec]:
    """Small sets of each layout; blocks and single positions, each codec."""
    return {
        "plain": toy_spec(codec=Codec.FLOAT16),
        "plain-blocks": token_spec(statistics=True, codec=Codec.UINT8),
        "fast": token_spec(layout=Layout.FAST, codec=Codec.FLOAT32),
        "compact": toy_spec(layout=Layout.COMPACT, codec=Codec.UINT8),
        "compact-blocks": token_spec(layout=Layout.COMPACT, codec=Codec.FLOAT16),
    }


def label_set(store: Folder, spec: LabelSetSpec) -> LabelSet:
    write_toy_set(store, spec, train=8).close()
    opened = write_toy_set(store, spec, train=10)
    write_groups(opened.folder, opened.manifest.shards)
    assert faults(opened) == []
    return opened


def faults(labels: LabelSet) -> list[str]:
    found = [str(fault) for fault in verify_label_set(labels.folder)]
    assert all("\n" not in fault for fault in found)
    return found


def files(labels: LabelSet, kind: str) -> list[Path]:
    place = Path(labels.folder.path) / kind
    return [place] if place.is_file() else sorted(place.iterdir())


def reseal(path: Path, **changes: object) -> None:
    """Change a record, or the first shard of a manifest, and seal it again."""
    content = unseal(path.read_bytes(), str(path))
    (content["shards"][0] if "shards" in content else content).update(changes)
    path.write_bytes(seal(content))
