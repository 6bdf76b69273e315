"""External data: they are found, they are part of the digest, and they lie anywhere."""

import fsspec
import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from storage.errors import DataError, IntegrityError, ModelError
from storage.identity import digest_of_bytes
from tasks.intents import imported_teacher
from tasks.onnx_digest import onnx_digest
from tasks.onnx_files import external_files, read_onnx
from tasks.onnx_teacher import OnnxTeacher
from tasks.teach import import_teacher, load_teacher
from tests.tasks.onnx_graphs import WEIGHT, graph, options
from tests.tasks.toy import VECTOR

CPU = torch.device("cpu")
X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
EXPECTED = X @ torch.from_numpy(WEIGHT)


def save_apart(path, location="model.onnx.data"):
    model = onnx.load_model_from_string(graph())
    onnx.save_model(model, path, save_as_external_data=True, location=location, size_threshold=0)
    assert (path.parent / location).is_file()


@pytest.fixture
def model_path(tmp_path):
    path = tmp_path / "model.onnx"
    save_apart(path)
    return path


def test_weights_beside_the_graph_are_used_and_counted(store, model_path):
    files = read_onnx(store, str(model_path), "teacher")
    assert files.content.folder == model_path.parent
    data = model_path.with_name("model.onnx.data")
    assert files.size_bytes == model_path.stat().st_size + data.stat().st_size
    for reduce in ("torch", "graph"):
        teacher = OnnxTeacher(files.content, (VECTOR,), CPU, options(reduce=reduce))
        torch.testing.assert_close(teacher.logits((X,)), EXPECTED)


def test_the_digest_covers_all_files_and_is_kept(store, model_path):
    first = onnx_digest(store, str(model_path), "teacher")
    assert first == read_onnx(store, str(model_path), "teacher").digest
    assert first == onnx_digest(store, str(model_path), "teacher")
    assert first != digest_of_bytes(model_path.read_bytes())
    data = model_path.with_name("model.onnx.data")
    data.write_bytes(bytes(len(data.read_bytes())))
    assert onnx_digest(store, str(model_path), "teacher") != first


def test_the_digest_of_one_file_is_its_own(store, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(graph())
    assert onnx_digest(store, str(path), "teacher") == digest_of_bytes(graph())
    assert read_onnx(store, str(path), "teacher").content.folder is None


def test_weights_come_from_anywhere(store, model_path):
    memory = fsspec.filesystem("memory")
    for name in ("model.onnx", "model.onnx.data"):
        memory.pipe(f"/onnx-files/{name}", model_path.with_name(name).read_bytes())
    url = "memory://onnx-files/model.onnx"
    files = read_onnx(store, url, "teacher")
    teacher = OnnxTeacher(files.content, (VECTOR,), CPU)
    torch.testing.assert_close(teacher.logits((X,)), EXPECTED)
    assert files.digest == onnx_digest(store, str(model_path), "teacher")


def test_a_teacher_whose_weights_changed_is_refused(store, model_path):
    said = options(path=str(model_path))
    intent = imported_teacher(said, onnx_digest(store, str(model_path), "teacher"))
    card = import_teacher(store, said, model_path.parent, (VECTOR,), intent)
    assert card.details["logits"] == "scores"
    teacher = load_teacher(store, card, said, model_path.parent, (VECTOR,), CPU)
    torch.testing.assert_close(teacher.logits((X,)), EXPECTED)
    data = model_path.with_name("model.onnx.data")
    data.write_bytes(bytes(len(data.read_bytes())))
    with pytest.raises(IntegrityError, match="changed since its card was written"):
        load_teacher(store, card, said, model_path.parent, (VECTOR,), CPU)


def test_weights_that_are_gone_are_named(store, model_path):
    model_path.with_name("model.onnx.data").unlink()
    for look in (read_onnx, onnx_digest):
        with pytest.raises(DataError, match=r"model\.onnx\.data"):
            look(store, str(model_path), "teacher")


@pytest.mark.parametrize("location", ["../weights", "/etc/passwd", "a/../../b"])
def test_weights_elsewhere_are_refused(location):
    model = onnx.load_model_from_string(graph())
    tensor = model.graph.initializer[0]
    onnx.external_data_helper.set_external_data(tensor, location)
    tensor.ClearField("raw_data")
    with pytest.raises(ModelError, match="expected a file beside it"):
        external_files(model.SerializeToString(), "teacher")


def test_weights_of_inner_graphs_are_found():
    weight = numpy_helper.from_array(np.zeros(3, np.float32), "inner")
    onnx.external_data_helper.set_external_data(weight, "inner.data")
    weight.ClearField("raw_data")
    constant = helper.make_node("Constant", [], ["c"], value=weight)
    branch = helper.make_graph([constant], "branch", [], [helper.make_empty_tensor_value_info("c")])
    node = helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch)
    model = helper.make_model(helper.make_graph([node], "toy", [], []))
    assert external_files(model.SerializeToString(), "teacher") == ("inner.data",)


def test_what_is_no_model_is_said():
    with pytest.raises(ModelError, match="no readable ONNX model"):
        external_files(b"nonsense", "teacher")
