//! What an answer has to be: `response_format`, `text.format` and `tool_choice`.

use serde_json::{Value, json};

use super::ApiError;
use crate::text::grammar::{Form, Schema};

/// The format of a JSON text; `None` for any text.
///
/// * `format`: the value of the field `param`, in the shape of chat completions or, flat, of the Responses API.
pub fn format(param: &'static str, format: Option<&Value>) -> Result<Option<Schema>, ApiError> {
    let Some(format) = format.filter(|format| !format.is_null()) else { return Ok(None) };
    match format["type"].as_str() {
        Some("text") => Ok(None),
        Some("json_object") => Ok(Some(Schema { schema: json!({ "type": "object" }), strict: false })),
        Some("json_schema") => {
            let named = format.get("json_schema").unwrap_or(format);
            let schema = named.get("schema").filter(|schema| schema.is_object()).cloned();
            let schema = schema.ok_or_else(|| ApiError::invalid(param, format!("`{param}` has no `schema`")))?;
            Ok(Some(Schema { schema, strict: named["strict"].as_bool().unwrap_or(false) }))
        }
        Some(other) => {
            Err(ApiError::invalid(param, format!("`{param}` has the type `{other}`; use text, json_object or json_schema")))
        }
        None => Err(ApiError::invalid(param, format!("`{param}` has no `type`"))),
    }
}

/// Which tools an answer may or must call.
#[derive(Debug, Clone, PartialEq)]
pub enum Choice {
    /// As the model likes.
    Auto,
    None,
    /// At least one of them.
    Required,
    /// At least one of these.
    OneOf(Vec<String>),
}

/// Reads a `tool_choice`, in the shape of chat completions or, flat, of the Responses API.
pub fn choice(choice: Option<&Value>) -> Result<Choice, ApiError> {
    let wrong = |what: String| ApiError::invalid("tool_choice", format!("`tool_choice` {what}"));
    let name = |tool: &Value| tool["function"]["name"].as_str().or(tool["name"].as_str()).map(str::to_owned);
    let mode = |mode: &str| match mode {
        "auto" => Ok(Choice::Auto),
        "none" => Ok(Choice::None),
        "required" => Ok(Choice::Required),
        other => Err(wrong(format!("is `{other}`; use auto, none, required or the name of a function"))),
    };
    match choice {
        None | Some(Value::Null) => Ok(Choice::Auto),
        Some(Value::String(choice)) => mode(choice),
        Some(choice) => match choice["type"].as_str() {
            Some("function") => {
                let name = name(choice).ok_or_else(|| wrong("is a function without a name".to_owned()))?;
                Ok(Choice::OneOf(vec![name]))
            }
            Some("allowed_tools") => {
                let allowed = choice.get("allowed_tools").unwrap_or(choice);
                if mode(allowed["mode"].as_str().unwrap_or("auto"))? != Choice::Required {
                    let message =
                        "`tool_choice` of type `allowed_tools` is taken with the mode `required`; otherwise offer fewer tools";
                    return Err(ApiError::unsupported("tool_choice", message));
                }
                let names: Option<Vec<String>> = allowed["tools"].as_array().into_iter().flatten().map(name).collect();
                names.filter(|names| !names.is_empty()).map(Choice::OneOf).ok_or_else(|| wrong("names no tools".to_owned()))
            }
            other => Err(wrong(format!("has the type `{}`; use function", other.unwrap_or_default()))),
        },
    }
}

/// Whether the model is told of tools at all.
pub fn offers_tools(choice: Option<&Value>) -> bool {
    choice.is_none_or(|choice| choice != "none")
}

/// What the answer has to be; `None` where it may be anything.
///
/// * `tools`: as the client sent them, where `strict` stands; all are functions.
pub fn form(content: Option<Schema>, choice: &Choice, tools: &[Value], parallel: bool) -> Result<Option<Form>, ApiError> {
    let function = |tool: &Value| {
        let function = tool.get("function").unwrap_or(tool);
        let schema = function.get("parameters").filter(|parameters| !parameters.is_null()).cloned();
        let schema = schema.unwrap_or_else(|| json!({ "type": "object", "properties": {} }));
        let name = function["name"].as_str().unwrap_or_default().to_owned();
        (name, Schema { schema, strict: function["strict"].as_bool().unwrap_or(false) })
    };
    let mut functions: Vec<(String, Schema)> = tools.iter().map(function).collect();
    let content = match choice {
        Choice::Auto if content.is_none() => return Ok(None),
        Choice::Auto => content,
        Choice::None => {
            functions.clear();
            content
        }
        Choice::Required => None,
        Choice::OneOf(names) => {
            if let Some(unknown) = names.iter().find(|name| !functions.iter().any(|(known, _)| known == *name)) {
                let message = format!("`tool_choice` names `{unknown}`, which is not among the `tools`");
                return Err(ApiError::invalid("tool_choice", message));
            }
            functions.retain(|(name, _)| names.contains(name));
            None
        }
    };
    match (&content, functions.is_empty()) {
        (None, true) if *choice == Choice::None => Ok(None),
        (None, true) => Err(ApiError::invalid("tool_choice", "`tool_choice` requires a tool, but there are no `tools`")),
        _ => Ok(Some(Form { content, tools: functions, parallel })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tool(name: &str) -> Value {
        json!({ "type": "function", "function": { "name": name, "parameters": { "type": "object", "title": name }, "strict": name == "f" } })
    }

    fn schema() -> Schema {
        Schema { schema: json!({ "type": "string" }), strict: true }
    }

    #[test]
    fn formats_of_both_apis() {
        let named = json!({ "name": "n", "schema": { "type": "string" }, "strict": true });
        let mut flat = named.clone();
        flat["type"] = "json_schema".into();
        let chat = json!({ "type": "json_schema", "json_schema": named });
        for value in [flat, chat] {
            assert_eq!(format("response_format", Some(&value)), Ok(Some(schema())), "{value}");
        }
        let object = Schema { schema: json!({ "type": "object" }), strict: false };
        assert_eq!(format("text", Some(&json!({ "type": "json_object" }))), Ok(Some(object)));
        for none in [None, Some(&Value::Null), Some(&json!({ "type": "text" }))] {
            assert_eq!(format("text", none), Ok(None));
        }
        for wrong in [json!({ "type": "json_schema" }), json!({ "type": "xml" }), json!({}), json!("json_object")] {
            assert_eq!(format("text", Some(&wrong)).unwrap_err().param, Some("text"), "{wrong}");
        }
    }

    #[test]
    fn choices_of_both_apis() {
        let named = Choice::OneOf(vec!["f".to_owned()]);
        let cases = [
            (json!(null), Choice::Auto),
            (json!("none"), Choice::None),
            (json!("required"), Choice::Required),
            (json!({ "type": "function", "function": { "name": "f" } }), named.clone()),
            (json!({ "type": "function", "name": "f" }), named.clone()),
            (
                json!({ "type": "allowed_tools", "mode": "required", "tools": [{ "type": "function", "name": "f" }] }),
                named.clone(),
            ),
            (
                json!({ "type": "allowed_tools", "allowed_tools": { "mode": "required", "tools": [{ "type": "function", "function": { "name": "f" } }] } }),
                named,
            ),
        ];
        for (value, expected) in cases {
            assert_eq!(choice(Some(&value)), Ok(expected), "{value}");
        }
        let wrong = [
            json!("any"),
            json!({ "type": "function" }),
            json!({ "type": "web_search" }),
            json!({ "type": "allowed_tools", "mode": "auto", "tools": [] }),
            json!({ "type": "allowed_tools", "mode": "required", "tools": [] }),
        ];
        for value in wrong {
            assert_eq!(choice(Some(&value)).unwrap_err().param, Some("tool_choice"), "{value}");
        }
    }

    #[test]
    fn forms_of_answers() {
        let tools = [tool("f"), tool("g")];
        let names = |form: Form| -> Vec<String> { form.tools.into_iter().map(|(name, _)| name).collect() };
        assert_eq!(form(None, &Choice::Auto, &tools, true), Ok(None));
        assert_eq!(form(None, &Choice::None, &tools, true), Ok(None));
        // A text of the format, or calls.
        let both = form(Some(schema()), &Choice::Auto, &tools, true).unwrap().unwrap();
        assert!(both.content.is_some() && both.tools[0].1.strict && !both.tools[1].1.strict);
        let text = form(Some(schema()), &Choice::None, &tools, true).unwrap().unwrap();
        assert!(text.content.is_some() && text.tools.is_empty());
        let calls = form(Some(schema()), &Choice::Required, &tools, false).unwrap().unwrap();
        assert!(calls.content.is_none() && !calls.parallel);
        assert_eq!(names(calls), ["f", "g"]);
        assert_eq!(names(form(None, &Choice::OneOf(vec!["g".to_owned()]), &tools, true).unwrap().unwrap()), ["g"]);
        for choice in [Choice::Required, Choice::OneOf(vec!["f".to_owned()])] {
            assert_eq!(form(None, &choice, &[], true).unwrap_err().param, Some("tool_choice"));
        }
    }
}
