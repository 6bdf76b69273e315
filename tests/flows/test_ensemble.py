"""Several teachers: each is made once with a card of its own, then all are mixed."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from flows.project import Project
from flows.status import plan_stages
from storage.errors import ModelError, RecipeError
from storage.files import Folder
from storage.positions import COLUMNS, positions_of
from storage.reader import LabelSet
from storage.verify import verify
from tests.flows.blobs import SPLITS, Workspace, blobs, blobs_recipe
from tests.flows.targets import blob_model

FIT = blobs_recipe()["teacher"]
TARGET = "tests.flows.targets:blob_model"
WEIGHTS = {"one": 1.0, "other": 3.0}


def model_of(name, **sizes):
    torch.manual_seed(len(name))
    return blob_model(**sizes).eval()


def brought(folder, name, **sizes):
    """A teacher of people's own, its weights beside the recipe."""
    save_file(model_of(name, **sizes).state_dict(), folder / f"{name}.safetensors")
    weights = f"{name}.safetensors"
    return {"kind": "torch", "target": TARGET, "weights": weights, "arguments": sizes}


def ensemble(*members, **more):
    said = [{"teacher": teacher, "weight": weight} for teacher, weight in members]
    return {"kind": "ensemble", "members": said, **more}


@pytest.fixture
def two(workspace):
    members = [(brought(workspace.folder, name), weight) for name, weight in WEIGHTS.items()]
    workspace.write_recipe(blobs_recipe(teacher=ensemble(*members)))
    return workspace


def softmax(logits_NC):
    odds_NC = np.exp(logits_NC - logits_NC.max(axis=1, keepdims=True))
    return odds_NC / odds_NC.sum(axis=1, keepdims=True)


def mixture(mix):
    """The float64 mixture of the two, for all 120 points."""
    x = np.stack(blobs()["x"])
    total = 0.0
    for name, weight in WEIGHTS.items():
        with torch.no_grad():
            logits_NC = model_of(name)(torch.from_numpy(x)).double().numpy()
        total = total + weight / 4 * (logits_NC if mix == "logits" else softmax(logits_NC))
    return softmax(total) if mix == "logits" else total


@pytest.mark.parametrize("mix", ["probabilities", "logits"])
def test_two_teachers_are_stored_as_their_mixture(two, mix):
    stages = two.run(overrides=[f"teacher.mix={mix}"])
    assert {stage["status"] for stage in stages.values() if "status" in stage} == {"completed"}
    labels = LabelSet.open(stages["label"]["url"])
    expected_NC = mixture(mix)
    start = 0
    for split in SPLITS:
        names = [name for name in labels.columns(split) if name in COLUMNS]
        for rows in labels.batches(split, names):
            found = positions_of(rows, labels.spec, 1.0)
            numbers = np.asarray(rows["sample_id"]).astype(int)
            wanted = np.take_along_axis(expected_NC[numbers], found.index_NK, axis=1)
            np.testing.assert_allclose(np.exp(found.log_p_NK), wanted, atol=1e-5)
            np.testing.assert_allclose(np.exp(found.log_rest_N), 1 - wanted.sum(1), atol=1e-5)
            start += len(numbers)
    assert start == sum(SPLITS.values())
    labels.close()
    assert not list(verify(Folder.open(two.store)))


def cards(workspace):
    found = [json.loads(path.read_text()) for path in workspace.store.glob("teachers/*/card.json")]
    return {card["details"]["source"]: card for card in found}


def test_each_member_has_a_card_and_the_whole_lists_them(two):
    record = two.run(stages=["teacher"])["teacher"]
    known = cards(two)
    assert len(known) == 3
    whole = known.pop("2 teachers, mixed")
    assert record["digest"] == whole["details"]["weights_digest"]
    assert record["parameters"] == 2 * (4 * 8 + 8 + 8 * 3 + 3)
    listed = {
        entry["fingerprint"]: entry["weights_digest"] for entry in whole["details"]["members"]
    }
    assert listed == {
        card["fingerprint"]: card["details"]["weights_digest"] for card in known.values()
    }
    assert two.run(stages=["teacher"])["teacher"]["status"] == "cached"


def test_inspect_shows_the_members(two, command):
    url = two.run(stages=["teacher"])["teacher"]["url"]
    said = command("inspect", url, "--json")
    assert said.code == 0
    assert len(said.json["members"]) == 2
    assert command("inspect", url).code == 0


def test_the_card_of_a_fitted_member_says_how_well_it_does(workspace):
    brought_too = brought(workspace.folder, "one")
    workspace.write_recipe(blobs_recipe(teacher=ensemble((FIT, 1), (brought_too, 1))))
    workspace.run(stages=["teacher"])
    figures = cards(workspace)["fitted here"]["details"]["validation"]
    assert figures["positions"] == SPLITS["validation"]
    assert figures["accuracy"] > 0.9
    assert 0 < figures["nll"] < 0.6


def test_only_what_is_missing_is_made_again(workspace):
    other = FIT | {"model": {"kind": "mlp", "hidden": [5]}}
    workspace.write_recipe(blobs_recipe(teacher=ensemble((FIT, 1), (other, 1))))
    first = workspace.run(stages=["teacher"])["teacher"]
    before = workspace.files("teachers")
    assert sum(name.endswith("model.safetensors") for name in before) == 2
    project = Project.open(workspace.recipe)
    members = [project.intent_of(member.teacher) for member in project.recipe.teacher.members]
    shutil.rmtree(workspace.store / "teachers" / members[1].fingerprint)
    assert project.teacher_card() is None
    again = workspace.run(stages=["teacher"])["teacher"]
    assert again["status"] == "completed"
    assert again["digest"] == first["digest"]
    kept = [name for name in before if members[0].fingerprint in name]
    after = workspace.files("teachers")
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}


def test_a_member_alone_and_among_others_is_one_teacher(workspace):
    alone = workspace.run(stages=["teacher"])["teacher"]
    workspace.write_recipe(
        blobs_recipe(teacher=ensemble((FIT, 1), (brought(workspace.folder, "one"), 1)))
    )
    workspace.run(stages=["teacher"])
    assert len(cards(workspace)) == 3
    assert alone["fingerprint"] in {card["fingerprint"] for card in cards(workspace).values()}


def test_status_says_what_differs(two):
    two.run(stages=["teacher", "label"])
    changed = Project.open(two.recipe, ["teacher.mix=logits"])
    teacher, label, *_ = plan_stages(changed, [])
    assert not teacher.done
    assert '"logits" is asked for' in teacher.why
    assert '"probabilities" is stored' in teacher.why
    assert label.why == "the teacher has to be made first"
    two.run(stages=["teacher"], overrides=["teacher.mix=logits"])
    label = plan_stages(changed, [])[1]
    assert not label.done
    assert "teacher.mix: " in label.why


def refusal(workspace):
    state = workspace.state(stages=["teacher"])
    with pytest.raises((ModelError, RecipeError)) as caught:
        state.result()
    return str(caught.value)


def test_members_of_other_classes_are_refused(workspace):
    members = [
        (brought(workspace.folder, "one"), 1),
        (brought(workspace.folder, "larger", num_classes=5), 1),
    ]
    workspace.write_recipe(blobs_recipe(teacher=ensemble(*members)))
    said = refusal(workspace)
    assert "teacher.members: expected the same number of classes of all" in said
    assert "member 0 gives 3, member 1 gives 5" in said


def test_one_teacher_under_two_names_is_refused(tmp_path):
    workspace = Workspace.make(tmp_path / "plain")
    one = brought(workspace.folder, "one")
    copy = workspace.folder / "copy.safetensors"
    copy.write_bytes((workspace.folder / "one.safetensors").read_bytes())
    teacher = ensemble((one, 1), (one | {"weights": "copy.safetensors"}, 1))
    workspace.write_recipe(blobs_recipe(teacher=teacher))
    with pytest.raises(RecipeError, match="0 and 1 have the same weights"):
        _ = Project.open(workspace.recipe).teacher_intent


def test_a_broken_member_is_named_by_its_place(workspace):
    good = brought(workspace.folder, "one")
    bad = good | {"target": "tests.flows.targets:broken_model"}
    workspace.write_recipe(blobs_recipe(teacher=ensemble((good, 1), (bad, 1))))
    assert refusal(workspace).startswith("teacher.members.1.teacher: ")
