"""The Zagreus model on Nanotron's tensor- and pipeline-parallel blocks; no training code in here."""
