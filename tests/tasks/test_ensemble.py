"""Several teachers as one: the mixture that is stored is the one that float64 gives."""

import numpy as np
import pytest
import torch

from storage.errors import ModelError
from storage.options import LabelOptions
from storage.positions import COLUMNS, positions_of
from tasks.ensemble import EnsembleTeacher, ensemble_details
from tasks.teacher_options import EnsembleTeacherOptions, Mix
from tests.tasks.toy import TableTeacher, label_set, numbered_corpus, random_table

NUMBERS = 20
ONE, OTHER = random_table(NUMBERS, seed=1), random_table(NUMBERS, seed=2)
SHARES = (0.25, 0.75)


def softmax(logits):
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)


def mixture(mix):
    """[N, C], in float64."""
    one, other = ONE.astype(np.float64), OTHER.astype(np.float64)
    if mix is Mix.LOGITS:
        return softmax(SHARES[0] * one + SHARES[1] * other)
    return SHARES[0] * softmax(one) + SHARES[1] * softmax(other)


def team(mix):
    return EnsembleTeacher([TableTeacher(ONE), TableTeacher(OTHER)], SHARES, mix)


@pytest.mark.parametrize("mix", list(Mix))
def test_each_member_sees_the_same_inputs_once(mix):
    members = [TableTeacher(ONE), TableTeacher(OTHER)]
    teacher = EnsembleTeacher(members, SHARES, mix)
    found = teacher.logits((torch.arange(8)[:, None],))
    np.testing.assert_allclose(softmax(found.double().numpy()), mixture(mix)[:8], rtol=1e-5)
    assert [member.batch_sizes for member in members] == [[8], [8]]
    assert teacher.num_classes == 5


def test_members_of_other_classes_are_refused():
    members = [TableTeacher(ONE), TableTeacher(random_table(NUMBERS, num_classes=7))]
    with pytest.raises(ModelError, match=r"teacher\.members: .* 0 gives 5, member 1 gives 7"):
        EnsembleTeacher(members, SHARES, Mix.LOGITS)


OPTIONS = EnsembleTeacherOptions.model_validate(
    {
        "kind": "ensemble",
        "members": [{"teacher": {"kind": "onnx", "path": path}} for path in ("a", "b")],
    }
)
MEMBER = {
    "fingerprint": "00" * 8,
    "weights_digest": "ab" * 32,
    "num_classes": 5,
    "parameters": 40,
    "size_bytes": 160,
}


def test_a_card_sums_what_its_members_are():
    other = MEMBER | {"fingerprint": "11" * 8, "weights_digest": "cd" * 32, "size_bytes": 40}
    found = ensemble_details(OPTIONS, [MEMBER, other])
    assert (found["num_classes"], found["parameters"], found["size_bytes"]) == (5, 80, 200)
    assert [entry["fingerprint"] for entry in found["members"]] == ["00" * 8, "11" * 8]
    unknown = ensemble_details(OPTIONS, [MEMBER, other | {"parameters": None}])
    assert unknown["parameters"] is None
    assert unknown["weights_digest"] == found["weights_digest"]


def test_what_members_know_of_their_classes_has_to_agree():
    named = MEMBER | {"class_names": list("abcde")}
    assert ensemble_details(OPTIONS, [MEMBER, named])["class_names"] == list("abcde")
    assert "class_names" not in ensemble_details(OPTIONS, [MEMBER, MEMBER])
    other = MEMBER | {"class_names": list("abdce")}
    with pytest.raises(ModelError, match=r"members\.1\.teacher: 'd' is its class 2, and 3 of"):
        ensemble_details(OPTIONS, [named, other])
    ours = MEMBER | {"class_names": ["first", "b", "c", "d", "last"]}
    assert ensemble_details(OPTIONS, [named, ours])["class_names"] == list("abcde")
    fast, slow = MEMBER | {"sampling_rate": 16_000}, MEMBER | {"sampling_rate": 8_000}
    with pytest.raises(ModelError, match=r"sampling rate is 8000, of those before it 16000"):
        ensemble_details(OPTIONS, [fast, slow])


def test_the_digest_is_of_weights_shares_and_mix():
    other = MEMBER | {"weights_digest": "cd" * 32}
    again = MEMBER | {"weights_digest": "ef" * 32}
    heavier = OPTIONS.model_copy(
        update={
            "members": (OPTIONS.members[0].model_copy(update={"weight": 2.0}), OPTIONS.members[1])
        }
    )
    digests = [
        ensemble_details(options, members)["weights_digest"]
        for options, members in (
            (OPTIONS, [MEMBER, other]),
            (OPTIONS, [other, MEMBER]),
            (OPTIONS, [MEMBER, again]),
            (heavier, [MEMBER, other]),
            (OPTIONS.model_copy(update={"mix": Mix.LOGITS}), [MEMBER, other]),
        )
    ]
    assert len(set(digests)) == 5


def stored(labels, split):
    """[N, K] ids and probabilities, and the probability of all others, in float64."""
    (rows,) = labels.batches(split, [name for name in labels.columns(split) if name in COLUMNS])
    found = positions_of(rows, labels.spec, 1.0)
    return found.index_NK, np.exp(found.log_p_NK), np.exp(found.log_rest_N)


@pytest.mark.parametrize("mix", list(Mix))
def test_what_is_stored_is_the_mixture_and_its_rest(store, mix):
    corpus = numbered_corpus({"train": 12, "test": 8})
    options = LabelOptions(k=2, temperature=2.0, codec="float32", batch_size=8)
    labels = label_set(store, corpus, team(mix), options)
    for split, numbers in (("train", slice(0, 12)), ("test", slice(12, 20))):
        index_NK, p_NK, rest_N = stored(labels, split)
        expected_NC = mixture(mix)[numbers]
        kept = index_NK.shape[1]
        best_NK = np.argsort(-expected_NC, axis=1)[:, :kept]
        np.testing.assert_array_equal(index_NK, best_NK)
        wanted_NK = np.take_along_axis(expected_NC, best_NK, axis=1)
        np.testing.assert_allclose(p_NK, wanted_NK, atol=1e-5)
        np.testing.assert_allclose(rest_N, 1 - wanted_NK.sum(axis=1), atol=1e-5)
    labels.close()
