"""Router with a real Docker and a real Envoy: start, cutover, drain, end."""

from __future__ import annotations

import asyncio

from tests.integration.router.router_node import REF, Connect, RouterNode, routed, service
from tests.support.until import eventually


async def test_envoy_runs_while_anything_is_routed(node: RouterNode, connect: Connect) -> None:
    async with service("one") as web, node.router() as running:
        running.router.set_routing(REF, routed(web))
        await running.serves()

        status = running.router.status(REF)
        assert (status.http_port, status.failed, status.reason) == (node.options.http_port, False, "")
        assert await connect().get() == (200, "one")
        assert running.router.held(REF) == {"one": "serves"}
        assert len(node.containers()) == 1
        # Environments' containers do not include Envoy's.
        await running.engine.relist(fresh=True)
        assert running.engine.cache.containers == {}

        running.router.set_routing(REF, None)
        await running.until("it is let go", lambda: not running.router.held(REF))
        await eventually("Envoy is gone", lambda: asyncio.to_thread(lambda: not node.containers()))


async def test_cutover_loses_no_request(node: RouterNode, connect: Connect) -> None:
    async with service("old") as old, service("new") as new, node.router() as running:
        running.router.set_routing(REF, routed(old))
        await running.serves()
        done = asyncio.Event()

        async def load(*, persistent: bool) -> list[tuple[int, str]]:
            client = connect()
            answers: list[tuple[int, str]] = []
            while not (done.is_set() and answers and answers[-1][1] == "new"):
                answers.append(await client.get())
                if not persistent:
                    client.close()
            client.close()
            return answers

        loads = [asyncio.create_task(load(persistent=number % 2 == 0)) for number in range(4)]
        websocket = connect()
        reader, writer = await websocket.upgrade()
        slow = asyncio.create_task(connect().get("/slow"))
        await old.begun.wait()
        await eventually("some requests", lambda: _true(old.requests > 100))

        running.router.set_routing(REF, routed(new))
        await running.until(
            "two are waited for", lambda: running.router.held(REF).get("old") == "2 requests are under way"
        )
        done.set()
        for answers in await asyncio.gather(*loads):
            assert {status for status, _ in answers} == {200}
        writer.write(b"still there")
        assert await reader.readexactly(11) == b"still there"

        old.release.set()
        assert await slow == (200, "old")
        websocket.close()
        await running.until("it is let go", lambda: running.router.held(REF) == {"new": "serves"})


async def test_drain_limit_releases_the_container(node: RouterNode, connect: Connect) -> None:
    async with service("old") as old, service("new") as new, node.router() as running:
        running.router.set_routing(REF, routed(old, drain_seconds=1.0))
        await running.serves()
        slow = asyncio.create_task(connect().get("/slow"))
        await old.begun.wait()

        running.router.set_routing(REF, routed(new, drain_seconds=1.0))
        assert "old" in running.router.held(REF)
        await running.until("it is let go", lambda: "old" not in running.router.held(REF))
        assert not slow.done()
        assert await connect().get() == (200, "new")
        slow.cancel()


async def test_restarted_agent_continues_a_drain(node: RouterNode, connect: Connect) -> None:
    async with service("old") as old, service("new") as new:
        async with node.router() as running:
            running.router.set_routing(REF, routed(old))
            await running.serves()
            slow = asyncio.create_task(connect().get("/slow"))
            await old.begun.wait()
            running.router.set_routing(REF, routed(new))
            await running.until(
                "one is waited for", lambda: running.router.held(REF).get("old") == "1 request is under way"
            )
        container = node.containers()
        assert await connect().get() == (200, "new")

        async with node.router() as running:
            assert set(running.router.held(REF)) == {"old", "new"}
            running.router.set_routing(REF, routed(new))
            await running.until(
                "one is still waited for", lambda: running.router.held(REF).get("old") == "1 request is under way"
            )
            old.release.set()
            assert await slow == (200, "old")
            await running.until("it is let go", lambda: running.router.held(REF) == {"new": "serves"})
            assert node.containers() == container


async def _true(value: bool) -> bool:
    return value
