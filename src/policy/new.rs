//! A small policy from nothing: random weights, and a tokenizer learnt from given texts. For tests, demonstrations and closed tasks.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, anyhow, ensure};
use serde_json::{Value as Json, json};
use tch::{Device, Kind};
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::{AddedToken, Tokenizer};

use crate::exit::Fault;
use crate::model::{Model, ModelConfig};
use crate::text::python;
use crate::text::template::{DEFAULT, Template};

/// The chat template of such a policy.
pub const CHAT_TEMPLATE: &str = include_str!("chatml.jinja");

const END_OF_TEXT: &str = "<|endoftext|>";
const TURN_BEGINS: &str = "<|im_start|>";
const TURN_ENDS: &str = "<|im_end|>";

/// Tokens of the template: the control ones first, then the tags, which are text that a model writes.
const CONTROL: [&str; 3] = [END_OF_TEXT, TURN_BEGINS, TURN_ENDS];
const TAGS: [&str; 6] = ["<tools>", "</tools>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"];

/// How often the template's own words are put among the texts, so that they take few tokens.
const TEMPLATE_WEIGHT: usize = 50;

/// The sizes of a new policy.
#[derive(Debug, Clone, clap::Args)]
pub struct Sizes {
    /// Width of the model
    #[arg(long, value_name = "N", default_value_t = 128)]
    pub hidden: i64,
    /// Blocks
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub layers: i64,
    /// Attention heads, which share the width
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub heads: i64,
    /// Most tokens of the vocabulary; at least 265, which all bytes and the template's tokens take
    #[arg(long, value_name = "N", default_value_t = 1024)]
    pub vocab: usize,
    /// Longest prompt and response together, in tokens
    #[arg(long, value_name = "TOKENS", default_value_t = 4096)]
    pub context: i64,
    /// Seed of the weights
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
}

/// Writes a model folder: a Llama with random weights, and a byte-level BPE tokenizer learnt from the texts, single digits apart. The same
/// texts, sizes and seed give the same bytes.
pub fn make(folder: &Path, sizes: &Sizes, texts: &[String]) -> Result<()> {
    let least = 256 + CONTROL.len() + TAGS.len();
    let Sizes { hidden, heads, .. } = *sizes;
    if sizes.vocab < least || hidden <= 0 || heads <= 0 || hidden % heads != 0 || (hidden / heads) % 2 != 0 || sizes.layers <= 0 {
        let message = format!(
            "a policy of width {hidden}, {} blocks, {heads} heads and {} tokens cannot be made: each head takes an even part of the width, \
             and there are at least {least} tokens",
            sizes.layers, sizes.vocab
        );
        return Err(Fault::Usage(message).into());
    }
    let tokenizer = learn_tokenizer(texts, sizes.vocab)?;
    let vocab_size = tokenizer.get_vocab_size(true);
    write(&folder.join("tokenizer.json"), &tokenizer.to_string(true).map_err(|error| anyhow!(error))?)?;
    write(&folder.join("chat_template.jinja"), CHAT_TEMPLATE)?;
    let tokenizer_config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": null,
        "eos_token": TURN_ENDS,
        "pad_token": END_OF_TEXT,
        "unk_token": null,
        "clean_up_tokenization_spaces": false,
        "model_max_length": sizes.context,
    });
    write_json(&folder.join("tokenizer_config.json"), &tokenizer_config)?;
    let [end_of_text, turn_ends] = [END_OF_TEXT, TURN_ENDS].map(|token| tokenizer.token_to_id(token));
    let generation = json!({ "eos_token_id": [turn_ends, end_of_text], "pad_token_id": end_of_text, "do_sample": true });
    write_json(&folder.join("generation_config.json"), &generation)?;
    let config = json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocab_size,
        "hidden_size": hidden,
        // Eight thirds of the width, as in Llama, in steps that vector units like.
        "intermediate_size": (hidden * 8 / 3 + 31) / 32 * 32,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "max_position_embeddings": sizes.context,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": true,
        "bos_token_id": null,
        "eos_token_id": turn_ends,
        "pad_token_id": end_of_text,
        "initializer_range": 0.02,
    });
    Model::random(ModelConfig::from_json(config)?, sizes.seed, Device::Cpu, Kind::Float)?.save(folder)
}

/// Texts to learn a tokenizer from: of JSON and JSON Lines every string in it, of other files each line.
pub fn read_texts(paths: &[std::path::PathBuf]) -> Result<Vec<String>> {
    let mut texts = Vec::new();
    for path in paths {
        let read = std::fs::read_to_string(path);
        let text = read.map_err(|error| Fault::Usage(format!("cannot read `{}`: {error}", path.display())))?;
        let values: Result<Vec<Json>, _> = serde_json::Deserializer::from_str(&text).into_iter().collect();
        match values {
            Ok(values) => values.iter().for_each(|value| push_strings(value, &mut texts)),
            Err(_) => texts.extend(text.lines().map(str::to_owned)),
        }
    }
    Ok(texts)
}

/// Strings may be JSON themselves, as messages in spans are: then what is in them counts, as it is read by a model.
fn push_strings(value: &Json, texts: &mut Vec<String>) {
    match value {
        Json::String(text) => match serde_json::from_str::<Json>(text) {
            Ok(inner @ (Json::Object(_) | Json::Array(_))) => push_strings(&inner, texts),
            _ => texts.push(text.clone()),
        },
        Json::Array(items) => items.iter().for_each(|item| push_strings(item, texts)),
        Json::Object(map) => map.values().for_each(|item| push_strings(item, texts)),
        Json::Null | Json::Bool(_) | Json::Number(_) => {}
    }
}

fn learn_tokenizer(texts: &[String], vocab_size: usize) -> Result<Tokenizer> {
    let mut tokenizer = Tokenizer::new(BPE::default());
    let byte_level = ByteLevel::new(false, true, true);
    let pieces = vec![PreTokenizerWrapper::Digits(Digits::new(true)), PreTokenizerWrapper::ByteLevel(byte_level)];
    tokenizer.with_pre_tokenizer(Some(Sequence::new(pieces)));
    tokenizer.with_decoder(Some(ByteLevel::default()));
    let special = |special: bool| move |token: &&str| AddedToken::from(*token, special);
    let added = CONTROL.iter().map(special(true)).chain(TAGS.iter().map(special(false)));
    let trainer = BpeTrainer::builder()
        .show_progress(false)
        .vocab_size(vocab_size)
        .min_frequency(2)
        .special_tokens(added.collect())
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    let template = template_words()?;
    let words = std::iter::repeat_n(&template, TEMPLATE_WEIGHT).flatten();
    // The tags are tokens of their own: what stands between them is what has to be learnt.
    let pieces = texts.iter().chain(words).flat_map(|text| without_tokens(text));
    let mut trainer = TrainerWrapper::from(trainer);
    tokenizer.train(&mut trainer, pieces).map_err(|error| anyhow!(error)).context("cannot learn a tokenizer")?;
    ensure!(tokenizer.get_vocab_size(true) <= vocab_size, "the tokenizer has more tokens than it was allowed");
    Ok(tokenizer)
}

/// A conversation with a tool, as the template writes it.
fn template_words() -> Result<Vec<String>> {
    let template = Template::new(BTreeMap::from([(DEFAULT.to_owned(), CHAT_TEMPLATE.to_owned())]), BTreeMap::new())?;
    let parameters =
        json!({ "type": "object", "properties": { "a": { "type": "string", "description": "" } }, "required": ["a"] });
    let tool = json!({ "type": "function", "function": { "name": "a", "description": "", "parameters": parameters } });
    let call = json!({ "id": "a", "type": "function", "function": { "name": "a", "arguments": { "a": "" } } });
    let messages = [
        json!({ "role": "system", "content": "" }),
        json!({ "role": "user", "content": "" }),
        json!({ "role": "assistant", "content": "", "tool_calls": [call] }),
        json!({ "role": "tool", "content": "", "tool_call_id": "a" }),
    ];
    Ok(vec![template.render(&messages, &[tool], true)?])
}

fn without_tokens(text: &str) -> Vec<String> {
    let mut pieces = vec![text];
    for token in CONTROL.iter().chain(&TAGS) {
        pieces = pieces.into_iter().flat_map(|piece| piece.split(token)).collect();
    }
    pieces.into_iter().filter(|piece| !piece.is_empty()).map(str::to_owned).collect()
}

fn write_json(path: &Path, json: &Json) -> Result<()> {
    let dumps = python::Dumps { indent: Some(2), item_separator: ",".to_owned(), ..python::Dumps::default() };
    write(path, &(dumps.dump(&python::value(json))? + "\n"))
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write `{}`", path.display()))
}
