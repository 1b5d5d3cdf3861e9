//! Chat messages and tools as chat templates read them: texts instead of parts, arguments as objects, roles that every template knows.

use serde_json::{Map, Value, json};

use super::ApiError;

/// Messages of a request in the order given.
///
/// Text parts are joined; a part that is no text is refused, since no policy here sees images or hears. `developer` is `system`. A null
/// content is an empty one, which every template can print.
pub fn normalise(messages: &[Value]) -> Result<Vec<Value>, ApiError> {
    if messages.is_empty() {
        return Err(ApiError::invalid("messages", "`messages` is empty; a prompt has at least one message"));
    }
    messages.iter().enumerate().map(|(index, message)| one(index, message)).collect()
}

fn one(index: usize, message: &Value) -> Result<Value, ApiError> {
    let wrong = |what: &str| ApiError::invalid("messages", format!("`messages[{index}]` {what}"));
    let fields = message.as_object().ok_or_else(|| wrong("is no object"))?;
    let role = match fields.get("role").and_then(Value::as_str) {
        Some("system" | "developer") => "system",
        Some("user") => "user",
        Some("assistant") => "assistant",
        Some("tool" | "function") => "tool",
        Some(other) => return Err(wrong(&format!("has the role `{other}`; use system, developer, user, assistant or tool"))),
        None => return Err(wrong("has no `role`")),
    };
    let mut out = Map::new();
    out.insert("role".to_owned(), role.into());
    out.insert("content".to_owned(), text(fields.get("content")).map_err(|what| wrong(&what))?.into());
    for key in ["name", "tool_call_id", "reasoning_content"] {
        if let Some(value) = fields.get(key).filter(|value| value.is_string()) {
            out.insert(key.to_owned(), value.clone());
        }
    }
    if let Some(calls) = fields.get("tool_calls").and_then(Value::as_array).filter(|calls| !calls.is_empty()) {
        let calls: Result<Vec<Value>, ApiError> =
            calls.iter().map(|call| tool_call(call).ok_or_else(|| wrong("has a tool call without a function"))).collect();
        out.insert("tool_calls".to_owned(), Value::Array(calls?));
    }
    Ok(Value::Object(out))
}

/// The text of a content: a string, or its parts joined.
pub fn text(content: Option<&Value>) -> Result<String, String> {
    match content {
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Array(parts)) => {
            let texts: Result<Vec<&str>, String> = parts
                .iter()
                .map(|part| match part["type"].as_str() {
                    Some("text" | "input_text" | "output_text") => {
                        part["text"].as_str().ok_or("has a text part without a text".to_owned())
                    }
                    Some("refusal") => part["refusal"].as_str().ok_or("has a refusal without a text".to_owned()),
                    Some(other) => Err(format!("has a part of type `{other}`; this server takes text only")),
                    None => Err("has a part without a type".to_owned()),
                })
                .collect();
            Ok(texts?.concat())
        }
        Some(_) => Err("has a content that is neither a text nor a list of parts".to_owned()),
    }
}

/// Arguments become an object, which templates print as the model would have written it; what is no object stays as it is.
fn tool_call(call: &Value) -> Option<Value> {
    let function = call.get("function")?;
    let name = function["name"].as_str()?;
    let arguments = match &function["arguments"] {
        Value::String(text) => match serde_json::from_str::<Value>(text) {
            Ok(object @ Value::Object(_)) => object,
            _ if text.trim().is_empty() => json!({}),
            _ => Value::String(text.clone()),
        },
        Value::Null => json!({}),
        other => other.clone(),
    };
    let mut out = Map::new();
    if let Some(id) = call["id"].as_str() {
        out.insert("id".to_owned(), id.into());
    }
    out.insert("type".to_owned(), "function".into());
    out.insert("function".to_owned(), json!({ "name": name, "arguments": arguments }));
    Some(Value::Object(out))
}

/// Tools in the shape of chat completions, with what a template prints and nothing else; also from the flat shape of the Responses API.
pub fn tools(tools: Option<&[Value]>) -> Result<Vec<Value>, ApiError> {
    let wrong = |what: String| ApiError::invalid("tools", what);
    tools
        .unwrap_or_default()
        .iter()
        .map(|tool| {
            let kind = tool["type"].as_str().unwrap_or("function");
            if kind != "function" {
                return Err(ApiError::unsupported(
                    "tools",
                    format!("a tool of type `{kind}` runs at a provider; this server offers functions only"),
                ));
            }
            let function = tool.get("function").unwrap_or(tool);
            let Some(name) = function["name"].as_str().filter(|name| !name.is_empty()) else {
                return Err(wrong("a tool has no name".to_owned()));
            };
            let mut out = Map::new();
            out.insert("name".to_owned(), name.into());
            if let Some(description) = function.get("description").filter(|description| description.is_string()) {
                out.insert("description".to_owned(), description.clone());
            }
            let none = || json!({ "type": "object", "properties": {} });
            let parameters = function.get("parameters").filter(|parameters| !parameters.is_null()).cloned();
            out.insert("parameters".to_owned(), parameters.unwrap_or_else(none));
            Ok(json!({ "type": "function", "function": out }))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_become_what_templates_print() {
        let given = [
            json!({ "role": "developer", "content": [{ "type": "text", "text": "a" }, { "type": "text", "text": "b" }] }),
            json!({ "role": "assistant", "content": null, "refusal": null,
                    "tool_calls": [{ "id": "c", "type": "function", "function": { "name": "f", "arguments": "{\"x\": 1}" } },
                                   { "id": "d", "type": "function", "function": { "name": "g", "arguments": "[1" } }] }),
            json!({ "role": "tool", "tool_call_id": "c", "content": "1" }),
        ];
        let expected = [
            json!({ "role": "system", "content": "ab" }),
            json!({ "role": "assistant", "content": "",
                    "tool_calls": [{ "id": "c", "type": "function", "function": { "name": "f", "arguments": { "x": 1 } } },
                                   { "id": "d", "type": "function", "function": { "name": "g", "arguments": "[1" } }] }),
            json!({ "role": "tool", "content": "1", "tool_call_id": "c" }),
        ];
        assert_eq!(normalise(&given).unwrap(), expected);
    }

    #[test]
    fn what_no_policy_here_understands_is_refused() {
        let image = json!([{ "role": "user", "content": [{ "type": "image_url", "image_url": { "url": "x" } }] }]);
        assert!(normalise(image.as_array().unwrap()).unwrap_err().message.contains("`image_url`"));
        assert_eq!(normalise(&[]).unwrap_err().param, Some("messages"));
        assert_eq!(tools(Some(&[json!({ "type": "web_search" })])).unwrap_err().code, Some("unsupported_parameter"));
    }

    #[test]
    fn both_shapes_of_a_tool_are_one() {
        let parameters = json!({ "type": "object" });
        let chat = json!({ "type": "function", "function": { "name": "f", "description": "d", "parameters": parameters, "strict": true } });
        let flat = json!({ "type": "function", "name": "f", "description": "d", "parameters": parameters, "strict": null });
        let expected = json!({ "type": "function", "function": { "name": "f", "description": "d", "parameters": parameters } });
        assert_eq!(tools(Some(&[chat, flat])).unwrap(), [expected.clone(), expected]);
    }
}
