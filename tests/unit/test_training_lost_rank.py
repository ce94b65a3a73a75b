"""A connection that broke because another rank is gone is reported in a sentence, and nothing else is."""

from __future__ import annotations

import pytest

from nanotron_zagreus.training.lost_rank import lost_rank

SOURCE = "[/__w/pytorch/pytorch/third_party/gloo/gloo/transport/tcp/"
GLHF = "This is typically caused by a remote worker hanging or bugs in the application. Check the logs."


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f"{SOURCE}pair.cc:537] Read error [10.0.0.7]:9124: Connection reset by peer. {GLHF}", "[10.0.0.7]:9124: Conn"),
        (f"{SOURCE}pair.cc:547] Connection closed by peer [127.0.0.1]:6122", "closed by peer [127.0.0.1]:6122)"),
        (
            f"{SOURCE}unbound_buffer.cc:81] Timed out waiting 1000ms for recv operation to complete",
            "has ended or stands still",
        ),
    ],
)
def test_a_connection_that_broke_is_told_in_a_sentence(text: str, told: str) -> None:
    error = lost_rank(RuntimeError(text))
    assert error is not None and not error.agreed
    assert told in str(error) and "typically" not in str(error) and "gloo" not in str(error)


def test_other_errors_are_left_alone() -> None:
    for error in (RuntimeError("CUDA error: an illegal memory access"), ValueError(f"{SOURCE}pair.cc:537] x")):
        assert lost_rank(error) is None
