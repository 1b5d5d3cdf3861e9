"""The inference engine beside transformers and llama.cpp: ratios taken in one run, with the same f32 weights and threads.

    python benches/generate.py MODEL [--threads 2] [--repeats 3] [--only NAME ...] [--llama PYTHON]

MODEL is a Hugging Face directory (SmolLM2-135M). Each side is a process of its own, timed after a warm-up
and without loading; the fastest repeat counts. With `--clock cpu` it is CPU time instead of wall time, which a busy machine
distorts less; then take one thread, since libtorch's and llama.cpp's threads wait for each other in loops. transformers
answers all requests in one batch, padded on the left, each row stopped at its own length; tokens that nobody asked for do
not count. llama.cpp (PYTHON is one with llama-cpp-python) computes a shared prompt once and decodes all
sequences in one batch. Needs torch 2.13.0, transformers, gguf and a Rust toolchain.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent


def token_ids(seed, count):
    draw = random.Random(seed)
    return [draw.randrange(1000, 40000) for _ in range(count)]


def scenarios():
    """Name: requests as [prompt, tokens to generate]."""
    draw = random.Random(7)
    groups = [[token_ids(seed, 600), draw.randint(10, 120)] for seed in (1, 2) for _ in range(8)]
    return {
        "groups": groups,
        "group of 8": groups[:8],
        "prefill": [[token_ids(3, 512), 1]],
        "one": [[token_ids(4, 64), 65]],
        "sixteen": [[token_ids(5, 256), 33] for _ in range(16)],
    }


def fulgurite(arguments, requests, **settings):
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(requests, file)
        file.flush()
        command = arguments.binary.split() if arguments.binary else ["cargo", "bench", "--locked", "--quiet", "--bench", "generate", "--"]
        command += [str(arguments.model), file.name, str(arguments.threads), json.dumps(settings), str(arguments.repeats)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads)}
        output = subprocess.run(command, check=True, capture_output=True, text=True, cwd=HERE.parent, env=environment).stdout
    report = json.loads(output.splitlines()[-1])
    best = min(report["cpu_seconds" if arguments.clock == "cpu" else "seconds"])
    busy = report["other_seconds"] / (report["other_seconds"] + report["model_seconds"])
    print(f"    fulgurite {settings}: {best:.2f} s, {report['steps']} steps, {busy:.0%} outside the model", file=sys.stderr)
    return best


def child(program, arguments, python, *extra):
    """Runs a peer's function of this file in a process of its own; it prints seconds as JSON."""
    command = [python, __file__, str(arguments.model), "--threads", arguments.threads, "--repeats", arguments.repeats]
    command += ["--clock", arguments.clock, "--child", program, *extra]
    environment = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads), "HF_HUB_OFFLINE": "1"}
    output = subprocess.run([str(part) for part in command], check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
    return json.loads(output.splitlines()[-1])


def clock(arguments):
    return time.process_time() if arguments.clock == "cpu" else time.perf_counter()


def transformers_groups(arguments):
    import torch
    from transformers import AutoModelForCausalLM, StoppingCriteria

    torch.set_num_threads(arguments.threads)
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32).eval()
    requests = scenarios()["groups"]
    width = max(len(prompt) for prompt, _ in requests)
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt, _ in requests])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt, _ in requests])
    wanted = torch.tensor([count for _, count in requests])

    class OwnLength(StoppingCriteria):
        def __call__(self, input_ids, scores, **_):
            return input_ids.shape[1] - width >= wanted

    def run(rows, longest):
        started = clock(arguments)
        with torch.no_grad():
            model.generate(
                ids[rows], attention_mask=mask[rows], do_sample=True, top_k=0, max_new_tokens=longest, pad_token_id=0,
                eos_token_id=-1, stopping_criteria=[OwnLength()] if longest > 2 else None,
            )
        return clock(arguments) - started

    run(slice(0, 1), 2)
    return min(run(slice(None), int(wanted.max())) for _ in range(arguments.repeats))


def write_gguf(model, target):
    """The weights as an f32 GGUF file without a vocabulary."""
    import gguf
    import torch
    from safetensors.torch import load_file

    config = json.loads((model / "config.json").read_text())
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    writer = gguf.GGUFWriter(str(target), "llama")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    theta = (config.get("rope_parameters") or config).get("rope_theta", config.get("rope_theta"))
    writer.add_rope_freq_base(theta)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("none")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    for path in sorted(model.glob("*.safetensors")):
        for name, tensor in load_file(path).items():
            tensor = tensor.to(torch.float32)
            if name.endswith(("q_proj.weight", "k_proj.weight")):
                count = heads if "q_proj" in name else kv_heads
                tensor = tensor.view(count, 2, -1, tensor.shape[1]).transpose(1, 2).reshape(tensor.shape)
            writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), tensor.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def llama(arguments):
    """Seconds of `prefill`, `one` and `sixteen`."""
    import llama_cpp as l

    # It describes each graph that it builds, at length.
    quiet = l.llama_log_callback(lambda level, text, data: None)
    l.llama_log_set(quiet, None)
    l.llama_backend_init()
    parameters = l.llama_model_default_params()
    parameters.n_gpu_layers = 0
    model = l.llama_model_load_from_file(str(arguments.gguf).encode(), parameters)
    settings = l.llama_context_default_params()
    settings.n_ctx, settings.n_batch, settings.n_ubatch, settings.n_seq_max = 2048, 512, 512, 16
    settings.n_threads = settings.n_threads_batch = arguments.threads
    settings.type_k = settings.type_v = l.GGML_TYPE_F32
    settings.kv_unified = True
    context = l.llama_init_from_model(model, settings)
    memory = l.llama_get_memory(context)
    batch = l.llama_batch_init(512, 0, 16)

    def decode(entries):
        """Entries: id, position, sequence, whether its logits are wanted."""
        batch.n_tokens = len(entries)
        for place, (token, position, sequence, wanted) in enumerate(entries):
            batch.token[place], batch.pos[place], batch.logits[place] = token, position, wanted
            batch.n_seq_id[place], batch.seq_id[place][0] = 1, sequence
        assert l.llama_decode(context, batch) == 0
        for place, entry in enumerate(entries):
            if entry[3]:
                l.llama_get_logits_ith(context, place)

    def run(requests):
        l.llama_memory_clear(memory, True)
        prompt, count = requests[0]
        started = clock(arguments)
        decode([(token, position, 0, position == len(prompt) - 1) for position, token in enumerate(prompt)])
        for sequence in range(1, len(requests)):
            l.llama_memory_seq_cp(memory, 0, sequence, -1, -1)
        middle = clock(arguments)
        for step in range(count - 1):
            decode([(1000 + 7 * step + sequence, len(prompt) + step, sequence, True) for sequence in range(len(requests))])
        return clock(arguments) - started if count > 1 else middle - started

    every = scenarios()
    run([[token_ids(9, 20), 3]])
    names = ["prefill", "one", "sixteen"]
    return {name: min(run(every[name]) for _ in range(arguments.repeats)) for name in names}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3, help="of each program, one after the other")
    parser.add_argument("--rounds", type=int, default=1, help="both sides in turn so many times; the best of each counts")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--only", nargs="*", default=["transformers", "llama", "reuse"], help="of these: transformers llama reuse")
    parser.add_argument("--llama", help="a Python that has llama-cpp-python; left out, llama.cpp is skipped")
    parser.add_argument("--binary", help="the bench's binary, where it is built already")
    parser.add_argument("--gguf", help=argparse.SUPPRESS)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps({"transformers": transformers_groups, "llama": llama}[arguments.child](arguments)))
        return
    every, rows = scenarios(), []
    tokens = {name: sum(count for _, count in requests) for name, requests in every.items()}
    rounds = range(arguments.rounds)
    if "transformers" in arguments.only:
        timed = [(child("transformers", arguments, sys.executable), fulgurite(arguments, every["groups"])) for _ in rounds]
        theirs, ours = map(min, zip(*timed))
        rows.append(("16 requests in two groups, transformers", tokens["groups"] / ours, tokens["groups"] / theirs, 4.0))
    if "reuse" in arguments.only:
        timed = [(fulgurite(arguments, every["group of 8"], prefix_reuse=False), fulgurite(arguments, every["group of 8"])) for _ in rounds]
        off, on = map(min, zip(*timed))
        rows.append(("group of 8, prefix reuse off", tokens["group of 8"] / on, tokens["group of 8"] / off, 2.0))
    if "llama" in arguments.only and arguments.llama:
        with tempfile.TemporaryDirectory() as folder:
            gguf = Path(folder) / "f32.gguf"
            write_gguf(arguments.model, gguf)
            timed = []
            for _ in rounds:
                theirs = child("llama", arguments, arguments.llama, "--gguf", gguf)
                timed.append((theirs, {name: fulgurite(arguments, every[name], prefill_chunk=512) for name in theirs}))
        for name, wanted in [("prefill", 1.0), ("one", 1.0), ("sixteen", 1.2)]:
            theirs, ours = (min(side[name] for side in sides) for sides in zip(*timed))
            count = len(every[name][0][0]) if name == "prefill" else tokens[name]
            rows.append((f"{name}, llama.cpp", count / ours, count / theirs, wanted))
    for name, ours, theirs, wanted in rows:
        verdict = "" if ours / theirs >= wanted else "  MISSED"
        print(f"{name:44} {ours:8.1f} tokens/s  {theirs:8.1f}  {ours / theirs:5.2f}x  (wanted {wanted}x){verdict}")


main()
