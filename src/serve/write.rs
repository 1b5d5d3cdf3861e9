//! Answers as each API writes them, whole or streamed.

mod chat;
mod completions;
mod responses;

use axum::response::Response;
use serde_json::Value;

use super::answer::{Answer, Piece};
use super::app::Api;
use super::call::Call;
use super::openai::ApiError;
use super::openai::shared::{Head, Token, Usage, Wish};
use super::record::{ChoiceRecord, now_ns};
use super::sse::{self, Events, Gone};

/// How an answer is to be written.
#[derive(Debug, Clone)]
pub struct Style {
    pub api: Api,
    pub id: String,
    /// Seconds since 1970 UTC.
    pub created: u64,
    pub model: String,
    /// Which policy answers.
    pub fingerprint: String,
    pub stream: bool,
    /// At the end of a stream.
    pub include_usage: bool,
    pub logprobs: bool,
    pub return_token_ids: bool,
    /// The request, where the answer repeats it.
    pub request: Value,
}

impl Style {
    pub fn chat(call: &Call, wish: &Wish, include_usage: bool) -> Style {
        Style::of(Api::Chat, call, wish, include_usage, Value::Null)
    }

    pub fn completions(call: &Call, wish: &Wish, include_usage: bool) -> Style {
        Style::of(Api::Completions, call, wish, include_usage, Value::Null)
    }

    pub fn responses(call: &Call, wish: &Wish, request: Value) -> Style {
        Style::of(Api::Responses, call, wish, true, request)
    }

    fn of(api: Api, call: &Call, wish: &Wish, include_usage: bool, request: Value) -> Style {
        let record = &call.record;
        Style {
            api,
            id: record.response_id.clone(),
            created: u64::try_from(now_ns() / 1_000_000_000).unwrap_or(0),
            model: record.model.clone(),
            fingerprint: record.policy_version.map_or_else(|| "policy".to_owned(), |version| format!("policy-{version}")),
            stream: wish.stream,
            include_usage,
            logprobs: wish.logprobs.is_some(),
            return_token_ids: wish.return_token_ids,
            request,
        }
    }

    /// * `object`: what the API calls it.
    fn head(&self, object: &'static str, usage: Option<Usage>) -> Head<'_> {
        Head { id: &self.id, object, created: self.created, model: &self.model, system_fingerprint: &self.fingerprint, usage }
    }

    /// The ids of a piece, where the client asked for them.
    fn ids(&self, ids: &[u32]) -> Option<Vec<u32>> {
        self.return_token_ids.then(|| ids.to_vec())
    }
}

/// Answers: at once with a stream, or when all is said.
pub async fn respond(answer: Answer, call: Call, style: Style) -> Result<Response, ApiError> {
    if !style.stream {
        let whole = Whole::of(answer, call, &style).await?;
        return Ok(match style.api {
            Api::Chat => chat::whole(&whole, &style),
            Api::Completions => completions::whole(&whole, &style),
            Api::Responses => responses::whole(&whole, &style),
        });
    }
    let (events, response) = sse::stream();
    tokio::spawn(async move {
        // Whoever stops first, the client or the answer, ends the other; the call is recorded in both cases.
        match style.api {
            Api::Chat => chat::stream(answer, call, &style, &events).await,
            Api::Completions => completions::stream(answer, call, &style, &events).await,
            Api::Responses => responses::stream(answer, call, &style, &events).await,
        }
    });
    Ok(response)
}

/// All that was said.
struct Whole {
    choices: Vec<ChoiceRecord>,
    /// Of each choice, where the client asked for log-probabilities.
    tokens: Vec<Vec<Token>>,
    prompt_ids: Vec<u32>,
    usage: Usage,
}

impl Whole {
    async fn of(mut answer: Answer, mut call: Call, style: &Style) -> Result<Whole, ApiError> {
        let mut tokens: Vec<Vec<Token>> = vec![Vec::new(); answer.choices()];
        while let Some(piece) = answer.next(&mut call).await {
            match piece {
                Ok(mut piece) => tokens[piece.choice].append(&mut piece.tokens),
                Err(error) => return Err(call.fail(error)),
            }
        }
        let prompt_ids = if style.return_token_ids { call.record.prompt_ids.clone().unwrap_or_default() } else { Vec::new() };
        let whole = Whole { choices: call.record.choices.clone(), tokens, prompt_ids, usage: usage(&call) };
        let turns = answer.turns(&call);
        call.finish(turns);
        Ok(whole)
    }
}

fn usage(call: &Call) -> Usage {
    let record = &call.record;
    Usage::new(record.input_tokens.unwrap_or(0), record.output_tokens.unwrap_or(0), record.cached_tokens.unwrap_or(0))
}

/// What comes next in a stream.
enum Next {
    Piece(Piece),
    /// Every choice has ended.
    End,
    /// The engine failed; the call is recorded as such.
    Failed(ApiError),
}

/// Waits for the next piece or for the client to go away.
async fn next(answer: &mut Answer, call: &mut Call, events: &Events) -> Result<Next, Gone> {
    tokio::select! {
        piece = answer.next(call) => Ok(match piece {
            Some(Ok(piece)) => Next::Piece(piece),
            Some(Err(error)) => Next::Failed(error),
            None => Next::End,
        }),
        () = events.gone() => Err(Gone),
    }
}
