//! What every reader makes: one `Span` for each recorded span, step, event or reward, not yet resolved.

use serde::{Deserialize, Serialize};

use super::message::Message;
use super::numbers;

/// Where a record was read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Origin {
    /// Index into the list of files that were given to ingest.
    pub file: u32,
    /// Line or message number in the file, from 1.
    pub line: u64,
    /// Byte offset of the record in the decompressed file.
    pub offset: u64,
    /// Position of the span inside its record, from 0.
    pub position: u32,
}

/// What happened, decided by rule 7.1 (first match wins); `kind_evidence` names the key that decided.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// A call of a language model.
    Llm,
    /// A tool that ran.
    Tool,
    /// A request for a tool, as seen by the instrumentation of the model: says nothing about the tool's fate.
    ToolRequest,
    Agent,
    Chain,
    Handoff,
    Guardrail,
    Retriever,
    Embedding,
    Evaluator,
    /// One or more reward dimensions.
    Reward,
    /// A log event that carries messages of the LLM call with the same trace and span id; `resolve` moves them there.
    Message,
    /// Preparation, such as `create_agent`.
    Setup,
    /// A record about the rollout itself (task, group, status).
    Rollout,
    #[default]
    Other,
}

/// The span's own status. A tool call's status is found by `resolve`: an ERROR alone is not a failed call, an OK alone no success.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    #[default]
    Unset,
    Ok,
    Error,
}

/// One span as a reader leaves it. What the source does not say is `None`, never invented.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Span {
    pub origin: Origin,
    /// Container, as in the column `source_format`.
    pub format: Format,
    /// Attribute convention that filled the typed fields, as in the column `convention`.
    pub convention: Option<Convention>,

    /// Lower-case hex for OpenTelemetry, else verbatim. Records of one run that state a rollout id may leave it empty.
    pub trace_id: Option<String>,
    /// Unique in its trace. Readers make one up (`<line>.<position>`) where the format has none.
    pub span_id: String,
    pub parent_span_id: Option<String>,
    pub links: Vec<Link>,
    pub name: String,
    pub kind: Kind,
    pub kind_evidence: Option<String>,
    /// Nanoseconds since 1970 UTC.
    pub start_ns: Option<i64>,
    pub end_ns: Option<i64>,
    /// 1, 1 000 or 1 000 000.
    pub time_precision_ns: Option<i64>,
    /// The format's own order, sorted as text within the rollout before times are looked at (`dotted_order`, a zero-padded list index).
    pub order: Option<String>,
    pub status: Status,
    pub status_message: Option<String>,
    pub error_type: Option<String>,

    pub identity: Identity,
    pub llm: Option<Box<Llm>>,
    pub tool: Option<Box<Tool>>,
    /// Reward dimensions stated by this span (kind `Reward`, or scores carried by another span).
    pub rewards: Vec<Reward>,
    pub rollout: Option<Box<RolloutRecord>>,

    pub service_name: Option<String>,
    pub scope_name: Option<String>,
    pub scope_version: Option<String>,
    /// JSON array of `{"name", "time_ns", "attributes"}`.
    pub events_json: Option<String>,
    /// JSON object of every attribute that no typed field holds whole.
    pub attributes_json: Option<String>,
    /// JSON object of the resource's attributes.
    pub resource_json: Option<String>,

    /// The record itself, where it says only part of what the source knows about the span: one message of LangSmith's wire
    /// stream. The other fields are filled as far as this part goes, and `trace_id` may be missing.
    /// `container::langsmith::complete` makes one whole span of all the parts with one `span_id`.
    pub part_json: Option<Box<str>>,
}

impl Span {
    /// About how many bytes of memory the span takes: itself, and its parts of any length. Ids and names are not worth counting.
    pub fn size_bytes(&self) -> usize {
        let texts = [&self.status_message, &self.events_json, &self.attributes_json, &self.resource_json];
        let mut size = size_of::<Span>() + texts.into_iter().flatten().map(String::len).sum::<usize>();
        size += self.part_json.as_ref().map_or(0, |part| part.len());
        size += self.links.len() * size_of::<Link>() + self.rewards.len() * size_of::<Reward>();
        size += self.llm.as_ref().map_or(0, |llm| llm.size_bytes());
        size += self.tool.as_ref().map_or(0, |tool| {
            let texts = [&tool.arguments, &tool.result].into_iter().flatten();
            size_of::<Tool>() + texts.map(String::len).sum::<usize>()
        });
        size + self.rollout.as_ref().and_then(|rollout| rollout.task_input.as_ref()).map_or(0, String::len)
    }
}

/// What a span says about who and what it belongs to.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Identity {
    /// Only where the source states a rollout id of its own; the trace id is not one.
    pub rollout_id: Option<String>,
    pub attempt_id: Option<String>,
    pub session_id: Option<String>,
    pub group_id: Option<String>,
    pub task_id: Option<(TaskIdSource, String)>,
    pub split: Option<String>,
    pub policy_version: Option<i64>,
    /// Name of the agent that this span *is* (agent spans, handoff targets).
    pub agent: Option<String>,
    /// Name of the agent that this span *ran under*, where the source states it better than the tree does (rule 7.7:
    /// `lc_agent_name`, then the first segment of `langgraph_checkpoint_ns`, then `traceloop.entity.path`).
    pub agent_hint: Option<String>,
}

/// Where a task id was found, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum TaskIdSource {
    Configured,
    /// A dataset example's id (`reference_example_id`, an experiment item).
    Reference,
    /// A rollout record.
    Record,
    /// `task_id`, `data_id`, `example_id` or `instance_id` in metadata.
    Metadata,
    Group,
    /// Hash of the system and first user message.
    Prompt,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Link {
    pub trace_id: String,
    pub span_id: String,
    /// JSON object, where there are any.
    pub attributes_json: Option<String>,
}

/// A call of a language model.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Llm {
    pub provider: Option<String>,
    pub model_requested: Option<String>,
    pub model: Option<String>,
    pub response_id: Option<String>,
    pub temperature: Option<f64>,
    pub top_p: Option<f64>,
    pub top_k: Option<i64>,
    pub max_tokens: Option<i64>,
    /// JSON object of every request parameter (messages and tools left out).
    pub params_json: Option<String>,
    /// The prompt, system message first.
    pub input: Vec<Message>,
    pub tools: Vec<ToolOffer>,
    /// Whether the source could have stated the tools offered (so that an empty list means none).
    pub tools_known: bool,
    /// One for each of the `n` choices; empty where the call failed or nothing was recorded.
    pub choices: Vec<Choice>,
    #[serde(with = "numbers")]
    pub prompt_token_ids: Option<Vec<i32>>,
    pub input_tokens: Option<i64>,
    pub output_tokens: Option<i64>,
    pub cached_tokens: Option<i64>,
    pub reasoning_tokens: Option<i64>,
    pub stream: Option<bool>,
    pub http_status: Option<i32>,
    /// The client gave up on this call and asked again.
    pub abandoned: Option<bool>,
}

impl Llm {
    fn size_bytes(&self) -> usize {
        let numbers = |list: &Option<Vec<i32>>| list.as_ref().map_or(0, |list| size_of_val(list.as_slice()));
        let offers = self.tools.iter().map(|offer| {
            let texts = [&offer.description, &offer.parameters].into_iter().flatten();
            size_of::<ToolOffer>() + texts.map(String::len).sum::<usize>()
        });
        let choices = self.choices.iter().map(|choice| {
            let logprobs = [&choice.logprobs, &choice.sampled_logprobs].into_iter().flatten();
            size_of::<Choice>()
                + choice.message.size_bytes()
                + numbers(&choice.token_ids)
                + logprobs.map(|list| size_of_val(list.as_slice())).sum::<usize>()
        });
        size_of::<Llm>()
            + self.params_json.as_ref().map_or(0, String::len)
            + self.input.iter().map(Message::size_bytes).sum::<usize>()
            + numbers(&self.prompt_token_ids)
            + offers.sum::<usize>()
            + choices.sum::<usize>()
    }
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Choice {
    pub message: Message,
    /// As recorded; `resolve` normalises it.
    pub finish_reason: Option<String>,
    #[serde(with = "numbers")]
    pub token_ids: Option<Vec<i32>>,
    /// Log-probabilities as recorded by the engine, one for each of `token_ids`.
    #[serde(with = "numbers")]
    pub logprobs: Option<Vec<f32>>,
    /// After every processor, where the source has both.
    #[serde(with = "numbers")]
    pub sampled_logprobs: Option<Vec<f32>>,
    /// Texts that began like a tool call and could not be read as one. They are in the message's content too.
    pub malformed: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ToolOffer {
    pub name: String,
    pub description: Option<String>,
    /// JSON schema of the arguments.
    pub parameters: Option<String>,
}

/// A tool that ran.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Tool {
    pub name: Option<String>,
    pub call_id: Option<String>,
    /// JSON or text, as recorded.
    pub arguments: Option<String>,
    /// JSON or text, as recorded, unwrapped from the framework's envelope.
    pub result: Option<String>,
    /// An explicit flag in the result: `ToolMessage.status`, `is_error`, MCP `isError`.
    pub result_is_error: Option<bool>,
    pub exit_code: Option<i32>,
    /// The framework marks this run as failed and to be asked again (`pydantic_ai.tool.retry.cause`).
    pub retry_marker: bool,
    /// Exception classes seen on the span, for telling control flow (`ParentCommand`, `GraphInterrupt`, ...) from failure.
    pub exceptions: Vec<String>,
}

/// One reward dimension.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Reward {
    pub name: String,
    /// Finite. A value that is not goes to `rejects`.
    pub value: Option<f64>,
    pub label: Option<String>,
    /// agent, grader, human or fallback.
    pub source: Option<String>,
    pub comment: Option<String>,
    pub primary: bool,
    /// Stated to be about the whole rollout.
    pub is_final: bool,
    /// A mean over rewards that may be recorded one by one elsewhere (LangSmith's `feedback_stats`):
    /// `container::langsmith::complete` drops it where they are.
    pub aggregate: bool,
    pub target: Option<RewardTarget>,
}

/// What a reward says that it is about. Every field that is set must match.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RewardTarget {
    pub trace_id: Option<String>,
    pub span_id: Option<String>,
    pub response_id: Option<String>,
    pub tool_call_id: Option<String>,
}

/// A record about a rollout as a whole.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct RolloutRecord {
    /// The task as JSON.
    pub task_input: Option<String>,
    /// succeeded, failed, timeout, cancelled or running.
    pub status: Option<String>,
    pub status_message: Option<String>,
}

macro_rules! names {
    ($type:ident { $($variant:ident = $text:literal),* $(,)? }) => {
        impl $type {
            /// The text that the tables hold.
            pub fn as_str(self) -> &'static str {
                match self { $($type::$variant => $text),* }
            }
        }
        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

/// Container of a record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Format {
    #[default]
    OtlpJson,
    OtlpProto,
    /// Spans as OpenTelemetry's Python SDK prints them.
    OtelConsole,
    AgentLightning,
    AgentLightningV1,
    OpenAiAgents,
    LangSmith,
    Chat,
    Atif,
    ClaudeCode,
    Codex,
    Gemini,
    SweAgent,
    Adp,
    Verifiers,
    Langfuse,
    Phoenix,
    Mlflow,
}

/// Attribute convention of a span.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Convention {
    GenAi,
    GenAiEvents,
    OpenInference,
    Traceloop,
    AgentOps,
    AutoGen,
    PydanticAi,
    Vercel,
    Langfuse,
    LiteLlm,
    Mlflow,
    AgentLightning,
    Fulgurite,
}

names!(Format {
    OtlpJson = "otlp_json", OtlpProto = "otlp_proto", OtelConsole = "otel_console", AgentLightning = "agent_lightning",
    AgentLightningV1 = "agent_lightning_v1", OpenAiAgents = "openai_agents", LangSmith = "langsmith", Chat = "chat",
    Atif = "atif", ClaudeCode = "claude_code", Codex = "codex", Gemini = "gemini", SweAgent = "swe_agent", Adp = "adp",
    Verifiers = "verifiers", Langfuse = "langfuse", Phoenix = "phoenix", Mlflow = "mlflow",
});
names!(Convention {
    GenAi = "genai", GenAiEvents = "genai_events", OpenInference = "openinference", Traceloop = "traceloop",
    AgentOps = "agentops", AutoGen = "autogen", PydanticAi = "pydantic_ai", Vercel = "vercel", Langfuse = "langfuse",
    LiteLlm = "litellm", Mlflow = "mlflow", AgentLightning = "agent_lightning", Fulgurite = "fulgurite",
});
names!(Kind {
    Llm = "llm", Tool = "tool", ToolRequest = "tool_request", Agent = "agent", Chain = "chain", Handoff = "handoff",
    Guardrail = "guardrail", Retriever = "retriever", Embedding = "embedding", Evaluator = "evaluator", Reward = "reward",
    Message = "message", Setup = "setup", Rollout = "rollout", Other = "other",
});
names!(Status { Unset = "unset", Ok = "ok", Error = "error" });
names!(TaskIdSource {
    Configured = "configured", Reference = "reference", Record = "record", Metadata = "metadata", Group = "group",
    Prompt = "prompt",
});
