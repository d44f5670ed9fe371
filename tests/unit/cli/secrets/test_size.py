"""Size of what a container is started with."""

from __future__ import annotations

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from devopsellence.age import AgeIdentity
from devopsellence.api.v1.stored_pb2 import Secret
from devopsellence.api.v1.workload_pb2 import SecretRef, Service
from devopsellence.cli.secrets import records
from devopsellence.cli.secrets.records import SecretId
from devopsellence.cli.secrets.size import MAX_START_BYTES, start_bytes, too_large
from devopsellence.store.keys import EnvironmentRef

REF = EnvironmentRef("acme", "shop", "production")
ANN = AgeIdentity.generate()


def stored(value: bytes) -> dict[SecretId, Secret]:
    secret = SecretId("job", "key")
    version = records.new_version(value, 1, [ANN.recipient], Timestamp(seconds=1), "ann@host")
    return {secret: records.appended(None, REF, secret, version)}


def test_words_variables_and_secrets_count_as_linux_counts_them() -> None:
    service = Service(
        name="job",
        command=["sh", "-c"],
        args=["ü"],
        env={"A": "1234", "KEY": "replaced by the secret"},
        secret_refs=[SecretRef(name="KEY", secret="key", version=1)],
    )
    words = ["sh", "-c", "ü", "A=1234", "KEY=secret"]
    assert start_bytes(service, stored(b"secret")) == sum(len(word.encode()) + 9 for word in words)


@pytest.mark.parametrize(("names", "refused"), [(31, False), (32, True)])
def test_large_secret_under_many_names_is_refused(names: int, refused: bool) -> None:
    refs = [SecretRef(name=f"KEY_{index}", secret="key", version=1) for index in range(names)]
    problem = too_large([Service(name="job", secret_refs=refs)], stored(b"x" * 65536))
    assert (problem is not None) is refused
    if problem is not None:
        assert (problem.code, problem.exit_code) == ("start_too_large", 2)
        assert f'service "job" cannot start: its command, args, env and secrets have {32 * 65536 + 502} bytes' in str(
            problem
        )


def test_total_at_the_limit_is_accepted() -> None:
    services = [Service(name="job", args=["x" * (MAX_START_BYTES - 9 + more)]) for more in (0, 1)]
    assert too_large(services[:1], {}) is None
    assert too_large(services[1:], {}) is not None
