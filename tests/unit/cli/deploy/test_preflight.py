from __future__ import annotations

import pytest

from devopsellence.api.v1.stored_pb2 import Assignment, Drain, Node
from devopsellence.api.v1.workload_pb2 import Dependency, Service
from devopsellence.cli.deploy.preflight import dependency_warnings, placement_error, replica_warnings

WEB = Service(name="web", kind=Service.WEB)
REDIS = Service(name="redis", kind=Service.WORKER)
QUEUE = Service(name="queue", kind=Service.WORKER)
SENTENCE = (
    'production: no attached node is labelled "worker", which service "redis" needs; '
    "run devopsellence node label set <node> --labels web,worker"
)


def test_services_that_have_their_nodes_are_no_problem() -> None:
    nodes = [Node(name="n1", labels=["web"]), Node(name="n2", labels=["worker"])]
    assert placement_error("production", [WEB, REDIS], nodes, {}) is None


def test_a_service_without_a_node_is_one_exact_sentence() -> None:
    problem = placement_error("production", [WEB, REDIS], [Node(name="n1", labels=["web"]), Node(name="n2")], {})
    assert problem is not None
    assert (problem.code, problem.message, problem.exit_code) == ("no_node_for_service", SENTENCE, 1)


def test_where_there_is_no_doubt_which_node_is_meant_the_command_is_ready_to_be_typed() -> None:
    problem = placement_error("production", [WEB, REDIS], [Node(name="n1", labels=["web"])], {})
    assert problem is not None
    (finding,) = problem.findings
    assert finding.next_actions[0].command == "devopsellence node label set n1 --labels web,worker"


def test_all_services_without_a_node_are_named_at_once() -> None:
    nodes = [Node(name="n1", labels=["web"]), Node(name="n2", labels=["web"])]
    problem = placement_error("production", [WEB, REDIS, QUEUE], nodes, {})
    assert problem is not None
    assert [finding.message for finding in problem.findings] == [SENTENCE, SENTENCE.replace("redis", "queue")]
    assert "<node>" in problem.findings[0].next_actions[0].command
    assert SENTENCE in problem.text()


def test_missing_nodes_suggest_attaching_one() -> None:
    problem = placement_error("staging", [WEB], [], {})
    assert problem is not None
    assert problem.code == "no_node_for_service"
    assert problem.message == "staging: no node is attached; run devopsellence node attach <node> --env staging"


def test_a_dependency_on_another_node_is_told_of() -> None:
    web = Service(name="web", kind=Service.WEB, depends_on=[Dependency(service="redis")])
    both, webs = Node(name="n1", labels=["web", "worker"]), Node(name="n2", labels=["web"])
    assert dependency_warnings([web, REDIS], [both], {}) == []
    (sentence,) = dependency_warnings([web, REDIS], [both, webs], {})
    assert sentence.startswith('"web" depends on "redis", which does not run on n2')


TWO = Service(name="queue", kind=Service.WORKER, replicas=2)


def worker(name: str, *, cordoned: bool = False, drained: bool = False) -> Node:
    return Node(name=name, labels=["worker"], cordoned=cordoned or drained, drain=Drain() if drained else None)


@pytest.mark.parametrize(
    ("nodes", "says"),
    [
        pytest.param(
            [worker("n1"), Node(name="n2", labels=["web"]), worker("n3", cordoned=True), worker("n4", drained=True)],
            'production: service "queue" is to have 2 replicas, and 1 attached node may run it (n2: not labelled '
            '"worker" (labels: web); n3: cordoned; n4: being drained); run devopsellence node uncordon n3',
            id="each filter",
        ),
        pytest.param(
            [worker("n1")],
            'production: service "queue" is to have 2 replicas, and 1 attached node may run it; '
            "run devopsellence node attach <node>",
            id="all nodes run it",
        ),
        pytest.param(
            [Node(name="n1", labels=["web"])],
            'production: service "queue" is to have 2 replicas, and no attached node may run it (n1: not labelled '
            '"worker" (labels: web)); run devopsellence node label set n1 --labels web,worker',
            id="none",
        ),
    ],
)
def test_fewer_nodes_than_replicas_are_refused_with_what_is_in_the_way(nodes: list[Node], says: str) -> None:
    problem = placement_error("production", [TWO], nodes, {})
    assert problem is not None
    assert (problem.code, problem.message, problem.exit_code) == ("no_node_for_service", says, 2)


def test_a_replica_on_a_cordoned_node_counts() -> None:
    nodes = [worker("n1", cordoned=True), worker("n2")]
    assert placement_error("production", [TWO], nodes, {}) is not None
    assert placement_error("production", [TWO], nodes, {"n1": Assignment(services=[TWO])}) is None


def test_a_release_that_would_reach_no_replica_is_refused() -> None:
    one = Service(name="queue", kind=Service.WORKER, replicas=1)
    nodes = [worker("n1", cordoned=True), worker("n2")]
    problem = placement_error("production", [one], nodes, {"n1": Assignment(services=[one])})
    assert problem is not None
    assert problem.message == (
        'production: service "queue" stays where nothing new comes (n1: cordoned); run devopsellence node uncordon n1'
    )


def test_nodes_that_do_not_answer_are_no_reason_to_refuse_but_worth_a_sentence() -> None:
    nodes = [worker("n1"), worker("n2")]
    assert placement_error("production", [TWO], nodes, {}) is None
    assert replica_warnings([TWO], nodes, {}, frozenset()) == []
    assert replica_warnings([TWO], nodes, {}, frozenset({"n2"})) == [
        'for now, service "queue" is to have 2 replicas, and 1 attached node may run it (n2: unreachable); '
        "run devopsellence node diagnose n2"
    ]
    # What it runs already it keeps.
    assert replica_warnings([TWO], nodes, {"n2": Assignment(services=[TWO])}, frozenset({"n2"})) == []


def test_a_dependency_with_replicas_is_missing_where_it_does_not_run() -> None:
    web = Service(name="web", kind=Service.WEB, depends_on=[Dependency(service="redis")])
    one = Service(name="redis", kind=Service.WORKER, replicas=1)
    nodes = [Node(name="n1", labels=["web", "worker"]), Node(name="n2", labels=["web", "worker"])]
    (sentence,) = dependency_warnings([web, one], nodes, {"n2": Assignment(services=[one])})
    assert sentence.startswith('"web" depends on "redis", which does not run on n1')
