//! Our normalised messages and tools in the shape that chat templates are written for, also where a template knows nothing of tools.

use anyhow::{Context as _, Result};
use serde_json::{Map, Value as Json, json};

use super::python::{self, Dumps};
use super::template::Template;
use super::tools::{ParsedCall, ToolFormat};
use crate::trace::message::{Message, read_messages};

/// Messages in any shape that trace files have, as transformers' templates expect them: a key that has no value is not there, arguments
/// of calls are objects, thoughts stand under both of their names.
pub fn for_template(messages: &[Json]) -> Result<Vec<Json>> {
    let json = serde_json::to_string(messages)?;
    let messages = read_messages(&json).context("the messages cannot be read")?;
    Ok(messages.iter().map(template_message).collect())
}

fn template_message(message: &Message) -> Json {
    let mut out = Map::new();
    let mut put = |key: &str, value: Option<&String>| {
        if let Some(value) = value {
            out.insert(key.to_owned(), Json::from(value.as_str()));
        }
    };
    put("role", Some(&message.role.as_str().to_owned()));
    put("content", message.content.as_ref().or(message.refusal.as_ref()));
    put("reasoning_content", message.reasoning.as_ref());
    put("thinking", message.reasoning.as_ref());
    put("name", message.name.as_ref());
    put("tool_call_id", message.tool_call_id.as_ref());
    if !message.tool_calls.is_empty() {
        let calls = message.tool_calls.iter().map(|call| {
            let mut out = Map::new();
            if let Some(id) = &call.id {
                out.insert("id".to_owned(), Json::from(id.as_str()));
            }
            out.insert("type".to_owned(), Json::from("function"));
            // Arguments that are no object were never called with: the template gets the text as the model wrote it.
            let arguments = match serde_json::from_str(&call.arguments) {
                Ok(object @ Json::Object(_)) => object,
                _ if call.arguments.trim().is_empty() => Json::Object(Map::new()),
                _ => Json::from(call.arguments.as_str()),
            };
            out.insert("function".to_owned(), json!({ "name": call.name, "arguments": arguments }));
            Json::Object(out)
        });
        out.insert("tool_calls".to_owned(), calls.collect());
    }
    Json::Object(out)
}

/// Tools as `{"type": "function", "function": {...}}`; those that have that shape stay as they are.
pub fn tools_for_template(tools: &[Json]) -> Vec<Json> {
    let wrap = |tool: &Json| {
        if tool["function"].is_object() {
            return tool.clone();
        }
        let mut function = Map::new();
        for key in ["name", "description", "parameters"] {
            if let Some(value) = tool.get(key).filter(|value| !value.is_null()) {
                function.insert(key.to_owned(), value.clone());
            }
        }
        json!({ "type": "function", "function": function })
    };
    tools.iter().map(wrap).collect()
}

/// What has to be told in plain text, since the template ignores it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Folding {
    /// Tools are listed in the system message.
    pub tools: bool,
    /// Calls are written into the assistant's text, and results into the user's.
    pub calls: bool,
    /// An assistant's message without text needs an empty one.
    pub content: bool,
}

/// A word that no template writes by itself.
const PROBE: &str = "fulgurite_probe";

impl Folding {
    /// Finds out by rendering: with and without tools, with and without a call and its result.
    pub fn of(template: &Template) -> Folding {
        let user = json!({ "role": "user", "content": "x" });
        let function = json!({ "name": PROBE, "description": "x", "parameters": { "type": "object", "properties": {} } });
        let tools = [json!({ "type": "function", "function": function })];
        let tells = template.render(std::slice::from_ref(&user), &tools, true).is_ok_and(|text| text.contains(PROBE));
        let call = json!({ "id": "call00000", "type": "function", "function": { "name": PROBE, "arguments": {} } });
        let result = json!({ "role": "tool", "content": "fulgurite_result", "tool_call_id": "call00000", "name": PROBE });
        let writes = |content: Option<&str>| {
            let mut assistant = json!({ "role": "assistant", "tool_calls": [call] });
            if let Some(content) = content {
                assistant["content"] = Json::from(content);
            }
            let rendered = template.render(&[user.clone(), assistant, result.clone()], &[], true);
            rendered.is_ok_and(|text| text.contains(PROBE) && text.contains("fulgurite_result"))
        };
        let (without, with) = (writes(None), writes(Some("")));
        Folding { tools: !tells, calls: !without && !with, content: !without && with }
    }

    /// Messages and tools for a template of this kind.
    pub fn apply(self, mut messages: Vec<Json>, tools: Vec<Json>) -> (Vec<Json>, Vec<Json>) {
        if self.content {
            messages
                .iter_mut()
                .filter(|message| message.get("content").is_none())
                .for_each(|message| message["content"] = "".into());
        }
        if self.calls {
            messages = fold_calls(messages);
        }
        if !self.tools || tools.is_empty() {
            return (messages, tools);
        }
        let block = tools_block(&tools);
        match messages.first_mut().filter(|first| first["role"] == "system") {
            Some(system) => {
                let told = system["content"].as_str().unwrap_or_default();
                system["content"] = Json::from(format!("{told}\n\n{block}").trim_start());
            }
            None => messages.insert(0, json!({ "role": "system", "content": block })),
        }
        (messages, Vec::new())
    }
}

/// The one block that tells tools to a model whose template does not: the form that Hermes and Qwen models know.
fn tools_block(tools: &[Json]) -> String {
    let dumps = Dumps::default();
    let listed = tools.iter().map(|tool| dumps.dump(&python::value(tool)).unwrap_or_default());
    format!(
        "# Tools\n\nYou can call these functions. Each line inside <tools></tools> describes one as JSON:\n<tools>\n{}\n</tools>\n\n\
         To call a function, write its name and arguments as JSON inside <tool_call></tool_call>, one pair of tags for each call:\n\
         <tool_call>\n{{\"name\": <name>, \"arguments\": <arguments>}}\n</tool_call>",
        listed.collect::<Vec<_>>().join("\n")
    )
}

/// Calls become text of the assistant's message, results that follow each other one message of the user's.
fn fold_calls(messages: Vec<Json>) -> Vec<Json> {
    let mut folded: Vec<Json> = Vec::new();
    let mut after_result = false;
    for mut message in messages {
        let is_result = message["role"] == "tool";
        if is_result {
            let result = format!("<tool_response>\n{}\n</tool_response>", message["content"].as_str().unwrap_or_default());
            match folded.last_mut().filter(|_| after_result) {
                Some(last) => last["content"] = Json::from(format!("{}\n{result}", last["content"].as_str().unwrap_or_default())),
                None => folded.push(json!({ "role": "user", "content": result })),
            }
        } else {
            if let Some(calls) = message.as_object_mut().and_then(|message| message.remove("tool_calls")) {
                let calls: Vec<ParsedCall> = calls.as_array().into_iter().flatten().map(written_call).collect();
                message["content"] = Json::from(joined(message["content"].as_str(), &ToolFormat::Hermes.write(&calls)));
            }
            folded.push(message);
        }
        after_result = is_result;
    }
    folded
}

fn written_call(call: &Json) -> ParsedCall {
    let dumps = Dumps::default();
    let arguments = &call["function"]["arguments"];
    let arguments = match arguments.as_str() {
        Some(text) => text.to_owned(),
        None => dumps.dump(&python::value(arguments)).unwrap_or_default(),
    };
    ParsedCall { name: call["function"]["name"].as_str().unwrap_or_default().to_owned(), arguments }
}

fn joined(content: Option<&str>, calls: &str) -> String {
    match content {
        Some(content) if !content.is_empty() && !calls.is_empty() => format!("{content}\n{calls}"),
        content => format!("{}{calls}", content.unwrap_or_default()),
    }
}

/// Text and calls of a response without any template: for one that writes a response in another way than it is sampled.
pub fn plain_response(response: &Json, format: ToolFormat) -> Result<String> {
    let message = for_template(std::slice::from_ref(response))?.into_iter().next().unwrap_or_default();
    let calls: Vec<ParsedCall> = message["tool_calls"].as_array().into_iter().flatten().map(written_call).collect();
    let text = joined(message["content"].as_str(), &format.write(&calls));
    Ok(match message["reasoning_content"].as_str() {
        Some(thought) => format!("<think>\n{thought}\n</think>\n\n{text}"),
        None => text,
    })
}

/// What a template writes after a response.
pub fn end_of_turn(template: &Template) -> Option<String> {
    let messages = [json!({ "role": "user", "content": "x" }), json!({ "role": "assistant", "content": PROBE })];
    let text = template.render(&messages, &[], false).ok()?;
    let (_, end) = text.rsplit_once(PROBE)?;
    Some(end.to_owned()).filter(|end| !end.is_empty())
}
