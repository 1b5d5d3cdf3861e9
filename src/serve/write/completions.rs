//! Completions, whole and in chunks.

use axum::Json;
use axum::response::{IntoResponse as _, Response};

use super::chat::reason;
use super::{Answer, Call, Events, Gone, Next, Style, Whole, next, usage};
use crate::serve::openai::completions::{Completion, CompletionChoice, CompletionLogprobs};
use crate::serve::openai::shared::Usage;

pub fn whole(whole: &Whole, style: &Style) -> Response {
    let choice = |index: usize| {
        let said = &whole.choices[index];
        CompletionChoice {
            index,
            text: said.content.clone().unwrap_or_default(),
            logprobs: style.logprobs.then(|| CompletionLogprobs::of(&whole.tokens[index], 0)),
            finish_reason: Some(reason(said.finish_reason.as_deref())),
            token_ids: style.ids(said.ids.as_deref().unwrap_or_default()),
            prompt_token_ids: style.ids(&whole.prompt_ids),
        }
    };
    let choices = (0..whole.choices.len()).map(choice).collect();
    Json(completion(style, choices, Some(whole.usage.clone()))).into_response()
}

pub async fn stream(answer: Answer, call: Call, style: &Style, events: &Events) {
    // A client that has gone away needs no further answer.
    let _ = chunks(answer, call, style, events).await;
}

async fn chunks(mut answer: Answer, mut call: Call, style: &Style, events: &Events) -> Result<(), Gone> {
    let mut prompt_ids = vec![style.ids(call.record.prompt_ids.as_deref().unwrap_or_default()); answer.choices()];
    let mut offsets = vec![0; answer.choices()];
    loop {
        let piece = match next(&mut answer, &mut call, events).await? {
            Next::Piece(piece) => piece,
            Next::Failed(error) => {
                let error = call.fail(error);
                return events.data(&error.body()).await;
            }
            Next::End => break,
        };
        let token_ids = style.ids(&piece.ids).filter(|ids| !ids.is_empty());
        if piece.text.is_empty() && piece.tokens.is_empty() && token_ids.is_none() && piece.finish_reason.is_none() {
            continue;
        }
        let offset = &mut offsets[piece.choice];
        let logprobs = (!piece.tokens.is_empty()).then(|| CompletionLogprobs::of(&piece.tokens, *offset));
        *offset += piece.tokens.iter().map(|token| token.text.chars().count()).sum::<usize>();
        let choice = CompletionChoice {
            index: piece.choice,
            text: piece.text,
            logprobs,
            finish_reason: piece.finish_reason,
            token_ids,
            prompt_token_ids: prompt_ids[piece.choice].take(),
        };
        events.data(&completion(style, vec![choice], None)).await?;
    }
    if style.include_usage {
        events.data(&completion(style, Vec::new(), Some(usage(&call)))).await?;
    }
    let turns = answer.turns(&call);
    call.finish(turns);
    events.done().await
}

fn completion<'a>(style: &'a Style, choices: Vec<CompletionChoice>, usage: Option<Usage>) -> Completion<'a> {
    Completion { head: style.head("text_completion", usage), choices }
}
