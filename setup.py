"""Packaging of nanotron-zagreus; tool settings live in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = next(
    line.split('"')[1]
    for line in (ROOT / "nanotron_zagreus" / "__init__.py").read_text().splitlines()
    if line.startswith("__version__")
)

# configs/ and slurm/ have their only copy at the root; a wheel carries them inside the package.
DATA_FOLDERS = {
    "nanotron_zagreus._data.configs": "configs",
    "nanotron_zagreus._data.configs.smollm2": "configs/smollm2",
    "nanotron_zagreus._data.slurm": "slurm",
}

setup(
    name="nanotron-zagreus",
    version=VERSION,
    description="Train small bilingual language models from scratch on Nanotron, from text to evaluated model",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=[
        *find_packages(include=["nanotron_zagreus", "nanotron_zagreus.*"]),
        "examples",
        "examples.llama",
        *DATA_FOLDERS,
    ],
    package_dir=DATA_FOLDERS,
    package_data={
        "nanotron_zagreus": ["py.typed"],
        "nanotron_zagreus.evaluation": ["tasks/**/*", "published/*"],
        "nanotron_zagreus._data.configs": ["*.md", "*.yaml"],
        "nanotron_zagreus._data.configs.smollm2": ["*.md", "*.yaml"],
        "nanotron_zagreus._data.slurm": ["*.sbatch", "*.md", "*.yaml"],
    },
    install_requires=[
        "nanotron==0.4",
        "torch>=2.10",
        "numpy>=2.0",
        "datatrove[io,processing]>=0.10",
        "transformers>=5.0",
        "tokenizers>=0.22",
        "huggingface_hub>=1.6",
        "fsspec>=2024.6",
        "pyarrow>=17",
        "orjson>=3.10",
        "humanize>=4.9",
        "pyyaml>=6.0.1",
        "safetensors>=0.4.3",
        "typer>=0.24",
        "rich>=13.0",
    ],
    extras_require={
        "eval": ["lm-eval[hf]>=0.4.13", "datasets>=4.0", "psutil>=5.9.5", "text-unidecode>=1.3"],
        "fast": ["gigatoken>=0.4"],
        "plots": ["matplotlib>=3.8"],
        "gguf": ["gguf>=0.16"],
        "tensorboard": ["tensorboard>=2.18"],
        "wandb": ["wandb"],
        "flash": ["flash-attn"],
        "dev": [
            "pytest>=8.4",
            "hypothesis>=6.130",
            "ruff>=0.14",
            "mypy>=1.18",
            "types-PyYAML>=6.0.12",
            "pre-commit>=4",
        ],
    },
    entry_points={"console_scripts": ["zagreus=nanotron_zagreus.cli.app:main"]},
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
