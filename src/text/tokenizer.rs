//! The tokenizer of a policy: text to ids and back, also while the ids are still coming.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::LazyLock;

use anyhow::Result;
use serde_json::Value as Json;
use tokenizers::decoders::DecoderWrapper;

use crate::exit::Fault;

/// A tokenizer with what its model's folder says about special tokens.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// Texts of special tokens by what they are for: `bos_token`, `eos_token`, `pad_token` and so on.
    special_tokens: BTreeMap<String, String>,
    end_ids: Vec<u32>,
    byte_level: bool,
}

/// Names in tokenizer_config.json that transformers gives to chat templates.
const SPECIAL_NAMES: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

impl Tokenizer {
    /// Reads `tokenizer.json` of a model folder, and as far as they are there `tokenizer_config.json`, `special_tokens_map.json`,
    /// `generation_config.json` and `config.json`.
    pub fn load(folder: &Path) -> Result<Tokenizer> {
        let path = folder.join("tokenizer.json");
        if !path.is_file() {
            let message = "there is no `tokenizer.json`: without a tokenizer it is no policy".to_owned();
            return Err(Fault::Usage(message).into());
        }
        let mut inner = tokenizers::Tokenizer::from_file(&path)
            .map_err(|error| Fault::Usage(format!("`{}` is no tokenizer that can be read: {error}", path.display())))?;
        // What cuts or fills up a text in training scripts has no place here.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|error| anyhow::anyhow!(error))?;
        let [tokenizer_config, special_map, generation, config] =
            ["tokenizer_config.json", "special_tokens_map.json", "generation_config.json", "config.json"]
                .map(|name| read_json(&folder.join(name)));
        let (tokenizer_config, special_map) = (tokenizer_config?, special_map?);
        let mut special_tokens = BTreeMap::new();
        for name in SPECIAL_NAMES {
            let text = [&tokenizer_config, &special_map].into_iter().find_map(|json| token_text(&json[name]));
            special_tokens.extend(text.map(|text| (name.to_owned(), text)));
        }
        let mut end_ids = BTreeSet::new();
        for json in [generation?, config?] {
            end_ids.extend(ids(&json["eos_token_id"]));
        }
        end_ids.extend(special_tokens.get("eos_token").and_then(|text| inner.token_to_id(text)));
        let byte_level = matches!(inner.get_decoder(), Some(DecoderWrapper::ByteLevel(_)));
        let tokenizer = Tokenizer { inner, special_tokens, end_ids: end_ids.into_iter().collect(), byte_level };
        // Later on a text cannot fail any more: the only error of these models is a missing token for what they do not know.
        tokenizer
            .inner
            .encode("a \u{10ffff}\u{0}", false)
            .map_err(|error| Fault::Usage(format!("the tokenizer `{}` cannot encode every text: {error}", path.display())))?;
        Ok(tokenizer)
    }

    /// Ids of a text; special tokens that it spells out become theirs, and none is added.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        self.inner.encode_fast(text, false).expect("`load` has tried what this tokenizer does not know").get_ids().to_vec()
    }

    /// Text of ids, special tokens spelled out. Bytes that are no UTF-8 become U+FFFD; ids without a token nothing.
    pub fn decode(&self, ids: &[u32]) -> String {
        self.inner.decode(ids, false).unwrap_or_default()
    }

    /// The bytes that one id stands for; empty where it has no token. A character may take several ids.
    pub fn piece(&self, id: u32) -> Vec<u8> {
        let Some(token) = self.inner.id_to_token(id) else { return Vec::new() };
        let added = self.inner.get_added_vocabulary().get_added_tokens_decoder().contains_key(&id);
        if added || !self.byte_level {
            return self.decode(&[id]).into_bytes();
        }
        token.chars().flat_map(|c| byte_of(c).map_or_else(|| c.to_string().into_bytes(), |byte| vec![byte])).collect()
    }

    /// Whether every id stands for the same bytes wherever it is.
    pub fn is_byte_level(&self) -> bool {
        self.byte_level
    }

    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Whether an id is a special token: control, no text.
    pub fn is_special(&self, id: u32) -> bool {
        self.inner.get_added_vocabulary().get_added_tokens_decoder().get(&id).is_some_and(|token| token.special)
    }

    /// Ids that end a response, in order.
    pub fn end_ids(&self) -> &[u32] {
        &self.end_ids
    }

    pub(super) fn add_end_id(&mut self, id: u32) {
        if let Err(place) = self.end_ids.binary_search(&id) {
            self.end_ids.insert(place, id);
        }
    }

    /// Texts of special tokens by what they are for, such as `bos_token`.
    pub fn special_tokens(&self) -> &BTreeMap<String, String> {
        &self.special_tokens
    }

    /// Tokens, added ones counted; the model's own vocabulary may be padded to more.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    pub fn stream(&self) -> StreamDecoder<'_> {
        StreamDecoder { tokenizer: self, ids: Vec::new(), begun: 0, given: 0 }
    }
}

/// Turns ids into text as they come, and never gives half a character: what it has given, put together, is what `decode` gives for all.
#[derive(Debug, Clone)]
pub struct StreamDecoder<'a> {
    tokenizer: &'a Tokenizer,
    ids: Vec<u32>,
    /// Where the context of the next text begins: the decoder of some tokenizers treats the first token of a text in its own way.
    begun: usize,
    /// Ids whose text was given.
    given: usize,
}

impl StreamDecoder<'_> {
    /// The text that this id completes; empty while a character is not whole yet.
    pub fn push(&mut self, id: u32) -> String {
        self.ids.push(id);
        let (before, now) = self.texts();
        if now.ends_with('\u{fffd}') {
            return String::new();
        }
        self.give(&before, &now)
    }

    /// What is left, at the end of a response that stops in the middle of a character.
    pub fn finish(&mut self) -> String {
        let (before, now) = self.texts();
        self.give(&before, &now)
    }

    fn texts(&self) -> (String, String) {
        (self.tokenizer.decode(&self.ids[self.begun..self.given]), self.tokenizer.decode(&self.ids[self.begun..]))
    }

    fn give(&mut self, before: &str, now: &str) -> String {
        let text = now.get(before.len()..).unwrap_or_default().to_owned();
        if !text.is_empty() {
            (self.begun, self.given) = (self.given, self.ids.len());
        }
        text
    }
}

/// A JSON file; null where it is not there.
pub(super) fn read_json(path: &Path) -> Result<Json> {
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map_err(|error| Fault::Usage(format!("`{}` is no JSON: {error}", path.display())).into()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Json::Null),
        Err(error) => Err(Fault::Usage(format!("cannot read `{}`: {error}", path.display())).into()),
    }
}

/// A token as configurations name it: its text, or an object with it.
fn token_text(json: &Json) -> Option<String> {
    json.as_str().or_else(|| json["content"].as_str()).map(str::to_owned)
}

/// One id or a list of them.
fn ids(json: &Json) -> Vec<u32> {
    let id = |json: &Json| json.as_u64().and_then(|id| u32::try_from(id).ok());
    json.as_array().map_or_else(|| id(json).into_iter().collect(), |list| list.iter().filter_map(id).collect())
}

/// The byte behind a character of a byte-level vocabulary: printable Latin-1 stands for itself, the other bytes for U+0100 and on.
fn byte_of(c: char) -> Option<u8> {
    static BYTES: LazyLock<HashMap<char, u8>> = LazyLock::new(|| {
        let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
        let others = (0..=255).filter(|byte| !printable(*byte)).zip(0x100..);
        let others = others.filter_map(|(byte, code)| char::from_u32(code).map(|c| (c, byte)));
        (0..=255).filter(|byte| printable(*byte)).map(|byte| (char::from(byte), byte)).chain(others).collect()
    });
    BYTES.get(&c).copied()
}
