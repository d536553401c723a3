"""The pipe on which an engine of our own tells how far its loading is, the moment it moves.

One JSON object a line: {"phase": "loading", "ratio": 0.43}, {"phase": "ready"}, {"phase": "failed", "reason": "…"}.
While files are read there are also their bytes: "done" and "total".
"""

import asyncio
import json
import os
from collections.abc import Mapping

from gateway.providers.base import Loading


class NewsPipe:
    """A pipe on which an engine tells its progress, one JSON object a line. Read as it comes, by the running loop."""

    LIMIT = 1 << 16

    def __init__(self) -> None:
        self._read_end, self.write_end = os.pipe()
        os.set_blocking(self._read_end, False)
        self._heard = b""
        self._news: list[Loading] = []
        self._something = asyncio.Event()
        self._open = True
        self.spoke = False
        """Whether anything came: then it is believed rather than guessed at."""
        self.failure: Mapping[str, object] | None = None

    def __enter__(self) -> "NewsPipe":
        asyncio.get_running_loop().add_reader(self._read_end, self.read_now)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_reading()
        os.close(self._read_end)
        self.handed_over()

    def handed_over(self) -> None:
        """The engine has its end; ours would keep the pipe open for ever."""
        if self.write_end >= 0:
            os.close(self.write_end)
            self.write_end = -1

    def read_now(self) -> None:
        while self._open:
            try:
                data = os.read(self._read_end, 65536)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._stop_reading()
                return
            *lines, self._heard = (self._heard + data).split(b"\n")
            self._heard = self._heard[-self.LIMIT :]
            for line in lines:
                self._note(line)

    def _stop_reading(self) -> None:
        if self._open:
            self._open = False
            asyncio.get_running_loop().remove_reader(self._read_end)

    def _note(self, line: bytes) -> None:
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            return  # an engine that writes something else there is not worse than one that writes nothing
        if not isinstance(message, dict):
            return
        self.spoke = True
        phase = message.get("phase")
        if phase == "failed":
            self.failure = message
        elif phase in ("booting", "loading", "warming"):
            ratio, done, total = (message.get(name) for name in ("ratio", "done", "total"))
            if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 <= ratio <= 1:
                ratio = None
            if type(done) is not int or type(total) is not int or not 0 <= done <= total:
                done = total = None
            self._news.append(Loading(phase, ratio, done=done, total=total))
        self._something.set()

    def take(self) -> list[Loading]:
        news, self._news = self._news, []
        self._something.clear()
        return news

    def nudge(self) -> None:
        """Something was heard in another way: whoever waits looks now."""
        self._something.set()

    async def wait(self, longest: float) -> bool:
        """Until something comes, or that long. Whether something came."""
        try:
            async with asyncio.timeout(longest):
                await self._something.wait()
        except TimeoutError:
            return False  # time to look
        return True
