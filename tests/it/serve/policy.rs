//! A policy whose weights are set by hand, so that what it says is known: it asks for a tool where none has answered yet, and says the answer
//! where one has.
//!
//! One layer of Llama. Every token is a direction of its own; one more is always on, and one is set by the only attention head, which looks for
//! `<tool_response>` wherever it stands. The head of the model reads the last token's direction:
//!
//! ```text
//! line break, no tool response   ─►  CALL_BEGIN ─► CALL_END ─► <|im_end|>
//! line break, a tool response    ─►  ANSWER_BEGIN ─► ANSWER_END ─► <|im_end|>
//! anything else                  ─►  any token, all alike
//! ```
//!
//! The tokenizer knows no merges, so that it would never make the tokens that the policy says: text that comes back has other ids.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

const CALL_BEGIN: &str = "<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 17,";
const CALL_END: &str = " \"b\": 25}}\n</tool_call>";
const ANSWER_BEGIN: &str = "The answer is";
const ANSWER_END: &str = " 42.";
const SPECIAL: [&str; 4] = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<tool_response>"];

/// Ids of what the policy says, in this order: the call, the answer, and what ends both.
pub const CALL_IDS: [u32; 3] = [256, 257, 261];
pub const ANSWER_IDS: [u32; 3] = [258, 259, 261];
const IM_END: usize = 261;
const TOOL_RESPONSE: usize = 263;
const VOCABULARY: usize = 264;
/// A direction for each token, one that is always on, one that says that a tool has answered.
const WIDTH: usize = VOCABULARY + 2;
const ALWAYS: usize = VOCABULARY;
const ANSWERED: usize = VOCABULARY + 1;
/// Of the head: the last pair of dimensions turns so slowly with this base that its position does not matter.
const HEAD: usize = 8;
const SLOW: usize = HEAD / 2 - 1;
const ROPE_BASE: f64 = 1e12;
const INNER: usize = 8;

const TEMPLATE: &str = "{%- if tools %}{{- '<|im_start|>system\\n' }}{%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n' }}{%- endif %}\
{{- 'Tools:' }}{%- for tool in tools %}{{- '\\n' + (tool | tojson) }}{%- endfor %}{{- '<|im_end|>\\n' }}\
{%- elif messages[0].role == 'system' %}{{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}{%- endif %}\
{%- for message in messages %}{%- if message.role == 'tool' %}\
{{- '<|im_start|>user\\n<tool_response>\\n' + message.content + '\\n</tool_response><|im_end|>\\n' }}\
{%- elif message.role != 'system' %}{{- '<|im_start|>' + message.role + '\\n' }}{%- if message.content %}{{- message.content }}{%- endif %}\
{%- for call in message.tool_calls or [] %}\
{{- '<tool_call>\\n{\"name\": \"' + call.function.name + '\", \"arguments\": ' + (call.function.arguments | tojson) + '}\\n</tool_call>' }}\
{%- endfor %}{{- '<|im_end|>\\n' }}{%- endif %}{%- endfor %}\
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}";

/// Writes the policy as a Hugging Face folder.
pub fn write(folder: &Path) {
    write_saying(folder, [CALL_BEGIN, CALL_END]);
}

/// The same with other words where it asks for a tool.
pub fn write_saying(folder: &Path, call: [&str; 2]) {
    std::fs::create_dir_all(folder).unwrap();
    let put = |name: &str, value: Value| std::fs::write(folder.join(name), value.to_string()).unwrap();
    put("config.json", config());
    put("generation_config.json", json!({ "eos_token_id": IM_END }));
    put("tokenizer.json", tokenizer(call));
    put(
        "tokenizer_config.json",
        json!({ "tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "chat_template": TEMPLATE }),
    );
    safetensors::serialize_to_file(
        weights().iter().map(|(name, (shape, bytes))| (name.clone(), TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap())),
        None,
        &folder.join("model.safetensors"),
    )
    .unwrap();
}

fn config() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": VOCABULARY, "hidden_size": WIDTH,
        "intermediate_size": INNER, "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": HEAD,
        "rms_norm_eps": 1e-6, "rope_theta": ROPE_BASE, "max_position_embeddings": 4096, "tie_word_embeddings": false, "hidden_act": "silu",
        "attention_bias": false, "mlp_bias": false, "eos_token_id": IM_END, "torch_dtype": "float32",
    })
}

/// Bytes as tokens, then the policy's own words, which no merge makes, then special ones.
fn tokenizer([begin, end]: [&str; 2]) -> Value {
    let mut vocabulary = serde_json::Map::new();
    for byte in 0..=255u8 {
        vocabulary.insert(visible(byte).to_string(), json!(byte));
    }
    let words = [begin, end, ANSWER_BEGIN, ANSWER_END];
    for (word, id) in words.iter().zip(256..) {
        vocabulary.insert(word.bytes().map(visible).collect(), json!(id));
    }
    let added: Vec<Value> = SPECIAL
        .iter()
        .zip(260..)
        .map(|(content, id)| {
            json!({ "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
                "special": !content.contains("tool") })
        })
        .collect();
    let bytes = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false });
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null, "pre_tokenizer": bytes,
        "post_processor": null, "decoder": bytes,
        "model": { "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": false, "byte_fallback": false, "ignore_merges": false, "vocab": vocabulary, "merges": [] },
    })
}

/// The character that stands for a byte in byte-level vocabularies (GPT-2's table).
fn visible(byte: u8) -> char {
    let plain = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    if plain(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|other| !plain(*other)).count() as u32;
    char::from_u32(256 + before).unwrap()
}

type Tensors = BTreeMap<String, (Vec<usize>, Vec<u8>)>;

fn weights() -> Tensors {
    // A token and what is always on are 1, everything else 0: what the norm before the attention multiplies them by.
    let scale = (WIDTH as f32 / 2.0).sqrt();
    let line_break = usize::from(b'\n');
    let mut tensors = Tensors::new();
    let mut put = |name: &str, rows: usize, columns: usize, ones: &[((usize, usize), f32)]| {
        let ones: HashMap<(usize, usize), f32> = ones.iter().copied().collect();
        let values = (0..rows * columns).map(|at| ones.get(&(at / columns, at % columns)).copied().unwrap_or(0.0));
        tensors.insert(name.to_owned(), (vec![rows, columns], values.flat_map(f32::to_le_bytes).collect()));
    };
    let tokens: Vec<_> = (0..VOCABULARY).flat_map(|id| [((id, id), 1.0), ((id, ALWAYS), 1.0)]).collect();
    put("model.embed_tokens.weight", VOCABULARY, WIDTH, &tokens);
    let layer = |name: &str| format!("model.layers.0.{name}.weight");
    put(&layer("self_attn.q_proj"), HEAD, WIDTH, &[((SLOW, ALWAYS), 1.0)]);
    put(&layer("self_attn.k_proj"), HEAD, WIDTH, &[((SLOW, TOOL_RESPONSE), 1.0)]);
    put(&layer("self_attn.v_proj"), HEAD, WIDTH, &[((0, TOOL_RESPONSE), 1.0 / scale)]);
    put(&layer("self_attn.o_proj"), WIDTH, HEAD, &[((ANSWERED, 0), 1.0)]);
    put(&layer("mlp.gate_proj"), INNER, WIDTH, &[]);
    put(&layer("mlp.up_proj"), INNER, WIDTH, &[]);
    put(&layer("mlp.down_proj"), WIDTH, INNER, &[]);
    let (call, answer) = (CALL_IDS.map(|id| id as usize), ANSWER_IDS.map(|id| id as usize));
    let head = [
        ((call[0], line_break), 6.0),
        ((call[0], ANSWERED), -8.0),
        ((call[1], call[0]), 6.0),
        ((IM_END, call[1]), 6.0),
        ((answer[0], line_break), 3.0),
        ((answer[1], answer[0]), 6.0),
        ((IM_END, answer[1]), 6.0),
    ];
    put("lm_head.weight", VOCABULARY, WIDTH, &head);
    for name in ["model.layers.0.input_layernorm", "model.layers.0.post_attention_layernorm", "model.norm"] {
        let ones = std::iter::repeat_n(1f32, WIDTH).flat_map(f32::to_le_bytes).collect();
        tensors.insert(format!("{name}.weight"), (vec![WIDTH], ones));
    }
    tensors
}
