"""The text of the model card, filled by `model_card`."""

CARD_TEMPLATE = """---
{{ card_data }}
---

# {{ model_name }}

{% if description %}{{ description }}

{% endif -%}
A base language model for text completion, trained with Nanotron
{%- if base_model %}, starting from the weights of [{{ base_model }}](https://huggingface.co/{{ base_model }})
{%- elif started_from %}, starting from the weights of another checkpoint (`{{ started_from }}`)
{%- else %} from scratch
{%- endif %}. It is not instruction-tuned.

## Model

| | |
|---|---|
| Parameters | {{ "{:,}".format(num_parameters) }} |
| Architecture | Llama, dense{% if arch.tie_word_embeddings %}, tied embeddings{% endif %} |
| Layers | {{ arch.num_hidden_layers }} |
| Hidden size | {{ arch.hidden_size }} |
| Intermediate size | {{ arch.intermediate_size }} |
| Attention heads | {{ arch.num_attention_heads }} ({{ arch.num_key_value_heads }} for keys and values) |
| Context length | {{ arch.max_position_embeddings }} tokens |
| Vocabulary | {{ "{:,}".format(arch.vocab_size) }} |
| RoPE theta | {{ arch.rope_theta }} |
| Weights | {{ dtype }} |

## Use

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{{ model_name }}")
model = AutoModelForCausalLM.from_pretrained("{{ model_name }}", torch_dtype="auto")

inputs = tokenizer("{{ prompt }}", return_tensors="pt")
output = model.generate(**inputs, max_new_tokens=100, do_sample=True, temperature=0.8, repetition_penalty=1.1)
print(tokenizer.decode(output[0], skip_special_tokens=True))
```

Loads in transformers 4.40 and later. `device_map="auto"` places the model on the available devices and needs
`pip install accelerate`. A model that never saw an end of text in training never stops by itself: `max_new_tokens`
ends it.

## Training
{% if rows %}
| | |
|---|---|
{% for name, value in rows -%}
| {{ name }} | {{ value }} |
{% endfor %}
{%- else %}
The checkpoint carries no training configuration.
{% endif %}
{%- for stage in stages %}
### Data from step {{ stage.start_training_step }}{% if stage.name %}: {{ stage.name }}{% endif %}

{% if stage.groups -%}
{% for name, tokens, count in stage.groups -%}
{% set first = stage.groups[:loop.index0] | sum(attribute=2) -%}
- {{ name }}, {{ "{:,}".format(tokens) }} tokens:
{%- for source in stage.sources[first:first + count] %} `{{ source }}`{% if not loop.last %},{% endif %}{% endfor %}
{% endfor %}
{%- elif stage.weights -%}
| Source | Weight |
|---|---|
{% for source in stage.sources -%}
| `{{ source }}` | {{ stage.weights[loop.index0] }} |
{% endfor %}
{%- else -%}
Sources, drawn in proportion to their size:

{% for source in stage.sources -%}
- `{{ source }}`
{% endfor %}
{%- endif %}
{%- endfor %}
{%- if scores %}
## Evaluation

With the [Language Model Evaluation Harness](https://github.com/EleutherAI/lm-evaluation-harness).

| Task | Shots | Metric | Value | Standard error |
|---|---|---|---|---|
{% for score in scores -%}
| {{ score.label }} | {{ score.num_shots }} | {{ score.metric }} | {{ "%.4f" % score.value }} | {{ score.error }} |
{% endfor %}
{%- endif %}
## Conversion

Converted from {% if step is not none %}step {{ "{:,}".format(step) }} of {% endif %}a Nanotron checkpoint
(tp={{ record.tp }}, pp={{ record.pp }}) by nanotron-zagreus {{ record.converter_version }}.
{% if verification -%}
Verified: {{ "{:,}".format(verification.num_elements_equal) }} weights equal the checkpoint's bit for bit; at
{{ verification.num_positions }} positions the fp32 logits equal those of an independent forward pass within
{{ "%.1e" % verification.max_logit_difference }}, the most likely token at
{{ "%.0f" % (100 * verification.top1_agreement) }} % of them (transformers {{ verification.transformers_version }}).
{% else -%}
The conversion was not verified.
{% endif -%}
The whole record is in `conversion.json`.
{% if tokenizer_note %}
## Licence of the tokenizer

{{ tokenizer_note }}
{% endif %}
{%- if citation %}
## Citation

```
{{ citation }}
```
{% endif %}"""
