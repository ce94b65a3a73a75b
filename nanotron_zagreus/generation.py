"""Complete a prompt from a Hugging Face folder, with transformers alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanotron_zagreus.errors import InputError, MissingInputError


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen; the defaults are those of the published model card's usage example."""

    greedy: bool = False
    """Take the most likely token each time; the values below are then not used."""
    temperature: float = 0.8
    top_k: int = 50
    """Sample from this many of the most likely tokens; 0: from all. transformers takes 50 unless it is told."""
    top_p: float = 1.0
    repetition_penalty: float = 1.1
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.temperature <= 100:
            raise InputError(f"temperature: got {self.temperature}, expected more than 0; use greedy for none")
        if self.top_k < 0:
            raise InputError(f"top_k: got {self.top_k}, expected at least 0; 0 is no limit")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p: got {self.top_p}, expected more than 0 and at most 1")
        if not 0 < self.repetition_penalty <= 100:
            raise InputError(f"repetition_penalty: got {self.repetition_penalty}, expected more than 0; 1 is none")


@dataclass(frozen=True, kw_only=True)
class Completion:
    """What a model wrote after a prompt."""

    prompt: str
    text: str
    num_prompt_tokens: int
    num_new_tokens: int
    stopped_by_eos: bool
    """False: the token limit ended it. A model trained without end-of-text tokens never stops by itself."""


class Generator:
    """A model and its tokenizer, loaded once for any number of prompts."""

    def __init__(self, folder: Path, *, device: str | None = None) -> None:
        """Load ``folder``.

        Args:
            folder: a Hugging Face folder made by `zagreus convert`.
            device: torch's name; None takes CUDA where there is one. On a CPU the weights are widened to float32.

        Raises:
            InputError: the folder holds no model that transformers can load, or there is no such device.
        """
        import torch
        from safetensors import SafetensorError
        from transformers import AutoModelForCausalLM, AutoTokenizer

        if not (folder / "config.json").is_file():
            raise MissingInputError(
                f"{folder}: no config.json in it; give a Hugging Face folder, or make one with "
                "`zagreus convert CHECKPOINT OUT --tokenizer T` or `hf download OWNER/NAME --local-dir DIR`"
            )
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        _check_device(self.device)
        dtype: Any = torch.float32 if self.device == "cpu" else "auto"
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True)
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise InputError(f"{folder}: transformers cannot load it: {error}") from error
        self.model.to(self.device).eval()

    def encode(self, prompt: str, max_new_tokens: int) -> Any:
        """Return the prompt's token ids: `[1, num_prompt_tokens]`.

        Args:
            prompt: text; special tokens are added as the tokenizer does.
            max_new_tokens: tokens that are to be added at most.

        Raises:
            InputError: an empty prompt, or more tokens than the model has positions.
        """
        if max_new_tokens < 1:
            raise InputError(f"max_new_tokens: got {max_new_tokens}, expected at least 1")
        token_ids = self.tokenizer(prompt, return_tensors="pt")["input_ids"]
        num_prompt, limit = int(token_ids.shape[1]), int(self.model.config.max_position_embeddings)
        if num_prompt == 0:
            raise InputError("prompt: holds no token; give at least one word")
        if num_prompt + max_new_tokens > limit:
            raise InputError(
                f"max_new_tokens: {num_prompt} prompt tokens + {max_new_tokens} = {num_prompt + max_new_tokens}, more "
                f"than the model's {limit} positions; at most {max(0, limit - num_prompt)} fit after this prompt"
            )
        return token_ids

    def complete(
        self,
        prompt: str,
        *,
        max_new_tokens: int = 100,
        sampling: Sampling | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> Completion:
        """Return the continuation of ``prompt``.

        Args:
            prompt: text; special tokens are added as the tokenizer does.
            max_new_tokens: tokens to add at most.
            sampling: how to choose tokens; None takes the defaults.
            on_text: called with each piece of new text as it comes.

        Raises:
            InputError: an empty prompt, or more tokens than the model has positions.
        """
        import torch

        sampling = sampling or Sampling()
        token_ids = self.encode(prompt, max_new_tokens).to(self.device)
        num_prompt = int(token_ids.shape[1])
        torch.manual_seed(sampling.seed)
        with torch.no_grad():
            output = self.model.generate(
                token_ids,
                attention_mask=torch.ones_like(token_ids),
                max_new_tokens=max_new_tokens,
                streamer=_TextStreamer(self.tokenizer, on_text) if on_text else None,
                **self._generation_arguments(sampling),
            )[0]
        new = output[num_prompt:]
        return Completion(
            prompt=prompt,
            text=self.tokenizer.decode(new, skip_special_tokens=True),
            num_prompt_tokens=num_prompt,
            num_new_tokens=len(new),
            stopped_by_eos=int(new[-1]) in self._eos_ids(),
        )

    def _generation_arguments(self, sampling: Sampling) -> dict[str, Any]:
        arguments: dict[str, Any] = {"do_sample": not sampling.greedy}
        if not sampling.greedy:
            arguments |= {
                "temperature": sampling.temperature,
                "top_k": sampling.top_k,
                "top_p": sampling.top_p,
                "repetition_penalty": sampling.repetition_penalty,
            }
        if self.model.generation_config.pad_token_id is None and self._eos_ids():
            # One prompt at a time needs no padding; naming a token keeps transformers from warning.
            arguments["pad_token_id"] = self._eos_ids()[0]
        return arguments

    def _eos_ids(self) -> list[int]:
        ids = self.model.generation_config.eos_token_id
        return [] if ids is None else [ids] if isinstance(ids, int) else list(ids)


def _check_device(name: str) -> None:
    """Refuse a device that torch does not know or that is not here, by putting nothing on it."""
    import torch

    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--device: got {name!r}, which cannot be used here ({reason}); use cpu") from error


class _TextStreamer:
    """Hand over new text as generate produces tokens, whole characters at a time."""

    def __init__(self, tokenizer: Any, on_text: Callable[[str], None]) -> None:
        self._tokenizer, self._on_text = tokenizer, on_text
        self._token_ids: list[int] | None = None
        self._num_shown = 0

    def put(self, value: Any) -> None:
        """Take the prompt first, then one token per call."""
        if self._token_ids is None:
            self._token_ids = []
            return
        self._token_ids += value.flatten().tolist()
        text = self._tokenizer.decode(self._token_ids, skip_special_tokens=True)
        # A token may end inside a character; the decoder shows that as a replacement mark.
        if not text.endswith("�"):
            self._show(text)

    def end(self) -> None:
        """Show what an unfinished character held back."""
        self._show(self._tokenizer.decode(self._token_ids or [], skip_special_tokens=True))

    def _show(self, text: str) -> None:
        self._on_text(text[self._num_shown :])
        self._num_shown = len(text)
