//! Which agent (role) acted in every span (rule 7.7).

use std::sync::Arc;

use super::{Node, tree};
use crate::trace::span::{Kind, Span};

/// Agents on a path, at most, so that a chain of thousands of agents costs no more than a crowd of them.
const MAX_DEPTH: usize = 16;

/// Fills the agent and its path: from the nearest agent above, unless the span says better whom it ran under.
pub(super) fn name(nodes: &mut [Node]) {
    for index in tree::top_down(nodes) {
        let above = nodes[index].parent.map(|parent| Arc::clone(&nodes[parent].agents)).unwrap_or_default();
        let Span { identity, kind, .. } = &nodes[index].span;
        let is_agent = matches!(kind, Kind::Agent | Kind::Setup);
        let own = identity.agent.as_deref().filter(|_| is_agent);
        let named = identity.agent_hint.as_deref().or(own).map(clean).filter(|name| !name.is_empty());
        nodes[index].agents = match named {
            // A node of a graph that is called so is no other agent than the graph.
            Some("agent" | "Agent") if !above.is_empty() => above,
            Some(name) if above.last().is_none_or(|last| last != name) => {
                // Agents above one of the same name are its own; the spans between are nodes of its graph.
                let known = above.iter().position(|above| above == name).unwrap_or(above.len());
                let path = above[..known.min(MAX_DEPTH - 1)].iter().cloned();
                Arc::new(path.chain([name.to_owned()]).collect())
            }
            _ => above,
        };
    }
}

/// The name that the agent's author gave: without the method that a span was opened for, and without the ids that AutoGen appends
/// (`math_agent_<team uuid>/<team uuid>`).
fn clean(name: &str) -> &str {
    const METHODS: [&str; 4] = [".on_messages_stream", ".on_messages", ".run_stream", ".run"];
    let name = name.split('/').next().unwrap_or(name).trim();
    let name = METHODS.iter().find_map(|method| name.strip_suffix(method)).unwrap_or(name);
    match name.rsplit_once('_') {
        Some((base, suffix)) if is_uuid(suffix) && !base.is_empty() => base,
        _ => name,
    }
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(position, byte)| match position {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

#[cfg(test)]
mod tests {
    use super::clean;

    #[test]
    fn frameworks_additions_are_not_part_of_the_name() {
        let team = "5f0f5a5e-8b5c-4a51-9c30-1c3a2f6f9d10";
        for (recorded, agent) in [
            ("math_agent", "math_agent"),
            ("math_agent.on_messages_stream", "math_agent"),
            (&format!("math_agent_{team}/{team}"), "math_agent"),
            (&format!("RoundRobinGroupChatManager_{team}"), "RoundRobinGroupChatManager"),
        ] {
            assert_eq!(clean(recorded), agent, "{recorded}");
        }
    }
}
