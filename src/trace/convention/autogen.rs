//! AutoGen's own spans: GenAI names for agents and tools, and the runtime's messaging spans.

use crate::trace::attributes::Attributes;
use crate::trace::span::{Identity, Kind, Span};

/// What is processed, is processed by the recipient.
pub(super) fn common(attributes: &Attributes<'_>, span: &mut Span) {
    let Span { kind, identity: Identity { agent, agent_hint, .. }, .. } = span;
    if *kind == Kind::Chain && attributes.text("messaging.operation") == Some("process") && agent_hint.is_none() {
        *agent_hint = attributes.text("recipient_agent_type").map(str::to_owned);
    }
    if matches!(kind, Kind::Agent | Kind::Setup) && agent.is_none() {
        *agent = attributes.text("gen_ai.agent.id").map(str::to_owned);
    }
}
