//! Tokenizer, chat template and special ids out of a GGUF file, written as the files of a Hugging Face model folder.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Map, Value as Json, json};

use super::template;
use crate::exit::Fault;
use crate::model::gguf::{Gguf, Value};

/// Kinds of tokens in `tokenizer.ggml.token_type`.
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;
const UNUSED: i64 = 5;

/// How Qwen 2 cuts text: contractions, words, single digits, signs, white space. The regular expression that its tokenizer.json states.
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Llama 3 keeps up to three digits together.
const LLAMA3: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Writes `tokenizer.json`, `tokenizer_config.json`, `generation_config.json` and, where the file has them, `chat_template.jinja` and templates
/// of other names.
///
/// Read are byte-level BPE tokenizers (`gpt2`) that cut text as SmolLM, Qwen 2 or Llama 3 do; `Fault::Usage` names any other.
pub fn write_text_files(file: &Gguf, folder: &Path) -> Result<()> {
    let vocabulary = Vocabulary::read(file)?;
    write_json(&folder.join("tokenizer.json"), &tokenizer_json(file, &vocabulary)?)?;
    let token = |role: &str| id(file, role).and_then(|id| vocabulary.tokens.get(id as usize).copied());
    let architecture = file.architecture()?;
    let context = file.metadata.get(&format!("{architecture}.context_length")).and_then(Value::as_i64);
    let config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": token("bos"),
        "eos_token": token("eos"),
        "pad_token": token("padding"),
        "clean_up_tokenization_spaces": false,
        "model_max_length": context,
    });
    write_json(&folder.join("tokenizer_config.json"), &config)?;
    let ends: Vec<i64> = ["eos", "eot", "eom"].into_iter().filter_map(|role| id(file, role)).collect();
    let mut generation = Map::new();
    for (key, value) in [("bos_token_id", id(file, "bos")), ("pad_token_id", id(file, "padding"))] {
        generation.extend(value.map(|value| (key.to_owned(), Json::from(value))));
    }
    generation.insert("eos_token_id".to_owned(), Json::from(ends));
    write_json(&folder.join("generation_config.json"), &Json::Object(generation))?;
    if let Some(template) = file.metadata.get("tokenizer.chat_template").and_then(Value::as_str) {
        write(&folder.join(template::FILE), template)?;
    }
    let names = file.metadata.get("tokenizer.chat_templates").and_then(Value::as_list).unwrap_or_default();
    for name in names.iter().filter_map(Value::as_str) {
        let key = format!("tokenizer.chat_template.{name}");
        let is_name = !name.is_empty() && name.chars().all(|one| one.is_ascii_alphanumeric() || one == '_');
        ensure!(is_name, Fault::Usage(format!("`{name}` cannot be the name of a chat template")));
        let template = file.required(&key)?.as_str().with_context(|| format!("`{key}` is no text"))?;
        std::fs::create_dir_all(folder.join(template::FOLDER))?;
        write(&folder.join(template::FOLDER).join(format!("{name}.jinja")), template)?;
    }
    Ok(())
}

/// Tokens in the order of their ids, and what each is.
struct Vocabulary<'a> {
    tokens: Vec<&'a str>,
    kinds: Vec<i64>,
}

impl<'a> Vocabulary<'a> {
    fn read(file: &'a Gguf) -> Result<Vocabulary<'a>> {
        let model = file.required("tokenizer.ggml.model")?.as_str().unwrap_or_default();
        ensure!(model == "gpt2", Fault::Usage(format!("tokenizer model `{model}` is not supported; byte-level BPE (`gpt2`) is")));
        let tokens = texts(file, "tokenizer.ggml.tokens")?;
        let kinds = file.required("tokenizer.ggml.token_type")?.as_list().unwrap_or_default();
        let kinds: Vec<i64> = kinds.iter().filter_map(Value::as_i64).collect();
        ensure!(kinds.len() == tokens.len(), "the file has {} tokens and {} token types", tokens.len(), kinds.len());
        Ok(Vocabulary { tokens, kinds })
    }

    /// Every token that a text can hold, with its id and kind.
    fn used(&self) -> impl Iterator<Item = (usize, &'a str, i64)> {
        let all = self.tokens.iter().zip(&self.kinds).enumerate();
        all.map(|(id, (token, kind))| (id, *token, *kind)).filter(|(_, _, kind)| *kind != UNUSED)
    }
}

fn tokenizer_json(file: &Gguf, vocabulary: &Vocabulary<'_>) -> Result<Json> {
    let cut = file.required("tokenizer.ggml.pre")?.as_str().unwrap_or_default();
    let byte_level =
        |use_regex: bool| json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex });
    let split =
        |pattern: &str| json!({ "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false });
    let (first, use_regex, normalizer, ignore_merges) = match cut {
        "smollm" => (json!({ "type": "Digits", "individual_digits": true }), true, Json::Null, false),
        "qwen2" => (split(QWEN2), false, json!({ "type": "NFC" }), false),
        "llama-bpe" => (split(LLAMA3), false, Json::Null, true),
        other => {
            let message = format!("pre-tokenizer `{other}` is not supported; `smollm`, `qwen2` and `llama-bpe` are");
            return Err(Fault::Usage(message).into());
        }
    };
    let mut ids = Map::new();
    let mut added = Vec::new();
    for (id, token, kind) in vocabulary.used() {
        ids.insert(token.to_owned(), Json::from(id));
        if matches!(kind, CONTROL | USER_DEFINED) {
            added.push(json!({
                "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
                "special": kind == CONTROL,
            }));
        }
    }
    let merges = texts(file, "tokenizer.ggml.merges")?;
    let merges: Option<Vec<Json>> =
        merges.iter().map(|merge| merge.split_once(' ').map(|(left, right)| json!([left, right]))).collect();
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": normalizer,
        "pre_tokenizer": { "type": "Sequence", "pretokenizers": [first, byte_level(use_regex)] },
        "post_processor": post_processor(file, vocabulary),
        "decoder": byte_level(true),
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": ignore_merges,
            "vocab": ids,
            "merges": merges.context("a merge in the file is no pair of tokens")?,
        },
    }))
}

/// What puts the first token before a text, for those who ask their tokenizer for it; ours never does, since templates write it.
fn post_processor(file: &Gguf, vocabulary: &Vocabulary<'_>) -> Json {
    let adds = file.metadata.get("tokenizer.ggml.add_bos_token").and_then(Value::as_bool).unwrap_or(false);
    let first = id(file, "bos").filter(|_| adds).and_then(|id| Some((id, *vocabulary.tokens.get(id as usize)?)));
    let Some((id, token)) = first else { return Json::Null };
    let (special, text) =
        (json!({ "SpecialToken": { "id": token, "type_id": 0 } }), json!({ "Sequence": { "id": "A", "type_id": 0 } }));
    json!({
        "type": "TemplateProcessing",
        "single": [special, text],
        "pair": [special, text, { "Sequence": { "id": "B", "type_id": 1 } }],
        "special_tokens": BTreeMap::from([(token, json!({ "id": token, "ids": [id], "tokens": [token] }))]),
    })
}

/// `tokenizer.ggml.<role>_token_id`.
fn id(file: &Gguf, role: &str) -> Option<i64> {
    file.metadata.get(&format!("tokenizer.ggml.{role}_token_id")).and_then(Value::as_i64)
}

fn texts<'a>(file: &'a Gguf, key: &str) -> Result<Vec<&'a str>> {
    let list = file.required(key)?.as_list().with_context(|| format!("`{key}` is no list"))?;
    list.iter().map(Value::as_str).collect::<Option<_>>().with_context(|| format!("`{key}` is no list of texts"))
}

fn write_json(path: &Path, json: &Json) -> Result<()> {
    write(path, &(serde_json::to_string_pretty(json)? + "\n"))
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write `{}`", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::Text;

    fn fixture(name: &str) -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gguf_text").join(name)
    }

    /// Ids by Hugging Face's own definitions, made by scripts/fixtures/gguf_text.py.
    #[test]
    fn texts_are_cut_as_their_family_cuts_them() {
        let made: Json = serde_json::from_slice(&std::fs::read(fixture("ids.json")).unwrap()).unwrap();
        for cut in ["smollm", "qwen2", "llama-bpe"] {
            let folder = tempfile::tempdir().unwrap();
            write_text_files(&Gguf::open(&fixture(&format!("{cut}.gguf"))).unwrap(), folder.path()).unwrap();
            let text = Text::load(folder.path()).unwrap();
            for (given, expected) in made["texts"].as_array().unwrap().iter().zip(made["ids"][cut].as_array().unwrap()) {
                let given = given.as_str().unwrap();
                let ids = text.encode(given);
                assert_eq!(&json!(ids), expected, "{cut}: {given}");
                // Qwen 2 composes letters and their accents.
                if cut != "qwen2" {
                    assert_eq!(text.decode(&ids), given);
                }
            }
            assert_eq!(text.end_ids(), [0, 2], "the ends of a text and of a turn");
            assert_eq!(text.tokenizer().special_tokens()["bos_token"], "<|im_start|>");
            assert!(text.tokenizer().id("[PAD]").is_none(), "what fills the vocabulary up is no token");
            match text.template() {
                Some(_) => {
                    assert_eq!(text.render(&[json!({"role": "user", "content": "x"})], &[], false).unwrap(), "x<|im_end|>")
                }
                None => assert_eq!(cut, "llama-bpe"),
            }
        }
    }

    /// A folder as `save_pretrained` writes several templates, and a GGUF file with the same ones: which is used is transformers' choice.
    #[test]
    fn templates_of_other_names_come_too() {
        let made: Json = serde_json::from_slice(&std::fs::read(fixture("ids.json")).unwrap()).unwrap();
        let (named, list) = (&made["named"], |value: &Json| value.as_array().unwrap().clone());
        let folder = tempfile::tempdir().unwrap();
        write_text_files(&Gguf::open(&fixture("qwen2.gguf")).unwrap(), folder.path()).unwrap();
        for folder in [folder.path(), &fixture("named")] {
            let text = Text::load(folder).unwrap();
            let template = text.template().unwrap();
            assert_eq!(template.sources().keys().collect::<Vec<_>>(), ["default", "tool_use"]);
            for (tools, expected) in [(vec![], "without_tools"), (list(&named["tools"]), "with_tools")] {
                assert_eq!(template.render(&list(&named["messages"]), &tools, false).unwrap(), named[expected], "{expected}");
            }
        }
    }

    #[test]
    fn what_is_not_supported_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let check = |from: &str, to: &str, expected: &str| {
            // The same length, so that nothing else in the file moves.
            assert_eq!(from.len(), to.len());
            let mut bytes = std::fs::read(fixture("smollm.gguf")).unwrap();
            let at = bytes.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
            bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
            let path = folder.path().join("other.gguf");
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(write_text_files(&Gguf::open(&path).unwrap(), folder.path()).unwrap_err().to_string(), expected);
        };
        check("gpt2", "bert", "tokenizer model `bert` is not supported; byte-level BPE (`gpt2`) is");
        check("smollm", "falcon", "pre-tokenizer `falcon` is not supported; `smollm`, `qwen2` and `llama-bpe` are");
    }
}
