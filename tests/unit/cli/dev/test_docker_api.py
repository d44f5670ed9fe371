"""Containers and volumes that ``dev down`` touches: those in the agent's ledger, or those without a copy's labels."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from devopsellence.cli.dev.docker_api import DockerHttpApi, DockerHttpError

HASH, NONCE, ROUTER = "devopsellence.hash", "devopsellence.nonce", "devopsellence.router"


class Engine(DockerHttpApi):
    """Engine with canned answers by path."""

    def __init__(self, **answers: Any) -> None:
        super().__init__("unix:///none")
        self._answers = answers

    def _request(self, method: str, path: str, seconds: float = 1.0, **query: str) -> Any:
        name = path.removeprefix("/").removesuffix("/json").replace("/", "_")
        if name not in self._answers:
            raise DockerHttpError(f"{method} {path}: not found")
        return self._answers[name]


def listed(identity: str, labels: Mapping[str, str], image: str = "i1") -> dict[str, Any]:
    return {"Id": identity, "Names": [f"/n-{identity}"], "State": "running", "ImageID": image, "Labels": labels}


def ids(engine: Engine, ledger: Path) -> list[str]:
    return [container.id for container in engine.containers("u", ledger)]


def test_ledger_tells_which_containers_are_the_clusters(tmp_path: Path) -> None:
    ledger = tmp_path / "containers.json"
    entries = [
        {"name": "renamed", "nonce": "1", "id": "own"},
        {"name": "n-cut", "nonce": "2", "id": ""},
        {"name": "n-gone", "nonce": "3", "id": "gone"},
    ]
    ledger.write_text(json.dumps({"containers": entries}))
    engine = Engine(
        containers=[
            listed("own", {NONCE: "1"}),
            listed("cut", {NONCE: "2"}),
            listed("copy", {NONCE: "1"}),
            listed("by-hand", {}),
            listed("other-name", {NONCE: "2"}),
        ]
    )
    assert ids(engine, ledger) == ["own", "cut"]


def test_missing_ledger_leaves_copies_out(tmp_path: Path) -> None:
    copied = {"Config": {"Labels": {HASH: "1", NONCE: "1"}}}
    engine = Engine(
        containers=[
            listed("own", {HASH: "1"}),
            listed("copy", {HASH: "1", NONCE: "1"}, "i2"),
            listed("of-a-copy", {HASH: "2", NONCE: "2"}, "i2"),
            listed("image-gone", {HASH: "3"}, "i3"),
        ],
        images_i1={"Config": {"Labels": None}},
        images_i2=copied,
    )
    for content in (None, "{", "[]", '{"containers": 1}'):
        ledger = tmp_path / "containers.json"
        if content is not None:
            ledger.write_text(content)
        assert ids(engine, ledger) == ["own", "of-a-copy", "image-gone"]


def test_router_runs_only_with_a_value_in_its_label() -> None:
    assert not Engine(containers=[listed("web", {ROUTER: ""})]).routes("u")
    assert Engine(containers=[listed("web", {ROUTER: ""}), listed("envoy", {ROUTER: "abc"})]).routes("u")


def test_anonymous_volumes_in_the_ledger_are_the_clusters(tmp_path: Path) -> None:
    ledger = tmp_path / "containers.json"
    engine = Engine(volumes={"Volumes": [{"Name": "labelled"}]})
    assert engine.volumes("u", ledger) == ["labelled"]
    ledger.write_text(json.dumps({"image_volumes": [{"name": "labelled"}, {"name": "a" * 64}]}))
    assert engine.volumes("u", ledger) == ["labelled", "a" * 64]
    ledger.write_text(json.dumps({"stand_ins": [{"name": "shop-data", "used": "b" * 64}]}))
    assert engine.volumes("u", ledger) == ["labelled", "b" * 64]
    assert Engine(volumes={"Volumes": None}).volumes("u", tmp_path / "none") == []
