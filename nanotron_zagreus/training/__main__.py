"""`python -m nanotron_zagreus.training --config-file X.yaml`: one rank, for installations without run_train.py."""

from nanotron_zagreus.training.launcher import rank_main

if __name__ == "__main__":
    rank_main()
