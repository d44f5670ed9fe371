"""Which containers are this agent's: entries, names, and labels that come with an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import pytest

from devopsellence.nodeagent.docker import names
from devopsellence.nodeagent.docker.model import Container, ContainerState
from devopsellence.nodeagent.docker.ownership import OwnedContainer, adopted_entry, foreign_container
from tests.unit.nodeagent.planning import ENV, UID

HASH, NONCE = "f" * 64, "0123"
NAME = names.container_name(UID, ENV, "web", HASH)
LABELS = {
    names.LABEL_NODE_UID: UID,
    names.LABEL_ENVIRONMENT: str(ENV),
    names.LABEL_SERVICE: "web",
    names.LABEL_HASH: HASH,
    names.LABEL_RELEASE: "3",
}
TASK = {**LABELS, names.LABEL_TASK: "migrate"}
TASK_NAME = names.task_name(UID, ENV, "migrate", 3)
ONE_OFF = {**TASK, names.LABEL_ONE_OFF: "true"}
ONE_OFF_NAME = names.one_off_prefix(ENV, "migrate") + "0123456789"
ENVOY = {names.LABEL_NODE_UID: UID, names.LABEL_ROUTER: "abcdef0123456789"}
ENVOY_NAME = names.envoy_name(UID, "abcdef0123456789")
WITH_NONCE = {**LABELS, names.LABEL_NONCE: NONCE}


def candidate(name: str, labels: Mapping[str, str], identity: str = "c1") -> Container:
    return Container(
        identity, name, labels.get(names.LABEL_ENVIRONMENT, ""), labels.get(names.LABEL_SERVICE, ""),
        labels.get(names.LABEL_HASH, ""), 3, "image", ContainerState.RUNNING, labels=labels,
    )  # fmt: skip


@dataclass(frozen=True)
class Case:
    name: str = NAME
    labels: Mapping[str, str] = field(default_factory=lambda: LABELS)
    #: Labels of the image; None: the image is gone.
    image: Mapping[str, str] | None = field(default_factory=dict)
    entries: Sequence[OwnedContainer] = ()


OURS = {
    "of version 0.1: no nonce, no entry": Case(),
    "after a lost folder: a nonce, no entry": Case(labels=WITH_NONCE),
    "by an alternative name": Case(name=f"{NAME}-2"),
    "a release task": Case(name=TASK_NAME, labels=TASK),
    "a one-off task": Case(name=ONE_OFF_NAME, labels=ONE_OFF),
    "Envoy": Case(name=ENVOY_NAME, labels=ENVOY),
    "created, but the answer was lost": Case(labels=WITH_NONCE, entries=[OwnedContainer(NAME, NONCE)]),
    "of an image made of a container, with another spec": Case(image={**LABELS, names.LABEL_HASH: "e" * 64}),
    "empty labels of the image": Case(labels={**LABELS, names.LABEL_TASK: ""}, image={names.LABEL_TASK: "migrate"}),
    "while others have entries": Case(entries=[OwnedContainer("other", "9", "c9"), OwnedContainer("third", "8")]),
}
FOREIGN = {
    "a copy by docker commit": Case(name="web-try", image=LABELS),
    "a copy that took the name": Case(image=LABELS),
    "a copy with the nonce, and the name": Case(labels=WITH_NONCE, image=WITH_NONCE),
    "a copy with the nonce of a creation on its way": Case(
        labels=WITH_NONCE, image=WITH_NONCE, entries=[OwnedContainer(NAME, NONCE)]
    ),
    "labels by docker run --label": Case(name="web-try"),
    "some labels by docker run --label": Case(labels={names.LABEL_NODE_UID: UID, names.LABEL_SERVICE: "web"}),
    "no labels at all": Case(labels={}),
    "its image is gone": Case(image=None),
    "recreated with all labels in place of ours": Case(labels=WITH_NONCE, entries=[OwnedContainer(NAME, NONCE, "c9")]),
    "in place of a creation on its way": Case(labels=LABELS, entries=[OwnedContainer(NAME, NONCE)]),
    "another nonce than that of the creation": Case(
        labels={**LABELS, names.LABEL_NONCE: "other"}, entries=[OwnedContainer(NAME, NONCE)]
    ),
    "an image's task label hides a service": Case(labels=TASK, image={names.LABEL_TASK: "migrate"}),
    "a copy of Envoy": Case(name="envoy-copy", labels=ENVOY, image=ENVOY),
    "Envoy's labels by hand": Case(name="envoy-copy", labels=ENVOY),
    "a copy of a one-off": Case(name="copy", labels=ONE_OFF, image=ONE_OFF),
    "of another node": Case(labels={**LABELS, names.LABEL_NODE_UID: "other"}),
    "malformed labels": Case(labels={**TASK, names.LABEL_RELEASE: "x", names.LABEL_ENVIRONMENT: "a/b"}),
}


@pytest.mark.parametrize("case", OURS.values(), ids=OURS.keys())
def test_container_is_adopted(case: Case) -> None:
    entry = adopted_entry(candidate(case.name, case.labels), case.image, case.entries)
    assert entry == OwnedContainer(case.name, case.labels.get(names.LABEL_NONCE, ""), "c1")


@pytest.mark.parametrize("case", FOREIGN.values(), ids=FOREIGN.keys())
def test_container_is_foreign(case: Case) -> None:
    assert adopted_entry(candidate(case.name, case.labels), case.image, case.entries) is None


@pytest.mark.parametrize(
    ("name", "takes"), [(NAME, True), (f"{NAME}-3", True), (f"{NAME}-4", False), ("web-try", False)]
)
def test_foreign_container_with_a_name_of_the_agent(name: str, takes: bool) -> None:
    assert foreign_container(candidate(name, LABELS)).takes_name is takes


def test_labels_cleared_after_admission_are_no_evidence() -> None:
    assert adopted_entry(replace(candidate(NAME, LABELS), labels={}), {}, ()) is None
