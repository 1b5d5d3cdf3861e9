//! The policy answers: from a request to the engine's choices.

use std::sync::{Arc, OnceLock};

use axum::response::Response;
use serde_json::Value;

use super::answer::Answer;
use super::app::Api;
use super::call::Call;
use super::memory::History;
use super::openai::ApiError;
use super::openai::chat::{ChatRequest, Conversation};
use super::openai::completions::{CompletionRequest, Prompt};
use super::openai::responses::ResponsesRequest;
use super::openai::shared::{Wish, parse};
use super::record::ChoiceRecord;
use super::speaker::Speaker;
use super::splice::{self, Prefix, Spliced, Words};
use super::write::{self, Style};
use crate::generate::{Engine, Grammar, Key, Refusal, Request, Sampling};
use crate::text::Text;
use crate::text::grammar::{Form, Grammars};

/// A policy: its engine and its words.
pub struct Local {
    engine: Engine,
    text: Arc<Text>,
    ends: Vec<(String, u32)>,
    /// Made for the first request that needs one; the reason where the policy can have none.
    grammars: OnceLock<Result<Grammars, String>>,
}

/// A request as the engine will see it.
struct Asked {
    wish: Wish,
    prompt: Spliced,
    style: Style,
    /// Whether tools were offered, and whether one answer may call several.
    tools: bool,
    parallel: bool,
    grammar: Option<Grammar>,
}

impl Local {
    pub fn new(engine: Engine, text: Text) -> Local {
        let ends = text.end_ids().iter().map(|id| (text.decode(&[*id]), *id)).filter(|(end, _)| !end.is_empty()).collect();
        Local { engine, text: Arc::new(text), ends, grammars: OnceLock::new() }
    }

    /// Longest prompt and answer together, in tokens.
    pub fn context_tokens(&self) -> usize {
        self.engine.max_context()
    }

    pub async fn answer(&self, api: Api, mut call: Call, body: Value) -> Result<Response, ApiError> {
        match self.begin(api, &mut call, body) {
            Ok((answer, style)) => write::respond(answer, call, style).await,
            Err(error) => Err(call.fail(error)),
        }
    }

    fn begin(&self, api: Api, call: &mut Call, body: Value) -> Result<(Answer, Style), ApiError> {
        let asked = match api {
            Api::Chat => self.chat(call, body)?,
            Api::Completions => self.completion(call, body)?,
            Api::Responses => self.responses(call, body)?,
        };
        let Asked { wish, prompt, style, tools, parallel, grammar } = asked;
        let room = self.context_tokens().saturating_sub(prompt.ids.len());
        if room == 0 {
            let (tokens, context) = (prompt.ids.len(), self.context_tokens());
            return Err(ApiError::too_long(format!(
                "the prompt has {tokens} tokens, but prompt and answer together may have {context}"
            )));
        }
        call.app().metrics.continued(prompt.prefix);
        call.record.prefix = Some(prompt.prefix.as_str());
        call.record.input_tokens = Some(prompt.ids.len());
        call.record.prompt_ids = Some(prompt.ids.clone());
        call.record.provider = "fulgurite".to_owned();
        // The trainer divides by what was sampled at, also where the client left it to us.
        call.record.parameters.insert("gen_ai.request.temperature".to_owned(), serde_json::json!(wish.sampling.temperature));
        call.record.choices = vec![ChoiceRecord::default(); wish.n];

        let key = key(call, &wish, &prompt.ids);
        let sampling = sampling(&wish, room, self.text.end_ids(), grammar);
        let mut voices = Vec::with_capacity(wish.n);
        for choice in 0..wish.n {
            let key = Key { choice: choice as u64, ..key.clone() };
            let stream = key.stream(&prompt.ids);
            let request = Request { prompt: prompt.ids.clone(), sampling: sampling.clone(), key };
            let events = self.engine.submit(request).map_err(refusal)?;
            voices.push((events, Speaker::new(&self.text, &wish.stops, tools, parallel), stream));
        }
        Ok((Answer::new(&self.text, prompt.text, wish.logprobs.is_some(), voices), style))
    }

    fn chat(&self, call: &mut Call, body: Value) -> Result<Asked, ApiError> {
        call.record.response_id.insert_str(0, "chatcmpl-");
        call.asked(&body, &[], &[]);
        let request: ChatRequest = parse(&body)?;
        let conversation = request.conversation()?;
        call.asked(&body, &conversation.messages, &conversation.tools);
        let wish = request.wish()?;
        let style = Style::chat(call, &wish, request.include_usage());
        self.conversation(call, conversation, request.form()?, wish, style)
    }

    fn responses(&self, call: &mut Call, body: Value) -> Result<Asked, ApiError> {
        call.record.response_id.insert_str(0, "resp_");
        call.asked(&body, &[], &[]);
        let request: ResponsesRequest = parse(&body)?;
        let mut said = match &request.previous_response_id {
            Some(id) => call.app().memory.get(id).ok_or_else(|| forgotten(id))?,
            None => History::new(),
        };
        said.extend(request.chat()?.into_iter().map(Arc::new));
        let conversation = request.conversation(said.iter().map(Arc::as_ref))?;
        call.asked(&body, &conversation.messages, &conversation.tools);
        let wish = request.wish()?;
        let form = request.form()?;
        call.history = (request.store != Some(false)).then_some(said);
        let style = Style::responses(call, &wish, body);
        self.conversation(call, conversation, form, wish, style)
    }

    fn conversation(
        &self,
        call: &Call,
        conversation: Conversation,
        form: Option<Form>,
        wish: Wish,
        style: Style,
    ) -> Result<Asked, ApiError> {
        let Conversation { messages, tools, parallel_tool_calls } = conversation;
        let grammar = form.map(|form| self.grammar(&form)).transpose()?;
        let words = Words {
            render: &|messages, opened| self.text.render(messages, &tools, opened),
            encode: &|text| self.text.encode(text),
            ends: &self.ends,
        };
        let refused =
            |error: anyhow::Error| ApiError::invalid("messages", format!("the chat template refuses these messages: {error:#}"));
        let prompt = match &call.session {
            Some(session) => splice::prompt(&messages, &session.turns(), &words),
            None => splice::prompt(&messages, &[], &words),
        };
        let (prompt, tools) = (prompt.map_err(refused)?, !tools.is_empty());
        Ok(Asked { wish, prompt, style, tools, parallel: parallel_tool_calls, grammar })
    }

    fn grammar(&self, form: &Form) -> Result<Grammar, ApiError> {
        let param = if form.content.is_some() { "response_format" } else { "tools" };
        let refused = |reason: String| ApiError::unsupported(param, format!("the answer cannot be held to `{param}`: {reason}"));
        let grammars = self.grammars.get_or_init(|| Grammars::new(&self.text)).as_ref();
        grammars.map_err(|reason| refused(reason.clone()))?.of(form).map_err(refused)
    }

    fn completion(&self, call: &mut Call, body: Value) -> Result<Asked, ApiError> {
        call.record.response_id.insert_str(0, "cmpl-");
        call.asked(&body, &[], &[]);
        let request: CompletionRequest = parse(&body)?;
        let prompt = request.prompts()?.remove(0);
        let wish = request.wish()?;
        let (text, ids) = match prompt {
            Prompt::Text(text) => {
                call.record.messages = vec![serde_json::json!({ "role": "user", "content": text })];
                let ids = self.text.encode(&text);
                (text, ids)
            }
            Prompt::Ids(ids) => (String::new(), ids),
        };
        if ids.is_empty() {
            return Err(ApiError::invalid("prompt", "`prompt` is empty"));
        }
        let style = Style::completions(call, &wish, request.include_usage());
        Ok(Asked {
            wish,
            prompt: Spliced { text, ids, prefix: Prefix::First },
            style,
            tools: false,
            parallel: true,
            grammar: None,
        })
    }

    /// Seconds in passes through the model so far.
    pub fn model_seconds(&self) -> f64 {
        self.engine.stats().model_seconds
    }

    /// The engine's state, for `/metrics`.
    pub fn gauges(&self) -> Vec<(&'static str, &'static str, f64)> {
        let stats = self.engine.stats();
        vec![
            ("engine_running", "Requests that have a place in the batch.", stats.running as f64),
            ("engine_waiting", "Requests that wait for one.", stats.waiting as f64),
            ("engine_blocks_used", "Blocks of the KV cache that running requests hold.", stats.blocks_used as f64),
            ("engine_blocks_cached", "Blocks that nobody holds and that may be found again.", stats.blocks_cached as f64),
            ("engine_blocks_total", "Blocks of the KV cache.", stats.blocks_total as f64),
            ("engine_preempted", "Times that a running request had to wait again.", stats.preempted as f64),
            ("engine_prompt_tokens", "Tokens of the prompts of all requests that started.", stats.prompt_tokens as f64),
            ("engine_cached_tokens", "How many of them came out of the cache.", stats.cached_tokens as f64),
            ("engine_new_tokens", "Tokens sampled.", stats.new_tokens as f64),
            ("engine_model_seconds", "Seconds in passes through the model.", stats.model_seconds),
        ]
    }
}

/// What the random numbers of a call hang on. In a rollout they are those of its place in the run; elsewhere of the client's seed, or of
/// chance.
fn key(call: &Call, wish: &Wish, prompt: &[u32]) -> Key {
    let seed = wish.seed.map(|seed| seed as u64);
    match &call.session {
        Some(session) => {
            let rollout = &session.rollout;
            // A client that names a seed wants the same again where it asks the same.
            let repeat = if seed.is_some() { 0 } else { session.repeat_of(prompt) };
            Key {
                seed: seed.map_or(rollout.seed, |seed| rollout.seed ^ seed.rotate_left(32)),
                iteration: rollout.iteration,
                task: rollout.task_id.clone().unwrap_or_else(|| rollout.id.clone()),
                sample: rollout.sample,
                repeat,
                choice: 0,
            }
        }
        None => {
            let chance = || u64::from_le_bytes(uuid::Uuid::new_v4().as_bytes()[..8].try_into().expect("a UUID has 16 bytes"));
            Key { seed: seed.unwrap_or_else(chance), ..Key::default() }
        }
    }
}

/// * `room`: most ids that fit into the context.
fn sampling(wish: &Wish, room: usize, ends: &[u32], grammar: Option<Grammar>) -> Sampling {
    Sampling {
        max_tokens: wish.max_tokens.unwrap_or(room).min(room),
        stop_ids: ends.iter().chain(&wish.sampling.stop_ids).copied().collect(),
        logprobs: wish.logprobs.unwrap_or(0),
        grammar,
        ..wish.sampling.clone()
    }
}

fn forgotten(id: &str) -> ApiError {
    let message = format!("there is no response `{id}`, or not any more; send the items of the conversation in `input`");
    ApiError { code: Some("previous_response_not_found"), ..ApiError::invalid("previous_response_id", message) }
}

fn refusal(refusal: Refusal) -> ApiError {
    let message = refusal.to_string();
    match refusal {
        Refusal::Empty | Refusal::UnknownId { .. } => ApiError::invalid("prompt", message),
        Refusal::TooLong { .. } => ApiError::too_long(message),
        Refusal::Sampling(_) => ApiError { param: None, ..ApiError::invalid("", message) },
        Refusal::QueueFull { .. } => ApiError::busy(message),
        Refusal::Stopped(_) => ApiError::server(message),
    }
}
