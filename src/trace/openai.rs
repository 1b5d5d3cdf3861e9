//! The OpenAI API's JSON: request bodies and responses of chat completions, completions and Responses, with the token ids
//! that vLLM and SGLang add.
//!
//! Every reader here fills only what the call does not yet state, so that several sources can be read one after the other,
//! the best first.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::message::text::text;
use super::message::{Message, Role, read_messages, read_stated};
use super::object::{Object, list};
use super::scan::integers;
use super::span::{Choice, Llm, ToolOffer};

/// What the OpenAI Agents SDK writes as the id of a response that it made of a chat completion: no id, since all have it.
const PLACEHOLDER_ID: &str = "__fake_id__";

/// Reads a request body: messages, tools, and every other parameter.
///
/// Returns false, and reads nothing, where the text is not the body of a request for text.
pub fn read_request(json: &str, llm: &mut Llm) -> bool {
    Object::parse(json).is_some_and(|request| read_request_object(&request, llm))
}

/// As [`read_request`], for a body that is already parsed.
pub fn read_request_object(request: &Object<'_>, llm: &mut Llm) -> bool {
    if llm.input.is_empty() {
        let Some(input) = request_input(request, llm) else { return false };
        llm.input = input;
    } else if !["messages", "input", "prompt"].iter().any(|key| request.get(key).is_some()) {
        return false;
    }
    read_parameters(request, llm);
    llm.tools_known = true;
    true
}

/// Reads a JSON object of request parameters, as frameworks write them beside the messages.
///
/// Returns false where the text is not a JSON object.
pub fn read_parameters_json(json: &str, llm: &mut Llm) -> bool {
    let Some(parameters) = Object::parse(json) else { return false };
    read_parameters(&parameters, llm);
    true
}

/// Reads the response of an API: chat completion, completion or Responses.
///
/// Returns a JSON object of what found no typed field (`{}` where nothing is left); `None`, with nothing read, where the text
/// is not such a response.
pub fn read_response(json: &str, llm: &mut Llm) -> Option<String> {
    read_response_object(&Object::parse(json)?, llm)
}

/// As [`read_response`], for a response that is already parsed.
pub fn read_response_object(response: &Object<'_>, llm: &mut Llm) -> Option<String> {
    let choices = match (response.get("choices"), response.get("output")) {
        (Some(choices), _) => read_choices(choices)?,
        (None, Some(output)) if response.text("object").as_deref() == Some("response") => read_output(response, output)?,
        _ => return None,
    };
    let id = response.text("id").filter(|id| id != PLACEHOLDER_ID).map(Into::into);
    fill(&mut llm.response_id, id.or(choices.response_id));
    fill(&mut llm.model, response.text("model").map(Into::into));
    if let Some(usage) = response.object("usage") {
        read_usage(&usage, llm);
    }
    let prompt_token_ids = response.parse_field("prompt_token_ids").or_else(|| choices.prompt_token_ids.clone());
    fill(&mut llm.prompt_token_ids, prompt_token_ids);
    let whole = choices.whole;
    fill_choices(&mut llm.choices, choices.choices);
    let rest = response.to_json(|key| match key {
        "id" | "model" | "prompt_token_ids" => false,
        "choices" | "output" => !whole,
        _ => true,
    });
    Some(rest.unwrap_or_else(|| "{}".to_owned()))
}

/// Reads the object of token counts, under the names of either API.
pub fn read_usage(usage: &Object<'_>, llm: &mut Llm) {
    let detail = |groups: [&str; 2], key| groups.iter().find_map(|group| usage.object(group)?.integer(key));
    fill(&mut llm.input_tokens, usage.integer("prompt_tokens").or_else(|| usage.integer("input_tokens")));
    fill(&mut llm.output_tokens, usage.integer("completion_tokens").or_else(|| usage.integer("output_tokens")));
    let cached = detail(["prompt_tokens_details", "input_tokens_details"], "cached_tokens");
    fill(&mut llm.cached_tokens, cached.or_else(|| usage.integer("cache_read_input_tokens")));
    fill(&mut llm.reasoning_tokens, detail(["completion_tokens_details", "output_tokens_details"], "reasoning_tokens"));
}

/// Appends the tools of a JSON array (or of one JSON object): `{"type", "function": {...}}`, the flat shape of the Responses
/// API, Vercel's with `inputSchema`, or JSON strings of any of them.
pub fn push_tools(json: &str, tools: &mut Vec<ToolOffer>) {
    let json = json.trim();
    if json.starts_with('[') {
        let items: Vec<&RawValue> = serde_json::from_str(json).unwrap_or_default();
        return items.into_iter().for_each(|item| push_tools(&text(item), tools));
    }
    let Some(tool) = Object::parse(json) else { return };
    let tool = tool.object("function").unwrap_or(tool);
    // Tools that the provider runs itself (`web_search`) have a type only.
    let Some(name) = tool.text("name").or_else(|| tool.text("type")) else { return };
    let parameters =
        ["parameters", "inputSchema", "input_schema", "parameters_json_schema"].iter().find_map(|key| tool.text(key));
    tools.push(ToolOffer {
        name: name.into_owned(),
        description: tool.text("description").map(Into::into),
        parameters: parameters.map(Into::into),
    });
}

/// Adds choices to those that are known, or fills what those lack, one by one.
pub fn fill_choices(known: &mut Vec<Choice>, found: Vec<Choice>) {
    if known.is_empty() {
        *known = found;
        return;
    }
    for (known, found) in known.iter_mut().zip(found) {
        if known.message.is_empty() {
            known.message = found.message;
        }
        fill(&mut known.finish_reason, found.finish_reason);
        if known.token_ids.is_none() && known.logprobs.is_none() {
            known.token_ids = found.token_ids;
            known.logprobs = found.logprobs;
        }
    }
}

/// Log-probabilities of the sampled tokens: `{"content": [{"logprob"}]}` of chat completions, the list in it alone, or
/// `{"token_logprobs": []}` of completions. With them the ids, where the server writes tokens as `token_id:<id>`.
pub fn read_logprobs(json: &str) -> Option<Logprobs> {
    #[derive(Deserialize)]
    struct Token<'a> {
        logprob: Option<f32>,
        #[serde(borrow)]
        token: Option<&'a RawValue>,
        #[serde(borrow)]
        top_logprobs: Option<&'a RawValue>,
    }
    #[derive(Deserialize)]
    struct Chat<'a> {
        #[serde(borrow)]
        content: Option<Vec<Token<'a>>>,
    }
    if json.starts_with('{')
        && let Some(object) = Object::parse(json)
        && let Some(values) = object.parse_field::<Vec<f32>>("token_logprobs")
    {
        return Some(Logprobs { values, token_ids: None, alternatives: object.get("top_logprobs").is_some() });
    }
    let tokens: Vec<Token<'_>> = match json.starts_with('[') {
        true => serde_json::from_str(json).ok()?,
        false => serde_json::from_str::<Chat<'_>>(json).ok()?.content?,
    };
    if tokens.is_empty() {
        return None;
    }
    let token_id = |token: &RawValue| token.get().strip_prefix("\"token_id:")?.strip_suffix('"')?.parse().ok();
    let token_ids = tokens.iter().map(|token| token_id(token.token?)).collect();
    let alternatives = tokens.iter().any(|token| token.top_logprobs.is_some_and(|top| top.get() != "[]"));
    let values = tokens.iter().map(|token| token.logprob).collect::<Option<_>>()?;
    Some(Logprobs { values, token_ids, alternatives })
}

/// What a response states about the probability of its tokens.
#[derive(Debug, Default, PartialEq)]
pub struct Logprobs {
    /// One for each sampled token, natural log.
    pub values: Vec<f32>,
    pub token_ids: Option<Vec<i32>>,
    /// There are probabilities of other tokens too; no typed field holds them.
    pub alternatives: bool,
}

/// Sets what is not yet known.
pub(crate) fn fill<T>(known: &mut Option<T>, found: Option<T>) {
    if known.is_none() {
        *known = found;
    }
}

/// Messages of a request, system message first; `None` where it has none.
fn request_input(request: &Object<'_>, llm: &mut Llm) -> Option<Vec<Message>> {
    if let Some(messages) = request.get("messages").filter(|messages| messages.get().starts_with('[')) {
        return read_messages(messages.get()).ok();
    }
    if let Some(input) = request.get("input") {
        let mut messages = Vec::new();
        if let Some(instructions) = request.text("instructions") {
            messages.push(Message { role: Role::System, content: Some(instructions.into_owned()), ..Message::default() });
        }
        messages.extend(read_messages(input.get()).ok()?);
        return Some(messages);
    }
    let prompt = request.get("prompt")?;
    if let Some(ids) = integers(prompt.get()) {
        fill(&mut llm.prompt_token_ids, Some(ids));
        return Some(Vec::new());
    }
    read_messages(prompt.get()).ok()
}

fn read_parameters(parameters: &Object<'_>, llm: &mut Llm) {
    fill(&mut llm.model_requested, parameters.text("model").map(Into::into));
    fill(&mut llm.temperature, parameters.number("temperature"));
    fill(&mut llm.top_p, parameters.number("top_p"));
    fill(&mut llm.top_k, parameters.integer("top_k"));
    let limits = ["max_completion_tokens", "max_output_tokens", "max_tokens"];
    fill(&mut llm.max_tokens, limits.iter().find_map(|key| parameters.integer(key)));
    fill(&mut llm.stream, parameters.parse_field("stream"));
    for key in ["tools", "functions"] {
        if let Some(tools) = parameters.get(key).filter(|_| llm.tools.is_empty()) {
            push_tools(tools.get(), &mut llm.tools);
            llm.tools_known = true;
        }
    }
    let params =
        parameters.to_json(|key| !matches!(key, "messages" | "input" | "prompt" | "instructions" | "tools" | "functions"));
    fill(&mut llm.params_json, params);
}

struct Choices {
    choices: Vec<Choice>,
    /// Nothing in the source but what the choices hold.
    whole: bool,
    prompt_token_ids: Option<Vec<i32>>,
    /// Of the response behind this one.
    response_id: Option<String>,
}

fn read_choices(json: &RawValue) -> Option<Choices> {
    let mut read = Choices { choices: Vec::new(), whole: true, prompt_token_ids: None, response_id: None };
    for (position, item) in list(json)?.into_iter().enumerate() {
        let object = Object::parse(item.get())?;
        let mut choice = Choice::default();
        match object.get("message") {
            Some(message) => {
                let stated = read_stated(message.get(), Role::Assistant).ok()?;
                choice.message = stated.into_iter().next().unwrap_or_default().message;
                read.whole &= Object::parse(message.get()).is_some_and(|message| message.iter().all(known_in_message));
            }
            None => {
                let content = object.text("text").map(Into::into);
                choice.message = Message { role: Role::Assistant, content, ..Message::default() };
            }
        }
        choice.finish_reason = object.text("finish_reason").map(Into::into);
        choice.token_ids = object.parse_field("token_ids").or_else(|| {
            let fields = object.object("provider_specific_fields")?;
            fields.parse_field("token_ids")
        });
        if let Some(logprobs) = object.get("logprobs") {
            read.whole &= take_logprobs(&mut choice, logprobs.get());
        }
        fill(&mut read.prompt_token_ids, object.parse_field("prompt_token_ids"));
        read.whole &= object.integer("index").is_none_or(|index| index == position as i64);
        read.whole &= object.iter().all(|(key, _)| {
            matches!(key, "message" | "text" | "finish_reason" | "token_ids" | "logprobs" | "prompt_token_ids" | "index")
        });
        read.choices.push(choice);
    }
    Some(read)
}

/// Gives the choice its log-probabilities where there is one for each token id. Returns whether that says all of the source.
pub(crate) fn take_logprobs(choice: &mut Choice, json: &str) -> bool {
    let Some(logprobs) = read_logprobs(json) else { return false };
    fill(&mut choice.token_ids, logprobs.token_ids);
    if choice.token_ids.as_ref().is_some_and(|ids| ids.len() != logprobs.values.len()) {
        return false;
    }
    choice.logprobs = Some(logprobs.values);
    // The text of each token stands only here.
    choice.token_ids.is_some() && !logprobs.alternatives
}

fn known_in_message((key, value): (&str, &RawValue)) -> bool {
    match key {
        "role" | "content" | "tool_calls" | "refusal" | "function_call" | "reasoning_content" | "reasoning" => true,
        _ => matches!(value.get(), "[]" | "{}"),
    }
}

/// The output items of a Responses API response: one message.
fn read_output(response: &Object<'_>, output: &RawValue) -> Option<Choices> {
    let mut items = read_stated(output.get(), Role::Assistant).ok()?.into_iter().map(|stated| stated.message);
    let mut message = items.next().unwrap_or(Message { role: Role::Assistant, ..Message::default() });
    items.for_each(|item| message.merge(item));
    let incomplete = response.object("incomplete_details").and_then(|details| details.text("reason"));
    let finish_reason = match (incomplete, response.text("status").as_deref()) {
        (Some(reason), _) => Some(reason.into_owned()),
        (None, Some("completed") | None) if !message.tool_calls.is_empty() => Some("tool_calls".to_owned()),
        (None, status) => status.map(str::to_owned),
    };
    let choice = Choice { message, finish_reason, ..Choice::default() };
    let behind = |item: &RawValue| Some(Object::parse(item.get())?.object("provider_data")?.text("response_id")?.into_owned());
    let response_id = list(output)?.into_iter().find_map(behind);
    Some(Choices { choices: vec![choice], whole: false, prompt_token_ids: None, response_id })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::message::messages_to_json;

    #[test]
    fn chat_response_of_a_vllm_server() {
        let mut llm = Llm::default();
        let rest = read_response(
            r#"{"id":"c1","object":"chat.completion","model":"m","prompt_token_ids":[1,2],"usage":{"prompt_tokens":2,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":1}},
                "choices":[{"index":0,"finish_reason":"tool_calls","message":{"role":"assistant","content":null,"annotations":[],"tool_calls":[{"id":"t","type":"function","function":{"name":"f","arguments":"{}"}}]},
                            "token_ids":[5,6],"logprobs":{"content":[{"token":"a","logprob":-0.5,"top_logprobs":[]},{"token":"b","logprob":-1.25,"top_logprobs":[]}]}},
                           {"index":1,"finish_reason":"stop","message":{"role":"assistant","content":"x"},"logprobs":{"content":[{"token":"token_id:7","logprob":-2}]}}]}"#,
            &mut llm,
        );
        assert_eq!(
            rest.as_deref(),
            Some(
                r#"{"object":"chat.completion","usage":{"prompt_tokens":2,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":1}}}"#
            )
        );
        assert_eq!((llm.response_id.as_deref(), llm.model.as_deref()), (Some("c1"), Some("m")));
        assert_eq!((llm.input_tokens, llm.output_tokens, llm.cached_tokens), (Some(2), Some(2), Some(1)));
        assert_eq!(llm.prompt_token_ids, Some(vec![1, 2]));
        assert_eq!(llm.choices[0].token_ids, Some(vec![5, 6]));
        assert_eq!(llm.choices[0].logprobs, Some(vec![-0.5, -1.25]));
        assert_eq!(llm.choices[0].message.tool_calls[0].name, "f");
        assert_eq!(llm.choices[1].token_ids, Some(vec![7]));
        assert_eq!(llm.choices[1].finish_reason.as_deref(), Some("stop"));
    }

    #[test]
    fn log_probabilities_that_do_not_fit_the_ids_are_left() {
        let mut llm = Llm::default();
        let json = r#"{"choices":[{"message":{"content":"x"},"token_ids":[5,6],"logprobs":{"content":[{"logprob":-0.5}]}}]}"#;
        assert_eq!(read_response(json, &mut llm).as_deref(), Some(json));
        assert_eq!(llm.choices[0].logprobs, None);
    }

    #[test]
    fn responses_api() {
        let mut llm = Llm::default();
        assert!(read_request(
            r#"{"model":"m","input":[{"role":"user","content":"q"}],"instructions":"s","tools":[{"type":"function","name":"f","parameters":{"type":"object"}}],"max_output_tokens":5,"temperature":0.5}"#,
            &mut llm
        ));
        assert_eq!(messages_to_json(&llm.input), r#"[{"role":"system","content":"s"},{"role":"user","content":"q"}]"#);
        assert_eq!(llm.tools[0].parameters.as_deref(), Some(r#"{"type":"object"}"#));
        assert_eq!((llm.max_tokens, llm.temperature), (Some(5), Some(0.5)));
        assert_eq!(llm.params_json.as_deref(), Some(r#"{"model":"m","max_output_tokens":5,"temperature":0.5}"#));
        let response = r#"{"id":"r1","object":"response","status":"completed","model":"m-1","usage":{"input_tokens":3,"output_tokens":4,"output_tokens_details":{"reasoning_tokens":1}},
            "output":[{"type":"message","role":"assistant","content":[{"type":"output_text","text":"t"}]},{"type":"function_call","call_id":"c","name":"f","arguments":"{}"}]}"#;
        assert!(read_response(response, &mut llm).is_some());
        assert_eq!((llm.input_tokens, llm.reasoning_tokens), (Some(3), Some(1)));
        assert_eq!(llm.choices[0].message.content.as_deref(), Some("t"));
        assert_eq!(llm.choices[0].message.tool_calls[0].id.as_deref(), Some("c"));
        assert_eq!(llm.choices[0].finish_reason.as_deref(), Some("tool_calls"));
    }

    #[test]
    fn completions_api() {
        let mut llm = Llm::default();
        assert!(read_request(r#"{"model":"m","prompt":[1,2,3],"max_tokens":2}"#, &mut llm));
        assert_eq!(llm.prompt_token_ids, Some(vec![1, 2, 3]));
        assert!(read_response(
            r#"{"choices":[{"text":" x","finish_reason":"length","logprobs":{"tokens":["a","b"],"token_logprobs":[-1.0,-2.0]}}]}"#,
            &mut llm
        )
        .is_some());
        assert_eq!(llm.choices[0].message.content.as_deref(), Some(" x"));
        assert_eq!(llm.choices[0].logprobs, Some(vec![-1.0, -2.0]));
    }

    #[test]
    fn other_json_is_not_read() {
        let mut llm = Llm::default();
        for json in ["", "[]", "3", r#"{"messages":"x"}"#, r#"{"output":"5.0"}"#, r#"{"choices":3}"#] {
            assert!(!read_request(json, &mut llm), "{json}");
            assert!(read_response(json, &mut llm).is_none(), "{json}");
        }
    }
}
