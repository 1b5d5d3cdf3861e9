//! What the three APIs share: sampling parameters, stops, token counts, log-probabilities.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::ApiError;
use crate::generate::Sampling;

/// Most choices of one request, and most alternatives of one token (the API's own limit).
const MOST_CHOICES: usize = 128;
const MOST_TOP_LOGPROBS: usize = 20;
/// OpenAI takes four stops; we take as many as anyone needs, and no more than can be looked for at every token.
const MOST_STOPS: usize = 64;

/// Parameters of sampling, under the names of OpenAI's API and of vLLM's additions to it. `None` and null are the default.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct SamplingFields {
    pub temperature: Option<f64>,
    pub top_p: Option<f64>,
    pub top_k: Option<i64>,
    pub min_p: Option<f64>,
    pub repetition_penalty: Option<f64>,
    pub presence_penalty: Option<f64>,
    pub frequency_penalty: Option<f64>,
    pub seed: Option<i64>,
    pub logit_bias: Option<serde_json::Map<String, Value>>,
    pub stop_token_ids: Option<Vec<u32>>,
    pub return_token_ids: Option<bool>,
}

/// One text or several.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

/// How a policy is asked to answer, whatever API it was asked through.
#[derive(Debug, Clone, PartialEq)]
pub struct Wish {
    /// Choices: independent answers to one prompt.
    pub n: usize,
    /// `None`: as many as fit into the context.
    pub max_tokens: Option<usize>,
    /// How to draw each id. Its limit, its log-probabilities and the ids that end a turn are for whoever knows the policy to fill in.
    pub sampling: Sampling,
    pub seed: Option<i64>,
    /// Texts that end the answer; they are not part of it.
    pub stops: Vec<String>,
    /// `Some(n)`: log-probabilities of the answer's tokens and of the `n` most likely ones.
    pub logprobs: Option<usize>,
    pub return_token_ids: bool,
    pub stream: bool,
}

impl SamplingFields {
    /// Checks every field. The rest of the wish (`n`, limits, log-probs, streaming) is that of a plain request.
    pub fn wish(&self, stop: Option<&OneOrMany>) -> Result<Wish, ApiError> {
        let stops: Vec<String> = match stop {
            None => Vec::new(),
            Some(OneOrMany::One(stop)) => vec![stop.clone()],
            Some(OneOrMany::Many(stops)) => stops.clone(),
        };
        if stops.len() > MOST_STOPS {
            return Err(ApiError::invalid("stop", format!("`stop` has {} texts; at most {MOST_STOPS} are taken", stops.len())));
        }
        if stops.iter().any(String::is_empty) {
            return Err(ApiError::invalid("stop", "`stop` has an empty text, which would end every answer at once"));
        }
        Ok(Wish {
            n: 1,
            max_tokens: None,
            sampling: Sampling {
                temperature: within("temperature", self.temperature, 0.0..=100.0, 1.0)?,
                top_p: within("top_p", self.top_p.map(|top_p| top_p.max(f64::MIN_POSITIVE)), 0.0..=1.0, 1.0)?,
                top_k: usize::try_from(self.top_k.unwrap_or(0).max(0)).unwrap_or(0),
                min_p: within("min_p", self.min_p, 0.0..=1.0, 0.0)?,
                repetition_penalty: within("repetition_penalty", self.repetition_penalty, 1e-6..=100.0, 1.0)?,
                presence_penalty: within("presence_penalty", self.presence_penalty, -100.0..=100.0, 0.0)?,
                frequency_penalty: within("frequency_penalty", self.frequency_penalty, -100.0..=100.0, 0.0)?,
                logit_bias: self.biases()?,
                stop_ids: self.stop_token_ids.clone().unwrap_or_default(),
                ..Sampling::default()
            },
            seed: self.seed,
            stops,
            logprobs: None,
            return_token_ids: self.return_token_ids.unwrap_or(false),
            stream: false,
        })
    }

    /// Keys are token ids, as text.
    fn biases(&self) -> Result<Vec<(u32, f32)>, ApiError> {
        let wrong = |id: &str| {
            ApiError::invalid("logit_bias", format!("`logit_bias` of `{id}`: write a token id and a number from -100 to 100"))
        };
        let read = |(id, bias): (&String, &Value)| {
            let bias = bias.as_f64().filter(|bias| (-100.0..=100.0).contains(bias)).ok_or_else(|| wrong(id))?;
            Ok((id.parse().map_err(|_| wrong(id))?, bias as f32))
        };
        self.logit_bias.iter().flatten().map(read).collect()
    }
}

fn within(name: &'static str, value: Option<f64>, range: std::ops::RangeInclusive<f64>, default: f64) -> Result<f64, ApiError> {
    let value = value.unwrap_or(default);
    if range.contains(&value) {
        return Ok(value);
    }
    Err(ApiError::invalid(name, format!("`{name}` is {value}; it has to be from {} to {}", range.start(), range.end())))
}

/// How many choices: at least one.
pub fn choices(n: Option<i64>) -> Result<usize, ApiError> {
    let wanted = n.unwrap_or(1);
    usize::try_from(wanted)
        .ok()
        .filter(|n| (1..=MOST_CHOICES).contains(n))
        .ok_or_else(|| ApiError::invalid("n", format!("`n` is {wanted}; it has to be from 1 to {MOST_CHOICES}")))
}

/// A limit of new tokens: at least one.
pub fn limit(name: &'static str, tokens: Option<i64>) -> Result<Option<usize>, ApiError> {
    let Some(tokens) = tokens else { return Ok(None) };
    let limit = usize::try_from(tokens).ok().filter(|tokens| *tokens > 0);
    limit.map(Some).ok_or_else(|| ApiError::invalid(name, format!("`{name}` is {tokens}; it has to be at least 1")))
}

/// How many of the most likely tokens to name beside each.
pub fn alternatives(name: &'static str, wanted: Option<i64>) -> Result<usize, ApiError> {
    let wanted = wanted.unwrap_or(0);
    usize::try_from(wanted)
        .ok()
        .filter(|n| *n <= MOST_TOP_LOGPROBS)
        .ok_or_else(|| ApiError::invalid(name, format!("`{name}` is {wanted}; it has to be from 0 to {MOST_TOP_LOGPROBS}")))
}

/// Reads a request's body. Unknown fields are taken, as the API takes them.
pub fn parse<T: serde::de::DeserializeOwned>(body: &Value) -> Result<T, ApiError> {
    T::deserialize(body).map_err(|error| ApiError {
        param: None,
        ..ApiError::invalid("", format!("the request is not as the API has it: {error}"))
    })
}

/// Token counts, under the names of chat completions and completions.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Usage {
    pub prompt_tokens: usize,
    pub completion_tokens: usize,
    pub total_tokens: usize,
    pub prompt_tokens_details: CachedTokens,
}

/// How much of the prompt was known from earlier calls.
#[derive(Debug, Clone, Default, Serialize)]
pub struct CachedTokens {
    pub cached_tokens: usize,
}

impl Usage {
    pub fn new(prompt_tokens: usize, completion_tokens: usize, cached_tokens: usize) -> Usage {
        Usage {
            prompt_tokens,
            completion_tokens,
            total_tokens: prompt_tokens + completion_tokens,
            prompt_tokens_details: CachedTokens { cached_tokens },
        }
    }
}

/// What every answer of chat completions and completions begins with, whole or a chunk.
#[derive(Debug, Clone, Serialize)]
pub struct Head<'a> {
    pub id: &'a str,
    pub object: &'static str,
    pub created: u64,
    pub model: &'a str,
    pub system_fingerprint: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
}

/// One sampled token, as answers state it.
#[derive(Debug, Clone, PartialEq)]
pub struct Token {
    pub id: u32,
    /// Its text alone; a token may hold a part of a character, and then its text is the replacement character.
    pub text: String,
    /// Log-probability under the temperature alone, natural log.
    pub logprob: f32,
    pub top: Vec<Alternative>,
}

/// A token that could have been sampled.
#[derive(Debug, Clone, PartialEq)]
pub struct Alternative {
    pub text: String,
    pub logprob: f32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_cannot_be_is_refused_with_its_name() {
        for (body, param) in [
            (json!({ "temperature": -1 }), "temperature"),
            (json!({ "top_p": 1.5 }), "top_p"),
            (json!({ "min_p": 2 }), "min_p"),
            (json!({ "repetition_penalty": 0 }), "repetition_penalty"),
            (json!({ "logit_bias": { "a": 1 } }), "logit_bias"),
            (json!({ "logit_bias": { "5": 101 } }), "logit_bias"),
        ] {
            let fields: SamplingFields = parse(&body).unwrap();
            assert_eq!(fields.wish(None).unwrap_err().param, Some(param), "{body}");
        }
        let empty = OneOrMany::Many(vec![String::new()]);
        assert_eq!(SamplingFields::default().wish(Some(&empty)).unwrap_err().param, Some("stop"));
        assert!(choices(Some(0)).is_err() && choices(Some(129)).is_err() && limit("max_tokens", Some(0)).is_err());
        assert_eq!((choices(None), limit("max_tokens", None)), (Ok(1), Ok(None)));
    }

    #[test]
    fn null_is_the_default_and_unknown_fields_are_taken() {
        let fields: SamplingFields =
            parse(&json!({ "temperature": null, "top_k": -1, "logit_bias": { "5": -2 }, "new": 1 })).unwrap();
        let sampling = fields.wish(None).unwrap().sampling;
        assert_eq!(sampling, Sampling { logit_bias: vec![(5, -2.0)], ..Sampling::default() });
    }
}
