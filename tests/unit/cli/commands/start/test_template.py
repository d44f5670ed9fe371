from __future__ import annotations

import io

import pytest
from ruamel.yaml import YAML

from devopsellence.cli.commands.start.template import InitAnswers, as_name, exposed_port, render, scalar


@pytest.mark.parametrize(
    "name", ["acme", "ShopApp", "0", "1.0", "1e3", "true", "No", "null", "0x1", "12:30", "a.b_c-d", "2026-01-01"]
)
def test_template_keeps_every_name(name: str) -> None:
    answers = InitAnswers(name, name, name, name, 8080, "/up")
    document = YAML(typ="safe").load(io.StringIO(render(answers)))
    assert document["organization"] == name
    assert document["project"] == name
    assert document["default_environment"] == name
    assert document["services"]["web"]["ports"] == [{"name": "http", "port": 8080}]
    assert document["services"]["web"]["healthcheck"] == {"path": "/up", "port": 8080}


def test_plain_words_are_not_quoted() -> None:
    assert [scalar(text) for text in ("shop", "/up", "Dockerfile.prod", "on", "7")] == [
        "shop",
        "/up",
        "Dockerfile.prod",
        '"on"',
        '"7"',
    ]


@pytest.mark.parametrize(
    ("dockerfile", "port"),
    [
        ("FROM x\nEXPOSE 8080\n", 8080),
        ("from x\nexpose 80/tcp 443\n", 80),
        ("FROM x\n# EXPOSE 1\n", None),
        ("FROM x\nEXPOSE $PORT\n", None),
        ("FROM x\nEXPOSE 53/udp\n", None),
        ("FROM x\nEXPOSE 99999\n", None),
        ("FROM x\nEXPOSE 53/udp 8080\n", 8080),
        ("FROM x\nEXPOSE 53/udp\nEXPOSE 8080\n", 8080),
        ("FROM x\nEXPOSE $PORT\nEXPOSE 8080\n", 8080),
        ("FROM x\nENV A=1 PORT=8080\nEXPOSE ${PORT}\n", 8080),
        ("ARG PORT='8080'\nFROM x\nEXPOSE $PORT/tcp\n", 8080),
        ("FROM x\nEXPOSE 7000-7005 8080\n", 8080),
        ("FROM x AS build\nEXPOSE 9000\nFROM y\nEXPOSE \\\n  8080\n", 8080),
        ("FROM x AS base\nEXPOSE 8080\nFROM base\n", 8080),
        ("", None),
    ],
)
def test_exposed_port_of_dockerfile(dockerfile: str, port: int | None) -> None:
    assert exposed_port(dockerfile) == port


@pytest.mark.parametrize(
    ("folder", "name"),
    [("shop", "shop"), ("My Shop!", "My-Shop"), ("..", ""), ("日本", ""), ("-x-", "x"), ("a" * 80, "a" * 63)],
)
def test_folder_name_becomes_valid_name(folder: str, name: str) -> None:
    assert as_name(folder) == name
