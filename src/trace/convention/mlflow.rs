//! MLflow: `mlflow.spanInputs`, `mlflow.spanOutputs` and `mlflow.chat.*`, each of them JSON in a string.

use std::borrow::Cow;

use super::genai;
use crate::trace::attributes::{Attributes, Value};
use crate::trace::message::text::string;
use crate::trace::message::{Role, read_messages, read_stated};
use crate::trace::object::Object;
use crate::trace::openai::{push_tools, read_request, read_response, read_usage};
use crate::trace::span::{Kind, Llm, Span, Tool};

/// An attribute's value: text that was written as JSON is decoded, all else stays JSON.
fn value<'a>(attributes: &'a Attributes<'_>, key: &str) -> Option<Cow<'a, str>> {
    let text = match attributes.get(key)? {
        Value::Str(text) => Cow::Borrowed(text.as_ref()),
        other => other.as_text()?,
    };
    match string(&text) {
        Some(decoded) => Some(Cow::Owned(decoded.into_owned())),
        None if text == "null" => None,
        None => Some(text),
    }
}

pub(super) fn llm(attributes: &mut Attributes<'_>, llm: &mut Llm) {
    if let Some(inputs) = value(attributes, "mlflow.spanInputs").map(Cow::into_owned) {
        let read = read_request(&inputs, llm) || messages(&inputs, llm).is_some();
        if read {
            attributes.take("mlflow.spanInputs");
        }
    }
    if let Some(outputs) = value(attributes, "mlflow.spanOutputs").map(Cow::into_owned) {
        match read_response(&outputs, llm) {
            Some(rest) => attributes.replace("mlflow.spanOutputs", (rest != "{}").then(|| Value::Str(rest.into()))),
            None if llm.choices.is_empty() => {
                if let Ok(stated) = read_stated(&outputs, Role::Assistant) {
                    llm.choices = genai::choices(stated, None);
                    attributes.take("mlflow.spanOutputs");
                }
            }
            None => {}
        }
    }
    if let Some(tools) = value(attributes, "mlflow.chat.tools") {
        if llm.tools.is_empty() {
            push_tools(&tools, &mut llm.tools);
        }
        llm.tools_known = true;
    }
    if let Some(model) = value(attributes, "mlflow.llm.model").map(Cow::into_owned) {
        llm.model.get_or_insert(model);
    }
    if let Some(usage) = value(attributes, "mlflow.chat.tokenUsage")
        && let Some(usage) = Object::parse(&usage)
    {
        read_usage(&usage, llm);
        llm.cached_tokens = llm.cached_tokens.or_else(|| usage.integer("cache_read_input_tokens"));
    }
}

/// A list of messages, alone or in an object.
fn messages(inputs: &str, llm: &mut Llm) -> Option<()> {
    let inner = Object::parse(inputs).and_then(|object| object.get("messages"));
    let list = inner.map_or(inputs, |list| list.get());
    if !list.starts_with('[') {
        return None;
    }
    llm.input = read_messages(list).ok()?;
    Some(())
}

pub(super) fn tool(attributes: &mut Attributes<'_>, span: &Span, tool: &mut Tool) {
    tool.name.get_or_insert_with(|| span.name.clone());
    for key in ["mlflow.spanInputs", "mlflow.spanOutputs"] {
        if let Some(decoded) = value(attributes, key).map(Cow::into_owned) {
            attributes.put(key.to_owned(), Value::Str(decoded.into()));
        }
    }
    genai::arguments(attributes, tool, "mlflow.spanInputs");
    genai::result(attributes, tool, "mlflow.spanOutputs");
}

pub(super) fn common(span: &mut Span) {
    if span.kind == Kind::Agent {
        span.identity.agent.get_or_insert_with(|| span.name.clone());
    }
}
