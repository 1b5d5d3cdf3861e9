//! Text and tokens of a policy: tokenizer, chat template, and tool calls in the model's own format. Rollout and training use these same
//! functions, so that what is learnt from is what was seen.

pub mod gguf;
pub mod grammar;
pub mod messages;
pub mod python;
pub mod template;
#[cfg(test)]
mod tests;
pub mod tokenizer;
pub mod tools;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::Value as Json;

use crate::exit::Fault;
pub use messages::Folding;
pub use template::Template;
pub use tokenizer::{StreamDecoder, Tokenizer};
pub use tools::{Parsed, ParsedCall, ToolFormat};

/// The text side of a policy folder.
#[derive(Debug)]
pub struct Text {
    tokenizer: Tokenizer,
    /// `None` for a base model, which only completes texts.
    template: Option<Template>,
    format: ToolFormat,
    folding: Folding,
    /// Whether the template writes thoughts in `<think>`.
    thinks: bool,
    /// What the template writes after a response.
    end_of_turn: String,
}

/// A call as the trainer learns from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenizedCall {
    /// The prompt up to where the model begins to write.
    pub prompt: Vec<u32>,
    /// What it wrote, the token that ends its turn included.
    pub response: Vec<u32>,
}

impl Text {
    /// Reads the tokenizer and the chat template of a Hugging Face model folder.
    ///
    /// The template is `chat_template.jinja`, with named ones beside it in `additional_chat_templates`, else what `tokenizer_config.json`
    /// holds: a text, or a list of named ones. `Fault::Usage` where there is no tokenizer, or a file cannot be read.
    pub fn load(folder: &Path) -> Result<Text> {
        if !folder.is_dir() {
            return Err(Fault::Usage(format!("there is no folder `{}`", folder.display())).into());
        }
        let mut tokenizer = Tokenizer::load(folder)?;
        let sources = template_sources(folder)?;
        let template = match sources.is_empty() {
            true => None,
            false => Some(Template::new(sources, tokenizer.special_tokens().clone())?),
        };
        let with_tools = template.as_ref().map_or("", |template| template.source(true));
        let format = ToolFormat::of_template(with_tools);
        let folding = template.as_ref().map_or_else(Folding::default, Folding::of);
        let thinks = with_tools.contains("</think>");
        let end_of_turn = template.as_ref().and_then(messages::end_of_turn);
        let eos = tokenizer.special_tokens().get("eos_token").cloned();
        let end_of_turn = end_of_turn.or(eos).unwrap_or_default();
        // Some configurations name the end of the document only.
        if let Some(first) = tokenizer.encode(&end_of_turn).first().copied().filter(|id| tokenizer.is_special(*id)) {
            tokenizer.add_end_id(first);
        }
        let mut text = Text { tokenizer, template, format, folding, thinks, end_of_turn };
        text.end_of_turn = text.cut_after_end(&text.end_of_turn).to_owned();
        Ok(text)
    }

    /// Ids of a text; special tokens that it spells out become theirs, and none is added.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        self.tokenizer.encode(text)
    }

    /// Text of ids, special tokens spelled out.
    pub fn decode(&self, ids: &[u32]) -> String {
        self.tokenizer.decode(ids)
    }

    /// Turns ids into text as they come, and never gives half a character.
    pub fn stream_decoder(&self) -> StreamDecoder<'_> {
        self.tokenizer.stream()
    }

    /// Ids that end a response, in order.
    pub fn end_ids(&self) -> &[u32] {
        self.tokenizer.end_ids()
    }

    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// `None` for a base model.
    pub fn template(&self) -> Option<&Template> {
        self.template.as_ref()
    }

    /// How this model writes tool calls.
    pub fn tool_format(&self) -> ToolFormat {
        self.format
    }

    /// Fixes the clock that some templates ask for today's date.
    pub fn set_now(&mut self, now: jiff::Zoned) {
        if let Some(template) = &mut self.template {
            template.set_now(now);
        }
    }

    /// The prompt of a conversation.
    ///
    /// * `messages`: chat messages in any shape that trace files have; those of the column `calls.messages` and of OpenAI requests among them.
    /// * `tools`: as the column `calls.tools` or an OpenAI request lists them. Where the template ignores tools, they are told in a fixed block
    ///   at the end of the system message.
    /// * `add_generation_prompt`: end where the assistant begins to write.
    pub fn render(&self, messages: &[Json], tools: &[Json], add_generation_prompt: bool) -> Result<String> {
        let Some(template) = &self.template else {
            let message = "the policy has no chat template, so it answers no chat: give it one as `chat_template.jinja`";
            return Err(Fault::Failed(message.to_owned()).into());
        };
        let messages = messages::for_template(messages)?;
        let tools = messages::tools_for_template(tools);
        let (messages, tools) = self.folding.apply(messages, tools);
        template.render(&messages, &tools, add_generation_prompt)
    }

    /// What the model would have written to say this response, up to and with the end of its turn: as the template writes it where it
    /// continues the prompt, else put together from text and calls.
    ///
    /// * `response`: one chat message, as the column `calls.response` holds it.
    pub fn response(&self, messages: &[Json], tools: &[Json], response: &Json) -> Result<String> {
        let prompt = self.render(messages, tools, true)?;
        let all: Vec<Json> = messages.iter().chain([response]).cloned().collect();
        if let Ok(whole) = self.render(&all, tools, false)
            && let Some(written) = whole.strip_prefix(&prompt)
        {
            return Ok(self.cut_after_end(written).to_owned());
        }
        Ok(messages::plain_response(response, self.format)? + &self.end_of_turn)
    }

    /// The ids of a call whose source recorded none: the prompt's and the response's, each tokenised by itself, as they are when sampled.
    pub fn tokenize_call(&self, messages: &[Json], tools: &[Json], response: &Json) -> Result<TokenizedCall> {
        let prompt = self.encode(&self.render(messages, tools, true)?);
        let response = self.encode(&self.response(messages, tools, response).context("the response cannot be written")?);
        Ok(TokenizedCall { prompt, response })
    }

    /// What a response says: `decode` of its ids without those that end it.
    pub fn parse_response(&self, text: &str) -> Parsed {
        if !self.thinks {
            return self.format.parse(text);
        }
        let (reasoning, rest) = tools::split_reasoning(text);
        Parsed { reasoning, ..self.format.parse(rest) }
    }

    /// A text up to and with the first token that ends a response.
    fn cut_after_end<'a>(&self, text: &'a str) -> &'a str {
        let ends = self.end_ids().iter().map(|id| self.decode(&[*id])).filter(|end| !end.is_empty());
        let first = ends.filter_map(|end| text.find(&end).map(|at| at + end.len())).min();
        first.map_or(text, |end| &text[..end])
    }
}

/// Jinja texts by name.
fn template_sources(folder: &Path) -> Result<BTreeMap<String, String>> {
    let mut sources = BTreeMap::new();
    let config = tokenizer::read_json(&folder.join("tokenizer_config.json"))?;
    match &config["chat_template"] {
        Json::String(source) => drop(sources.insert(template::DEFAULT.to_owned(), source.clone())),
        Json::Array(named) => sources.extend(
            named.iter().filter_map(|one| Some((one["name"].as_str()?.to_owned(), one["template"].as_str()?.to_owned()))),
        ),
        _ => {}
    }
    // As for transformers, where there are files the configuration's templates are not read.
    let files = template::files(folder)?;
    if files.is_empty() {
        return Ok(sources);
    }
    let read = |(name, path): (String, std::path::PathBuf)| -> Result<(String, String)> {
        let source =
            std::fs::read_to_string(&path).map_err(|error| Fault::Usage(format!("cannot read `{}`: {error}", path.display())))?;
        Ok((name, source))
    };
    files.into_iter().map(read).collect()
}
