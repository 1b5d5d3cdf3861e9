//! One run of LangSmith, whole or a part of one, as a span.

use std::sync::LazyLock;

use regex::Regex;

use super::super::metadata::{first_text, identify};
use super::super::record::{take_id, take_time};
use super::super::{ReadOptions, Sink};
use super::{array_json, string_json};
use crate::trace::attributes::{Attributes, Value};
use crate::trace::message::{Role, read_messages, read_stated};
use crate::trace::object::Object;
use crate::trace::openai::{fill, read_parameters_json, read_response, read_usage, take_logprobs};
use crate::trace::reject::Reject;
use crate::trace::span::{Choice, Format, Identity, Kind, Llm, Origin, Reward, Span, Status, TaskIdSource, Tool};
use crate::trace::time;

/// Reads a run. `inputs`, `outputs` and `extra` may be objects or strings that hold them.
pub fn span(mut run: Attributes<'_>, origin: Origin, options: &ReadOptions, sink: &mut Sink) -> Result<Span, Reject> {
    let id = take_id(&mut run, "id").or_else(|| take_id(&mut run, "run_id")).ok_or(Reject::MissingField { field: "id" })?;
    let start = take_time(&mut run, "start_time", origin, sink);
    let end = take_time(&mut run, "end_time", origin, sink);
    let order = run.take_text("dotted_order");
    let ancestors: Vec<&str> = order.as_deref().map(ids_of_order).unwrap_or_default();
    let parent = take_id(&mut run, "parent_run_id").or_else(|| ancestors.iter().rev().nth(1).map(|id| (*id).to_owned()));
    let trace_id = take_id(&mut run, "trace_id").or_else(|| ancestors.first().map(|id| (*id).to_owned()));
    run.take("run_id");

    let inputs_object = run.take_object("inputs");
    let mut inputs = Attributes::of_object(inputs_object.as_ref());
    let outputs_object = run.take_object("outputs");
    let mut outputs = Attributes::of_object(outputs_object.as_ref());
    let extra_object = run.take_object("extra");
    let mut extra = Attributes::of_object(extra_object.as_ref());
    let metadata_object = extra.take_object("metadata");
    let metadata = Attributes::of_object(metadata_object.as_ref());

    let name = run.take_text("name").unwrap_or_default();
    let run_type = run.take_text("run_type");
    let mut span = Span {
        origin,
        format: Format::LangSmith,
        trace_id,
        span_id: id,
        kind: kind(run_type.as_deref()),
        kind_evidence: run_type.as_ref().map(|_| "run_type".to_owned()),
        start_ns: start.map(|time| time.ns),
        end_ns: end.map(|time| time.ns),
        time_precision_ns: start.or(end).map(|time| time.precision_ns),
        identity: identity(&mut run, &metadata, options),
        events_json: run.take("events").and_then(|events| events_json(&events)),
        ..Span::default()
    };
    if span.kind == Kind::Chain && !name.is_empty() && metadata.text("lc_agent_name") == Some(&name) {
        span.kind = Kind::Agent;
        span.kind_evidence = Some("extra.metadata.lc_agent_name".to_owned());
        span.identity.agent = Some(name.clone());
    }
    span.identity.agent_hint = agent_hint(&metadata, span.kind);
    let exceptions = read_status(&mut span, &mut run);
    match span.kind {
        Kind::Llm => span.llm = Some(Box::new(llm(&mut run, &mut inputs, &mut outputs, &mut extra, &metadata))),
        Kind::Tool => {
            let mut tool = tool(&name, &mut inputs, &mut outputs, &mut extra, exceptions);
            // Neither has to be an object where somebody else's exporter wrote the run.
            fill(&mut tool.arguments, run.take_text("inputs"));
            fill(&mut tool.result, run.take_text("outputs"));
            span.tool = Some(Box::new(tool));
        }
        _ => {}
    }
    span.rewards = mean_scores(&run, parent.is_none());
    span.parent_span_id = parent;
    span.order = order;
    span.name = name;

    let mut rest = Attributes::default();
    rest.put_rest("inputs", &inputs);
    rest.put_rest("outputs", &outputs);
    extra.put_rest("metadata", &metadata);
    rest.put_rest("extra", &extra);
    rest.fill_from(&run);
    if let Some(other) = run_type.filter(|_| span.kind == Kind::Other || span.kind == Kind::Chain) {
        rest.put("run_type", Value::Str(other.into()));
    }
    span.attributes_json = rest.to_json();
    Ok(span)
}

/// The run ids in a dotted order, from the root to the run itself: `20261122T155023085740Z<id>.<…>`.
fn ids_of_order(order: &str) -> Vec<&str> {
    order.split('.').filter_map(|step| Some(step.split_once('Z')?.1)).collect()
}

fn kind(run_type: Option<&str>) -> Kind {
    match run_type {
        Some("llm" | "chat_model") => Kind::Llm,
        Some("tool") => Kind::Tool,
        Some("chain" | "prompt" | "parser") => Kind::Chain,
        Some("retriever") => Kind::Retriever,
        Some("embedding") => Kind::Embedding,
        _ => Kind::Other,
    }
}

/// A run's `session_id` is its project, and no session.
fn identity(run: &mut Attributes<'_>, metadata: &Attributes<'_>, options: &ReadOptions) -> Identity {
    let example = take_id(run, "reference_example_id");
    let mut identity = Identity {
        task_id: example.map(|id| (TaskIdSource::Reference, id)),
        session_id: take_id(run, "thread_id"),
        ..Identity::default()
    };
    identify(&mut identity, metadata, options);
    identity
}

/// Rule 7.7. The first segment of a checkpoint namespace with more than one is the agent whose graph this is; with only one it is the
/// node that acts, which is a role only where it calls a model.
fn agent_hint(metadata: &Attributes<'_>, kind: Kind) -> Option<String> {
    if let Some(agent) = first_text(metadata, ["lc_agent_name"]) {
        return Some(agent);
    }
    let namespace = metadata.text("langgraph_checkpoint_ns")?;
    if kind != Kind::Llm && !namespace.contains('|') {
        return None;
    }
    let node = namespace.split(['|', ':']).next().filter(|node| !node.is_empty())?;
    Some(node.to_owned())
}

/// Fills the status; returns the exception classes that the error names.
fn read_status(span: &mut Span, run: &mut Attributes<'_>) -> Vec<String> {
    let stated = run.take_text("status");
    let error = run.take_text("error").filter(|error| !error.is_empty());
    span.status = match (stated.as_deref(), &error) {
        (_, Some(_)) | (Some("error"), None) => Status::Error,
        (Some("success"), None) => Status::Ok,
        _ => Status::Unset,
    };
    let exceptions = error.as_deref().map(exception_classes).unwrap_or_default();
    span.error_type = exceptions.first().cloned();
    span.status_message = error;
    exceptions
}

/// LangChain writes `repr(error)`, and after it the traceback, whose last line names the class with its module.
fn exception_classes(error: &str) -> Vec<String> {
    static HEAD: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\A([A-Za-z_]\w*)\(").expect("the pattern is a constant"));
    static RAISED: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"(?m)^(?:[A-Za-z_]\w*\.)*([A-Z]\w*)(?::\s.*)?$").expect("the pattern is a constant"));
    let head = HEAD.captures(error).map(|found| found[1].to_owned());
    let raised = RAISED.captures_iter(error).last().map(|found| found[1].to_owned());
    let mut classes: Vec<String> = head.into_iter().chain(raised).collect();
    classes.dedup();
    classes
}

fn events_json(events: &Value<'_>) -> Option<String> {
    let events: Vec<String> = events
        .elements()
        .into_iter()
        .filter_map(|event| {
            let mut event = Attributes::from_json(event).ok()?;
            let mut json = format!("{{\"name\":{}", string_json(&event.take_text("name").unwrap_or_default()));
            if let Some(time) = event.take("time").and_then(|value| time::parse(&value.as_text()?)) {
                json.push_str(&format!(",\"time_ns\":{}", time.ns));
            }
            if let Some(rest) = event.to_json() {
                json.push_str(",\"attributes\":");
                json.push_str(&rest);
            }
            json.push('}');
            Some(json)
        })
        .collect();
    (!events.is_empty()).then(|| array_json(events.iter().map(String::as_str)))
}

/// `feedback_stats`: the mean of each key's scores.
fn mean_scores(run: &Attributes<'_>, is_root: bool) -> Vec<Reward> {
    let stats = Attributes::of_object(run.get("feedback_stats"));
    let rewards = stats.iter().filter_map(|(name, value)| {
        let value = Attributes::of_object(Some(value)).get("avg")?.as_double()?;
        value.is_finite().then(|| Reward {
            name: name.to_owned(),
            value: Some(value),
            primary: true,
            is_final: is_root,
            aggregate: true,
            ..Reward::default()
        })
    });
    rewards.collect()
}

fn llm(
    run: &mut Attributes<'_>,
    inputs: &mut Attributes<'_>,
    outputs: &mut Attributes<'_>,
    extra: &mut Attributes<'_>,
    metadata: &Attributes<'_>,
) -> Llm {
    let mut llm = Llm { provider: first_text(metadata, ["ls_provider"]), ..Llm::default() };
    if let Some(params) = extra.take_object("invocation_params").and_then(Value::into_text) {
        llm.tools_known = read_parameters_json(&params, &mut llm);
    }
    for key in ["messages", "input", "prompts", "prompt"] {
        let Some(text) = inputs.get(key).and_then(Value::as_text) else { continue };
        if let Ok(messages) = read_messages(&text).or_else(|_| read_messages(&string_json(&text))) {
            llm.input = messages;
            inputs.take(key);
            break;
        }
    }
    // `wrap_openai` has the whole request among the inputs.
    if inputs.contains("model")
        && let Some(request) = inputs.to_json()
    {
        llm.tools_known |= read_parameters_json(&request, &mut llm);
    }
    fill(&mut llm.model_requested, first_text(metadata, ["ls_model_name"]));
    read_outputs(&mut llm, outputs);
    for (count, key) in [(&mut llm.input_tokens, "prompt_tokens"), (&mut llm.output_tokens, "completion_tokens")] {
        fill(count, run.get(key).and_then(Value::as_int));
    }
    llm
}

fn read_outputs(llm: &mut Llm, outputs: &mut Attributes<'_>) {
    if outputs.contains("choices") || outputs.text("object") == Some("response") {
        let json = outputs.to_json().unwrap_or_default();
        if read_response(&json, llm).is_some() {
            outputs.take("choices");
        }
        return;
    }
    if let Some(generations) = outputs.take("generations") {
        let mut rests = Vec::new();
        for generation in generations.elements() {
            let nested = Value::from_json(generation);
            let batch = nested.elements();
            let items = if batch.is_empty() { vec![generation] } else { batch };
            rests.extend(items.into_iter().filter_map(|item| read_generation(llm, item)));
        }
        if !rests.is_empty() {
            let json = array_json(rests.iter().map(String::as_str));
            outputs.put("generations", Value::Json(json.into()));
        }
        let llm_output = Attributes::of_object(outputs.get("llm_output"));
        read_metadata(llm, &llm_output);
        return;
    }
    for key in ["messages", "message", "output"] {
        let Some(json) = outputs.get(key).and_then(Value::as_text) else { continue };
        let json = if json.starts_with(['{', '[']) { json.into_owned() } else { string_json(&json) };
        if let Ok(stated) = read_stated(&json, Role::Assistant)
            && let Some(stated) = stated.into_iter().rfind(|stated| stated.message.role == Role::Assistant)
        {
            llm.choices.push(Choice { message: stated.message, finish_reason: stated.finish_reason, ..Choice::default() });
            outputs.take(key);
            return;
        }
    }
    if outputs.contains("role")
        && let Ok(stated) = read_stated(&outputs.to_json().unwrap_or_default(), Role::Assistant)
    {
        llm.choices.extend(stated.into_iter().map(|stated| Choice {
            message: stated.message,
            finish_reason: stated.finish_reason,
            ..Choice::default()
        }));
        ["role", "content", "tool_calls"].iter().for_each(|key| drop(outputs.take(key)));
    }
}

/// One generation of LangChain; returns what of it no field holds.
fn read_generation(llm: &mut Llm, json: &str) -> Option<String> {
    let mut generation = Attributes::from_json(json).ok()?;
    let mut choice = Choice::default();
    choice.message.role = Role::Assistant;
    let message_object = generation.take_object("message");
    if let Some(stated) = message_object
        .as_ref()
        .and_then(Value::as_text)
        .and_then(|json| read_stated(&json, Role::Assistant).ok()?.into_iter().next())
    {
        choice.message = stated.message;
        choice.finish_reason = stated.finish_reason;
        generation.take("text");
    } else {
        choice.message.content = generation.take_text("text");
    }
    let mut message = Attributes::of_object(message_object.as_ref());
    let kwargs_object = message.take_object("kwargs");
    let mut kwargs = if kwargs_object.is_some() { Attributes::of_object(kwargs_object.as_ref()) } else { message };
    for key in ["content", "type", "tool_calls", "name"] {
        kwargs.take(key);
    }
    let info = Attributes::of_object(generation.get("generation_info"));
    fill(&mut choice.finish_reason, first_text(&info, ["finish_reason"]));
    let answered = Attributes::of_object(kwargs.get("response_metadata"));
    if let Some(logprobs) = [&answered, &info].iter().find_map(|source| source.get("logprobs")?.as_text()) {
        take_logprobs(&mut choice, &logprobs);
    }
    read_metadata(llm, &answered);
    let usage = Attributes::of_object(kwargs.get("usage_metadata"));
    let detail = |key, name| Attributes::of_object(usage.get(key)).get(name).and_then(Value::as_int);
    fill(&mut llm.input_tokens, usage.get("input_tokens").and_then(Value::as_int));
    fill(&mut llm.output_tokens, usage.get("output_tokens").and_then(Value::as_int));
    fill(&mut llm.cached_tokens, detail("input_token_details", "cache_read"));
    fill(&mut llm.reasoning_tokens, detail("output_token_details", "reasoning"));
    llm.choices.push(choice);
    drop((info, answered, usage));
    generation.put_rest("message", &kwargs);
    generation.to_json()
}

/// `response_metadata` of a message, or `llm_output` beside the generations.
fn read_metadata(llm: &mut Llm, metadata: &Attributes<'_>) {
    fill(&mut llm.model, first_text(metadata, ["model_name", "model"]));
    fill(&mut llm.response_id, first_text(metadata, ["id"]));
    if let Some(usage) = metadata.get("token_usage").and_then(Value::as_text)
        && let Some(usage) = Object::parse(&usage)
    {
        read_usage(&usage, llm);
    }
}

fn tool(
    name: &str,
    inputs: &mut Attributes<'_>,
    outputs: &mut Attributes<'_>,
    extra: &mut Attributes<'_>,
    exceptions: Vec<String>,
) -> Tool {
    let mut tool = Tool {
        name: Some(name.to_owned()).filter(|name| !name.is_empty()),
        call_id: take_id(extra, "tool_call_id"),
        exceptions,
        ..Tool::default()
    };
    // Tools of one text argument are recorded as `{"input": text}`.
    let only_input = inputs.iter().count() == 1 && matches!(inputs.get("input"), Some(Value::Str(_)));
    tool.arguments = if only_input { inputs.take_text("input") } else { inputs.to_json() };
    *inputs = Attributes::default();
    let output = outputs.take("output").or_else(|| {
        let whole = outputs.to_json().map(|json| Value::Json(json.into()));
        *outputs = Attributes::default();
        whole
    });
    let Some(output) = output else { return tool };
    // A tool that hands over answers with a command that holds its message.
    let command = Attributes::of_object(Some(&output));
    let update = Attributes::of_object(command.get("update"));
    let messages = update.get("messages").map(Value::elements).unwrap_or_default();
    let output_text = output.as_text().unwrap_or_default();
    let answers: Vec<&str> = if messages.is_empty() { vec![output_text.as_ref()] } else { messages };
    let answer = answers.into_iter().filter(|json| json.starts_with('{')).find_map(|json| {
        let message = read_messages(json).ok()?.into_iter().find(|message| message.role == Role::Tool)?;
        (tool.call_id.is_none() || message.tool_call_id.is_none() || message.tool_call_id == tool.call_id).then_some(message)
    });
    match answer {
        Some(message) => {
            fill(&mut tool.call_id, message.tool_call_id);
            tool.result_is_error = message.is_error;
            tool.result = message.content.or(message.parts_json);
            if command.contains("goto") || command.contains("graph") {
                outputs.put("output", Value::Json(output_text.into_owned().into()));
            }
        }
        None => tool.result = Some(output_text.into_owned()),
    }
    tool
}
