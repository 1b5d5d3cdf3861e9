//! An answer of the policy as it comes: the engine's events of every choice, recorded and made pieces that clients may see.

use std::sync::Arc;
use std::task::Poll;

use super::call::Call;
use super::openai::ApiError;
use super::openai::shared::{Alternative, Token};
use super::record::{ChoiceRecord, ToolCall};
use super::speaker::Speaker;
use super::splice::Turn;
use crate::generate::{Event, Events, Finish, key::Stream};
use crate::text::Text;

/// What came since the last piece, of one choice.
#[derive(Debug, Default)]
pub struct Piece {
    pub choice: usize,
    pub text: String,
    /// Sampled ids, whether their text is shown already or held back.
    pub ids: Vec<u32>,
    /// The same with log-probabilities, where the client asked for them.
    pub tokens: Vec<Token>,
    /// At the end of the choice.
    pub calls: Vec<ToolCall>,
    /// At the end of the choice: stop, length or tool_calls.
    pub finish_reason: Option<&'static str>,
}

/// The choices of one call.
pub struct Answer {
    text: Arc<Text>,
    voices: Vec<Voice>,
    /// Whose turn it is to be looked at first.
    next: usize,
    /// Whether the client wants log-probabilities.
    logprobs: bool,
    /// Of the prompt, for the turns.
    prompt_text: String,
}

/// One choice: where its events come from, and what has become of them.
struct Voice {
    /// `None` once it has ended: dropping it frees the place.
    events: Option<Events>,
    speaker: Speaker,
    stream: Stream,
}

impl Answer {
    /// * `voices`: for each choice its events, its speaker and its random numbers, which name its tool calls.
    pub fn new(text: &Arc<Text>, prompt_text: String, logprobs: bool, voices: Vec<(Events, Speaker, Stream)>) -> Answer {
        let voices = voices.into_iter().map(|(events, speaker, stream)| Voice { events: Some(events), speaker, stream });
        Answer { text: Arc::clone(text), voices: voices.collect(), next: 0, logprobs, prompt_text }
    }

    pub fn choices(&self) -> usize {
        self.voices.len()
    }

    /// The next piece of any choice; `None` when all have ended. What comes is noted in the call's record at once, so that an answer
    /// that nobody waits for is recorded as far as it came.
    pub async fn next(&mut self, call: &mut Call) -> Option<Result<Piece, ApiError>> {
        loop {
            let (choice, event) = self.event().await?;
            let failure = match event {
                Some(Event::Started { cached_tokens }) => {
                    call.record.cached_tokens = Some(call.record.cached_tokens.unwrap_or(0).max(cached_tokens));
                    continue;
                }
                Some(Event::Token { id, behaviour_logprob, sampled_logprob, top }) => {
                    note(&mut call.record.choices[choice], id, behaviour_logprob, sampled_logprob);
                    call.record.output_tokens = Some(call.record.output_tokens.unwrap_or(0) + 1);
                    let (text, stopped) = self.voices[choice].speaker.push(id);
                    let mut piece = Piece { choice, text, ids: vec![id], ..Piece::default() };
                    if self.logprobs {
                        piece.tokens.push(self.token(id, behaviour_logprob, &top));
                    }
                    if stopped {
                        self.end(&mut piece, call, Finish::Stop);
                    }
                    return Some(Ok(piece));
                }
                Some(Event::Finished(finish @ (Finish::Stop | Finish::Length))) => {
                    let mut piece = Piece { choice, ..Piece::default() };
                    self.end(&mut piece, call, finish);
                    return Some(Ok(piece));
                }
                Some(Event::Finished(Finish::Cancelled)) | None => "the server is going down".to_owned(),
                Some(Event::Failed(message)) => message,
            };
            self.voices.iter_mut().for_each(|voice| voice.events = None);
            return Some(Err(ApiError::server(failure)));
        }
    }

    /// What the server has said, to be known when it comes back.
    pub fn turns(&self, call: &Call) -> Vec<Turn> {
        let prompt_ids = call.record.prompt_ids.clone().unwrap_or_default();
        let turn = |(voice, choice): (&Voice, &ChoiceRecord)| Turn {
            prompt_text: self.prompt_text.clone(),
            prompt_ids: prompt_ids.clone(),
            said_ids: choice.ids.clone().unwrap_or_default(),
            said_text: voice.speaker.said().to_owned(),
            content: choice.content.clone().unwrap_or_default(),
            call_ids: choice.tool_calls.iter().map(|call| call.id.clone()).collect(),
        };
        self.voices.iter().zip(&call.record.choices).map(turn).collect()
    }

    /// The next event of any choice, each in its turn.
    async fn event(&mut self) -> Option<(usize, Option<Event>)> {
        std::future::poll_fn(|context| {
            let count = self.voices.len();
            let mut open = false;
            for offset in 0..count {
                let choice = (self.next + offset) % count;
                let Some(events) = &mut self.voices[choice].events else { continue };
                open = true;
                if let Poll::Ready(event) = events.poll_recv(context) {
                    self.next = choice + 1;
                    return Poll::Ready(Some((choice, event)));
                }
            }
            if open { Poll::Pending } else { Poll::Ready(None) }
        })
        .await
    }

    fn end(&mut self, piece: &mut Piece, call: &mut Call, finish: Finish) {
        let voice = &mut self.voices[piece.choice];
        voice.events = None;
        let stream = &voice.stream;
        let ending = voice.speaker.end(|index| stream.name(index));
        let reason = match finish {
            _ if !ending.calls.is_empty() => "tool_calls",
            Finish::Length => "length",
            Finish::Stop | Finish::Cancelled => "stop",
        };
        let record = &mut call.record.choices[piece.choice];
        record.content = ending.content;
        record.tool_calls.clone_from(&ending.calls);
        record.malformed = ending.malformed;
        record.finish_reason = Some(reason.to_owned());
        piece.text.push_str(&ending.rest);
        piece.calls = ending.calls;
        piece.finish_reason = Some(reason);
    }

    fn token(&self, id: u32, logprob: f32, top: &[(u32, f32)]) -> Token {
        let text = |id: u32| self.text.decode(&[id]);
        let top = top.iter().map(|(id, logprob)| Alternative { text: text(*id), logprob: *logprob }).collect();
        Token { id, text: text(id), logprob, top }
    }
}

fn note(record: &mut ChoiceRecord, id: u32, behaviour: f32, sampled: f32) {
    record.ids.get_or_insert_default().push(id);
    record.behaviour.get_or_insert_default().push(behaviour);
    record.sampled.get_or_insert_default().push(sampled);
}
