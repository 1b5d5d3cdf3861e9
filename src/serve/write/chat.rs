//! Chat completions, whole and in chunks.

use axum::Json;
use axum::response::{IntoResponse as _, Response};

use super::{Answer, Call, Events, Gone, Next, Style, Whole, next, usage};
use crate::serve::answer::Piece;
use crate::serve::openai::chat::{
    ChatChoice, ChatChunk, ChatFunction, ChatLogprobs, ChatMessage, ChatResponse, ChatToolCall, ChunkChoice, Delta,
};
use crate::serve::openai::shared::Usage;
use crate::serve::record::ToolCall;

pub fn whole(whole: &Whole, style: &Style) -> Response {
    let choice = |index: usize| {
        let said = &whole.choices[index];
        ChatChoice {
            index,
            message: ChatMessage {
                role: "assistant",
                content: said.content.clone(),
                refusal: None,
                tool_calls: said.tool_calls.iter().map(|call| tool_call(None, call)).collect(),
            },
            logprobs: style.logprobs.then(|| ChatLogprobs::of(&whole.tokens[index])),
            finish_reason: reason(said.finish_reason.as_deref()),
            token_ids: style.ids(said.ids.as_deref().unwrap_or_default()),
        }
    };
    let response = ChatResponse {
        head: style.head("chat.completion", Some(whole.usage.clone())),
        choices: (0..whole.choices.len()).map(choice).collect(),
        prompt_token_ids: style.ids(&whole.prompt_ids),
    };
    Json(response).into_response()
}

pub async fn stream(answer: Answer, call: Call, style: &Style, events: &Events) {
    // A client that has gone away needs no further answer.
    let _ = chunks(answer, call, style, events).await;
}

async fn chunks(mut answer: Answer, mut call: Call, style: &Style, events: &Events) -> Result<(), Gone> {
    let prompt_ids = style.ids(call.record.prompt_ids.as_deref().unwrap_or_default());
    for index in 0..answer.choices() {
        let delta = Delta { role: Some("assistant"), content: Some(String::new()), ..Delta::default() };
        let choice = ChunkChoice { index, delta, ..ChunkChoice::default() };
        let mut first = chunk(style, vec![choice], None);
        first.prompt_token_ids = prompt_ids.clone().filter(|_| index == 0);
        events.data(&first).await?;
    }
    loop {
        match next(&mut answer, &mut call, events).await? {
            Next::Piece(piece) => {
                for choice in deltas(piece, style) {
                    events.data(&chunk(style, vec![choice], None)).await?;
                }
            }
            Next::Failed(error) => {
                let error = call.fail(error);
                return events.data(&error.body()).await;
            }
            Next::End => break,
        }
    }
    if style.include_usage {
        events.data(&chunk(style, Vec::new(), Some(usage(&call)))).await?;
    }
    let turns = answer.turns(&call);
    call.finish(turns);
    events.done().await
}

/// The chunks of a piece: text, then each tool call, then the end. A piece of which nothing may be shown yet has none, unless the client
/// wants its ids.
fn deltas(piece: Piece, style: &Style) -> Vec<ChunkChoice> {
    let index = piece.choice;
    let mut out = Vec::new();
    let token_ids = style.ids(&piece.ids).filter(|ids| !ids.is_empty());
    let logprobs = Some(&piece.tokens).filter(|tokens| !tokens.is_empty()).map(|tokens| ChatLogprobs::of(tokens));
    if !piece.text.is_empty() || token_ids.is_some() || logprobs.is_some() {
        let delta = Delta { content: Some(piece.text), ..Delta::default() };
        out.push(ChunkChoice { index, delta, logprobs, token_ids, finish_reason: None });
    }
    for (number, call) in piece.calls.iter().enumerate() {
        let delta = Delta { tool_calls: vec![tool_call(Some(number), call)], ..Delta::default() };
        out.push(ChunkChoice { index, delta, ..ChunkChoice::default() });
    }
    if piece.finish_reason.is_some() {
        out.push(ChunkChoice { index, finish_reason: piece.finish_reason, ..ChunkChoice::default() });
    }
    out
}

fn chunk<'a>(style: &'a Style, choices: Vec<ChunkChoice>, usage: Option<Usage>) -> ChatChunk<'a> {
    ChatChunk { head: style.head("chat.completion.chunk", usage), choices, prompt_token_ids: None }
}

fn tool_call(index: Option<usize>, call: &ToolCall) -> ChatToolCall {
    let function = ChatFunction { name: call.name.clone(), arguments: call.arguments.clone() };
    ChatToolCall { index, id: call.id.clone(), kind: "function", function }
}

/// The reasons that an answer of ours can have.
pub fn reason(reason: Option<&str>) -> &'static str {
    match reason {
        Some("length") => "length",
        Some("tool_calls") => "tool_calls",
        _ => "stop",
    }
}
