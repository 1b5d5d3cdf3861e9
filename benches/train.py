"""An update step of Fulgurite's forest beside the padded, one-transition-per-row step of PyTorch with transformers.

    python benches/train.py MODEL [--layers 6] [--threads 1] [--repeats 3] [--only NAME ...]

`group`: 8 samples of an agent of 4 turns; `unrelated`: rows that share nothing; `flat`: what a trie token costs in steps of 1k to 8k; `long`: single rows
of 4k to 32k tokens on a small random model, ours alone.

MODEL is a Hugging Face directory; its first layers are used. Both sides compute the gradient of the same loss by every parameter for the same
rows, each as a process of its own, on the same libtorch and threads; what counts is the processor time of the best of several steps (others may
use the machine), and the peak memory that the kernel accounts for. PyTorch gets logits for response tokens only, and the
fastest of several micro-batch sizes with and without gradient checkpointing, in two forms: `padded`, shuffled rows whose prompts are padded on
the left and responses on the right, with a mask, and `sorted`, rows by length, padded on the right, which need none. Needs torch 2.13.0,
transformers and a Rust toolchain.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
SETS = ["group", "unrelated", "flat", "long"]


def agent_group(samples=8, turns=4, prompt=600, response=60, tool=80, seed=0):
    """Rows of a GRPO group of an agent that uses tools: each turn's prompt is the last one, its response and what the tool said."""
    draw = random.Random(seed)
    token = lambda count: [draw.randrange(1000, 40000) for _ in range(count)]
    first, rows = token(prompt), []
    for _ in range(samples):
        said = list(first)
        for _ in range(turns):
            answer = token(draw.randint(response * 2 // 3, response * 4 // 3))
            rows.append((list(said), answer))
            said += answer + token(draw.randint(tool * 3 // 4, tool * 5 // 4))
    return rows


def unrelated(rows=24, seed=1):
    """Rows that share nothing, of lengths that differ as prompts of different tasks do."""
    draw = random.Random(seed)
    token = lambda count: [draw.randrange(1000, 40000) for _ in range(count)]
    return [(token(draw.randint(100, 500)), token(draw.randint(40, 80))) for _ in range(rows)]


def truncate(model, layers, folder):
    import torch
    from transformers import AutoModelForCausalLM

    whole = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    if layers < whole.config.num_hidden_layers:
        whole.model.layers = whole.model.layers[:layers]
        whole.config.num_hidden_layers = layers
        if getattr(whole.config, "layer_types", None):
            whole.config.layer_types = whole.config.layer_types[:layers]
    whole.save_pretrained(folder)


def small_model(folder):
    """Random weights and 32k positions."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=1024, hidden_size=256, intermediate_size=512, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
                         max_position_embeddings=32768, tie_word_embeddings=True)
    AutoModelForCausalLM.from_config(config).float().save_pretrained(folder)


def plain_step(model_folder, rows_path, threads, style, checkpointing, micro_batch, repeats):
    """The child process: prints one line of JSON."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32, attn_implementation="sdpa")
    model.config.use_cache = False
    model.train()
    if checkpointing == "always":
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    rows = json.loads(Path(rows_path).read_text())
    order = list(range(len(rows)))
    if style == "sorted":
        order.sort(key=lambda row: -len(rows[row][0]) - len(rows[row][1]))
    else:
        random.Random(2).shuffle(order)
    idle = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    seconds, loss, padded = [], 0.0, 0
    for _ in range(repeats):
        model.zero_grad(set_to_none=False)
        started, loss, padded = time.process_time(), 0.0, 0
        for start in range(0, len(order), micro_batch):
            some = order[start : start + micro_batch]
            # Sorted rows start at 0, so that a causal mask is all they need. Otherwise prompts end and responses start at one place.
            left = 0 if style == "sorted" else max(len(rows[row][0]) for row in some)
            starts = [left - len(rows[row][0]) if left else 0 for row in some]
            longest = max(start + len(rows[row][0]) + len(rows[row][1]) for start, row in zip(starts, some)) - 1
            ids = torch.zeros(len(some), longest, dtype=torch.long)
            mask = torch.zeros(len(some), longest, dtype=torch.long)
            at_row, at_token, chosen, weight = [], [], [], []
            for index, (first, row) in enumerate(zip(starts, some)):
                prompt, response = rows[row]
                tokens = prompt + response[:-1]
                ids[index, first : first + len(tokens)] = torch.tensor(tokens)
                mask[index, first : first + len(tokens)] = 1
                at_row += [index] * len(response)
                at_token += range(first + len(prompt) - 1, first + len(prompt) - 1 + len(response))
                chosen += response
                weight += [(1 if row % 2 else -1) / (len(response) * len(rows))] * len(response)
            attention = {} if style == "sorted" else {"attention_mask": mask, "position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}
            hidden = model.model(input_ids=ids, use_cache=False, **attention).last_hidden_state
            logits = model.lm_head(hidden[at_row, at_token])
            logp = logits.log_softmax(-1).gather(1, torch.tensor(chosen).unsqueeze(-1)).squeeze(-1)
            value = (logp * torch.tensor(weight)).sum()
            value.backward()
            loss += value.item()
            padded += ids.numel()
        seconds.append(time.process_time() - started)
    gradient = sum(parameter.grad.double().square().sum() for parameter in model.parameters()) ** 0.5
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "row_tokens": padded, "loss": loss, "gradient_norm": gradient.item(), "idle_mib": idle, "peak_mib": peak}))


def child(name, command, threads):
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    output = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, text=True, check=True, env=environment, cwd=HERE.parent)
    result = json.loads(output.stdout.splitlines()[-1])
    print(f"{name}: {min(result['seconds']):.2f} s, {result['peak_mib']:.0f} MiB", file=sys.stderr, flush=True)
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--micro-batches", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--checkpointing", nargs="+", choices=["never", "always"], default=["never", "always"], help="of PyTorch")
    parser.add_argument("--activations", type=int, nargs="*", default=[900], help="MiB that the forest's activations may take, beside all and none")
    parser.add_argument("--binary", help="a built benches/train.rs; `cargo bench` builds one otherwise")
    parser.add_argument("--only", nargs="+", choices=SETS, default=SETS)
    arguments = parser.parse_args()
    ours = [arguments.binary] if arguments.binary else ["cargo", "bench", "--quiet", "--bench", "train", "--"]
    with tempfile.TemporaryDirectory(prefix="fulgurite-bench-") as folder:
        model, rows_path = Path(folder) / "model", Path(folder) / "rows.json"
        truncate(arguments.model, arguments.layers, model)

        def forest(checkpointing, budget=1 << 20, logits=512):
            command = [*ours, model, rows_path, arguments.threads, checkpointing, logits, budget, arguments.repeats]
            return child(f"forest, {checkpointing}", command, arguments.threads)

        def plain(style, checkpointing, micro_batch):
            options = [arguments.threads, style, checkpointing, micro_batch, arguments.repeats]
            command = [sys.executable, HERE / "train.py", "--plain", model, rows_path, *options]
            return child(f"{style}, {micro_batch} rows, {checkpointing}", command, arguments.threads)

        for name, rows in [("group", agent_group()), ("unrelated", unrelated())]:
            if name not in arguments.only:
                continue
            rows_path.write_text(json.dumps(rows))
            useful = sum(len(prompt) + len(response) for prompt, response in rows)
            results = {}
            for style in ["padded", "sorted"]:
                cases = [(c, b) for b in arguments.micro_batches for c in arguments.checkpointing]
                results |= {f"{style}, {b} rows, checkpointing {c}": plain(style, c, b) for c, b in cases}
            forests = {f"forest, checkpointing {c}": forest(c) for c in ["never", "always"]}
            forests |= {f"forest, activations in {mebibytes} MiB": forest(mebibytes) for mebibytes in arguments.activations}
            results = forests | results
            best_of = lambda style: min((r for what, r in results.items() if what.startswith(style)), key=lambda r: min(r["seconds"]))
            padded, in_order = best_of("padded"), best_of("sorted")
            trie = results["forest, checkpointing never"]["trie_tokens"]
            print(f"{name}: {len(rows)} rows of {useful} tokens, {trie} distinct: {useful / trie:.2f} row tokens per trie token")
            print(f"  {'':34} {'s':>7} {'tokens/s':>9} {'padded':>7} {'sorted':>7} {'MiB':>6}  loss, gradient norm")
            for what, result in results.items():
                best = min(result["seconds"])
                ratios = " ".join(f"{min(peer['seconds']) / best:6.2f}x" for peer in (padded, in_order))
                numbers = f"{result['loss']:.6f} {result['gradient_norm']:.6f}"
                print(f"  {what:34} {best:7.2f} {useful / best:9.0f} {ratios} {result['peak_mib']:6.0f}  {numbers}", flush=True)
        if "flat" in arguments.only:
            print("tries of one shape (4 samples of 2 turns on a prompt of 300 tokens):")
            for tries in [1, 2, 4, 8]:
                rows = [row for index in range(tries) for row in agent_group(4, 2, 300, 60, 50, seed=10 + index)]
                rows_path.write_text(json.dumps(rows))
                result = forest("never")
                best = min(result["seconds"])
                print(f"  {result['trie_tokens']:6} trie tokens: {1e6 * best / result['trie_tokens']:7.1f} µs each", flush=True)
        if "long" in arguments.only:
            small_model(model)
            print("one row, a random model of 4 layers, 256 wide, 4 heads:")
            for length in [4096, 8192, 16384, 32768]:
                draw = random.Random(length)
                token = lambda count: [draw.randrange(1000) for _ in range(count)]
                rows_path.write_text(json.dumps([(token(length - 64), token(64))]))
                for checkpointing in ["never", "always"]:
                    result = forest(checkpointing)
                    grown = result["peak_mib"] - result["idle_mib"]
                    print(f"  {length:6} tokens, checkpointing {checkpointing:6}: {min(result['seconds']):6.1f} s, {grown:6.0f} MiB more than before", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--plain"]:
        plain_step(sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5], sys.argv[6], int(sys.argv[7]), int(sys.argv[8]))
    else:
        main()
