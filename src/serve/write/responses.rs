//! The Responses API, whole and as its events.

use axum::Json;
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};

use super::{Answer, Call, Events, Gone, Next, Style, Whole, next, usage};
use crate::serve::openai::responses::{self, Frame, FunctionCall, function_item, message_item, text_part};
use crate::serve::openai::shared::Usage;
use crate::serve::record::ToolCall;

pub fn whole(whole: &Whole, style: &Style) -> Response {
    let said = &whole.choices[0];
    let mut output = Vec::new();
    if let Some(content) = &said.content {
        let logprobs = if style.logprobs { responses::logprobs(&whole.tokens[0]) } else { Vec::new() };
        output.push(message_item(&message_id(style), "completed", &[text_part(content, &logprobs)]));
    }
    for (number, call) in said.tool_calls.iter().enumerate() {
        output.push(function_item(&function(style, number, call), "completed", &call.arguments));
    }
    let status = status(said.finish_reason.as_deref());
    let mut response = frame(style).response(status, &output, Some(counts(&whole.usage)));
    if style.return_token_ids {
        response["prompt_token_ids"] = json!(whole.prompt_ids);
        response["token_ids"] = json!(said.ids);
    }
    Json(response).into_response()
}

pub async fn stream(answer: Answer, call: Call, style: &Style, events: &Events) {
    // A client that has gone away needs no further answer.
    let _ = Script { events, sequence: 0 }.play(answer, call, style).await;
}

/// The events of one response, numbered.
struct Script<'a> {
    events: &'a Events,
    sequence: u64,
}

/// The message item, once there is text for it.
#[derive(Default)]
struct Message {
    open: bool,
    text: String,
    logprobs: Vec<Value>,
}

impl Script<'_> {
    async fn play(&mut self, mut answer: Answer, mut call: Call, style: &Style) -> Result<(), Gone> {
        let frame = frame(style);
        self.send("response.created", json!({ "response": frame.response("in_progress", &[], None) })).await?;
        self.send("response.in_progress", json!({ "response": frame.response("in_progress", &[], None) })).await?;
        let mut message = Message::default();
        let mut output = Vec::new();
        loop {
            let piece = match next(&mut answer, &mut call, self.events).await? {
                Next::Piece(piece) => piece,
                Next::Failed(error) => {
                    let error = call.fail(error);
                    let code = error.code.unwrap_or(error.kind);
                    return self.send("error", json!({ "code": code, "message": error.message, "param": error.param })).await;
                }
                Next::End => break,
            };
            let logprobs = responses::logprobs(&piece.tokens);
            self.text(&mut message, &piece.text, logprobs, style).await?;
            if piece.finish_reason.is_none() {
                continue;
            }
            if piece.calls.is_empty() || message.open {
                // An answer without a word and without a call is an empty message.
                self.open(&mut message, style).await?;
                output.push(self.close(&message, style).await?);
            }
            for (number, asked) in piece.calls.iter().enumerate() {
                let item = self.function(&function(style, number, asked), output.len()).await?;
                output.push(item);
            }
        }
        let choice = &call.record.choices[0];
        let status = status(choice.finish_reason.as_deref());
        let mut response = frame.response(status, &output, Some(counts(&usage(&call))));
        if style.return_token_ids {
            response["prompt_token_ids"] = json!(call.record.prompt_ids);
            response["token_ids"] = json!(choice.ids);
        }
        let turns = answer.turns(&call);
        call.finish(turns);
        self.send(&format!("response.{status}"), json!({ "response": response })).await
    }

    async fn text(&mut self, message: &mut Message, text: &str, logprobs: Vec<Value>, style: &Style) -> Result<(), Gone> {
        message.logprobs.extend(logprobs.iter().cloned());
        if text.is_empty() {
            return Ok(());
        }
        self.open(message, style).await?;
        message.text.push_str(text);
        let delta =
            json!({ "item_id": message_id(style), "output_index": 0, "content_index": 0, "delta": text, "logprobs": logprobs });
        self.send("response.output_text.delta", delta).await
    }

    async fn open(&mut self, message: &mut Message, style: &Style) -> Result<(), Gone> {
        if std::mem::replace(&mut message.open, true) {
            return Ok(());
        }
        let id = message_id(style);
        self.send("response.output_item.added", json!({ "output_index": 0, "item": message_item(&id, "in_progress", &[]) }))
            .await?;
        let part = json!({ "item_id": id, "output_index": 0, "content_index": 0, "part": text_part("", &[]) });
        self.send("response.content_part.added", part).await
    }

    async fn close(&mut self, message: &Message, style: &Style) -> Result<Value, Gone> {
        let id = message_id(style);
        let (text, logprobs) = (&message.text, &message.logprobs);
        let done = json!({ "item_id": id, "output_index": 0, "content_index": 0, "text": text, "logprobs": logprobs });
        self.send("response.output_text.done", done).await?;
        let part = text_part(text, logprobs);
        let done = json!({ "item_id": id, "output_index": 0, "content_index": 0, "part": part });
        self.send("response.content_part.done", done).await?;
        let item = message_item(&id, "completed", &[part]);
        self.send("response.output_item.done", json!({ "output_index": 0, "item": item })).await?;
        Ok(item)
    }

    async fn function(&mut self, call: &FunctionCall, index: usize) -> Result<Value, Gone> {
        self.send("response.output_item.added", json!({ "output_index": index, "item": function_item(call, "in_progress", "") }))
            .await?;
        let delta = json!({ "item_id": call.id, "output_index": index, "delta": call.arguments });
        self.send("response.function_call_arguments.delta", delta).await?;
        let done = json!({ "item_id": call.id, "output_index": index, "name": call.name, "arguments": call.arguments });
        self.send("response.function_call_arguments.done", done).await?;
        let item = function_item(call, "completed", &call.arguments);
        self.send("response.output_item.done", json!({ "output_index": index, "item": item })).await?;
        Ok(item)
    }

    async fn send(&mut self, kind: &str, mut event: Value) -> Result<(), Gone> {
        event["type"] = kind.into();
        event["sequence_number"] = self.sequence.into();
        self.sequence += 1;
        self.events.named(kind, &event).await
    }
}

fn frame(style: &Style) -> Frame {
    Frame { id: style.id.clone(), created: style.created, model: style.model.clone(), request: style.request.clone() }
}

fn function(style: &Style, number: usize, call: &ToolCall) -> FunctionCall {
    FunctionCall {
        id: format!("fc_{}_{number}", own(style)),
        call_id: call.id.clone(),
        name: call.name.clone(),
        arguments: call.arguments.clone(),
    }
}

fn message_id(style: &Style) -> String {
    format!("msg_{}", own(style))
}

/// The part of the response's id that is its own.
fn own(style: &Style) -> &str {
    style.id.trim_start_matches("resp_")
}

fn status(reason: Option<&str>) -> &'static str {
    if reason == Some("length") { "incomplete" } else { "completed" }
}

fn counts(usage: &Usage) -> Value {
    responses::usage(usage.prompt_tokens, usage.completion_tokens, usage.prompt_tokens_details.cached_tokens)
}
