"""Imports of the CLI before the use of etcd stay cheap."""

from __future__ import annotations

import subprocess
import sys


def test_keys_records_settings_and_errors_do_not_import_grpc() -> None:
    program = (
        "import sys\n"
        "import devopsellence.store.errors, devopsellence.store.keys\n"
        "import devopsellence.store.codec, devopsellence.store.settings\n"
        "print([name for name in ('grpc', 'tenacity', 'asyncio') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.strip() == "[]"
