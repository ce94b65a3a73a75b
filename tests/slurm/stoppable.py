"""Something that is started and stopped as a whole, also when its start fails halfway."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self


class Stoppable(ABC):
    """Starts on entering a `with`, stops on leaving it."""

    @abstractmethod
    def start(self) -> None:
        """Start everything."""

    @abstractmethod
    def stop(self) -> None:
        """End whatever was started."""

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()
