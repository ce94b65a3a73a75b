"""Load a Hugging Face folder with whatever transformers runs this file; print what comes of it as JSON.

Started by `transformers_versions` in other virtual environments, where this project is not installed.
"""

import json
import sys

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

TEXTS = ["Ola, mundo: 12345", "L'ete, citta -- 3.14\n\n\tmanana", "</s> <s> x"]


def main() -> None:
    folder = sys.argv[1]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    # As the usage example of the model card loads it: dtype from the folder, devices by accelerate.
    as_saved = AutoModelForCausalLM.from_pretrained(folder, torch_dtype="auto", device_map="auto")
    model = AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.float32).eval()
    token_ids = torch.arange(96)[None] * 7 % model.config.vocab_size
    with torch.no_grad():
        logits = model(token_ids).logits[0]
    prompt = tokenizer("Ola", return_tensors="pt")
    output = model.generate(**prompt, max_new_tokens=12, do_sample=False, pad_token_id=0)
    frequencies = find_frequencies(model)
    result = {
        "version": transformers.__version__,
        "logits": logits.double().flatten().tolist(),
        "token_ids": [tokenizer(text)["input_ids"] for text in TEXTS],
        "theta": [float(value) for value in frequencies],
        "is_tied": model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr(),
        "text": tokenizer.decode(output[0]),
        "dtype": str(as_saved.dtype),
    }
    print(json.dumps(result))


def find_frequencies(model):
    """Return the rotary frequencies in use, wherever this version keeps them."""
    owner = getattr(model.model, "rotary_emb", None) or model.model.layers[0].self_attn.rotary_emb
    return owner.inv_freq.flatten()


if __name__ == "__main__":
    main()
