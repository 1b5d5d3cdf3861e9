//! SWE-agent: one trajectory (`.traj`) a document.
//!
//! ```text
//! {"environment", "trajectory": [{"action", "observation", "response", "thought", "execution_time", "state", "query"}],
//!  "history": [{"role", "content", "agent", "message_type", "is_demo", "thought", "action", "tool_calls", "tool_call_ids"}],
//!  "info": {"exit_status", "submission", "model_stats"}, "replay_config": {"problem_statement": {"id"}}}
//! ```
//!
//! `history` is the conversation, of which each agent knows what bears its name; a demonstration has nothing else. Where it has no answers, each step of `trajectory` gives its own prompt
//! (`query`). Tool statuses are texts, there are no times, and whether the task was solved stands in another file.

use super::dialogue::{Dialogue, message};
use super::metadata::first_text;
use super::record::{parse, take_id};
use super::{Keys, ReadOptions, Sink};
use crate::trace::attributes::{Attributes, Value};
use crate::trace::message::{Message, Role, read_messages, read_stated};
use crate::trace::reject::Reject;
use crate::trace::span::{Choice, Format, Identity, Kind, Llm, Origin, RolloutRecord, Span, TaskIdSource};

/// Whether a record is a trajectory.
pub fn recognises(keys: &Keys<'_>) -> bool {
    let history = keys.begins("history", b'[') && keys.first_of("history").has("role");
    history || keys.begins("trajectory", b'[') && keys.has("environment") && keys.first_of("trajectory").has("observation")
}

/// Reads one trajectory.
pub fn read(text: &str, origin: Origin, options: &ReadOptions, sink: &mut Sink) -> Result<(), Reject> {
    let mut record = parse(text)?;
    let mut dialogue = Dialogue::new(Span {
        origin,
        format: Format::SweAgent,
        span_id: format!("{}.{}.", origin.line, origin.position),
        order: Some(format!("{:012}.", origin.line)),
        kind_evidence: Some("role".to_owned()),
        identity: identity(&record, options),
        ..Span::default()
    });
    let history = record.take("history");
    for said in history.iter().flat_map(Value::elements) {
        read_message(said, &mut dialogue)?;
    }
    let trajectory = record.take("trajectory");
    let steps: Vec<Attributes<'_>> =
        trajectory.iter().flat_map(Value::elements).filter_map(|step| Attributes::from_json(step).ok()).collect();
    if dialogue.calls().next().is_none() {
        for step in &steps {
            read_step(step, &mut dialogue)?;
        }
    }
    if dialogue.calls().count() == steps.len() {
        for (call, step) in dialogue.calls_mut().zip(steps) {
            let rest = step.iter().filter(|(key, _)| matches!(*key, "execution_time" | "state" | "extra_info"));
            call.attributes_json =
                Attributes::new(rest.map(|(key, value)| (key.to_owned().into(), value.clone())).collect()).to_json();
        }
    }
    let info = Attributes::of_object(record.get("info"));
    let exit_status = info.text("exit_status").map(str::to_owned);
    drop(info);
    let mut about = dialogue.place(Kind::Rollout);
    about.name = "trajectory".to_owned();
    about.order = None;
    about.rollout = Some(Box::new(RolloutRecord {
        task_input: None,
        status: exit_status.as_deref().map(|status| status_of(status).to_owned()),
        status_message: exit_status,
    }));
    about.attributes_json = record.to_json();
    sink.spans.push(about);
    sink.spans.extend(dialogue.into_spans());
    Ok(())
}

/// The instance's id stands in the configuration of the run, which is an object or a string that holds one.
fn identity(record: &Attributes<'_>, options: &ReadOptions) -> Identity {
    let config = Attributes::of_object(record.get("replay_config"));
    let problem = Attributes::of_object(config.get("problem_statement"));
    let mut identity = Identity::default();
    super::metadata::identify(&mut identity, record, options);
    if identity.task_id.is_none() {
        identity.task_id = first_text(&problem, ["id"]).map(|id| (TaskIdSource::Metadata, id));
    }
    identity
}

fn status_of(exit_status: &str) -> &'static str {
    match exit_status {
        _ if exit_status.starts_with("submitted") => "succeeded",
        _ if exit_status.contains("time") => "timeout",
        _ => "failed",
    }
}

fn read_message(json: &str, dialogue: &mut Dialogue) -> Result<(), Reject> {
    let shape = |source| Reject::Shape { container: "history", source };
    let mut extras = Attributes::from_json(json).map_err(shape)?;
    let demonstration = extras.take_bool("is_demo") == Some(true);
    let agent = take_id(&mut extras, "agent");
    dialogue.turn_to(agent.as_deref().unwrap_or_default());
    for stated in read_stated(json, Role::User).map_err(shape)? {
        let mut said = stated.message;
        if said.role == Role::Tool && said.tool_call_id.is_none() {
            let ids = extras.take("tool_call_ids");
            let ids = ids.iter().flat_map(Value::elements).map(Value::from_json);
            said.tool_call_id = ids.filter_map(Value::into_text).next();
        }
        match said.role {
            Role::Assistant if !demonstration => {
                let choice = Choice { message: said, finish_reason: stated.finish_reason, ..Choice::default() };
                dialogue.answer(choice, Llm::default())?.identity.agent_hint = agent.clone();
            }
            Role::Tool if !demonstration => {
                dialogue.result(said);
            }
            _ => dialogue.hear(said),
        }
    }
    Ok(())
}

/// A step that gives its own prompt, or that goes on from the one before.
fn read_step(step: &Attributes<'_>, dialogue: &mut Dialogue) -> Result<(), Reject> {
    let response = message(Role::Assistant, step.get("response"));
    let query = step.get("query").and_then(Value::as_text).and_then(|query| read_messages(&query).ok());
    let choice = Choice { message: response, ..Choice::default() };
    let span = dialogue.answer(choice, Llm::default())?;
    if let (Some(query), Some(llm)) = (query, span.llm.as_deref_mut()) {
        llm.input = query;
    }
    if let Some(observation) = step.get("observation") {
        dialogue.hear(Message { role: Role::User, ..message(Role::User, Some(observation)) });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::record::{codes, sink_of};
    use super::*;

    #[test]
    fn demonstrations_are_history() {
        let sink = sink_of(
            r#"{"environment":"main","history":[{"role":"system","content":"s","agent":"main"},{"role":"assistant","content":"old","is_demo":true,"agent":"main"},
                {"role":"assistant","content":"x","agent":"main","tool_calls":[{"id":"c","type":"function","function":{"name":"f","arguments":"{}"}}]},
                {"role":"tool","content":"4","agent":"main","tool_call_ids":["c"]}],
                "trajectory":[{"execution_time":0.5,"state":"{}","observation":"4"}],"info":{"exit_status":"submitted (exit_cost)"},
                "replay_config":"{\"problem_statement\":{\"id\":\"repo-1\"}}"}"#,
            &[],
        );
        assert_eq!(codes(&sink), [""; 0]);
        let [about, call, tool] = &sink.spans[..] else { panic!("{} spans", sink.spans.len()) };
        assert_eq!(about.rollout.as_deref().unwrap().status.as_deref(), Some("succeeded"));
        assert_eq!(about.identity.task_id, Some((TaskIdSource::Metadata, "repo-1".to_owned())));
        assert_eq!((call.llm.as_deref().unwrap().input.len(), call.identity.agent_hint.as_deref()), (2, Some("main")));
        assert_eq!(call.attributes_json.as_deref(), Some(r#"{"execution_time":0.5,"state":"{}"}"#));
        assert_eq!(tool.tool.as_deref().unwrap().call_id.as_deref(), Some("c"));
    }

    #[test]
    fn steps_without_a_history() {
        let sink = sink_of(
            r#"{"environment":"e","trajectory":[{"response":"one","observation":"o","query":[{"role":"user","content":"q"}]},
                {"response":"two","observation":""}],"info":{"exit_status":"exit_cost"}}"#,
            &[],
        );
        assert_eq!(codes(&sink), [""; 0]);
        let prompts: Vec<usize> = sink.spans.iter().filter_map(|span| Some(span.llm.as_ref()?.input.len())).collect();
        assert_eq!(prompts, [1, 2]);
        assert_eq!(sink.spans[0].rollout.as_deref().unwrap().status.as_deref(), Some("failed"));
        assert_eq!(codes(&sink_of(r#"{"history":[{"role":"user"},5]}"#, &[])), ["bad_value"]);
    }
}
