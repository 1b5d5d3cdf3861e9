//! One row of the table `spans`, ready to be written.

use crate::trace::span::{Convention, Format, Kind, Origin, Status, TaskIdSource};

/// One row of `spans`: a field for each column of `schemas/spans.sql`, in its order and with its meaning.
///
/// The columns `source_file`, `source_line` and `source_position` are those of `origin`.
#[derive(Debug, Clone, Default)]
pub struct Row {
    pub rollout_id: String,
    pub rollout_id_source: &'static str,
    pub seq: i64,
    pub span_id: String,
    pub parent_span_id: Option<String>,
    pub trace_id: Option<String>,
    pub depth: i32,
    pub kind: Kind,
    pub kind_evidence: Option<String>,
    pub name: Option<String>,
    pub dedup_of: Option<String>,
    pub attempt_id: Option<String>,
    pub session_id: Option<String>,
    pub group_id: Option<String>,
    pub task_id: Option<String>,
    pub task_id_source: Option<TaskIdSource>,
    pub task_input: Option<String>,
    pub split: Option<String>,
    pub policy_version: Option<i64>,
    pub rollout_status: Option<String>,
    pub start_ns: Option<i64>,
    pub end_ns: Option<i64>,
    pub time_precision_ns: Option<i64>,
    pub status: Status,
    pub status_message: Option<String>,
    pub error_type: Option<String>,
    pub agent: Option<String>,
    pub agent_path: Option<String>,

    pub provider: Option<String>,
    pub model_requested: Option<String>,
    pub model: Option<String>,
    pub response_id: Option<String>,
    pub choice_index: Option<i32>,
    pub temperature: Option<f64>,
    pub top_p: Option<f64>,
    pub top_k: Option<i64>,
    pub max_tokens: Option<i64>,
    pub request_params: Option<String>,
    pub input_messages: Option<String>,
    pub output_messages: Option<String>,
    pub tools: Option<String>,
    pub finish_reason: Option<String>,
    pub input_tokens: Option<i64>,
    pub output_tokens: Option<i64>,
    pub cached_tokens: Option<i64>,
    pub reasoning_tokens: Option<i64>,
    pub stream: Option<bool>,
    pub http_status: Option<i32>,
    pub abandoned: Option<bool>,
    pub prompt_token_ids: Option<Vec<i32>>,
    pub response_token_ids: Option<Vec<i32>>,
    pub behaviour_logprobs: Option<Vec<f32>>,
    pub sampled_logprobs: Option<Vec<f32>>,
    pub observation_hash: Option<String>,
    pub prompt_hash: Option<String>,
    pub refusal: Option<bool>,
    pub response_empty: Option<bool>,

    pub tool_name: Option<String>,
    pub tool_call_id: Option<String>,
    pub asked_by: Option<String>,
    pub asked_by_source: Option<&'static str>,
    pub tool_arguments: Option<String>,
    pub arguments_valid: Option<bool>,
    pub arguments_hash: Option<String>,
    pub tool_offered: Option<bool>,
    pub tool_result: Option<String>,
    pub result_empty: Option<bool>,
    pub tool_status: Option<ToolStatus>,
    pub tool_status_evidence: Option<Evidence>,

    pub reward_name: Option<String>,
    pub reward_value: Option<f64>,
    pub reward_label: Option<String>,
    pub reward_source: Option<String>,
    pub reward_comment: Option<String>,
    pub reward_primary: Option<bool>,
    pub reward_target: Option<String>,
    pub reward_final: Option<bool>,

    pub service_name: Option<String>,
    pub scope_name: Option<String>,
    pub scope_version: Option<String>,
    pub events: Option<String>,
    pub links: Option<String>,
    pub attributes: Option<String>,
    pub resource: Option<String>,
    pub origin: Origin,
    pub source_format: Format,
    pub convention: Option<Convention>,
}

/// What became of a tool call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ToolStatus {
    Unknown,
    Ok,
    /// A handoff or an interrupt: the framework's control flow, no failure of the tool.
    Control,
    Error,
}

impl ToolStatus {
    /// The text that the table holds.
    pub fn as_str(self) -> &'static str {
        match self {
            ToolStatus::Unknown => "unknown",
            ToolStatus::Ok => "ok",
            ToolStatus::Control => "control",
            ToolStatus::Error => "error",
        }
    }
}

/// The rung of the evidence ladder (rule 7.4) that decided a tool call's status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evidence {
    SpanStatus,
    ResultFlag,
    ExitCode,
    RetryMarker,
    ResultText,
    ResultSeen,
    ControlFlow,
    None,
}

impl Evidence {
    /// The text that the table holds.
    pub fn as_str(self) -> &'static str {
        match self {
            Evidence::SpanStatus => "span_status",
            Evidence::ResultFlag => "result_flag",
            Evidence::ExitCode => "exit_code",
            Evidence::RetryMarker => "retry_marker",
            Evidence::ResultText => "result_text",
            Evidence::ResultSeen => "result_seen",
            Evidence::ControlFlow => "control_flow",
            Evidence::None => "none",
        }
    }
}
