"""Rollouts over three hosts under load: failures, cuts and kills fail no request.

Clients on every host send requests all the time (see ``tests.support.cluster.load``). The audit of etcd, agents and
engines passes before and after each test.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path

import pytest

from devopsellence.api.v1.stored_pb2 import NodeProgress, Rollout
from devopsellence.cli.cluster.programs import AGENT_STATE
from tests.support.cluster.app import App
from tests.support.cluster.audit import amiss, at_once, nothing_amiss, steps, stored
from tests.support.cluster.bed import Bed
from tests.support.cluster.load import Load
from tests.support.cluster.roles import Host
from tests.support.until import until

pytestmark = pytest.mark.timeout(180)

_numbers = count(1)


@pytest.fixture
def version() -> str:
    """Return a version never deployed before."""
    return f"v{next(_numbers)}"


def running(app: App) -> dict[str, str]:
    """Return the version of each host's only container of the app, by host."""
    versions = {}
    for name, host in app.bed.hosts.items():
        (only,) = host.containers(f"label=devopsellence.environment={app.ref}")
        variables = dict(variable.split("=", 1) for variable in only["Config"]["Env"])
        versions[name] = variables["VERSION"]
    return versions


def rollout(app: App) -> Rollout:
    return stored(app.bed).rollouts[app.ref]


def progress(app: App, node: str) -> NodeProgress.Phase.ValueType:
    return next(
        (progress.phase for progress in rollout(app).nodes if progress.node == node), NodeProgress.PHASE_UNSPECIFIED
    )


def has(host: Host, image: str) -> bool:
    return image in host.docker("images", "--all", "--quiet", "--no-trunc").split()


def settled(app: App, release: int) -> bool:
    current = rollout(app)
    return current.release == release and current.phase == Rollout.SETTLED


def moved(app: App, release: int) -> int:
    """Return the number of nodes with an assignment of a release."""
    return sum(
        assignment.release == release for (_, ref), assignment in stored(app.bed).assignments.items() if ref == app.ref
    )


def test_rolling_deploy_updates_hosts_in_turn_without_failed_requests(app: App, version: str) -> None:
    (before,) = set(running(app).values())
    with Load(app, *app.bed.hosts) as load:
        app.deploy(version)
    assert load.failed == []
    for host, result in load.results.items():
        assert {before, version} == result.answered.keys(), f"{host} was asked during the whole rollout"
    assert set(running(app).values()) == {version}
    release = app.release
    happened = steps(app.bed, app.ref, release)
    assert at_once(happened, release) == 1
    assert {step.node for step in happened if step.what == "settled"} == set(app.bed.hosts)


def test_unhealthy_release_is_rolled_back_automatically(app: App) -> None:
    (before,) = set(running(app).values())
    generations = {place: assignment.generation for place, assignment in stored(app.bed).assignments.items()}
    with Load(app, *app.bed.hosts) as load:
        refused = app.deploy("broken", check=False)
        until("it has failed for good", lambda: rollout(app).phase == Rollout.FAILED, every=0.2)
        nothing_amiss(app.bed)
    assert refused.returncode == 1
    assert load.failed == []
    assert {version for result in load.results.values() for version in result.answered} == {before}
    release = app.release
    touched = {step.node for step in steps(app.bed, app.ref, release) if step.release == release}
    assert len(touched) == 1, "one node was enough to find out"
    untouched = [place for place in generations if place[0] not in touched]
    now = stored(app.bed).assignments
    assert {place: now[place].generation for place in untouched} == {place: generations[place] for place in untouched}
    current = rollout(app)
    assert current.target == current.last_settled == release - 1
    assert touched.pop() in current.reason
    assert set(running(app).values()) == {before}


@contextmanager
def small_disk(host: Host) -> Iterator[Path]:
    """Give the agent of a host a disk of its own of 1 MiB; yield the agent's folder. Filled or not, it goes afterwards.

    Envoy's container goes on with the folder of before, as when somebody mounts something there, until the agent has
    replaced it.
    """
    mount = f"mount -t tmpfs -o size=1m,mode=700 none {AGENT_STATE}"
    with another_envoy(host):
        host.run("sh", "-c", _with_files_kept(mount))
    try:
        yield host.root / AGENT_STATE.lstrip("/")
    finally:
        with another_envoy(host):
            host.run("sh", "-c", _with_files_kept(f"umount -l {AGENT_STATE}; rm -r {AGENT_STATE}/*"))


def _with_files_kept(change: str) -> str:
    """Return a shell script that changes what the agent's folder is, and puts its files there again."""
    copy = f"{AGENT_STATE}.copy"
    return f"set -e; cp -a {AGENT_STATE} {copy}; {change}; cp -a {copy}/. {AGENT_STATE}; rm -r {copy}"


@contextmanager
def another_envoy(host: Host) -> Iterator[None]:
    """Stop the agent of a host meanwhile; return once another Envoy runs, alone."""
    before = {router["Id"] for router in host.routers()}
    host.kill_agent()
    try:
        yield
    finally:
        host.start_agent()
    until("Envoy is another one, alone", lambda: len(now := host.routers()) == 1 and now[0]["Id"] not in before)


def fill(disk: Path) -> None:
    """Fill a disk to the last byte."""
    with (disk / "filler").open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"\0" * 4096)


def test_release_on_hosts_with_full_disks_fails_on_the_first_and_changes_no_host(app: App, version: str) -> None:
    (before,) = set(running(app).values())
    with ExitStack() as disks:
        folders = [disks.enter_context(small_disk(host)) for host in app.bed.hosts.values()]
        nothing_amiss(app.bed)
        for folder in folders:
            fill(folder)
        with Load(app, *app.bed.hosts) as load:
            refused = app.deploy(version, check=False)
            assert refused.returncode == 1
            assert "No space left on device" in refused.stderr
            release = app.release
            touched = {step.node for step in steps(app.bed, app.ref, release) if step.release == release}
            assert len(touched) == 1, "one node was enough to find out"
            assert set(running(app).values()) == {before}
            listed = app.devopsellence("node", "list").stdout
            assert "No space left on device" in next(line for line in listed.splitlines() if min(touched) in line)
            for folder in folders:
                (folder / "filler").unlink()
            until("no problem is left", lambda: "No space" not in app.devopsellence("node", "list").stdout, every=0.5)
            app.deploy(version)
            assert set(running(app).values()) == {version}
        assert load.failed == []
    nothing_amiss(app.bed)


def test_lost_folder_of_an_agent_interrupts_nothing(app: App, bed: Bed, version: str) -> None:
    """Only the connections of the replaced Envoy end: with the folder, the socket is lost that would drain them."""
    host = bed.hosts["n1"]
    with Load(app, *bed.hosts) as load:
        with another_envoy(host):
            host.run("sh", "-c", f"rm -r {AGENT_STATE}/*")
        nothing_amiss(bed)
        app.deploy(version)
    assert [failure for failure in load.failed if not failure.startswith("n1")] == []
    assert len(load.failed) <= load.clients, load.failed
    assert set(running(app).values()) == {version}


def test_cut_off_node_does_not_delay_rollout_and_catches_up(app: App, bed: Bed, version: str) -> None:
    """The node also lacks the image, which could not be uploaded, and pulls the image from a peer."""
    (before,) = set(running(app).values())
    with Load(app, *bed.hosts) as load:
        app.deploy(f"{version}-overtaken", "--detach")
        first = app.release
        bed.hosts["n2"].cut()
        until("it settles without n2", lambda: settled(app, first), seconds=60, every=0.3)
        assert progress(app, "n2") == NodeProgress.UNREACHABLE
        with app.new_image() as image:
            app.deploy(version)
        assert settled(app, first + 1)
        assert amiss(bed, {"n2"}) == []
        assert {name for name, host in bed.hosts.items() if has(host, image)} == {"n1", "n3"}
        bed.hosts["n2"].join()
        until("n2 has caught up", lambda: running_on_all(app, version), seconds=60, every=0.3)
        nothing_amiss(bed)
        assert has(bed.hosts["n2"], image)
    assert load.failed == []
    seen = set(load.results["n2"].answered)
    assert {before, version} <= seen <= {before, f"{version}-overtaken", version}


def test_killed_controllers_fail_no_request(app: App, bed: Bed, version: str) -> None:
    with Load(app, *bed.hosts) as load:
        app.deploy(version, "--detach")
        release = app.release
        until("the first node moves", lambda: moved(app, release) >= 1)
        first = bed.leader()
        bed.controllers[first].kill()
        second = until("the other leads", lambda: (bed.leader() or first).replace(first, ""), every=0.2)
        until("the next node moves", lambda: moved(app, release) >= 2)
        bed.controllers[first].start()
        bed.controllers[second].kill()
        until("it is settled", lambda: settled(app, release), seconds=60, every=0.2)
        assert bed.leader() == first
    assert load.failed == []
    assert set(running(app).values()) == {version}
    assert at_once(steps(bed, app.ref, release), release) == 1


@pytest.mark.parametrize("leads", [True, False], ids=["the-leader", "a-follower"])
def test_killed_etcd_member_fails_no_request(app: App, bed: Bed, version: str, leads: bool) -> None:
    with Load(app, *bed.hosts) as load:
        app.deploy(version, "--detach")
        release = app.release
        leader = bed.etcd_leader()
        victim = next(name for name in bed.etcd if (name == leader) is leads)
        bed.etcd[victim].kill()
        until("it is settled", lambda: settled(app, release), seconds=60, every=0.2)
        nothing_amiss(bed)
    assert load.failed == []
    assert set(running(app).values()) == {version}


def test_killed_agent_and_engine_fail_no_request(app: App, bed: Bed, version: str) -> None:
    host = bed.hosts["n1"]
    with Load(app, "n2", "n3") as load:
        app.deploy(version, "--detach")
        release = app.release
        until("the first node moves", lambda: moved(app, release) >= 1)
        host.kill_agent()
        host.start_agent()
        until("it is settled", lambda: settled(app, release), seconds=60, every=0.2)
        host.kill_docker()
        host.start_docker()
        nothing_amiss(bed)
    assert load.failed == []
    assert set(running(app).values()) == {version}


def running_on_all(app: App, version: str) -> bool:
    """Return True once every host runs the version, and no other container of the app is left."""
    try:
        return set(running(app).values()) == {version}
    except ValueError:
        return False


# What the others rely on: that something amiss would be seen.


def test_load_detects_missing_app(app: App, bed: Bed) -> None:
    with Load(app, "n1") as load:
        for host in bed.hosts.values():
            host.kill_agent()
            (container,) = host.containers(f"label=devopsellence.environment={app.ref}")
            host.docker("kill", container["Id"])
        until("the clients have noticed", lambda: load.failures("n1"))
    assert load.failed


def test_audit_detects_lost_and_extra_containers(app: App, bed: Bed) -> None:
    host = bed.hosts["n1"]
    (mine,) = host.containers(f"label=devopsellence.environment={app.ref}")
    labels = [f"--label={name}={value}" for name, value in mine["Config"]["Labels"].items()]
    foreign = "--label=devopsellence.node_uid=somebody-elses"
    host.docker("create", "--name", "another", *labels, foreign, mine["Image"])
    try:
        seen = amiss(bed, set())
        assert any("a machine that was here before" in line for line in seen)
        assert any("1 too many" in line for line in seen)
    finally:
        host.docker("rm", "another")
    host.kill_agent()
    host.docker("rm", "--force", mine["Id"])
    assert f"{app.ref} web on n1: 1 lost" in amiss(bed, set())
