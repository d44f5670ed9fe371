"""Manifest, bill of materials and list of licences."""

from __future__ import annotations

import hashlib
from email.message import Message
from pathlib import Path

import pytest

from deploy.bundle.manifest import NAME, Versions, as_text, manifest
from deploy.bundle.sbom import Component, cyclonedx, debian_licences, licence_list, python_licences

VERSIONS = Versions("1.2.3", "amd64", "3.5.33", "1.40.0", "3.11.2", "Debian GNU/Linux 12", 1_700_000_000)
BASH = Component("deb", "bash", "5.2+a-1", ("GPL-3+",), "/usr/share/doc/bash/copyright", "amd64", "ab" * 32)
CLICK = Component("pypi", "click", "8.1", (), "/usr/lib/python3/dist-packages/click-8.1.dist-info")


def test_manifest_has_every_file_and_link_but_itself(tmp_path: Path) -> None:
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "usr/bin/etcd").write_text("etcd")
    (tmp_path / "bin").symlink_to("usr/bin")
    (tmp_path / NAME).write_text("{}")
    found = manifest(VERSIONS, tmp_path)
    assert found["files"] == {"usr/bin/etcd": hashlib.sha256(b"etcd").hexdigest()}
    assert found["links"] == {"bin": "usr/bin"}
    assert (found["version"], found["architecture"], found["etcd"]) == ("1.2.3", "amd64", "3.5.33")
    assert (found["envoy"], found["python"], found["format"]) == ("1.40.0", "3.11.2", 1)
    assert as_text(found) == as_text(manifest(VERSIONS, tmp_path))


def test_bill_of_materials_identifies_packages_by_url() -> None:
    found = cyclonedx("1.2.3", 1_700_000_000, [BASH, CLICK])
    assert (found["bomFormat"], found["specVersion"]) == ("CycloneDX", "1.5")
    assert found["metadata"]["timestamp"] == "2023-11-14T22:13:20Z"
    bash, click = found["components"]
    assert bash["purl"] == "pkg:deb/debian/bash@5.2%2Ba-1?arch=amd64"
    assert bash["licenses"] == [{"license": {"name": "GPL-3+"}}]
    assert bash["hashes"] == [{"alg": "SHA-256", "content": "ab" * 32}]
    assert click["purl"] == "pkg:pypi/click@8.1"
    assert "licenses" not in click


def test_licence_list_says_where_the_text_is() -> None:
    lines = licence_list([BASH, CLICK]).splitlines()
    assert lines[2] == "bash 5.2+a-1 (deb): GPL-3+. /usr/share/doc/bash/copyright"
    assert lines[3].startswith("click 8.1 (pypi): see the text.")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"License-Expression": "MIT OR Apache-2.0", "License": "text"}, ("MIT OR Apache-2.0",)),
        ({"Classifier": "License :: OSI Approved :: BSD License", "License": "x"}, ("BSD License",)),
        ({"License": "Apache 2\nall of the text"}, ("Apache 2",)),
        ({}, ()),
    ],
)
def test_python_licence_is_the_expression_the_classifier_or_the_text(
    fields: dict[str, str], expected: tuple[str, ...]
) -> None:
    message = Message()
    for name, value in fields.items():
        message[name] = value
    assert python_licences(message) == expected


def test_debian_licences_are_those_of_a_machine_readable_file() -> None:
    text = "Format: x\n\nFiles: *\nLicense: GPL-2+\n\nFiles: b\nLicense: MIT\n text\n\nLicense: GPL-2+\n text\n"
    assert debian_licences(text) == ("GPL-2+", "MIT")
    assert debian_licences("License: this is prose\n") == ()
