"""The one room that knows Nanotron's internals: bring-up, repairs, CPU or CUDA, translation of our config."""
