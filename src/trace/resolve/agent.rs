//! Which agent (role) acted in every span (rule 7.7).

use super::{Node, tree};
use crate::trace::span::Kind;

/// Agents on a path, at most.
const MAX_DEPTH: usize = 64;

/// Fills the agent and its path: from the nearest agent above, unless the span says better whom it ran under.
pub(super) fn name(nodes: &mut [Node]) {
    for index in tree::top_down(nodes) {
        let mut path: Vec<String> = match nodes[index].parent {
            Some(parent) => nodes[parent].agents.clone(),
            None => Vec::new(),
        };
        let identity = &nodes[index].span.identity;
        let is_agent = matches!(nodes[index].span.kind, Kind::Agent | Kind::Setup);
        let own = identity
            .agent
            .as_deref()
            .filter(|_| is_agent || nodes[index].parent.is_none() && nodes[index].span.kind != Kind::Handoff);
        let named = identity.agent_hint.as_deref().or(own).map(clean).filter(|name| !name.is_empty());
        if let Some(name) = named {
            // A span that ran under an agent further up stands below that one: the spans between are its graph's nodes.
            // Bounded, so that a chain of thousands of agents costs no more than a line of them.
            path.truncate(MAX_DEPTH - 1);
            match path.iter().position(|above| above == name) {
                Some(position) => path.truncate(position + 1),
                None => path.push(name.to_owned()),
            }
        }
        nodes[index].agents = path;
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
