"""What dump_config writes, load_config_text reads back as the same configuration, the order of sources included."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from nanotron_zagreus.config import Config, dump_config, load_config, load_config_text
from nanotron_zagreus.config.data import DataSection, DatasetSection, DataStageSection
from nanotron_zagreus.config.model import ExistingCheckpointSection, ModelConfigSection, ModelSection, RandomInitSection
from nanotron_zagreus.config.optimizer import AdamWSection, LearningRateSection, OptimizerSection
from nanotron_zagreus.config.parsing import to_plain
from nanotron_zagreus.config.sections import (
    CheckpointsSection,
    GeneralSection,
    ParallelismSection,
    TokenizerSection,
    TokensSection,
    ZagreusSection,
)

positive = st.floats(min_value=1e-300, max_value=1e300, allow_nan=False, allow_infinity=False)
epsilons = st.floats(min_value=1e-300, max_value=0.999)
names = st.from_regex(r"[a-zA-Z0-9][\w .+=-]{0,20}", fullmatch=True)
texts = st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1, max_size=20).filter(str.strip)
written_out = texts.filter(lambda text: "$" not in text and not text.startswith("~"))
folders = written_out.filter(lambda text: "://" not in text).map(lambda text: Path("data") / text.strip("/."))


@st.composite
def datasets(draw: st.DrawFn) -> DatasetSection:
    paths = draw(st.lists(folders, min_size=1, max_size=4, unique_by=str))
    weights = draw(st.lists(positive, min_size=len(paths), max_size=len(paths)))
    form = draw(st.sampled_from(["one", "list", "weighted list", "mapping"]))
    if form == "one":
        return DatasetSection(dataset_folder=paths[0])
    if form == "mapping":
        return DatasetSection(dataset_folder=dict(zip(map(str, paths), weights, strict=True)))
    return DatasetSection(
        dataset_folder=tuple(paths), dataset_weights=tuple(weights) if form == "weighted list" else None
    )


@st.composite
def configs(draw: st.DrawFn) -> Config:
    steps = draw(st.integers(min_value=5, max_value=10**12))
    starts = [1, *sorted(draw(st.sets(st.integers(min_value=2, max_value=steps), max_size=3)))]
    warmup = draw(st.integers(min_value=1, max_value=steps))
    peak = draw(st.floats(min_value=1e-12, max_value=1.0))
    heads, kv_heads = draw(st.sampled_from([(1, 1), (6, 2), (15, 5), (4, None)]))
    fp32 = draw(st.booleans())
    init = draw(
        st.one_of(
            st.builds(RandomInitSection, std=st.floats(min_value=1e-9, max_value=9.0)),
            st.builds(ExistingCheckpointSection, path=folders),
        )
    )
    return Config(
        checkpoints=CheckpointsSection(
            checkpoints_path=draw(folders),
            checkpoint_interval=draw(st.integers(min_value=1, max_value=10**9)),
            resume_checkpoint_path=draw(st.none() | folders),
        ),
        data_stages=tuple(
            DataStageSection(
                name=f"{draw(names)} {index}", start_training_step=start, data=DataSection(dataset=draw(datasets()))
            )
            for index, start in enumerate(starts)
        ),
        general=GeneralSection(project=draw(names), run=draw(names), seed=draw(st.integers(0, 2**32 - 1))),
        model=ModelSection(
            model_config=ModelConfigSection(
                hidden_size=heads * 2 * draw(st.integers(1, 64)),
                intermediate_size=draw(st.integers(1, 4096)),
                num_hidden_layers=draw(st.integers(1, 64)),
                num_attention_heads=heads,
                num_key_value_heads=kv_heads,
                vocab_size=draw(st.integers(3, 200_000)),
                rms_norm_eps=draw(epsilons),
            ),
            init_method=init,
            dtype="float32" if fp32 else "bfloat16",
        ),
        optimizer=OptimizerSection(
            learning_rate_scheduler=LearningRateSection(
                learning_rate=peak,
                lr_warmup_steps=warmup,
                lr_decay_starting_step=draw(st.none() | st.integers(warmup, 10**13)),
                lr_decay_steps=draw(st.none() | st.integers(0, 10**13)),
                min_decay_lr=draw(st.none() | st.floats(0, peak)),
            ),
            optimizer_factory=AdamWSection(adam_eps=draw(epsilons)),
            accumulate_grad_in_fp32=not fp32,
            clip_grad=draw(st.none() | positive),
            weight_decay=draw(st.just(0.0) | positive),
        ),
        parallelism=ParallelismSection(dp=draw(st.integers(1, 4096))),
        tokenizer=TokenizerSection(tokenizer_name_or_path=draw(written_out)),
        tokens=TokensSection(
            sequence_length=draw(st.integers(1, 2048)), train_steps=steps, micro_batch_size=draw(st.integers(1, 64))
        ),
        zagreus=ZagreusSection(document_masking=draw(st.booleans()), max_source_epochs=draw(positive)),
    )


@given(configs())
@settings(max_examples=25, deadline=None)
def test_a_configuration_survives_dump_and_load(config: Config) -> None:
    text = dump_config(config)
    again = load_config_text(text, origin="dumped")
    assert again == config
    # Equality of mappings ignores order, and the order of the folders decides which sample is read when.
    assert [stage.data.dataset.folders for stage in again.data_stages] == [
        stage.data.dataset.folders for stage in config.data_stages
    ]
    assert dump_config(again) == text


def test_a_dumped_file_names_sections_in_upstreams_order() -> None:
    plain = to_plain(load_config("zagreus_350M_por.yaml"))
    assert list(plain) == sorted(plain)
    assert list(plain["model"]["model_config"]) == sorted(plain["model"]["model_config"])


def test_a_mapping_of_folders_keeps_its_order() -> None:
    dataset = DatasetSection(dataset_folder={"zebra": 1.0, "aardvark": 2.0})
    assert list(to_plain(dataset)["dataset_folder"]) == ["zebra", "aardvark"]
