"""Train a model: `torchrun --nproc_per_node=N run_train.py --config-file X.yaml`.

Ends with exit code 0 when the run finished or stopped after saving (outcome.json says which), 2 when the
input was refused, 1 when the run failed. `zagreus train` launches this and turns "stopped" into 75.
"""

from nanotron_zagreus.training.launcher import rank_main

if __name__ == "__main__":
    rank_main()
