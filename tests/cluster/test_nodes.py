"""Life of a node while users use the app: drained, removed, replaced."""

from __future__ import annotations

import pytest

from tests.support.cluster.app import App
from tests.support.cluster.audit import nothing_amiss, stored
from tests.support.cluster.bed import Bed
from tests.support.cluster.load import Load
from tests.support.until import until

pytestmark = pytest.mark.timeout(180)


def versions(app: App, node: str) -> list[str]:
    """Return the versions of the app's containers on a host."""
    containers = app.bed.hosts[node].containers(f"label=devopsellence.environment={app.ref}")
    return [
        word.partition("=")[2] for info in containers for word in info["Config"]["Env"] if word.startswith("VERSION=")
    ]


def test_drained_node_stays_empty_until_uncordoned(app: App, bed: Bed) -> None:
    """Its router goes on: DNS still names it."""
    with Load(app, *bed.hosts) as load:
        app.devopsellence("node", "drain", "n3")
        assert versions(app, "n3") == []
        app.deploy("while drained")
        assert versions(app, "n3") == []
        app.devopsellence("node", "uncordon", "n3")
        until("n3 runs the newest release", lambda: versions(app, "n3") == ["while drained"])
        nothing_amiss(bed)
    assert load.failed == []


def test_removed_node_can_register_again(app: App, bed: Bed) -> None:
    with Load(app, "n1", "n2") as load:
        app.devopsellence("node", "drain", "n3")
        app.devopsellence("node", "remove", "n3", "-y")
        state = stored(bed)
        assert "n3" not in state.nodes
        assert "n3" not in state.environments[app.ref].nodes
        assert not [node for node, _ in (*state.assignments, *state.statuses) if node == "n3"]
        bed.hosts["n3"].kill_agent()
        bed.enlist(bed.hosts["n3"])
        bed.wait()
        app.attach("n3")
        until("n3 runs the newest release", lambda: versions(app, "n3") == versions(app, "n1"))
        nothing_amiss(bed)
    assert load.failed == []


def test_replaced_machine_loses_access(app: App, bed: Bed) -> None:
    before = bed.hosts["n3"]
    uid = stored(bed).nodes["n3"].uid
    (container,) = before.containers()
    before.cut()
    try:
        with Load(app, "n1", "n2") as load:
            bed.replace("n3")
            # Images that come from no registry are on no new machine: it gets them from the others.
            until("n3 runs the app", lambda: versions(app, "n3") == versions(app, "n1"), seconds=60)
            nothing_amiss(bed)
            app.deploy("replaced")
            assert versions(app, "n3") == ["replaced"]
            before.join()
            until("etcd has refused the old machine", lambda: refused(before.log("agent").read_text()), seconds=60)
            app.deploy("without the old machine")
            nothing_amiss(bed)
        assert load.failed == []
        state = stored(bed)
        assert uid not in {state.nodes["n3"].uid, *(status.node_uid for status in state.statuses.values())}
        # Who is shut out changes nothing: what it ran when it was last told goes on.
        assert [info["Id"] for info in before.containers()] == [container["Id"]]
    finally:
        before.switch_off()


def refused(log: str) -> bool:
    return "permission denied" in log or "authentication" in log
