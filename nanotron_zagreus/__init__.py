"""Train small bilingual language models from scratch: tokenize, mix, train, convert, evaluate.

Importing this package imports nothing heavy; each stage lives in a subpackage of its own.
"""

__version__ = "0.1.0"
