from __future__ import annotations

from devopsellence.api.v1.stored_pb2 import Node
from devopsellence.api.v1.workload_pb2 import Dependency, Service
from devopsellence.cli.release.check import dependencies_elsewhere, no_node

WEB = Service(name="web", kind=Service.WEB)
REDIS = Service(name="redis", kind=Service.WORKER)
QUEUE = Service(name="queue", kind=Service.WORKER)
SENTENCE = (
    'production: no attached node is labelled "worker", which service "redis" needs; '
    "run devopsellence node label set <node> --labels web,worker"
)


def test_services_that_have_their_nodes_are_no_problem() -> None:
    nodes = [Node(name="n1", labels=["web"]), Node(name="n2", labels=["worker"])]
    assert no_node("production", [WEB, REDIS], nodes) is None


def test_a_service_without_a_node_is_one_exact_sentence() -> None:
    problem = no_node("production", [WEB, REDIS], [Node(name="n1", labels=["web"]), Node(name="n2")])
    assert problem is not None
    assert (problem.code, problem.message, problem.exit_code) == ("no_node_for_service", SENTENCE, 1)


def test_where_there_is_no_doubt_which_node_is_meant_the_command_is_ready_to_be_typed() -> None:
    problem = no_node("production", [WEB, REDIS], [Node(name="n1", labels=["web"])])
    assert problem is not None
    (finding,) = problem.findings
    assert finding.next_actions[0].command == "devopsellence node label set n1 --labels web,worker"


def test_all_services_without_a_node_are_named_at_once() -> None:
    nodes = [Node(name="n1", labels=["web"]), Node(name="n2", labels=["web"])]
    problem = no_node("production", [WEB, REDIS, QUEUE], nodes)
    assert problem is not None
    assert [each.message for each in problem.findings] == [SENTENCE, SENTENCE.replace("redis", "queue")]
    assert "<node>" in problem.findings[0].next_actions[0].command
    assert SENTENCE in problem.text()


def test_without_any_node_the_mend_is_to_attach_one() -> None:
    problem = no_node("staging", [WEB], [])
    assert problem is not None
    assert problem.code == "no_node_for_service"
    assert problem.message == "staging: no node is attached; run devopsellence node attach <node> --env staging"


def test_a_dependency_on_another_node_is_told_of() -> None:
    web = Service(name="web", kind=Service.WEB, depends_on=[Dependency(service="redis")])
    both, webs = Node(name="n1", labels=["web", "worker"]), Node(name="n2", labels=["web"])
    assert dependencies_elsewhere([web, REDIS], [both]) == []
    (sentence,) = dependencies_elsewhere([web, REDIS], [both, webs])
    assert sentence.startswith('"web" depends on "redis", which does not run on n2')
