//! `/v1/completions`: text or token ids in, text out, without a template.

use serde::{Deserialize, Serialize};

use super::ApiError;
use super::chat::StreamOptions;
use super::shared::{Head, OneOrMany, SamplingFields, Token, Wish, alternatives, choices, limit};

/// What the API takes where nothing is stated.
const DEFAULT_MAX_TOKENS: usize = 16;

#[derive(Debug, Clone, Deserialize)]
pub struct CompletionRequest {
    pub prompt: Prompts,
    #[serde(default)]
    pub n: Option<i64>,
    #[serde(default)]
    pub max_tokens: Option<i64>,
    #[serde(default)]
    pub stop: Option<OneOrMany>,
    #[serde(default)]
    pub logprobs: Option<i64>,
    #[serde(default)]
    pub echo: Option<bool>,
    #[serde(default)]
    pub best_of: Option<i64>,
    #[serde(default)]
    pub suffix: Option<String>,
    #[serde(default)]
    pub stream: Option<bool>,
    #[serde(default)]
    pub stream_options: Option<StreamOptions>,
    #[serde(flatten)]
    pub sampling: SamplingFields,
}

/// One prompt; or several, each of which is answered `n` times.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Prompts {
    Text(String),
    Ids(Vec<u32>),
    Texts(Vec<String>),
    ManyIds(Vec<Vec<u32>>),
}

/// A prompt as it was given.
#[derive(Debug, Clone, PartialEq)]
pub enum Prompt {
    Text(String),
    Ids(Vec<u32>),
}

impl CompletionRequest {
    pub fn wish(&self) -> Result<Wish, ApiError> {
        if self.echo == Some(true) {
            return Err(ApiError::unsupported("echo", "`echo` is not supported by this server"));
        }
        if self.suffix.as_deref().is_some_and(|suffix| !suffix.is_empty()) {
            return Err(ApiError::unsupported("suffix", "`suffix` is not supported by this server"));
        }
        let n = choices(self.n)?;
        if self.best_of.is_some_and(|best| usize::try_from(best) != Ok(n)) {
            return Err(ApiError::unsupported("best_of", "`best_of` other than `n` is not supported by this server"));
        }
        Ok(Wish {
            n,
            max_tokens: Some(limit("max_tokens", self.max_tokens)?.unwrap_or(DEFAULT_MAX_TOKENS)),
            logprobs: self.logprobs.map(|wanted| alternatives("logprobs", Some(wanted))).transpose()?,
            stream: self.stream.unwrap_or(false),
            ..self.sampling.wish(self.stop.as_ref())?
        })
    }

    pub fn prompts(&self) -> Result<Vec<Prompt>, ApiError> {
        let prompts: Vec<Prompt> = match &self.prompt {
            Prompts::Text(text) => vec![Prompt::Text(text.clone())],
            Prompts::Ids(ids) => vec![Prompt::Ids(ids.clone())],
            Prompts::Texts(texts) => texts.iter().cloned().map(Prompt::Text).collect(),
            Prompts::ManyIds(lists) => lists.iter().cloned().map(Prompt::Ids).collect(),
        };
        match prompts.len() {
            0 => Err(ApiError::invalid("prompt", "`prompt` is empty")),
            1 => Ok(prompts),
            // A call has one prompt in the tables, and each of these would be a call of its own.
            _ => Err(ApiError::unsupported(
                "prompt",
                "several prompts in one request are not supported by this server; send one each",
            )),
        }
    }

    pub fn include_usage(&self) -> bool {
        self.stream_options.as_ref().and_then(|options| options.include_usage).unwrap_or(false)
    }
}

/// A whole answer, or a chunk of a stream: the API gives them one shape.
#[derive(Debug, Clone, Serialize)]
pub struct Completion<'a> {
    #[serde(flatten)]
    pub head: Head<'a>,
    pub choices: Vec<CompletionChoice>,
}

#[derive(Debug, Clone, Serialize)]
pub struct CompletionChoice {
    pub index: usize,
    pub text: String,
    pub logprobs: Option<CompletionLogprobs>,
    pub finish_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_ids: Option<Vec<u32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_token_ids: Option<Vec<u32>>,
}

#[derive(Debug, Clone, Serialize)]
pub struct CompletionLogprobs {
    pub tokens: Vec<String>,
    pub token_logprobs: Vec<f32>,
    pub top_logprobs: Vec<serde_json::Map<String, serde_json::Value>>,
    pub text_offset: Vec<usize>,
}

impl CompletionLogprobs {
    /// * `offset`: characters of the answer before the first of these tokens.
    pub fn of(tokens: &[Token], mut offset: usize) -> CompletionLogprobs {
        let mut out = CompletionLogprobs {
            tokens: Vec::with_capacity(tokens.len()),
            token_logprobs: Vec::with_capacity(tokens.len()),
            top_logprobs: Vec::with_capacity(tokens.len()),
            text_offset: Vec::with_capacity(tokens.len()),
        };
        for token in tokens {
            out.text_offset.push(offset);
            offset += token.text.chars().count();
            out.tokens.push(token.text.clone());
            out.token_logprobs.push(token.logprob);
            out.top_logprobs.push(token.top.iter().map(|other| (other.text.clone(), other.logprob.into())).collect());
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::super::shared::parse;
    use super::*;
    use serde_json::json;

    #[test]
    fn prompts_are_texts_or_ids() {
        let prompts = |prompt: serde_json::Value| parse::<CompletionRequest>(&json!({ "prompt": prompt })).unwrap().prompts();
        assert_eq!(prompts(json!("a")).unwrap(), [Prompt::Text("a".to_owned())]);
        assert_eq!(prompts(json!([1, 2])).unwrap(), [Prompt::Ids(vec![1, 2])]);
        assert_eq!(prompts(json!([[1, 2]])).unwrap(), [Prompt::Ids(vec![1, 2])]);
        assert_eq!(prompts(json!(["a", "b"])).unwrap_err().code, Some("unsupported_parameter"));
    }

    #[test]
    fn the_limit_is_sixteen_where_none_is_stated() {
        let asked: CompletionRequest = parse(&json!({ "prompt": "a", "logprobs": 0 })).unwrap();
        let wish = asked.wish().unwrap();
        assert_eq!((wish.max_tokens, wish.logprobs), (Some(16), Some(0)));
    }
}
