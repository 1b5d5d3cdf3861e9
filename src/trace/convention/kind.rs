//! What kind of thing a span records: rule 7.1, first match wins, with the key that decided.

use std::borrow::Cow;

use super::{Present, fulgurite};
use crate::trace::attributes::Attributes;
use crate::trace::span::Kind;

/// Kind of a span, and the attribute (or `span.name`, or `default`) that decided it.
pub(super) fn decide(attributes: &Attributes<'_>, name: &str, present: Present) -> (Kind, &'static str) {
    if present.fulgurite
        && let Some(decided) = fulgurite::kind(attributes)
    {
        return decided;
    }
    if present.langfuse
        && let Some(kind) = attributes.text("langfuse.observation.type").and_then(of_langfuse)
    {
        return (kind, "langfuse.observation.type");
    }
    if present.openinference
        && let Some(kind) = attributes.text("openinference.span.kind").and_then(|kind| of_openinference(kind, attributes, name))
    {
        return (kind, "openinference.span.kind");
    }
    if present.mlflow
        && let Some(kind) = attributes.text("mlflow.spanType").and_then(of_mlflow)
    {
        return (kind, "mlflow.spanType");
    }
    if present.gen_ai
        && let Some(kind) = attributes.text("gen_ai.operation.name").and_then(of_operation)
    {
        return (kind, "gen_ai.operation.name");
    }
    if present.traceloop
        && let Some(kind) = attributes.text("traceloop.span.kind").and_then(of_traceloop)
    {
        return (kind, "traceloop.span.kind");
    }
    for (is_present, key) in [(present.llm_request, "llm.request.type"), (present.gen_ai, "gen_ai.request.type")] {
        if is_present && let Some(kind) = attributes.text(key).and_then(of_request) {
            return (kind, key);
        }
    }
    if present.vercel
        && let Some(operation) = attributes.text("ai.operationId")
    {
        return (of_vercel(operation), "ai.operationId");
    }
    if present.agentops
        && let Some(kind) = attributes.text("agentops.span.kind").and_then(|kind| of_agentops(kind, name))
    {
        return (kind, "agentops.span.kind");
    }
    if present.gen_ai
        && let Some(key) = ["gen_ai.tool.name", "gen_ai.tool.call.id"].into_iter().find(|key| attributes.contains(key))
    {
        return (Kind::Tool, key);
    }
    if present.gen_ai && attributes.contains("gen_ai.request.model") && has_messages(attributes) {
        return (Kind::Llm, "gen_ai.request.model");
    }
    if present.litellm && name.starts_with("raw_gen_ai_request") {
        return (Kind::Llm, "span.name");
    }
    if present.agent_lightning
        && let Some(decided) = of_agent_lightning(attributes, name)
    {
        return decided;
    }
    (Kind::Chain, "default")
}

fn has_messages(attributes: &Attributes<'_>) -> bool {
    ["gen_ai.input.messages", "gen_ai.prompt.", "gen_ai.output.messages", "gen_ai.completion.", "gen_ai.response."]
        .iter()
        .any(|prefix| attributes.has_prefix(prefix))
}

fn of_langfuse(kind: &str) -> Option<Kind> {
    Some(match lower(kind).as_ref() {
        "generation" => Kind::Llm,
        "tool" => Kind::Tool,
        "agent" => Kind::Agent,
        "span" | "chain" => Kind::Chain,
        "retriever" => Kind::Retriever,
        "embedding" => Kind::Embedding,
        "guardrail" => Kind::Guardrail,
        "evaluator" => Kind::Evaluator,
        "event" => Kind::Other,
        _ => return None,
    })
}

fn of_openinference(kind: &str, attributes: &Attributes<'_>, name: &str) -> Option<Kind> {
    let is_tool = || attributes.contains("tool.name");
    Some(match kind.to_ascii_uppercase().as_str() {
        "LLM" => Kind::Llm,
        // LangChain's instrumentation makes an agent of every run with "agent" in its name, also of tools.
        "AGENT" | "CHAIN" if is_tool() => Kind::Tool,
        "TOOL" if name.starts_with("handoff") && !is_tool() => Kind::Handoff,
        "TOOL" => Kind::Tool,
        "AGENT" => Kind::Agent,
        "CHAIN" | "PROMPT" => Kind::Chain,
        "RETRIEVER" | "RERANKER" => Kind::Retriever,
        "EMBEDDING" => Kind::Embedding,
        "GUARDRAIL" => Kind::Guardrail,
        "EVALUATOR" => Kind::Evaluator,
        _ => return None,
    })
}

fn of_mlflow(kind: &str) -> Option<Kind> {
    // Values of MLflow are JSON inside their strings.
    Some(match kind.trim_matches('"') {
        "CHAT_MODEL" | "LLM" => Kind::Llm,
        "TOOL" => Kind::Tool,
        "AGENT" => Kind::Agent,
        "CHAIN" | "PARSER" | "WORKFLOW" | "TASK" => Kind::Chain,
        "RETRIEVER" | "RERANKER" => Kind::Retriever,
        "EMBEDDING" => Kind::Embedding,
        "GUARDRAIL" => Kind::Guardrail,
        "EVALUATOR" => Kind::Evaluator,
        _ => return None,
    })
}

fn of_operation(operation: &str) -> Option<Kind> {
    Some(match operation {
        "chat" | "text_completion" | "generate_content" => Kind::Llm,
        "embeddings" => Kind::Embedding,
        "retrieval" | "search_memory" => Kind::Retriever,
        "execute_tool" => Kind::Tool,
        "invoke_agent" => Kind::Agent,
        "invoke_workflow" | "execute_task" | "plan" | "agent_step" => Kind::Chain,
        "create_agent" => Kind::Setup,
        "handoff" => Kind::Handoff,
        "create_memory" | "update_memory" | "upsert_memory" | "delete_memory" | "create_memory_store" | "delete_memory_store" => {
            Kind::Other
        }
        _ => return None,
    })
}

fn of_traceloop(kind: &str) -> Option<Kind> {
    Some(match kind {
        "workflow" | "task" => Kind::Chain,
        "agent" => Kind::Agent,
        "tool" => Kind::Tool,
        "handoff" => Kind::Handoff,
        "guardrail" => Kind::Guardrail,
        _ => return None,
    })
}

fn of_request(kind: &str) -> Option<Kind> {
    Some(match lower(kind).as_ref() {
        "chat" | "completion" => Kind::Llm,
        "embedding" => Kind::Embedding,
        "rerank" => Kind::Retriever,
        _ => return None,
    })
}

fn of_vercel(operation: &str) -> Kind {
    match operation.rsplit('.').next() {
        Some("doGenerate" | "doStream") => Kind::Llm,
        Some("doEmbed") => Kind::Embedding,
        Some("toolCall") => Kind::Tool,
        _ => Kind::Chain,
    }
}

fn of_agentops(kind: &str, name: &str) -> Option<Kind> {
    // Some versions write the enum's own text, `AgentOpsSpanKindValues.TOOL`.
    let kind = kind.rsplit('.').next().unwrap_or(kind);
    Some(match lower(kind).as_ref() {
        "llm" => Kind::Llm,
        "tool" if name.starts_with("tool_call.") => Kind::ToolRequest,
        "tool" => Kind::Tool,
        "agent" => Kind::Agent,
        "session" | "workflow" | "operation" | "task" | "chain" | "team" => Kind::Chain,
        "guardrail" => Kind::Guardrail,
        _ => return None,
    })
}

/// Agent Lightning's own spans: rewards, the operation that computes one, and calls that Weave traced.
fn of_agent_lightning(attributes: &Attributes<'_>, name: &str) -> Option<(Kind, &'static str)> {
    if attributes.has_prefix("agentlightning.reward") {
        return Some((Kind::Reward, "agentlightning.reward"));
    }
    if name == "agentlightning.reward" && attributes.contains("reward") {
        return Some((Kind::Reward, "reward"));
    }
    if attributes.text("agentlightning.operation.name") == Some("agentlightning.reward") {
        return Some((Kind::Evaluator, "agentlightning.operation.name"));
    }
    let ids = ["prompt_token_ids", "response_token_ids", "choices"];
    if ids.iter().any(|id| attributes.has_prefix(&format!("agentlightning.operation.output.{id}"))) {
        return Some((Kind::Llm, "agentlightning.operation.output"));
    }
    let own = ["agentlightning.annotation", "agentlightning.message", "agentlightning.object", "agentlightning.exception"];
    own.contains(&name).then_some((Kind::Other, "span.name"))
}

fn lower(text: &str) -> Cow<'_, str> {
    if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Cow::Owned(text.to_ascii_lowercase());
    }
    Cow::Borrowed(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::attributes::Value;

    #[test]
    fn first_rule_wins() {
        type Case = (&'static str, &'static [(&'static str, &'static str)], Kind, &'static str);
        let cases: [Case; 17] = [
            ("x", &[("openinference.span.kind", "AGENT"), ("tool.name", "transfer")], Kind::Tool, "openinference.span.kind"),
            ("handoff to b", &[("openinference.span.kind", "TOOL")], Kind::Handoff, "openinference.span.kind"),
            (
                "x",
                &[("openinference.span.kind", "CHAIN"), ("llm.input_messages.0.message.role", "user")],
                Kind::Chain,
                "openinference.span.kind",
            ),
            (
                "x",
                &[("langfuse.observation.type", "generation"), ("openinference.span.kind", "TOOL")],
                Kind::Llm,
                "langfuse.observation.type",
            ),
            ("x", &[("mlflow.spanType", "\"TOOL\"")], Kind::Tool, "mlflow.spanType"),
            ("create_agent a", &[("gen_ai.operation.name", "create_agent")], Kind::Setup, "gen_ai.operation.name"),
            ("x", &[("gen_ai.operation.name", "unknown"), ("traceloop.span.kind", "tool")], Kind::Tool, "traceloop.span.kind"),
            (
                "x",
                &[("gen_ai.operation.name", "handoff"), ("traceloop.span.kind", "agent")],
                Kind::Handoff,
                "gen_ai.operation.name",
            ),
            ("x", &[("llm.request.type", "chat")], Kind::Llm, "llm.request.type"),
            ("x", &[("ai.operationId", "ai.generateText")], Kind::Chain, "ai.operationId"),
            ("x", &[("ai.operationId", "ai.streamText.doStream"), ("gen_ai.request.model", "m")], Kind::Llm, "ai.operationId"),
            (
                "tool_call.f",
                &[("agentops.span.kind", "AgentOpsSpanKindValues.TOOL"), ("tool.name", "f")],
                Kind::ToolRequest,
                "agentops.span.kind",
            ),
            ("f", &[("agentops.span.kind", "tool")], Kind::Tool, "agentops.span.kind"),
            ("x", &[("gen_ai.request.model", "m"), ("gen_ai.prompt.0.role", "user")], Kind::Llm, "gen_ai.request.model"),
            ("agentlightning.annotation", &[("agentlightning.reward.0.value", "1")], Kind::Reward, "agentlightning.reward"),
            ("agentlightning.annotation", &[("note", "x")], Kind::Other, "span.name"),
            ("rollout", &[], Kind::Chain, "default"),
        ];
        for (name, entries, kind, evidence) in cases {
            let entries = entries.iter().map(|(key, value)| ((*key).into(), Value::Str((*value).into()))).collect();
            let attributes = Attributes::new(entries);
            assert_eq!(decide(&attributes, name, Present::of(&attributes, name)), (kind, evidence), "{name}: {attributes:?}");
        }
    }
}
