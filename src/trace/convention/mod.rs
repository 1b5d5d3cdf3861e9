//! Conventions: what a span's attributes mean.
//!
//! A span may carry several at once (OpenInference beside GenAI, Traceloop on top of it). Which are there is found by a few
//! look-ups of key prefixes; then they are read from the most specific to the most general, each filling only what is still
//! missing. What goes whole into a typed field is taken; everything else stays in `attributes`.

mod agent_lightning;
mod agentops;
mod autogen;
mod envelope;
pub mod fulgurite;
mod genai;
mod genai_events;
mod identity;
mod kind;
mod langfuse;
mod litellm;
mod mlflow;
mod openinference;
mod pydantic_ai;
mod python;
mod traceloop;
mod vercel;

use std::borrow::Cow;

use super::attributes::{Attributes, Value, push_json_string};
use super::container::{ReadOptions, Sink};
use super::span::{Convention, Format, Kind, Link, Llm, Origin, Span, Status, Tool};

/// Turns a span into what its attributes mean and appends it to `sink.spans`.
pub fn interpret(mut raw: RawSpan<'_>, options: &ReadOptions, sink: &mut Sink) {
    let mut attributes = std::mem::take(&mut raw.attributes);
    let mut events = std::mem::take(&mut raw.events);
    let mut span = common(raw);
    let present = Present::of(&attributes, &span.name);
    let (kind, evidence) = kind::decide(&attributes, &span.name, present);
    span.kind = kind;
    span.kind_evidence = Some(evidence.to_owned());
    span.convention = present.convention(&span);

    identity::read(&attributes, &mut span, present, options);
    attributes.fill_text("error.type", &mut span.error_type);
    framework(&mut attributes, &mut span, present);
    if present.fulgurite {
        fulgurite::common(&mut attributes, &mut span, sink);
    }
    let exceptions = exceptions(&events);
    if span.status == Status::Error && span.error_type.is_none() {
        span.error_type = exceptions.first().cloned();
    }
    let mut llm = Llm::default();
    if !events.is_empty() {
        genai_events::of_span(&mut events, &mut span, &mut llm, sink);
    }
    match span.kind {
        Kind::Llm => {
            read_llm(&mut attributes, &mut llm, present);
            span.llm = Some(Box::new(llm));
        }
        Kind::Tool | Kind::ToolRequest => {
            let mut tool = Tool { exceptions, ..Tool::default() };
            read_tool(&mut attributes, &span, &mut tool, present);
            span.tool = Some(Box::new(tool));
        }
        _ => {}
    }
    if (present.agent_lightning || present.agentops)
        && let Some(key) = agent_lightning::rewards(&mut attributes, &mut span, sink)
        && matches!(span.kind, Kind::Chain | Kind::Other)
    {
        // A task or operation that does nothing but state a reward.
        span.kind = Kind::Reward;
        span.kind_evidence = Some(key.to_owned());
    }
    span.events_json = events_json(&events);
    span.attributes_json = attributes.to_json();
    sink.spans.push(span);
}

/// Turns a log record that carries messages or a reward into a span of kind `Message` or `Reward` and appends it to
/// `sink.spans`. Log records that say nothing about an agent are kept as `Other`.
pub fn interpret_log(raw: RawLog<'_>, options: &ReadOptions, sink: &mut Sink) {
    let mut known = Span { resource_json: raw.resource_json.clone(), parent_span_id: raw.span_id.clone(), ..Span::default() };
    identity::read(&raw.attributes, &mut known, Present::of(&raw.attributes, ""), options);
    let mut span = genai_events::log(raw, sink);
    span.identity = known.identity;
    sink.spans.push(span);
}

/// A call, from the most specific convention to the most general.
fn read_llm(attributes: &mut Attributes<'_>, llm: &mut Llm, present: Present) {
    if present.litellm {
        litellm::llm(attributes, llm);
    }
    if present.openinference {
        openinference::llm(attributes, llm);
    }
    if present.langfuse {
        langfuse::llm(attributes, llm);
    }
    if present.mlflow {
        mlflow::llm(attributes, llm);
    }
    if present.vercel {
        vercel::llm(attributes, llm);
    }
    if present.pydantic_ai {
        pydantic_ai::llm(attributes, llm);
    }
    if present.gen_ai {
        if present.indexed {
            agentops::llm(attributes, llm);
        }
        genai::llm(attributes, llm);
    }
    if present.llm_request || present.indexed {
        traceloop::llm(attributes, llm);
    }
    if present.agent_lightning {
        agent_lightning::llm(attributes, llm);
    }
    if present.fulgurite {
        fulgurite::llm(attributes, llm);
    }
}

fn read_tool(attributes: &mut Attributes<'_>, span: &Span, tool: &mut Tool, present: Present) {
    if present.langfuse {
        langfuse::tool(attributes, span, tool);
    }
    if present.mlflow {
        mlflow::tool(attributes, span, tool);
    }
    if present.vercel {
        vercel::tool(attributes, tool);
    }
    if present.pydantic_ai {
        pydantic_ai::tool(attributes, tool);
    }
    if present.gen_ai {
        genai::tool(attributes, tool);
    }
    if present.agentops {
        agentops::tool(attributes, tool);
    }
    if present.openinference {
        openinference::tool(attributes, tool);
    }
    if present.traceloop {
        traceloop::tool(attributes, tool);
    }
}

/// What conventions say about any span: agents, sessions, scores, the framework's own status.
fn framework(attributes: &mut Attributes<'_>, span: &mut Span, present: Present) {
    if present.langfuse {
        langfuse::common(attributes, span);
    }
    if present.openinference {
        openinference::common(attributes, span, present.scores);
    }
    if present.mlflow {
        mlflow::common(span);
    }
    if present.vercel {
        vercel::common(attributes, span);
    }
    if present.pydantic_ai {
        pydantic_ai::common(attributes, span);
    }
    if present.gen_ai {
        genai::common(attributes, span);
    }
    if span.scope_name.as_deref().is_some_and(|scope| scope.starts_with("autogen")) {
        autogen::common(attributes, span);
    }
    if present.agentops {
        agentops::common(attributes, span);
    }
    if present.traceloop {
        traceloop::common(attributes, span);
    }
}

/// Which conventions a span's keys belong to.
#[derive(Debug, Clone, Copy, Default)]
struct Present {
    agent_lightning: bool,
    agentops: bool,
    /// Of our own attributes, those that say more than whom the span belongs to.
    fulgurite: bool,
    gen_ai: bool,
    /// `gen_ai.prompt.N.*` or `gen_ai.completion.N.*`.
    indexed: bool,
    langfuse: bool,
    litellm: bool,
    /// `llm.request.*`, of Traceloop before version 0.6.
    llm_request: bool,
    mlflow: bool,
    openinference: bool,
    pydantic_ai: bool,
    traceloop: bool,
    vercel: bool,
    /// Keys that tell whom the span belongs to.
    identity: bool,
    /// Scores of OpenInference.
    scores: bool,
}

impl Present {
    /// One pass over the keys.
    fn of(attributes: &Attributes<'_>, name: &str) -> Self {
        let mut present = Self { agent_lightning: name.starts_with("agentlightning."), ..Self::default() };
        for (key, _) in attributes.iter() {
            let begins = |prefix: &str| key.starts_with(prefix);
            match key.as_bytes().first() {
                Some(b'a') => {
                    let own = begins("agentlightning.");
                    present.agent_lightning |= own;
                    present.identity |= own || begins("ai.telemetry.") || begins("attempt_id");
                    present.agentops |= begins("agentops.");
                    present.vercel |= begins("ai.");
                    present.scores |= begins("annotations.");
                }
                Some(b'e') => {
                    present.scores |= begins("evaluations.");
                    present.identity |= begins("example_id");
                }
                Some(b'g') if begins("gen_ai.") => {
                    present.gen_ai = true;
                    present.indexed |= begins("gen_ai.prompt.") || begins("gen_ai.completion.");
                }
                Some(b'l') => {
                    let langfuse = begins("langfuse.");
                    present.langfuse |= langfuse;
                    present.identity |= langfuse || begins("langsmith.");
                    present.llm_request |= begins("llm.request.");
                    present.litellm |= begins(litellm::PREFIX);
                    present.openinference |= begins("llm.input_messages.");
                    present.pydantic_ai |= begins("logfire.");
                }
                Some(b'm') => {
                    present.identity |= begins("metadata");
                    present.litellm |= begins("metadata.requester_custom_headers");
                    present.mlflow |= begins("mlflow.");
                }
                Some(b'o') => present.openinference |= begins("openinference."),
                Some(b'p') => {
                    present.agent_lightning |= begins("prompt_token_ids");
                    present.pydantic_ai |= begins("pydantic_ai.");
                }
                Some(b'r') => {
                    present.agent_lightning |= begins("response_token_ids");
                    present.identity |= begins("rollout_id");
                }
                Some(b's') => present.scores |= begins("session.annotations."),
                Some(b't') => {
                    let traceloop = begins("traceloop.");
                    present.traceloop |= traceloop;
                    present.identity |= traceloop || begins("task_id");
                    present.scores |= begins("trace.");
                }
                Some(b'd' | b'i') => present.identity |= begins("data_id") || begins("instance_id"),
                Some(b'f') if begins("fulgurite.") => {
                    present.identity = true;
                    let own = [fulgurite::call::PREFIX, fulgurite::reward::PREFIX, fulgurite::rollout::PREFIX];
                    present.fulgurite |= own.into_iter().any(begins);
                }
                _ => {}
            }
            present.identity |= key == "group_id";
        }
        present
    }

    /// The most specific convention of a span.
    fn convention(self, span: &Span) -> Option<Convention> {
        let scope = span.scope_name.as_deref().unwrap_or_default();
        [
            (self.fulgurite, Convention::Fulgurite),
            (self.langfuse, Convention::Langfuse),
            (self.litellm, Convention::LiteLlm),
            (self.agent_lightning, Convention::AgentLightning),
            (self.openinference, Convention::OpenInference),
            (self.mlflow, Convention::Mlflow),
            (self.pydantic_ai || scope == "pydantic-ai", Convention::PydanticAi),
            (self.vercel, Convention::Vercel),
            (scope.starts_with("autogen"), Convention::AutoGen),
            (self.agentops, Convention::AgentOps),
            (self.traceloop || self.llm_request || self.indexed, Convention::Traceloop),
            (self.gen_ai, Convention::GenAi),
        ]
        .into_iter()
        .find_map(|(is_present, convention)| is_present.then_some(convention))
    }
}

/// Classes of the exceptions that a span recorded, each once.
fn exceptions(events: &[RawEvent<'_>]) -> Vec<String> {
    let mut classes: Vec<String> = Vec::new();
    for event in events.iter().filter(|event| event.name == "exception") {
        if let Some(class) = event.attributes.text("exception.type").filter(|class| !classes.iter().any(|known| known == class)) {
            classes.push(class.to_owned());
        }
    }
    classes
}

/// What every convention leaves as the container gave it.
fn common(raw: RawSpan<'_>) -> Span {
    Span {
        origin: raw.origin,
        format: raw.format,
        trace_id: raw.trace_id,
        span_id: raw.span_id,
        parent_span_id: raw.parent_span_id,
        links: raw.links,
        name: raw.name.into_owned(),
        start_ns: raw.start_ns,
        end_ns: raw.end_ns,
        time_precision_ns: raw.time_precision_ns,
        status: raw.status,
        status_message: raw.status_message.map(Cow::into_owned),
        service_name: raw.service_name,
        scope_name: raw.scope_name.map(Cow::into_owned),
        scope_version: raw.scope_version.map(Cow::into_owned),
        resource_json: raw.resource_json,
        ..Span::default()
    }
}

/// Events as the column `events` keeps them; `None` where there are none.
fn events_json(events: &[RawEvent<'_>]) -> Option<String> {
    if events.is_empty() {
        return None;
    }
    let mut json = String::from("[");
    for event in events {
        json.push_str(if json.len() > 1 { ",{\"name\":" } else { "{\"name\":" });
        push_json_string(&mut json, &event.name);
        if let Some(time_ns) = event.time_ns {
            json.push_str(&format!(",\"time_ns\":{time_ns}"));
        }
        if let Some(attributes) = event.attributes.to_json() {
            json.push_str(",\"attributes\":");
            json.push_str(&attributes);
        }
        json.push('}');
    }
    json.push(']');
    Some(json)
}

/// A span as its container gives it, before a convention has looked at its attributes.
#[derive(Debug, Clone, Default)]
pub struct RawSpan<'a> {
    pub origin: Origin,
    pub format: Format,
    /// Normalised: lower-case hex without `0x` for OpenTelemetry ids.
    pub trace_id: Option<String>,
    pub span_id: String,
    pub parent_span_id: Option<String>,
    pub name: Cow<'a, str>,
    pub start_ns: Option<i64>,
    pub end_ns: Option<i64>,
    pub time_precision_ns: Option<i64>,
    pub status: Status,
    pub status_message: Option<Cow<'a, str>>,
    pub attributes: Attributes<'a>,
    pub events: Vec<RawEvent<'a>>,
    pub links: Vec<Link>,
    pub service_name: Option<String>,
    pub scope_name: Option<Cow<'a, str>>,
    pub scope_version: Option<Cow<'a, str>>,
    /// JSON object of the resource's attributes.
    pub resource_json: Option<String>,
}

/// A span event, such as `exception`.
#[derive(Debug, Clone, Default)]
pub struct RawEvent<'a> {
    pub name: Cow<'a, str>,
    pub time_ns: Option<i64>,
    pub attributes: Attributes<'a>,
}

/// A log record as its container gives it.
#[derive(Debug, Clone)]
pub struct RawLog<'a> {
    pub origin: Origin,
    pub format: Format,
    pub trace_id: Option<String>,
    /// The span that was active when the record was made.
    pub span_id: Option<String>,
    /// From the field `eventName`, else from the attribute `event.name`.
    pub event_name: Option<Cow<'a, str>>,
    /// The record's own time, else the time at which it was observed.
    pub time_ns: Option<i64>,
    pub time_precision_ns: Option<i64>,
    /// As text, e.g. `INFO`.
    pub severity: Option<Cow<'a, str>>,
    /// `Value::Null` where there is none.
    pub body: Value<'a>,
    pub attributes: Attributes<'a>,
    pub service_name: Option<String>,
    pub scope_name: Option<Cow<'a, str>>,
    pub scope_version: Option<Cow<'a, str>>,
    pub resource_json: Option<String>,
}

#[cfg(test)]
mod tests;
