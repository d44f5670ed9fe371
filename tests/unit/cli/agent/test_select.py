from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from devopsellence.api.v1.stored_pb2 import AssignmentStatus, Node, Release, ServiceStatus
from devopsellence.api.v1.workload_pb2 import Service, Task
from devopsellence.cli.agent import select
from devopsellence.cli.agent.client import AgentEndpoint
from devopsellence.cli.agent.locate import EnvironmentAgents
from devopsellence.cli.output import CliError
from devopsellence.store.keys import EnvironmentRef

REF = EnvironmentRef("acme", "shop", "production")
WEB, JOBS = Service(name="web", kind=Service.WEB), Service(name="jobs", kind=Service.WORKER)


def survey(
    running: Mapping[str, Sequence[str]],
    *,
    labels: Mapping[str, str] | None = None,
    away: Sequence[str] = (),
    cordoned: Sequence[str] = (),
    release: Release | None = None,
) -> EnvironmentAgents:
    """Return an environment; ``running`` has services by node, ``away`` the unreachable nodes."""
    return EnvironmentAgents(
        REF,
        {
            name: AgentEndpoint(
                name, f"uid-{name}", "" if name in away else "h:1", f"{name} is away" if name in away else ""
            )
            for name in running
        },
        release,
        {name: Node(name=name, labels=[(labels or {}).get(name, "")], cordoned=name in cordoned) for name in running},
        {
            name: AssignmentStatus(services=[ServiceStatus(name=service, container="c") for service in services])
            for name, services in running.items()
        },
    )


def code(work: object, *arguments: object, **options: object) -> str:
    with pytest.raises(CliError) as caught:
        work(*arguments, **options)  # type: ignore[operator]
    return caught.value.code


def services_by_node(sources: list[select.LogSource]) -> dict[str, tuple[str, ...]]:
    return {source.agent.node: source.services for source in sources}


def test_logs_come_from_nodes_that_run_or_should_run_a_service() -> None:
    seen = survey({"n1": ["web"], "n2": [], "n3": []}, labels={"n2": "worker"}, release=Release(services=[WEB, JOBS]))
    assert services_by_node(select.log_sources(seen, [])) == {"n1": ("web",), "n2": ("jobs",)}
    assert services_by_node(select.log_sources(seen, ["jobs"])) == {"n2": ("jobs",)}


def test_node_without_replica_is_not_asked_for_logs() -> None:
    one = Service(name="jobs", kind=Service.WORKER, replicas=1)
    labels = {"n1": "worker", "n2": "worker"}
    seen = survey({"n1": [], "n2": ["jobs"]}, labels=labels, release=Release(services=[one]))
    assert services_by_node(select.log_sources(seen, ["jobs"])) == {"n2": ("jobs",)}


def test_detached_node_still_has_logs() -> None:
    seen = survey({"n1": ["old"]}, labels={"n1": "web"}, release=Release(services=[WEB]))
    assert services_by_node(select.log_sources(seen, ["old"])) == {"n1": ("old",)}


def test_service_not_running_differs_from_unknown_service() -> None:
    seen = survey({"n1": []}, labels={"n1": "web"}, release=Release(services=[WEB, JOBS]))
    assert code(select.log_sources, seen, ["jobs"]) == "not_running"
    assert code(select.log_sources, seen, ["wbe"]) == "service_unknown"
    assert code(select.log_sources, survey({}), []) == "not_running"


def test_command_runs_on_first_reachable_node() -> None:
    seen = survey({"n1": [], "n2": ["web"], "n3": ["web"]}, away=["n2"])
    agent, note = select.agent_for_exec(seen, "web", node_given=False)
    assert (agent.node, note) == ("n3", "on node n3; web also runs on n2 (--node chooses)")


def test_single_node_needs_no_note() -> None:
    assert select.agent_for_exec(survey({"n1": ["web"]}), "web", node_given=False)[1] == ""


def test_requested_node_is_used_unchecked() -> None:
    assert select.agent_for_exec(survey({"n1": []}), "web", node_given=True)[0].node == "n1"


def test_command_without_node_has_a_reason() -> None:
    assert (
        code(select.agent_for_exec, survey({"n1": ["web"]}, away=["n1"]), "web", node_given=False)
        == "agent_unreachable"
    )
    seen = survey({"n1": []}, release=Release(services=[WEB]))
    assert code(select.agent_for_exec, seen, "web", node_given=False) == "not_running"


def test_task_runs_on_first_suitable_node() -> None:
    labels = dict.fromkeys(("n2", "n3", "n4", "n5"), "web") | {"n1": "worker"}
    seen = survey(
        {name: [] for name in ("n1", "n2", "n3", "n4", "n5")},
        labels=labels,
        away=["n2"],
        cordoned=["n3"],
        release=Release(services=[WEB]),
    )
    assert select.agent_for_task(seen, Task(name="x", service="web")).node == "n4"
    assert code(select.agent_for_task, seen, Task(name="x", service="other")) == "service_unknown"


def test_tasks_of_the_running_release_are_found_by_name() -> None:
    seen = survey({}, release=Release(tasks=[Task(name="x")], release_task=Task(name="release")))
    assert select.task_named(seen, "release").name == "release"
    assert select.task_named(seen, "x").name == "x"
    assert code(select.task_named, seen, "y") == "task_unknown"
    assert code(select.task_named, survey({}), "y") == "task_unknown"
    assert [task.name for task in select.all_tasks(seen)] == ["release", "x"]


def test_output_that_is_gone_may_be_on_any_node() -> None:
    seen = survey({"n1": ["web"], "n2": []}, release=Release(services=[WEB, JOBS]))
    assert services_by_node(select.past_log_sources(seen, ["web"], None)) == {"n1": ("web",), "n2": ("web",)}


def test_output_that_is_gone_is_of_the_services_of_its_release() -> None:
    seen = survey({"n1": ["web"]}, release=Release(services=[WEB]))
    old = Release(services=[JOBS, Service(name="search")])
    assert services_by_node(select.past_log_sources(seen, [], old)) == {"n1": ("jobs", "search", "web")}
    assert services_by_node(select.past_log_sources(seen, [], None)) == {"n1": ("web",)}
