"""Files that a user names: pipes, devices and huge files end in an error, never in a hang."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from devopsellence import input_file
from devopsellence.certificates import pem
from devopsellence.cli.agent import client
from devopsellence.cli.output import CliError
from devopsellence.cli.secrets import identity
from devopsellence.client_certificate import UnusableCertificate, read_credentials
from devopsellence.store.settings import Settings


def test_content_of_a_file_is_returned_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"\xff\0\n")
    assert input_file.read(tmp_path / "file") == b"\xff\0\n"


def test_silent_pipe_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="nothing was written for 0 s") as caught:
        input_file.read(tmp_path / "pipe", pipe_timeout=0)
    assert caught.value.filename == str(tmp_path / "pipe")


def test_endless_device_and_huge_file_are_errors(tmp_path: Path) -> None:
    (tmp_path / "huge").touch()
    os.truncate(tmp_path / "huge", 1 << 40)
    for path in (Path("/dev/zero"), tmp_path / "huge"):
        with pytest.raises(OSError, match="is larger than 1024 KiB"):
            input_file.read(path)


def test_certificates_keys_and_identities_are_read_within_the_limit() -> None:
    endless = Path("/dev/zero")
    with pytest.raises(pem.CertificateError, match="is larger than 1024 KiB"):
        pem.load_certificate(endless)
    with pytest.raises(pem.CertificateError, match="is larger than 1024 KiB"):
        pem.load_key(endless)
    with pytest.raises(CliError, match="is larger than 1024 KiB"):
        identity.load_or_create(endless)
    with pytest.raises(CliError, match="is larger than 1024 KiB"):
        client.credentials(Settings(("127.0.0.1:2379",), ca_cert=endless, cert=endless, key=endless))
    with pytest.raises(UnusableCertificate, match="is larger than 1024 KiB"):
        read_credentials(endless, endless, endless)
