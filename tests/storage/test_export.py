"""Exports, read by readers that know nothing of label sets."""

import json
from pathlib import Path

import numpy as np
import polars
import pyarrow.parquet as pq
import pytest

from storage import export as export_module
from storage import reader
from storage.errors import IntegrityError, MissingProductError, RecipeError, StoreError
from storage.export import ExportFormat, ExportPlan, export
from storage.files import Folder
from storage.options import Codec, Keep, Layout, Task
from storage.records import read_record
from storage.shards import open_shard
from tests.storage import axolotl_reader
from tests.storage.kinds import SELECTIONS, deviation_of, spec_of_kind, write_known_set
from tests.storage.refusal import refused
from tests.storage.test_positions import softmax
from tests.storage.toy import views_spec, write_toy_set

KEPT_SETS = [keep for keep in Keep if keep is not Keep.SAMPLE]


def exported(known, destination, form, **asked):
    plan = ExportPlan.of(known.labels, form, **asked)
    index = export(plan, Folder.open(destination))
    known.labels.close()
    return index


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


class TestPortable:
    @pytest.mark.parametrize("task", [Task.CLASSIFICATION, Task.CAUSAL_LM])
    @pytest.mark.parametrize("layout", Layout)
    @pytest.mark.parametrize("keep", Keep)
    def test_polars_reads_probabilities(self, store, tmp_path, keep, layout, task):
        known = write_known_set(store, spec_of_kind(keep, layout=layout, task=task))
        exported(known, tmp_path / "out", ExportFormat.PORTABLE)
        found = polars.read_parquet(tmp_path / "out" / "data" / "train-*.parquet")
        expected_NC = softmax(known.logit_NC["train"], 2.0)
        assert len(found) == len(expected_NC)
        for row, p_C in zip(found.iter_rows(named=True), expected_NC, strict=True):
            p = np.array(row["probabilities"])
            assert p == pytest.approx(p_C[row["class_ids"]], abs=1e-6)
            assert (np.diff(p) <= 0).all()
            assert sum(p) + row["rest_probability"] == pytest.approx(1)
            with np.errstate(divide="ignore"):
                assert row["log_probabilities"] == pytest.approx(np.log(p), rel=1e-4, abs=1e-5)
            if keep is Keep.SAMPLE:
                assert sum(row["counts"]) == SELECTIONS[keep].draws
                assert len(row["counts"]) == len(p)

    def test_a_row_says_which_position_it_is(self, store, tmp_path):
        known = write_known_set(store, spec_of_kind(task=Task.CAUSAL_LM))
        rows = next(known.labels.batches("train"))
        exported(known, tmp_path / "out", ExportFormat.PORTABLE)
        found = polars.read_parquet(tmp_path / "out" / "data" / "train-00000-*.parquet")
        length = int(rows["index"].lengths_B[0])
        first = found.filter(polars.col("sample_id") == "train-0")
        assert first["position"].to_list() == list(range(length))
        assert set(first["split"]) == {"train"}
        labels = rows["label"].values_NW[:length]
        assert first["label"].to_list() == [None if n < 0 else n for n in labels]
        assert first["mask"].to_list() == rows["mask"].values_NW[:length].tolist()

    @pytest.mark.parametrize("codec", Codec)
    def test_at_another_stored_temperature(self, store, tmp_path, codec):
        known = write_known_set(store, spec_of_kind(codec=codec, layout=Layout.COMPACT))
        asked = {"splits": ["test"], "temperature": 1.0}
        exported(known, tmp_path / "out", ExportFormat.PORTABLE, **asked)
        found = polars.read_parquet(tmp_path / "out" / "data" / "*.parquet")
        expected_NC = softmax(known.logit_NC["test"], 1.0)
        for row, p_C in zip(found.iter_rows(named=True), expected_NC, strict=True):
            assert row["probabilities"] == pytest.approx(p_C[row["class_ids"]], abs=0.08)

    def test_at_each_positions_own_deviation(self, store, tmp_path):
        known = write_known_set(store, spec_of_kind(temperatures=(2.0, 1.0, "std")))
        exported(known, tmp_path / "out", ExportFormat.PORTABLE, splits=["test"], temperature="std")
        found = polars.read_parquet(tmp_path / "out" / "data" / "*.parquet")
        dense_NC = known.logit_NC["test"]
        expected_NC = softmax(dense_NC, deviation_of(dense_NC)[:, None])
        for row, p_C in zip(found.iter_rows(named=True), expected_NC, strict=True):
            assert row["probabilities"] == pytest.approx(p_C[row["class_ids"]], abs=1e-5)

    def test_all_splits_have_the_same_columns(self, store, tmp_path):
        known = write_known_set(store, spec_of_kind(Keep.SAMPLE))
        exported(known, tmp_path / "out", ExportFormat.PORTABLE)
        found = polars.read_parquet(tmp_path / "out" / "data" / "*.parquet")
        of_test = found.filter(polars.col("split") == "test")
        assert of_test["counts"].null_count() == len(of_test) == 3

    def test_without_hard_labels_there_are_nulls(self, store, tmp_path):
        known = write_known_set(store, spec_of_kind(has_label=False))
        exported(known, tmp_path / "out", ExportFormat.PORTABLE)
        found = polars.read_parquet(tmp_path / "out" / "data" / "*.parquet")
        assert found["label"].null_count() == len(found)


class TestAxolotl:
    def samples(self, folder):
        tables = [pq.read_table(path) for path in sorted(folder.glob("data/train-*.parquet"))]
        return [sample for table in tables for sample in table.to_pylist()]

    @pytest.mark.parametrize("at", [2.0, 1.0])
    @pytest.mark.parametrize("keep", KEPT_SETS)
    def test_its_loss_is_the_one_over_the_kept_classes(self, store, tmp_path, keep, at):
        known = write_known_set(store, spec_of_kind(keep, task=Task.CAUSAL_LM))
        rows = list(known.labels.batches("train"))
        index = exported(known, tmp_path / "out", ExportFormat.AXOLOTL, temperature=at)
        assert index["settings"]["kd_temperature"] == at
        normalize_topk = index["settings"]["kd_normalize_topk"]
        assert normalize_topk == (keep is not Keep.TOP_P)
        samples = self.samples(tmp_path / "out")
        batch = axolotl_reader.collated(samples)
        rng = np.random.default_rng(1)
        shape = (*batch["labels"].shape, known.labels.spec.num_classes)
        student_BLC = rng.normal(size=shape)
        # The same from the teacher's dense logits, position by position.
        soft = hard = 0.0
        position = sample_number = 0
        for group in rows:
            tokens, mask = group["input.tokens"], group["mask"].values_NW
            starts = np.cumsum(tokens.lengths_B) - tokens.lengths_B
            for start, length in zip(starts, tokens.lengths_B, strict=True):
                for place in range(length):
                    if mask[start + place]:
                        student_C = student_BLC[sample_number, place]
                        kept = group["index"].values_NW[start + place]
                        if "kept" in group:
                            kept = kept[: group["kept"].values_NW[start + place]]
                        teacher_C = known.logit_NC["train"][position]
                        p_C = softmax(teacher_C[None, kept], at)[0]
                        among = student_C[kept] if normalize_topk else student_C
                        log_total = np.log(np.exp(among / at).sum())
                        log_q = student_C[kept] / at - log_total
                        has_mass = p_C > 0
                        soft += at**2 * float(
                            (p_C * (np.log(np.where(has_mass, p_C, 1)) - log_q))[has_mass].sum()
                        )
                        following = tokens.values_NW[start + place + 1]
                        hard -= student_C[following] - np.log(np.exp(student_C).sum())
                    position += 1
                sample_number += 1
        found = axolotl_reader.forward_kl(batch, student_BLC, at, normalize_topk=normalize_topk)
        assert found == pytest.approx(soft, rel=1e-5)
        assert axolotl_reader.hard_loss(batch, student_BLC) == pytest.approx(hard)

    def test_its_columns_are_those_that_are_read(self, store, tmp_path):
        known = write_known_set(store, spec_of_kind(task=Task.CAUSAL_LM))
        exported(known, tmp_path / "out", ExportFormat.AXOLOTL)
        for sample in self.samples(tmp_path / "out"):
            length = len(sample["input_ids"])
            assert sorted(sample) == sorted(
                ["input_ids", "attention_mask", "labels", *axolotl_reader.TARGETS]
            )
            assert sample["attention_mask"] == [1] * length
            assert sample["labels"][0] == -100
            for token, label in zip(sample["input_ids"], sample["labels"], strict=True):
                assert label in (token, -100)
            for name in axolotl_reader.TARGETS:
                assert [len(entry) for entry in sample[name]] == [4] * length
            assert sample["target_mask"][-1] == [0] * 4
            assert np.isfinite(sample["target_logprobs"]).all()

    def test_no_block_is_longer_than_the_settings_say(self, store, tmp_path):
        known = write_known_set(store, spec_of_kind(task=Task.CAUSAL_LM), sizes=(20, 3))
        index = exported(known, tmp_path / "out", ExportFormat.AXOLOTL, splits=["train"])
        lengths = [len(sample["input_ids"]) for sample in self.samples(tmp_path / "out")]
        assert index["settings"]["sequence_len"] == max(lengths) > min(lengths)

    def test_what_does_not_fit_is_refused(self, store, tmp_path):
        known = write_known_set(store, spec_of_kind())
        with refused(RecipeError, "--format axolotl", "causal_lm", "classification", "portable"):
            exported(known, tmp_path / "out", ExportFormat.AXOLOTL)
        at_std = spec_of_kind(task=Task.CAUSAL_LM, temperatures=(2.0, 1.0, "std"))
        with refused(RecipeError, "--temperature", "one number", "std", "portable"):
            labels = write_known_set(store, at_std).labels
            ExportPlan.of(labels, ExportFormat.AXOLOTL, temperature="std")
        drawn = write_known_set(store, spec_of_kind(Keep.SAMPLE, task=Task.CAUSAL_LM))
        with refused(RecipeError, "'train' holds draws", "--split"):
            exported(drawn, tmp_path / "out", ExportFormat.AXOLOTL)
        exported(drawn, tmp_path / "out", ExportFormat.AXOLOTL, splits=["test"])
        assert files_below(tmp_path / "out") == ["data/test-00000-of-00001.parquet", "export.json"]


class TestPublication:
    def test_one_shard_is_open_at_a_time(self, monkeypatch, tmp_path):
        known = write_known_set(Folder.open("memory://afar"), spec_of_kind(), sizes=[2] * 6)
        opened = []
        kept = []

        def counted(*given, **more):
            opened.append(open_shard(*given, **more))
            kept.append(sum(not shard.parquet.closed for shard in opened))
            return opened[-1]

        monkeypatch.setattr(reader, "open_shard", counted)
        exported(known, tmp_path / "out", ExportFormat.PORTABLE)
        assert len(opened) == 7
        assert max(kept) <= 2

    def test_the_index_names_every_file(self, store, tmp_path):
        known = write_known_set(store, spec_of_kind(class_names=tuple("abcdefghi")))
        index = exported(known, tmp_path / "new" / "out", ExportFormat.PORTABLE)
        folder = Folder.open(tmp_path / "new" / "out")
        assert read_record(folder, "export.json") == json.loads(json.dumps(index))
        named = [entry["file"] for entry in index["files"]]
        assert files_below(tmp_path / "new" / "out") == sorted([*named, "export.json"])
        assert files_below(tmp_path / "new") == [f"out/{name}" for name in sorted(
            [*named, "export.json"]
        )]  # fmt: skip
        assert index["rows"] == {"train": 9, "test": 3}
        assert index["label_set"]["digest"] == known.labels.digest
        assert index["class_names"] == tuple("abcdefghi")

    def test_on_another_file_system(self, store):
        known = write_known_set(store, spec_of_kind())
        index = exported(known, "memory://exports/out", ExportFormat.PORTABLE)
        folder = Folder.open("memory://exports/out")
        assert len((folder / "data").sizes()) == len(index["files"]) == 3
        known = write_known_set(store, spec_of_kind())
        with refused(RecipeError, "--to", "files at memory://"):
            exported(known, "memory://exports/out", ExportFormat.PORTABLE)

    def test_what_is_there_is_not_touched(self, store, tmp_path):
        known = write_known_set(store, spec_of_kind())
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "mine").write_text("mine")
        for where in (tmp_path / "out", tmp_path / "out" / "mine"):
            with refused(RecipeError, "--to", "name a new folder"):
                exported(known, where, ExportFormat.PORTABLE)
        assert files_below(tmp_path / "out") == ["mine"]

    def test_an_empty_folder_is_filled(self, store, tmp_path):
        (tmp_path / "out").mkdir()
        exported(write_known_set(store, spec_of_kind()), tmp_path / "out", ExportFormat.PORTABLE)
        assert (tmp_path / "out" / "export.json").is_file()

    def test_a_damaged_shard_leaves_nothing_behind(self, store, tmp_path):
        known = write_known_set(store, spec_of_kind())
        last = known.labels.shards("train")[-1]
        path = Path(known.labels.url_of(last))
        path.write_bytes(path.read_bytes()[:-9] + bytes(9))
        with refused(IntegrityError, str(path)):
            exported(known, tmp_path / "to" / "out", ExportFormat.PORTABLE)
        assert files_below(tmp_path / "to") == []
        known.labels.close()

    def test_a_place_that_is_taken_meanwhile_is_refused(self, store, tmp_path, monkeypatch):
        known = write_known_set(store, spec_of_kind())
        monkeypatch.setattr(export_module, "_require_empty", lambda _: None)
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "mine").write_text("mine")
        with refused(StoreError, "cannot write", "out"):
            exported(known, tmp_path / "out", ExportFormat.PORTABLE)
        assert [path.name for path in tmp_path.glob("*out*")] == ["out"]

    def test_what_is_not_stored_is_refused(self, store, tmp_path):
        labels = write_known_set(store, spec_of_kind()).labels
        with refused(MissingProductError, "'valid'", "train, test"):
            ExportPlan.of(labels, ExportFormat.PORTABLE, ["valid"])
        with refused(RecipeError, "--temperature", "2, 1"):
            ExportPlan.of(labels, ExportFormat.PORTABLE, temperature=4.0)


def test_the_portable_export_says_which_view_it_is(store, tmp_path):
    labels = write_toy_set(store, views_spec())
    export(ExportPlan.of(labels, ExportFormat.PORTABLE), Folder.open(tmp_path / "there"))
    views = {
        split: pq.read_table(next((tmp_path / "there" / "data").glob(f"{split}-00000-*")))["view"]
        for split in ("train", "test")
    }
    assert views["train"].to_pylist() == [0, 1, 0, 1, 0, 1]
    assert views["test"].to_pylist() == [None] * 4
    labels.close()
