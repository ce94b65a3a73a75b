"""The training configuration: typed sections, strict parsing, cross-field checks. Needs no Nanotron."""

from nanotron_zagreus.config.loading import dump_config, load_config, load_config_text
from nanotron_zagreus.config.sections import Config

__all__ = ["Config", "dump_config", "load_config", "load_config_text"]
