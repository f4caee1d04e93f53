"""`surgetank serve` as a process of its own."""

from __future__ import annotations

import re
import signal
import threading

import httpx

from support.commands import start_command
from support.waiting import wait_until


class Process:
    """One `surgetank serve`."""

    def __init__(self, environment: dict[str, str], *arguments: str) -> None:
        self.process = start_command("serve", "--port", "0", *arguments, environment=environment)
        self.said: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(line)

    @property
    def text(self) -> str:
        return "".join(self.said)

    def url(self) -> str:
        """Where it listens, once it answers."""
        found = wait_until(
            lambda: re.search(r"http://(\S+):(\d+),", self.text) or self.process.poll() is not None,
            "the server",
        )
        assert isinstance(found, re.Match), self.text
        url = f"http://127.0.0.1:{found[2]}"

        def answers() -> bool:
            try:
                return httpx.get(f"{url}/health/live").status_code == 200
            except httpx.TransportError:
                return False

        wait_until(answers, "an answer")
        return url

    def end(self, number: int = signal.SIGTERM) -> int:
        """Stop it; its exit code."""
        self.process.send_signal(number)
        code = self.process.wait(timeout=60)
        self._reader.join(10)
        return code
