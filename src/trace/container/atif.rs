//! ATIF, the Agent Trajectory Interchange Format of Harbor (versions 1.0 to 1.8): one trajectory a document.
//!
//! ```text
//! {"schema_version": "ATIF-v1.6", "session_id", "trajectory_id", "agent": {"name", "model_name", "tool_definitions", "extra"},
//!  "steps": [{"step_id", "timestamp", "source": "system" | "user" | "agent", "message", "reasoning_content", "model_name",
//!             "tool_calls": [{"tool_call_id", "function_name", "arguments"}],
//!             "observation": {"results": [{"source_call_id", "content", "subagent_trajectory_ref", "extra"}]},
//!             "metrics": {"prompt_tokens", "completion_tokens", "prompt_token_ids", "completion_token_ids", "logprobs"},
//!             "is_copied_context", "llm_call_count", "extra"}],
//!  "subagent_trajectories": [trajectory, …], "extra"}
//! ```
//!
//! A step of the agent is one LLM call, unless it says that it is none (`llm_call_count` 0); its prompt is the steps before it. Steps that
//! were copied from another trajectory are history. A sub-agent's trajectory stands where the step that refers to it stands. The format has
//! neither finish reasons nor rewards nor tasks; what stands in `extra` under the names that chat lines use is read.

use super::dialogue::{Dialogue, message};
use super::metadata::identify;
use super::record::{parse, reward_value, take_id, take_logprobs, take_time, take_token_ids};
use super::{Keys, ReadOptions, Sink};
use crate::trace::attributes::{Attributes, Value};
use crate::trace::message::{Role, ToolCallRequest};
use crate::trace::openai::push_tools;
use crate::trace::reject::{MAX_DEPTH, Reject};
use crate::trace::span::{Choice, Format, Identity, Kind, Llm, Origin, Reward, RolloutRecord, Span, Tool, ToolOffer};

/// Whether a record is a trajectory.
pub fn recognises(keys: &Keys<'_>) -> bool {
    let versioned = keys.text("schema_version").is_some_and(|version| version.starts_with("ATIF"));
    keys.begins("steps", b'[') && (versioned || keys.inside("agent").has("name"))
}

/// Reads one trajectory with the sub-agents' trajectories that stand in it.
pub fn read(text: &str, origin: Origin, options: &ReadOptions, sink: &mut Sink) -> Result<(), Reject> {
    trajectory(parse(text)?, None, 0, origin, options, sink)
}

/// What a sub-agent's trajectory has from the one that it stands in.
struct Above<'a> {
    trace_id: Option<&'a str>,
    identity: &'a Identity,
    /// Of the step that refers to it.
    order: String,
}

fn trajectory(
    mut record: Attributes<'_>,
    above: Option<&Above<'_>>,
    depth: usize,
    origin: Origin,
    options: &ReadOptions,
    sink: &mut Sink,
) -> Result<(), Reject> {
    if depth > MAX_DEPTH {
        return Err(Reject::TooDeep);
    }
    let session = take_id(&mut record, "session_id");
    let own = take_id(&mut record, "trajectory_id").or_else(|| session.clone());
    let mut identity = above.map(|above| above.identity.clone()).unwrap_or_default();
    identity.session_id = session.or(identity.session_id);
    identify(&mut identity, &Attributes::of_object(record.get("extra")), options);
    let trace_id = above.map_or_else(|| own.clone(), |above| above.trace_id.map(str::to_owned));

    let steps = record.take("steps").ok_or(Reject::MissingField { field: "steps" })?;
    let steps: Vec<Attributes<'_>> = steps
        .elements()
        .into_iter()
        .map(|step| Attributes::from_json(step).map_err(|source| Reject::Shape { container: "steps", source }))
        .collect::<Result<_, _>>()?;
    let first_ns = steps.iter().find_map(|step| crate::trace::time::parse(step.text("timestamp")?)).map_or(0, |time| time.ns);
    let order = match above {
        Some(above) => format!("{}.", above.order),
        None => format!("{first_ns:020}.{:06}.{:012}.", origin.file, origin.line),
    };
    // Of a trajectory that names itself, ids do not depend on the file that holds it.
    let ids = own.as_ref().map_or_else(|| format!("{}.{}.", origin.line, origin.position), |own| format!("{own}."));
    let agent = Agent::take(&mut record);
    identity.agent_hint = agent.name.clone();
    let mut dialogue = Dialogue::new(Span {
        origin,
        format: Format::Atif,
        trace_id,
        span_id: if above.is_some() || own.is_none() { ids } else { "step.".to_owned() },
        order: Some(order),
        kind_evidence: Some("source".to_owned()),
        identity,
        ..Span::default()
    });
    let mut referred = Vec::new();
    for step in steps {
        read_step(step, &agent, &mut dialogue, &mut referred, sink)?;
    }
    let embedded = record.take("subagent_trajectories");
    let mut about = dialogue.place(Kind::Rollout);
    for sub in embedded.iter().flat_map(Value::elements) {
        sink.part(sub, origin, |sink| {
            let sub = parse(sub)?;
            let place = referred
                .iter()
                .find(|(id, _): &&(String, String)| [sub.text("trajectory_id"), sub.text("session_id")].contains(&Some(id)));
            let order = place.map_or_else(|| about.order.clone().unwrap_or_default(), |(_, order)| order.clone());
            let above = Above { trace_id: about.trace_id.as_deref(), identity: &about.identity, order };
            trajectory(sub, Some(&above), depth + 1, origin, options, sink)
        });
    }
    if let Some(reward) = extra_reward(&record, true) {
        let mut span = dialogue.place(Kind::Reward);
        span.name = "reward".to_owned();
        span.rewards.push(reward);
        dialogue.push(span);
    }
    if above.is_none() {
        about.span_id = "trajectory".to_owned();
        about.name = "trajectory".to_owned();
        about.order = None;
        about.rollout = Some(Box::<RolloutRecord>::default());
        about.attributes_json = record.to_json();
        sink.spans.push(about);
    }
    sink.spans.extend(dialogue.into_spans());
    Ok(())
}

/// What the trajectory says once for all of its steps.
struct Agent {
    name: Option<String>,
    model: Option<String>,
    temperature: Option<f64>,
    tools: Vec<ToolOffer>,
    tools_known: bool,
}

impl Agent {
    fn take(record: &mut Attributes<'_>) -> Self {
        let object = record.take_object("agent");
        let mut agent = Attributes::of_object(object.as_ref());
        let definitions = agent.take("tool_definitions");
        let mut tools = Vec::new();
        if let Some(definitions) = definitions.as_ref().and_then(Value::as_text) {
            push_tools(&definitions, &mut tools);
        }
        let found = Self {
            name: agent.take_text("name"),
            model: agent.take_text("model_name"),
            temperature: Attributes::of_object(agent.get("extra")).take_double("temperature"),
            tools_known: definitions.is_some(),
            tools,
        };
        record.put_rest("agent", &agent);
        found
    }
}

fn read_step(
    mut step: Attributes<'_>,
    agent: &Agent,
    dialogue: &mut Dialogue,
    referred: &mut Vec<(String, String)>,
    sink: &mut Sink,
) -> Result<(), Reject> {
    let origin = dialogue.place(Kind::Other).origin;
    let source = step.take_text("source").unwrap_or_default();
    let role = match source.as_str() {
        "agent" => Role::Assistant,
        "system" => Role::System,
        "user" => Role::User,
        other => return Err(Reject::bad_value("source", other, "`system`, `user` or `agent`")),
    };
    let time = take_time(&mut step, "timestamp", origin, sink);
    let content = step.take("message");
    let mut said = message(role, content.as_ref());
    let observation = step.take_object("observation");
    let results = Attributes::of_object(observation.as_ref()).take("results");
    let copied = step.take_bool("is_copied_context") == Some(true);
    if role == Role::Assistant {
        said.content = said.content.filter(|content| !content.is_empty());
        said.reasoning = step.take_text("reasoning_content");
        let calls = step.take("tool_calls");
        let exit_codes = take_tool_calls(calls.as_ref(), &mut said.tool_calls);
        if copied || step.take_int("llm_call_count") == Some(0) {
            dialogue.hear(said);
        } else {
            let mut llm = Llm {
                model: step.take_text("model_name").or_else(|| agent.model.clone()),
                temperature: agent.temperature,
                tools: agent.tools.clone(),
                tools_known: agent.tools_known,
                ..Llm::default()
            };
            let mut choice = Choice { message: said, ..Choice::default() };
            take_metrics(&mut step, &mut llm, &mut choice, origin, sink);
            let span = dialogue.answer(choice, llm)?;
            span.start_ns = time.map(|time| time.ns);
            span.time_precision_ns = time.map(|time| time.precision_ns);
            span.rewards.extend(extra_reward(&step, false));
            step.take("step_id");
            span.attributes_json = step.to_json();
        }
        read_results(results.as_ref(), &exit_codes, copied, dialogue, referred);
        return Ok(());
    }
    if said.content.is_some() || said.parts_json.is_some() {
        dialogue.hear(said);
    }
    read_results(results.as_ref(), &[], true, dialogue, referred);
    Ok(())
}

/// Appends the tool calls of a step; returns the exit codes that converters write beside some of them.
fn take_tool_calls(calls: Option<&Value<'_>>, requests: &mut Vec<ToolCallRequest>) -> Vec<(Option<String>, i32)> {
    let mut exit_codes = Vec::new();
    for call in calls.into_iter().flat_map(Value::elements) {
        let Ok(mut call) = Attributes::from_json(call) else { continue };
        let exit_code = exit_code(&call, "tool_metadata");
        let id = take_id(&mut call, "tool_call_id");
        exit_codes.extend(exit_code.map(|code| (id.clone(), code)));
        let arguments = call.take("arguments").and_then(|arguments| Some(arguments.as_text()?.into_owned()));
        requests.push(ToolCallRequest {
            id,
            name: call.take_text("function_name").unwrap_or_default(),
            arguments: arguments.unwrap_or_default(),
        });
    }
    exit_codes
}

/// The exit code that some converters keep under a key of `extra`.
fn exit_code(record: &Attributes<'_>, key: &str) -> Option<i32> {
    let extra = Attributes::of_object(record.get("extra"));
    let metadata = Attributes::of_object(extra.get(key));
    i32::try_from(metadata.get("exit_code")?.as_int()?).ok()
}

/// What came back. A result that answers no request is what the agent was told as its user.
///
/// * `told_only`: nothing ran here; the results were copied.
fn read_results(
    results: Option<&Value<'_>>,
    exit_codes: &[(Option<String>, i32)],
    told_only: bool,
    dialogue: &mut Dialogue,
    referred: &mut Vec<(String, String)>,
) {
    let results: Vec<Attributes<'_>> =
        results.into_iter().flat_map(Value::elements).filter_map(|result| Attributes::from_json(result).ok()).collect();
    let answers_the_only_request = dialogue.asked() == 1 && results.len() == 1;
    for mut result in results {
        let mut told = message(Role::Tool, result.get("content"));
        told.tool_call_id = take_id(&mut result, "source_call_id");
        let extra = Attributes::of_object(result.get("extra"));
        told.is_error = extra.get("tool_result_is_error").and_then(Value::as_bool);
        let exit_code = exit_code(&result, "tool_result_metadata");
        let order = if told.tool_call_id.is_none() && !answers_the_only_request {
            if told.content.is_some() {
                dialogue.hear(crate::trace::message::Message { role: Role::User, ..told });
            }
            dialogue.place(Kind::Other).order
        } else if told_only {
            dialogue.hear(told);
            dialogue.place(Kind::Other).order
        } else {
            let span = dialogue.result(told);
            let id = span.tool.as_ref().and_then(|tool| tool.call_id.clone());
            let beside = exit_codes.iter().find(|(known, _)| *known == id).map(|(_, code)| *code);
            if let Some(Tool { exit_code: found, .. }) = span.tool.as_deref_mut() {
                *found = exit_code.or(beside);
            }
            span.order.clone()
        };
        for reference in result.get("subagent_trajectory_ref").into_iter().flat_map(Value::elements) {
            let reference = Attributes::from_json(reference).unwrap_or_default();
            for key in ["trajectory_id", "session_id"] {
                referred.extend(reference.text(key).map(|id| (id.to_owned(), order.clone().unwrap_or_default())));
            }
        }
    }
}

fn take_metrics(step: &mut Attributes<'_>, llm: &mut Llm, choice: &mut Choice, origin: Origin, sink: &mut Sink) {
    let object = step.take_object("metrics");
    let mut metrics = Attributes::of_object(object.as_ref());
    llm.input_tokens = metrics.take_int("prompt_tokens");
    llm.output_tokens = metrics.take_int("completion_tokens");
    llm.cached_tokens = metrics.take_int("cached_tokens");
    llm.prompt_token_ids = take_token_ids(&mut metrics, "prompt_token_ids", origin, sink);
    choice.token_ids = take_token_ids(&mut metrics, "completion_token_ids", origin, sink);
    choice.logprobs = take_logprobs(&mut metrics, "logprobs", choice.token_ids.as_deref(), origin, sink);
    step.put_rest("metrics", &metrics);
}

/// `extra.reward`, where it is a number.
fn extra_reward(record: &Attributes<'_>, is_final: bool) -> Option<Reward> {
    let extra = Attributes::of_object(record.get("extra"));
    let value = reward_value(extra.get("reward")?)?;
    Some(Reward { name: "reward".to_owned(), value: Some(value), primary: true, is_final, ..Reward::default() })
}

#[cfg(test)]
mod tests {
    use super::super::record::{codes, sink_of};
    use super::*;

    fn of_steps(steps: &str) -> Sink {
        sink_of(
            &format!(
                r#"{{"schema_version":"ATIF-v1.6","session_id":"s","agent":{{"name":"a","model_name":"m"}},"steps":[{steps}]}}"#
            ),
            &[],
        )
    }

    #[test]
    fn results_with_and_without_ids() {
        let agent = |observation: &str| {
            let sink = of_steps(&format!(
                r#"{{"step_id":1,"source":"user","message":"q"}},
                   {{"step_id":2,"source":"agent","message":"","tool_calls":[{{"tool_call_id":"c1","function_name":"f","arguments":{{"x":1}},
                     "extra":{{"tool_metadata":{{"exit_code":3}}}}}}],"observation":{{"results":[{observation}]}}}},
                   {{"step_id":3,"source":"agent","message":"done"}}"#
            ));
            assert_eq!(codes(&sink), [""; 0]);
            sink.spans
        };
        for observation in [r#"{"source_call_id":"c1","content":"boom"}"#, r#"{"source_call_id":null,"content":"boom"}"#] {
            let spans = agent(observation);
            let tool = spans.iter().find_map(|span| span.tool.as_deref()).unwrap();
            assert_eq!(
                (tool.call_id.as_deref(), tool.exit_code, tool.arguments.as_deref()),
                (Some("c1"), Some(3), Some(r#"{"x":1}"#))
            );
            let last = spans.last().unwrap().llm.as_deref().unwrap();
            assert_eq!((last.input.len(), last.input[2].tool_call_id.as_deref()), (3, Some("c1")));
        }
        let flagged = agent(r#"{"source_call_id":"c1","content":"no","extra":{"tool_result_is_error":true}}"#);
        assert_eq!(flagged.iter().find_map(|span| span.tool.as_deref()).unwrap().result_is_error, Some(true));
        // Two texts for one request: what the terminal showed, and no result.
        let told = agent(r#"{"content":"a"},{"content":"b"}"#);
        assert!(told.iter().all(|span| span.tool.is_none()));
        assert_eq!(told.last().unwrap().llm.as_deref().unwrap().input[2].role, Role::User);
    }

    #[test]
    fn copied_steps_and_steps_without_a_model_are_no_calls() {
        let sink = of_steps(
            r#"{"step_id":1,"source":"user","message":[{"type":"text","text":"q"}],"is_copied_context":true},
               {"step_id":2,"source":"agent","message":"old","is_copied_context":true},
               {"step_id":3,"source":"agent","message":"made up","llm_call_count":0},
               {"step_id":4,"source":"agent","message":"new","reasoning_content":"hm","extra":{"reward":0.5}}"#,
        );
        assert_eq!(codes(&sink), [""; 0]);
        let calls: Vec<&Span> = sink.spans.iter().filter(|span| span.kind == Kind::Llm).collect();
        let [call] = calls[..] else { panic!("{} calls", calls.len()) };
        let llm = call.llm.as_deref().unwrap();
        assert_eq!((llm.input.len(), llm.input[0].content.as_deref()), (3, Some("q")));
        assert_eq!(llm.choices[0].message.reasoning.as_deref(), Some("hm"));
        assert_eq!(call.rewards[0].value, Some(0.5));
    }

    #[test]
    fn broken_trajectories() {
        assert_eq!(codes(&of_steps(r#"{"step_id":1,"source":"robot"}"#)), ["bad_value"]);
        assert_eq!(codes(&of_steps("5")), ["bad_value"]);
        let ids = of_steps(
            r#"{"step_id":1,"source":"agent","message":"x","metrics":{"completion_token_ids":[1,2],"logprobs":[-0.1],"prompt_token_ids":"no"}}"#,
        );
        assert_eq!((codes(&ids), ids.spans.len()), (vec!["bad_value", "bad_value"], 2));
    }
}
