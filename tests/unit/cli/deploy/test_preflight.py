from __future__ import annotations

import pytest

from devopsellence.api.v1.stored_pb2 import Assignment, Drain, Node
from devopsellence.api.v1.workload_pb2 import Dependency, Service
from devopsellence.cli.deploy.preflight import dependency_error, dependency_warnings, placement_error, replica_warnings
from devopsellence.cli.deploy.replicas import CurrentCopies, current_copies

WEB = Service(name="web", kind=Service.WEB)
REDIS = Service(name="redis", kind=Service.WORKER)
QUEUE = Service(name="queue", kind=Service.WORKER)
SENTENCE = (
    'production: no attached node is labelled "worker", which service "redis" needs; '
    "run devopsellence node label set <node> --labels web,worker"
)


def test_placed_services_pass_preflight() -> None:
    nodes = [Node(name="n1", labels=["web"]), Node(name="n2", labels=["worker"])]
    assert placement_error("production", [WEB, REDIS], nodes, CurrentCopies()) is None


def test_service_without_node_is_an_error() -> None:
    problem = placement_error(
        "production", [WEB, REDIS], [Node(name="n1", labels=["web"]), Node(name="n2")], CurrentCopies()
    )
    assert problem is not None
    assert (problem.code, problem.message, problem.exit_code) == ("no_node_for_service", SENTENCE, 1)


def test_single_candidate_node_is_named_in_the_command() -> None:
    problem = placement_error("production", [WEB, REDIS], [Node(name="n1", labels=["web"])], CurrentCopies())
    assert problem is not None
    (finding,) = problem.findings
    assert finding.next_actions[0].command == "devopsellence node label set n1 --labels web,worker"


def test_all_unplaced_services_are_reported() -> None:
    nodes = [Node(name="n1", labels=["web"]), Node(name="n2", labels=["web"])]
    problem = placement_error("production", [WEB, REDIS, QUEUE], nodes, CurrentCopies())
    assert problem is not None
    assert [finding.message for finding in problem.findings] == [SENTENCE, SENTENCE.replace("redis", "queue")]
    assert "<node>" in problem.findings[0].next_actions[0].command
    assert SENTENCE in problem.text()


def test_missing_nodes_suggest_attaching_one() -> None:
    problem = placement_error("staging", [WEB], [], CurrentCopies())
    assert problem is not None
    assert problem.code == "no_node_for_service"
    assert problem.message == "staging: no node is attached; run devopsellence node attach <node> --env staging"


NEEDS_REDIS = Service(name="web", kind=Service.WEB, depends_on=[Dependency(service="redis")])


def test_dependency_on_another_node_is_refused() -> None:
    both, webs = Node(name="n1", labels=["web", "worker"]), Node(name="n2", labels=["web"])
    assert dependency_error("production", [NEEDS_REDIS, REDIS], [both], CurrentCopies()) is None
    problem = dependency_error("production", [NEEDS_REDIS, REDIS], [both, webs], CurrentCopies())
    assert problem is not None
    assert (problem.code, problem.exit_code) == ("dependency_unreachable", 2)
    assert problem.message == (
        'production: service "web" depends on "redis", which does not run on n2, and a service reaches only services '
        "of its own node: let both run on the same nodes (labels, replicas), or remove the dependency"
    )
    assert dependency_warnings([NEEDS_REDIS, REDIS], [both, webs], CurrentCopies()) == []


def test_all_unreachable_dependencies_are_listed() -> None:
    web = Service(name="web", kind=Service.WEB, depends_on=[Dependency(service="redis"), Dependency(service="queue")])
    nodes = [Node(name="n1", labels=["web"]), Node(name="n2", labels=["worker"])]
    problem = dependency_error("production", [web, REDIS, QUEUE], nodes, CurrentCopies())
    assert problem is not None
    assert problem.message == "production: 2 dependencies cannot be reached from where they are needed"
    assert ['"redis"' in problem.findings[0].message, '"queue"' in problem.findings[1].message] == [True, True]


def test_completion_on_another_node_is_a_warning() -> None:
    done = Dependency(service="redis", condition=Dependency.SERVICE_COMPLETED_SUCCESSFULLY)
    web = Service(name="web", kind=Service.WEB, depends_on=[done])
    nodes = [Node(name="n1", labels=["web", "worker"]), Node(name="n2", labels=["web"])]
    assert dependency_error("production", [web, REDIS], nodes, CurrentCopies()) is None
    (sentence,) = dependency_warnings([web, REDIS], nodes, CurrentCopies())
    assert sentence == (
        'service "web" depends on "redis", which does not run on n2: there its completion is not awaited'
    )


TWO = Service(name="queue", kind=Service.WORKER, replicas=2)


def worker(name: str, *, cordoned: bool = False, drained: bool = False) -> Node:
    return Node(name=name, labels=["worker"], cordoned=cordoned or drained, drain=Drain() if drained else None)


def holding(service: Service, nodes: list[Node], name: str, unreachable: frozenset[str] = frozenset()) -> CurrentCopies:
    """The copies if ``service`` runs on the node ``name``."""
    return current_copies([service], nodes, {name: Assignment(services=[service])}, unreachable=unreachable)


@pytest.mark.parametrize(
    ("nodes", "says"),
    [
        pytest.param(
            [worker("n1"), Node(name="n2", labels=["web"]), worker("n3", cordoned=True), worker("n4", drained=True)],
            'production: service "queue" needs 2 replicas, but 1 attached node may run it (n2: not labelled '
            '"worker" (labels: web); n3: cordoned; n4: being drained); run devopsellence node uncordon n3',
            id="each filter",
        ),
        pytest.param(
            [worker("n1")],
            'production: service "queue" needs 2 replicas, but 1 attached node may run it; '
            "run devopsellence node attach <node>",
            id="all nodes run it",
        ),
        pytest.param(
            [Node(name="n1", labels=["web"])],
            'production: service "queue" needs 2 replicas, but no attached node may run it (n1: not labelled '
            '"worker" (labels: web)); run devopsellence node label set n1 --labels web,worker',
            id="none",
        ),
    ],
)
def test_fewer_nodes_than_replicas_are_refused(nodes: list[Node], says: str) -> None:
    problem = placement_error("production", [TWO], nodes, CurrentCopies())
    assert problem is not None
    assert (problem.code, problem.message, problem.exit_code) == ("no_node_for_service", says, 2)


def test_replica_on_cordoned_node_counts() -> None:
    nodes = [worker("n1", cordoned=True), worker("n2")]
    assert placement_error("production", [TWO], nodes, CurrentCopies()) is not None
    assert placement_error("production", [TWO], nodes, holding(TWO, nodes, "n1")) is None


def test_release_without_reachable_replica_is_refused() -> None:
    one = Service(name="queue", kind=Service.WORKER, replicas=1)
    nodes = [worker("n1", cordoned=True), worker("n2")]
    problem = placement_error("production", [one], nodes, holding(one, nodes, "n1"))
    assert problem is not None
    assert problem.message == (
        'production: service "queue" runs only on nodes that take no new copies (n1: cordoned); '
        "run devopsellence node uncordon n1"
    )


def test_unreachable_nodes_are_a_warning() -> None:
    nodes = [worker("n1"), worker("n2")]
    assert placement_error("production", [TWO], nodes, CurrentCopies()) is None
    assert replica_warnings([TWO], nodes, CurrentCopies()) == []
    assert replica_warnings([TWO], nodes, CurrentCopies(unreachable=frozenset({"n2"}))) == [
        'for now, service "queue" needs 2 replicas, but 1 attached node may run it (n2: unreachable); '
        "run devopsellence node diagnose n2"
    ]
    # What it runs already it keeps.
    assert replica_warnings([TWO], nodes, holding(TWO, nodes, "n2", unreachable=frozenset({"n2"}))) == []


def test_dependency_with_replicas_is_missing_on_other_nodes() -> None:
    one = Service(name="redis", kind=Service.WORKER, replicas=1)
    nodes = [Node(name="n1", labels=["web", "worker"]), Node(name="n2", labels=["web", "worker"])]
    problem = dependency_error("production", [NEEDS_REDIS, one], nodes, holding(one, nodes, "n2"))
    assert problem is not None
    assert 'service "web" depends on "redis", which does not run on n1,' in problem.message
