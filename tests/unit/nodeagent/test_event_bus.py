"""Event bus: subscribers in order, and one signal for each callback of an engine."""

from __future__ import annotations

from devopsellence.nodeagent.event_bus import EventBus


def test_subscribers_are_called_in_order_of_subscription() -> None:
    events = EventBus()
    calls: list[str] = []
    events.environment_changed.subscribe(lambda path: calls.append(f"first {path}"))
    events.environment_changed.subscribe(lambda path: calls.append(f"second {path}"))
    events.environment_changed.emit("acme/shop/production")
    assert calls == ["first acme/shop/production", "second acme/shop/production"]


def test_signal_without_subscribers_does_nothing() -> None:
    EventBus().image_arrived.emit()


def test_engine_callbacks_emit_the_signals() -> None:
    events = EventBus()
    callbacks = events.engine_callbacks()
    calls: list[str] = []
    # Subscribed after the callbacks were handed out, as the agent does.
    events.environment_changed.subscribe(calls.append)
    events.image_arrived.subscribe(lambda: calls.append("image"))
    events.connection_changed.subscribe(lambda: calls.append("connection"))
    events.router_container_changed.subscribe(lambda: calls.append("router"))
    events.networks_changed.subscribe(lambda: calls.append("networks"))
    callbacks.changed("path")
    callbacks.image()
    callbacks.connection()
    callbacks.router()
    callbacks.networks()
    assert calls == ["path", "image", "connection", "router", "networks"]
