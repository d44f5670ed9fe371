"""Access data on disk: used at the start, ignored when it is garbage, and old after a while."""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import structlog.testing

from devopsellence.access.certificate import Certificate
from devopsellence.access.policy import AccessDenied, AccessPolicy
from devopsellence.access.rights import Rights, record_of
from devopsellence.access.roles import Action, Role
from devopsellence.api.v1.stored_pb2 import AccessCopy, DeniedCertificate, Gateways
from devopsellence.clock import Now
from devopsellence.nodeagent.access import OLD_SECONDS, START_SECONDS, AccessMirror
from devopsellence.nodeagent.mirror import NodeContext
from devopsellence.nodeagent.state import StateFolder
from devopsellence.nodeagent.util.threads import ThreadPool
from devopsellence.store.codec import encode
from devopsellence.store.etcd import Etcd
from devopsellence.store.settings import Settings

FILE = Path("tls.pem")
SETTINGS = Settings(("10.0.0.1:2381",), ca_cert=FILE, cert=FILE, key=FILE)
LEARNED = Gateways(addresses=["10.0.0.1:2381", "10.0.0.2:2381"])
WALL = 1_000_000.0


class Clock:
    """Clock of a test."""

    def __init__(self) -> None:
        self.now = Now(500.0, WALL)

    def __call__(self) -> Now:
        return self.now

    def forward(self, seconds: float) -> None:
        self.now = Now(self.now.mono + seconds, self.now.wall + seconds)


def copy(wall: float, gateways: Gateways = LEARNED) -> AccessCopy:
    stored = AccessCopy(gateways=gateways)
    stored.confirmed_at.FromSeconds(int(wall))
    return stored


@asynccontextmanager
async def loaded(path: Path, clock: Clock, settings: Settings = SETTINGS) -> AsyncIterator[AccessMirror]:
    with StateFolder(path) as folder:
        context = NodeContext(Etcd(settings), "n1", "u1", folder, ThreadPool(1, "disk"))
        mirror = AccessMirror(context, settings, clock)
        await mirror.load()
        yield mirror


def write(path: Path, content: AccessCopy | bytes) -> None:
    path.mkdir(exist_ok=True)
    (path / "access.json").write_bytes(content if isinstance(content, bytes) else encode(content))


async def test_addresses_on_disk_are_used(tmp_path: Path) -> None:
    write(tmp_path, copy(WALL))
    async with loaded(tmp_path, Clock()) as mirror:
        assert "10.0.0.1:2381, 10.0.0.2:2381" in mirror.state().fix


async def test_file_is_private_and_has_the_time_of_the_confirmation(tmp_path: Path) -> None:
    write(tmp_path, copy(WALL - 100))
    async with loaded(tmp_path, Clock()) as mirror:
        await mirror.flush()
    file = tmp_path / "access.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_bytes() == encode(copy(WALL - 100))


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"[]", b"\0\xff", b'{"gateways": 1}', b'{"confirmed_at": "yesterday"}', b"{" * 100_000),
        copy(WALL, Gateways(addresses=["nonsense"])),
        copy(WALL, Gateways(addresses=["10.0.0.2:2381", "x" * 1_000_000])),
        copy(WALL, Gateways(addresses=[f"10.0.1.{number}:2381" for number in range(65)])),
    ],
)
async def test_garbage_on_disk_is_ignored_with_one_line(tmp_path: Path, content: AccessCopy | bytes) -> None:
    write(tmp_path, content)
    with structlog.testing.capture_logs() as lines:
        async with loaded(tmp_path, Clock()) as mirror:
            assert "10.0.0.1:2381;" in mirror.state().fix
    assert [line["log_level"] for line in lines] == ["warning"]
    assert len(str(lines)) < 2_000


async def test_old_data_is_named_once_the_agent_has_had_time_to_connect(tmp_path: Path) -> None:
    write(tmp_path, copy(WALL - 3 * 3600))
    clock = Clock()
    async with loaded(tmp_path, clock) as mirror:
        assert mirror.state().problem == ""
        clock.forward(START_SECONDS)
        assert mirror.state().problem.startswith(
            "the deny-list, the access of operators and the gateways are as of 3 hours ago: "
        )
        clock.forward(3 * 86400)
        assert "as of 3 days ago" in mirror.state().problem


async def test_young_data_becomes_old(tmp_path: Path) -> None:
    write(tmp_path, copy(WALL - 60))
    clock = Clock()
    async with loaded(tmp_path, clock) as mirror:
        clock.forward(OLD_SECONDS - 61)
        state = mirror.state()
        assert (state.problem, state.summary) == (
            "",
            "the deny-list, the access of operators and the gateways are as of 9 minutes ago",
        )
        clock.forward(1)
        assert "as of 10 minutes ago" in mirror.state().problem


async def test_clock_set_back_makes_no_negative_age(tmp_path: Path) -> None:
    write(tmp_path, copy(WALL + 86400))
    clock = Clock()
    async with loaded(tmp_path, clock) as mirror:
        assert mirror.state().summary.endswith("as of 0 minutes ago")
        clock.forward(OLD_SECONDS)
        assert mirror.state().problem


async def test_agent_that_never_had_an_answer_says_so(tmp_path: Path) -> None:
    clock = Clock()
    async with loaded(tmp_path, clock) as mirror:
        clock.forward(OLD_SECONDS)
        assert "unknown, none has answered yet" in mirror.state().problem
        await mirror.flush()
    assert not (tmp_path / "access.json").exists()


async def test_agent_without_a_certificate_has_no_gateways(tmp_path: Path) -> None:
    write(tmp_path, copy(WALL))
    clock = Clock()
    async with loaded(tmp_path, clock, Settings(("10.0.0.9:2379",))) as mirror:
        clock.forward(OLD_SECONDS)
        await mirror.run()
        assert mirror.state().problem == ""


def policy_of(mirror: AccessMirror) -> AccessPolicy:
    assert mirror.policy is not None
    return mirror.policy


async def test_access_of_operators_on_disk_counts_until_etcd_answers(tmp_path: Path) -> None:
    stored = copy(WALL)
    stored.operators.append(record_of("ann", Rights(frozenset({(Role.EXEC, "acme/*")}))))
    stored.operators.append(record_of("bob", Rights(frozenset({(Role.EXEC, "*")}))))
    stored.denied.certificates.append(DeniedCertificate(name="operator:bob"))
    write(tmp_path, stored)
    async with loaded(tmp_path, Clock()) as mirror:
        policy_of(mirror).check(Certificate("operator:ann"), Action.EXECUTE, "acme/shop/production")
        with pytest.raises(AccessDenied, match="lacks the role exec in the environment other/shop/production"):
            policy_of(mirror).check(Certificate("operator:ann"), Action.EXECUTE, "other/shop/production")
        with pytest.raises(AccessDenied, match="the certificate of operator:bob is denied"):
            policy_of(mirror).check(Certificate("operator:bob"), Action.EXECUTE)
        await mirror.flush()
    assert (tmp_path / "access.json").read_bytes() == encode(stored)


async def test_root_alone_has_access_before_the_agent_knows_any(tmp_path: Path) -> None:
    async with loaded(tmp_path, Clock()) as mirror:
        policy_of(mirror).check(Certificate("root"), Action.EXECUTE)
        with pytest.raises(AccessDenied, match="has been granted no access"):
            policy_of(mirror).check(Certificate("operator:ann"), Action.EXECUTE)
    async with loaded(tmp_path / "x", Clock(), Settings(("10.0.0.9:2379",))) as mirror:
        assert mirror.policy is None
