"""The router with a real engine and a real Envoy: it comes up, cuts over, lets go, and goes."""

from __future__ import annotations

import asyncio

from tests.integration.router.router_node import ENV, Connect, Node, eventually, service, site


async def test_requests_reach_a_service_and_the_last_site_takes_envoy_with_it(node: Node, connect: Connect) -> None:
    async with service("one") as one, node.router() as routing:
        routing.router.set_routing(ENV, site(one))
        await routing.serves()

        status = routing.router.status(ENV)
        assert (status.http_port, status.failed, status.reason) == (node.options.http_port, False, "")
        assert await connect().get() == (200, "one")
        assert routing.router.held(ENV) == {"one": "serves"}
        assert len(node.containers()) == 1
        # Whoever looks after environments does not see it.
        await routing.engine.relist(fresh=True)
        assert routing.engine.cache.containers == {}

        routing.router.set_routing(ENV, None)
        await routing.until("it is let go", lambda: not routing.router.held(ENV))
        await eventually("Envoy is gone", lambda: asyncio.to_thread(lambda: not node.containers()))


async def test_a_cutover_loses_no_request(node: Node, connect: Connect) -> None:
    async with service("old") as old, service("new") as new, node.router() as routing:
        routing.router.set_routing(ENV, site(old))
        await routing.serves()
        done = asyncio.Event()

        async def load(*, kept: bool) -> list[tuple[int, str]]:
            client = connect()
            answers: list[tuple[int, str]] = []
            while not (done.is_set() and answers and answers[-1][1] == "new"):
                answers.append(await client.get())
                if not kept:
                    client.close()
            client.close()
            return answers

        loads = [asyncio.create_task(load(kept=number % 2 == 0)) for number in range(4)]
        websocket = connect()
        reader, writer = await websocket.upgrade()
        slow = asyncio.create_task(connect().get("/slow"))
        await old.begun.wait()
        await eventually("some requests", lambda: _true(old.requests > 100))

        routing.router.set_routing(ENV, site(new))
        await routing.until(
            "two are waited for", lambda: routing.router.held(ENV).get("old") == "2 requests are under way"
        )
        done.set()
        for answers in await asyncio.gather(*loads):
            assert {status for status, _ in answers} == {200}
        writer.write(b"still there")
        assert await reader.readexactly(11) == b"still there"

        old.release.set()
        assert await slow == (200, "old")
        websocket.close()
        await routing.until("it is let go", lambda: routing.router.held(ENV) == {"new": "serves"})


async def test_a_request_that_outlasts_the_drain_limit_holds_no_longer(node: Node, connect: Connect) -> None:
    async with service("old") as old, service("new") as new, node.router() as routing:
        routing.router.set_routing(ENV, site(old, drain_seconds=1.0))
        await routing.serves()
        slow = asyncio.create_task(connect().get("/slow"))
        await old.begun.wait()

        routing.router.set_routing(ENV, site(new, drain_seconds=1.0))
        assert "old" in routing.router.held(ENV)
        await routing.until("it is let go", lambda: "old" not in routing.router.held(ENV))
        assert not slow.done()
        assert await connect().get() == (200, "new")
        slow.cancel()


async def test_the_next_agent_goes_on_in_the_middle_of_a_drain(node: Node, connect: Connect) -> None:
    async with service("old") as old, service("new") as new:
        async with node.router() as routing:
            routing.router.set_routing(ENV, site(old))
            await routing.serves()
            slow = asyncio.create_task(connect().get("/slow"))
            await old.begun.wait()
            routing.router.set_routing(ENV, site(new))
            await routing.until(
                "one is waited for", lambda: routing.router.held(ENV).get("old") == "1 request is under way"
            )
        container = node.containers()
        assert await connect().get() == (200, "new")

        async with node.router() as routing:
            assert set(routing.router.held(ENV)) == {"old", "new"}
            routing.router.set_routing(ENV, site(new))
            await routing.until(
                "one is still waited for", lambda: routing.router.held(ENV).get("old") == "1 request is under way"
            )
            old.release.set()
            assert await slow == (200, "old")
            await routing.until("it is let go", lambda: routing.router.held(ENV) == {"new": "serves"})
            assert node.containers() == container


async def _true(value: bool) -> bool:
    return value
