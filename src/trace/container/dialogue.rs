//! Runs that are recorded as what was said, turn after turn: the prompt of each call is all that stands before it.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::trace::attributes::Value;
use crate::trace::message::{Message, Role, ToolCallRequest, read_message};
use crate::trace::reject::Reject;
use crate::trace::span::{Choice, Kind, Llm, Span, Tool};

/// Each call holds its whole prompt, so that a run takes the square of its length. What the prompts of one may have together.
pub const MAX_PROMPTS_BYTES: usize = 256 << 20;

/// One run on its way from messages to spans.
#[derive(Debug)]
pub struct Dialogue {
    /// What every span of the run shares.
    run: Span,
    heard: Vec<Message>,
    /// What the latest response asked for.
    asked: Vec<ToolCallRequest>,
    heard_bytes: usize,
    prompts_bytes: usize,
    spans: Vec<Span>,
    /// What the other agents of the run have heard, and were asked last.
    others: BTreeMap<String, (Vec<Message>, Vec<ToolCallRequest>)>,
    agent: String,
}

impl Dialogue {
    /// * `run`: what every span of the run shares. Its `span_id` and its `order` are what theirs begin with.
    pub fn new(run: Span) -> Self {
        Self {
            run,
            heard: Vec::new(),
            asked: Vec::new(),
            heard_bytes: 0,
            prompts_bytes: 0,
            spans: Vec::new(),
            others: BTreeMap::new(),
            agent: String::new(),
        }
    }

    /// A span at the next place of the run.
    pub fn place(&self, kind: Kind) -> Span {
        let place = self.spans.len();
        Span {
            kind,
            span_id: format!("{}{place}", self.run.span_id),
            order: self.run.order.as_ref().map(|order| format!("{order}{place:06}")),
            ..self.run.clone()
        }
    }

    pub fn push(&mut self, span: Span) -> &mut Span {
        self.spans.push(span);
        self.spans.last_mut().expect("it was pushed just now")
    }

    /// Takes in a message that no call of this run gave: history, or what a user said.
    pub fn hear(&mut self, message: Message) {
        if message.role == Role::Assistant {
            self.asked = message.tool_calls.clone();
        }
        self.heard_bytes += size_of(&message);
        self.heard.push(message);
    }

    /// Forgets what was said, except the system's part: the agent has put a summary in its place.
    pub fn forget(&mut self) {
        self.heard.retain(|message| message.role == Role::System);
        self.heard_bytes = self.heard.iter().map(size_of).sum();
    }

    /// From here on another agent hears and answers; it knows what it has heard before.
    pub fn turn_to(&mut self, agent: &str) {
        if self.agent == agent {
            return;
        }
        let (heard, asked) = self.others.remove(agent).unwrap_or_default();
        let before = (std::mem::replace(&mut self.heard, heard), std::mem::replace(&mut self.asked, asked));
        self.others.insert(std::mem::replace(&mut self.agent, agent.to_owned()), before);
        self.heard_bytes = self.heard.iter().map(size_of).sum();
    }

    /// A call that answered all that was heard so far.
    ///
    /// # Errors
    /// The prompts of the run are longer together than [`MAX_PROMPTS_BYTES`].
    pub fn answer(&mut self, choice: Choice, llm: Llm) -> Result<&mut Span, Reject> {
        if self.prompts_bytes + self.heard_bytes > MAX_PROMPTS_BYTES {
            let length = format!("{} messages", self.heard.len());
            return Err(Reject::bad_value("messages", &length, "a run whose prompts have at most 256 MiB together"));
        }
        Ok(self.answer_within_bounds(choice, llm))
    }

    /// As [`Dialogue::answer`], but once the prompts are too long together, calls keep their answers and go without them.
    pub fn answer_within_bounds(&mut self, choice: Choice, llm: Llm) -> &mut Span {
        self.prompts_bytes += self.heard_bytes;
        let input = if self.prompts_bytes > MAX_PROMPTS_BYTES { Vec::new() } else { self.heard.clone() };
        let mut span = self.place(Kind::Llm);
        self.hear(choice.message.clone());
        span.llm = Some(Box::new(Llm { input, choices: vec![choice], ..llm }));
        self.push(span)
    }

    /// A tool that ran, and what the next call is told of it. A result without an id is that of the only request.
    pub fn result(&mut self, mut message: Message) -> &mut Span {
        message.role = Role::Tool;
        let request = match (&message.tool_call_id, &self.asked[..]) {
            (Some(id), asked) => asked.iter().find(|request| request.id.as_ref() == Some(id)),
            (None, [only]) => Some(only),
            (None, _) => None,
        };
        let mut span = self.place(Kind::Tool);
        let name = request.map(|request| request.name.clone()).or_else(|| message.name.clone());
        message.tool_call_id = message.tool_call_id.or_else(|| request?.id.clone());
        span.name = name.clone().unwrap_or_default();
        span.tool = Some(Box::new(Tool {
            name,
            call_id: message.tool_call_id.clone(),
            arguments: request.map(|request| request.arguments.clone()),
            result: message.content.clone().or_else(|| message.parts_json.clone()),
            result_is_error: message.is_error,
            ..Tool::default()
        }));
        self.hear(message);
        self.push(span)
    }

    /// How many requests the latest response made.
    pub fn asked(&self) -> usize {
        self.asked.len()
    }

    pub fn calls(&self) -> impl Iterator<Item = &Span> {
        self.spans.iter().filter(|span| span.kind == Kind::Llm)
    }

    pub fn calls_mut(&mut self) -> impl Iterator<Item = &mut Span> {
        self.spans.iter_mut().filter(|span| span.kind == Kind::Llm)
    }

    /// The spans, in their order.
    pub fn into_spans(self) -> Vec<Span> {
        self.spans
    }
}

/// About how many bytes a message takes.
pub fn size_of(message: &Message) -> usize {
    let texts = [&message.content, &message.reasoning, &message.refusal, &message.parts_json];
    let calls = message.tool_calls.iter().map(|call| call.name.len() + call.arguments.len() + 32);
    64 + texts.into_iter().flatten().map(String::len).sum::<usize>() + calls.sum::<usize>()
}

/// A message of a known role: its content is a text or a list of parts.
pub fn message(role: Role, content: Option<&Value<'_>>) -> Message {
    if let Some(Value::Json(parts)) = content
        && parts.starts_with('[')
        && let Ok(Some(message)) = read_message(&format!("{{\"role\":\"{}\",\"content\":{parts}}}", role.as_str()), role)
    {
        return message;
    }
    Message { role, content: content.and_then(Value::as_text).map(Cow::into_owned), ..Message::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_grow_and_results_find_their_requests() {
        let run = Span { span_id: "run.".to_owned(), order: Some("1.".to_owned()), ..Span::default() };
        let mut dialogue = Dialogue::new(run);
        let text = |text: &str| Value::Str(text.to_owned().into());
        dialogue.hear(message(Role::System, Some(&text("be brief"))));
        dialogue.hear(message(Role::User, Some(&text("q"))));
        let mut asks = message(Role::Assistant, None);
        asks.tool_calls.push(ToolCallRequest { id: Some("c".to_owned()), name: "f".to_owned(), arguments: "{}".to_owned() });
        dialogue.answer(Choice { message: asks, ..Choice::default() }, Llm::default()).unwrap();
        dialogue.result(message(Role::Tool, Some(&Value::Json(r#"[{"type":"text","text":"4"}]"#.into()))));
        let done = message(Role::Assistant, Some(&text("4")));
        dialogue.answer(Choice { message: done, ..Choice::default() }, Llm::default()).unwrap();
        dialogue.forget();
        dialogue.answer(Choice::default(), Llm::default()).unwrap();
        let spans = dialogue.into_spans();
        let prompts: Vec<usize> = spans.iter().filter_map(|span| Some(span.llm.as_ref()?.input.len())).collect();
        assert_eq!(prompts, [2, 4, 1]);
        let tool = spans[1].tool.as_deref().unwrap();
        assert_eq!((tool.call_id.as_deref(), tool.result.as_deref(), tool.name.as_deref()), (Some("c"), Some("4"), Some("f")));
        assert_eq!((spans[1].span_id.as_str(), spans[1].order.as_deref()), ("run.1", Some("1.000001")));
    }

    #[test]
    fn run_that_would_fill_the_memory_is_refused() {
        let mut dialogue = Dialogue::new(Span::default());
        let long = Message { content: Some("x".repeat(64 << 20)), ..Message::default() };
        dialogue.hear(long);
        let answer = |dialogue: &mut Dialogue| dialogue.answer(Choice::default(), Llm::default()).map(drop);
        assert!((0..3).all(|_| answer(&mut dialogue).is_ok()));
        // Its answers may be kept without their prompts.
        assert!(answer(&mut dialogue).is_err());
        let alone = dialogue.answer_within_bounds(Choice::default(), Llm::default());
        assert_eq!(alone.llm.as_deref().unwrap().input, []);
    }
}
