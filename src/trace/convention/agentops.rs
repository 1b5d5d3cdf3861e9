//! AgentOps 0.4, which Agent Lightning 0.x records with.

use super::{genai, traceloop};
use crate::trace::attributes::Attributes;
use crate::trace::span::{Kind, Llm, Span, Tool};

pub(super) fn llm(attributes: &mut Attributes<'_>, llm: &mut Llm) {
    traceloop::indexed(attributes, llm);
    traceloop::functions(attributes, llm, "gen_ai.request.functions.");
}

/// Tools that ran, and `tool_call.*` spans, which are requests only.
pub(super) fn tool(attributes: &mut Attributes<'_>, tool: &mut Tool) {
    attributes.fill_text("tool.name", &mut tool.name);
    attributes.fill_text("tool.call.id", &mut tool.call_id);
    genai::arguments(attributes, tool, "tool.parameters");
    genai::arguments(attributes, tool, "agentops.entity.input");
    genai::result(attributes, tool, "tool.result");
    genai::result(attributes, tool, "agentops.entity.output");
    for key in ["operation.name", "agentops.entity.name"] {
        attributes.fill_text(key, &mut tool.name);
    }
}

pub(super) fn common(attributes: &mut Attributes<'_>, span: &mut Span) {
    if span.kind == Kind::Agent {
        for key in ["agent.name", "operation.name"] {
            attributes.fill_text(key, &mut span.identity.agent);
        }
    }
}
