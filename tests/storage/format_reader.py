"""A second reader of label sets, written from storage/FORMAT.md alone; imports nothing of ours."""

import base64
import hashlib
import json
import struct
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

HEAD = b'{\n "checksum": "'


def unsealed(path):
    content = path.read_bytes()
    assert content.startswith(HEAD)
    stop = len(HEAD) + 64
    zeroed = content[: len(HEAD)] + b"0" * 64 + content[stop:]
    assert hashlib.sha256(zeroed).hexdigest().encode() == content[len(HEAD) : stop]
    return json.loads(content)


def read_set(folder):
    """The manifest, and the samples of each split as plain values."""
    manifest = unsealed(Path(folder) / "manifest.json")
    assert manifest["format_version"] <= 4
    digests = "\n".join(shard["content_digest"] for shard in manifest["shards"])
    assert manifest["digest"] == hashlib.sha256(digests.encode()).hexdigest()
    samples = {split: [] for split in manifest["spec"]["selections"]}
    for shard in manifest["shards"]:
        path = Path(folder) / "shards" / shard["file"]
        content = path.read_bytes()
        assert len(content) == shard["size_bytes"]
        assert hashlib.sha256(content).hexdigest() == shard["sha256"]
        assert path.stem.split("-")[-1] == shard["content_digest"][:8]
        record = f"{shard['split']}-{shard['ordinal']:07d}-{shard['fingerprint'][:8]}.json"
        sealed = unsealed(Path(folder) / "records" / record)
        del sealed["checksum"]
        assert sealed == shard
        samples[shard["split"]] += _read_shard(path, shard, manifest["spec"])
    return manifest, samples


def set_aside(folder):
    """The samples that were set aside: (sample_id, split, place, reason)."""
    found = []
    for shard in unsealed(Path(folder) / "manifest.json")["shards"]:
        if "quarantined" not in shard:
            continue
        path = Path(folder) / "quarantine" / shard["quarantine_file"]
        assert hashlib.sha256(path.read_bytes()).hexdigest() == shard["quarantine_sha256"]
        assert path.stem.split("-")[-1] == shard["quarantine_sha256"][:8]
        rows = [tuple(row.values()) for row in pq.read_table(path).to_pylist()]
        assert len(rows) == shard["quarantined"]
        found += rows
    return found


def _read_shard(path, shard, spec):
    file = pq.ParquetFile(path)
    groups = [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]
    assert groups == shard["row_groups"]
    metadata = file.metadata.metadata
    assert json.loads(metadata[b"softlabel"]) == spec
    table = file.read()
    assert content_digest(table, groups, metadata) == shard["content_digest"]
    rows = [_sample(row, shard["split"], spec, metadata) for row in table.to_pylist()]
    assert len(rows) == shard["rows"]
    assert sum(len(row["positions"]) for row in rows) == shard["positions"]
    ends = [rows[0]["sample_id"], rows[-1]["sample_id"]] if rows else ["", ""]
    assert ends == [shard["first_id"], shard["last_id"]]
    return rows


def _sample(row, split, spec, metadata):
    selection = spec["selections"][split]
    blocks = spec["task"] != "classification"
    varies = selection["keep"] in ("top_p", "sample")
    temperatures = len(spec["temperatures"])
    length = len(row["rest"]) // temperatures
    columns = _numbers(row, selection, spec)
    total = len(columns["index"])
    kept = row.get("kept", [total]) if varies else [selection["k"]] * length
    assert sum(kept) == total
    positions = []
    start = 0
    for place in range(length):
        entries = {name: values[start : start + kept[place]] for name, values in columns.items()}
        start += kept[place]
        position = {
            "entries": _entries(entries, selection, spec, metadata),
            "rest": row["rest"][place * temperatures : (place + 1) * temperatures],
        }
        for name in ("std", "label", "label_logit", "mask", *_STATISTICS):
            if name in row:
                position[name] = row[name][place] if blocks else row[name]
        positions.append(position)
    inputs = {name: value for name, value in row.items() if name.startswith("input.")}
    if spec.get("augment") and split == "train":
        assert 0 <= row["view"] < spec["views"]
        views = {"view": row["view"], "view_seed": row["view_seed"]}
    else:
        assert "view" not in row
        views = {}
    sample = {"sample_id": row["sample_id"], "inputs": inputs, "positions": positions} | views
    if split == "train" and "features" in spec:
        shapes = json.loads(metadata[b"softlabel.features"])
        sample["features"] = {
            f"feature.{asked['feature']}": _feature(row, asked, shapes, spec["layout"])
            for asked in spec["features"]
        }
    return sample


def _feature(row, asked, shapes, layout):
    name = f"feature.{asked['feature']}"
    values = row[name]
    if layout != "plain":
        code, size = {"float16": ("e", 2), "float32": ("f", 4)}[asked["dtype"]]
        values = struct.unpack(f"<{len(values) // size}{code}", values)
    shape = shapes[name]
    known = int(np.prod([axis for axis in shape if axis is not None]))
    length = len(values) // known
    if shape.count(None) == 2:
        length = round(length**0.5)
    return np.array(values).reshape([length if axis is None else axis for axis in shape])


_STATISTICS = ("max_logit", "logit_mean", "logit_std", "squares")


def _size_of(name, selection, spec):
    if name == "logit":
        return {"float32": 4, "float16": 2, "uint8": 1}[spec["codec"]]
    highest = spec["num_classes"] - 1 if name == "index" else selection["draws"]
    return 1 if highest < 1 << 8 else 2 if highest < 1 << 16 else 4


def _numbers(row, selection, spec):
    """The written numbers of a sample's entries, as unsigned ones but for plain logits."""
    names = ["index", "logit"] + (["count"] if selection["keep"] == "sample" else [])
    if spec["layout"] == "plain":
        return {name: row[name] for name in names}
    found = {}
    for name in names:
        size = _size_of(name, selection, spec)
        if spec["layout"] == "fast":
            data = row[name]
        else:
            count = size
            if name == "index":
                count = max(1, -(-(spec["num_classes"] - 1).bit_length() // 8))
            planes = [row[f"{name}.{number}"] for number in range(count)]
            planes += [bytes(len(planes[0]))] * (size - count)
            data = bytes(byte for number in zip(*planes, strict=True) for byte in number)
        code = {1: "B", 2: "H", 4: "I"}[size]
        found[name] = list(struct.unpack(f"<{len(data) // size}{code}", data))
    return found


def _entries(entries, selection, spec, metadata):
    """(id, logit) of each entry, or (id, logit, count)."""
    compact = spec["layout"] == "compact"
    ids, codes = entries["index"], entries["logit"]
    if compact:
        table = _ids(metadata[b"softlabel.ids"], selection, spec)
        ids = [table[code] for code in ids]
    if spec["codec"] == "uint8":
        if compact and selection["keep"] != "sample":
            highest = codes[0]
            codes = [0] + [highest - code for code in codes[1:]]
        levels = json.loads(metadata[b"softlabel.levels"])
        assert len(levels) == 255
        logits = [float(np.float32([*levels, -np.inf][code])) for code in codes]
    elif spec["layout"] == "plain":
        logits = [float(value) for value in codes]
    else:
        size = _size_of("logit", selection, spec)
        if compact:
            codes = [int(total) % (1 << 8 * size) for total in np.cumsum(codes, dtype=object)]
            codes = [code | 1 << (8 * size - 1) for code in codes]
        kinds = {2: ("H", "e"), 4: ("I", "f")}[size]
        logits = [struct.unpack(f"<{kinds[1]}", struct.pack(f"<{kinds[0]}", c))[0] for c in codes]
    return list(zip(ids, logits, *([entries["count"]] if "count" in entries else []), strict=True))


def _ids(text, selection, spec):
    size = _size_of("index", selection, spec)
    listed = [number[0] for number in struct.iter_unpack(
        {1: "<B", 2: "<H", 4: "<I"}[size], base64.b64decode(text)
    )]  # fmt: skip
    known = set(listed)
    return listed + [number for number in range(spec["num_classes"]) if number not in known]


def content_digest(table, groups, metadata):
    keys = ("softlabel.levels", "softlabel.ids", "softlabel.features")
    book = {key: metadata[key.encode()].decode() for key in keys if key.encode() in metadata}
    state = hashlib.sha256()
    for field, column in zip(table.schema, table.columns, strict=True):
        state.update(_json([field.name, str(field.type)]))
        _hash(state, pa.concat_arrays(column.chunks) if column.chunks else pa.array([], field.type))
    first = hashlib.sha256(_json([groups, book])).hexdigest()
    return hashlib.sha256(f"{first}\n{state.hexdigest()}".encode()).hexdigest()


def _hash(state, array):
    state.update(_json([len(array), 0]))
    if pa.types.is_list(array.type):
        lengths = [len(value) for value in array]
        state.update(struct.pack(f"<{len(lengths)}q", *lengths))
        _hash(state, array.flatten())
    elif array.type == pa.string() or "binary" in str(array.type):
        values = [
            value.encode() if isinstance(value, str) else value for value in array.to_pylist()
        ]
        state.update(struct.pack(f"<{len(values)}q", *map(len, values)))
        state.update(b"".join(values))
    else:
        state.update(array.to_numpy(zero_copy_only=False).tobytes())


def _json(value):
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode()
