//! What an answer can be held to: JSON that fits a schema, and tool calls in the model's own format.
//!
//! llguidance turns either into a grammar over the bytes of the vocabulary. White space in JSON is left to the model, up to a bound, since
//! some models never end it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{TokRxInfo, TokTrie, TokenId, TokenizerEnv};
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value as Json, json};

use super::{Text, ToolFormat};
use crate::generate::Grammar;

/// Compiled grammars that are kept: what the calls of some agents ask for again and again.
const KEPT: usize = 64;
/// White space between two parts of a JSON text.
const SPACE: &str = r"[ \n\r\t]{1,64}";

/// What an answer has to be: a JSON text or tool calls, where it may be both one of them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Form {
    /// `None` where only calls will do.
    pub content: Option<Schema>,
    /// What may be called: name and schema of the arguments. Empty where only a JSON text will do.
    pub tools: Vec<(String, Schema)>,
    /// Whether several calls may follow each other.
    pub parallel: bool,
}

/// A JSON schema.
#[derive(Debug, Clone, PartialEq)]
pub struct Schema {
    pub schema: Json,
    /// Refuse what the grammar cannot hold an answer to; otherwise it is held to the rest.
    pub strict: bool,
}

/// Makes grammars of forms, for one vocabulary.
pub struct Grammars {
    factory: ParserFactory,
    format: ToolFormat,
    end_ids: Vec<u32>,
    /// By their source, the latest used last.
    known: Mutex<VecDeque<(String, Grammar)>>,
}

impl Grammars {
    /// Fails, with the reason, for vocabularies whose bytes are not known id by id, and where no id ends a response.
    pub fn new(text: &Text) -> Result<Grammars, String> {
        let tokenizer = text.tokenizer();
        if !tokenizer.is_byte_level() {
            return Err("the policy's tokenizer is not byte-level, so that no grammar can be laid over its ids".to_owned());
        }
        let count = tokenizer.vocab_size() as u32;
        let end_ids: Vec<u32> = text.end_ids().iter().copied().filter(|id| *id < count).collect();
        let Some(first) = end_ids.first() else { return Err("the policy has no id that ends an answer".to_owned()) };
        let words: Vec<Vec<u8>> = (0..count).map(|id| word(tokenizer, id)).collect();
        let trie = TokTrie::from(&TokRxInfo::new(count, *first), &words).with_eos_tokens(&end_ids);
        let environment: Arc<dyn TokenizerEnv + Sync> = Arc::new(Vocabulary(trie));
        let mut factory = ParserFactory::new_simple(&environment).map_err(|error| format!("{error:#}"))?;
        factory.quiet().limits_mut().verbose_errors = false;
        Ok(Grammars { factory, format: text.tool_format(), end_ids, known: Mutex::default() })
    }

    /// The grammar of a form; compiled where it is not known yet.
    ///
    /// Fails, with the reason, for a schema that cannot be compiled.
    pub fn of(&self, form: &Form) -> Result<Grammar, String> {
        let source = source(form, self.format)?;
        if let Some(grammar) = self.known(&source) {
            return Ok(grammar);
        }
        let parser = self.factory.create_parser(TopLevelGrammar::from_lark(source.clone()));
        let matcher = Matcher::new(parser);
        if let Some(error) = matcher.get_error() {
            return Err(error);
        }
        let grammar = Grammar::new(matcher, self.end_ids.clone());
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() == KEPT {
            known.pop_front();
        }
        known.push_back((source, grammar.clone()));
        Ok(grammar)
    }

    fn known(&self, source: &str) -> Option<Grammar> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let place = known.iter().position(|(other, _)| other == source)?;
        let found = known.remove(place)?;
        known.push_back(found);
        known.back().map(|(_, grammar)| grammar.clone())
    }
}

/// The bytes of an id as the trie wants them: those of special tokens marked, so that no text is one.
fn word(tokenizer: &super::Tokenizer, id: u32) -> Vec<u8> {
    let piece = tokenizer.piece(id);
    if tokenizer.is_special(id) {
        return [&[TokTrie::SPECIAL_TOKEN_MARKER][..], &piece].concat();
    }
    // The marker is no byte of UTF-8.
    if piece.first() == Some(&TokTrie::SPECIAL_TOKEN_MARKER) { Vec::new() } else { piece }
}

/// A vocabulary whose texts are never cut by us: the model chooses among all ids that fit.
struct Vocabulary(TokTrie);

impl TokenizerEnv for Vocabulary {
    fn tok_trie(&self) -> &TokTrie {
        &self.0
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        self.0.greedy_tokenize(bytes)
    }

    fn tokenize_is_canonical(&self) -> bool {
        false
    }
}

/// A form in llguidance's dialect of Lark.
fn source(form: &Form, format: ToolFormat) -> Result<String, String> {
    let mut rules = String::new();
    let mut starts = Vec::new();
    if let Some(content) = &form.content {
        rules += &format!("content: %json {}\n", compiled(content)?);
        starts.push("content");
    }
    if !form.tools.is_empty() {
        let calls: Vec<String> = (0..form.tools.len()).map(|index| format!("call_{index}")).collect();
        let more = if form.parallel { format!(" ({} call)*", Json::from(format.separator())) } else { String::new() };
        rules += &format!("calls: call{more}\ncall: {}\n", calls.join(" | "));
        for (rule, (name, arguments)) in calls.iter().zip(&form.tools) {
            let (before, after) = format.around(name);
            rules += &format!("{rule}: {} %json {} {}\n", Json::from(before), compiled(arguments)?, Json::from(after));
        }
        starts.push("calls");
    }
    Ok(format!("start: {}\n{rules}", starts.join(" | ")))
}

/// A schema with what llguidance is to know beside it, in the place where it looks.
fn compiled(Schema { schema, strict }: &Schema) -> Result<Json, String> {
    let Json::Object(mut schema) = schema.clone() else { return Err("a schema has to be a JSON object".to_owned()) };
    schema.insert("x-guidance".to_owned(), json!({ "whitespace_pattern": SPACE, "lenient": !strict }));
    Ok(Json::Object(schema))
}

#[cfg(test)]
mod tests;
