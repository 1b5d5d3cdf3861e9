"""Loads models and an adapter that Fulgurite saved, in transformers and peft, and compares logits to 1e-9.

Called with a folder that has a folder for each model, of f64, with `logits.safetensors`: `ids` [N] and `logits` [N, V]. One that has an
`adapter` besides is that model with the adapter.
"""

import sys
from pathlib import Path

import peft
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm


def norm_in_f64(self, hidden_states):
    wide = hidden_states.double()
    return self.weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.variance_epsilon))


# transformers makes these in f32 whatever the kind of the model.
for norm in (LlamaRMSNorm, Qwen2RMSNorm, Qwen3RMSNorm):
    norm.forward = norm_in_f64

worst = 0.0
for folder in sorted(Path(sys.argv[1]).iterdir()):
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    assert model.dtype == torch.float64, f"{folder.name} was loaded as {model.dtype}"
    if (folder / "adapter").exists():
        model = peft.PeftModel.from_pretrained(model, folder / "adapter", autocast_adapter_dtype=False).eval()
    expected = load_file(folder / "logits.safetensors")
    with torch.no_grad():
        logits = model(expected["ids"][None], use_cache=False).logits[0]
    off = (logits - expected["logits"]).abs().max().item()
    print(f"{folder.name}: off by {off:.1e}")
    worst = max(worst, off)
sys.exit(0 if worst < 1e-9 else f"off by {worst}")
