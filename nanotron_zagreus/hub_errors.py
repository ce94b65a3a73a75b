"""What the hub's client raises when the hub refuses or is not reached."""

from __future__ import annotations


def hub_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions to catch around calls of huggingface_hub.

    Its network errors are its HTTP library's: requests' up to version 0.36, which are OSErrors, then httpx's and, from
    2.0, httpx2's, which are not. The hub's own error derives from that library's base class in every version.
    """
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    return (*HfHubHTTPError.__bases__, HFValidationError, LocalEntryNotFoundError, OSError)


def first_line(error: Exception) -> str:
    """Return the first line of an error's text, or its kind when it has none."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
