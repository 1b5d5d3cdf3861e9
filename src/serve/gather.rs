//! What another server's answers say, whole or in chunks: text, tool calls, token ids and log-probabilities, wherever it puts them.

use serde_json::{Value, json};

use super::config::Dialect;
use super::record::{CallRecord, ChoiceRecord, ToolCall};

/// An answer as far as it came.
#[derive(Debug, Default)]
pub struct Gathered {
    dialect: Dialect,
    id: Option<String>,
    model: Option<String>,
    prompt_ids: Option<Vec<u32>>,
    usage: Option<Value>,
    choices: Vec<Heard>,
    /// A whole response of the Responses API.
    response: Option<Value>,
}

/// Whether an answer came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Yes,
    No,
}

#[derive(Debug, Default)]
struct Heard {
    content: Option<String>,
    calls: Vec<ToolCall>,
    finish_reason: Option<String>,
    ids: Vec<u32>,
    logprobs: Vec<f32>,
}

/// Reads a whole answer.
pub fn whole(answer: &Value, dialect: Dialect) -> Gathered {
    let mut gathered = Gathered::new(dialect);
    gathered.add(answer);
    gathered
}

impl Gathered {
    pub fn new(dialect: Dialect) -> Gathered {
        Gathered { dialect, ..Gathered::default() }
    }

    /// Adds a whole answer or a chunk of a stream, of any of the APIs.
    pub fn add(&mut self, chunk: &Value) {
        let response = match chunk["type"].as_str() {
            Some("response.completed" | "response.incomplete" | "response.failed") => Some(&chunk["response"]),
            _ => Some(chunk).filter(|chunk| chunk["object"] == "response"),
        };
        if let Some(response) = response {
            self.response = Some(response.clone());
            return;
        }
        let text = |key: &str| chunk[key].as_str().map(str::to_owned);
        self.id = self.id.take().or_else(|| text("id"));
        self.model = self.model.take().or_else(|| text("model"));
        self.prompt_ids = self.prompt_ids.take().or_else(|| ids(&chunk["prompt_token_ids"]));
        if chunk["usage"].is_object() {
            self.usage = Some(chunk["usage"].clone());
        }
        for (position, choice) in chunk["choices"].as_array().into_iter().flatten().enumerate() {
            let index = choice["index"].as_u64().and_then(|index| usize::try_from(index).ok()).unwrap_or(position).min(1024);
            if self.choices.len() <= index {
                self.choices.resize_with(index + 1, Heard::default);
            }
            self.prompt_ids = self.prompt_ids.take().or_else(|| ids(&choice["prompt_token_ids"]));
            self.choices[index].add(choice, self.dialect);
        }
    }

    /// Fills the record of an answer that came to its end.
    pub fn record_whole(self, record: &mut CallRecord) {
        self.fill(record, Ended::Yes);
    }

    /// Fills the record of an answer that was cut off.
    pub fn record_part(self, record: &mut CallRecord) {
        self.fill(record, Ended::No);
    }

    fn fill(self, record: &mut CallRecord, ended: Ended) {
        if let Some(response) = self.response {
            return fill_response(&response, record);
        }
        if let Some(id) = self.id {
            record.response_id = id;
        }
        if let Some(model) = self.model {
            record.model = model;
        }
        record.prompt_ids = self.prompt_ids;
        if let Some(usage) = self.usage {
            fill_usage(&usage, record);
        }
        let plain = samples_plainly(record);
        record.choices = self.choices.into_iter().map(|heard| heard.choice(plain, ended)).collect();
        let counted: usize = record.choices.iter().map(|choice| choice.ids.as_ref().map_or(0, Vec::len)).sum();
        record.input_tokens = record.input_tokens.or(record.prompt_ids.as_ref().map(Vec::len));
        record.output_tokens = record.output_tokens.or(Some(counted).filter(|counted| *counted > 0));
    }
}

impl Heard {
    fn add(&mut self, choice: &Value, dialect: Dialect) {
        let said = [&choice["message"], &choice["delta"]].into_iter().find(|said| said.is_object());
        let text = said.map_or(&choice["text"], |said| &said["content"]);
        if let Some(text) = text.as_str() {
            self.content.get_or_insert_default().push_str(text);
        }
        for (position, call) in said.and_then(|said| said["tool_calls"].as_array()).into_iter().flatten().enumerate() {
            let index = call["index"].as_u64().and_then(|index| usize::try_from(index).ok()).unwrap_or(position).min(1024);
            if self.calls.len() <= index {
                self.calls.resize_with(index + 1, ToolCall::default);
            }
            let known = &mut self.calls[index];
            known.id.push_str(call["id"].as_str().unwrap_or_default());
            known.name.push_str(call["function"]["name"].as_str().unwrap_or_default());
            known.arguments.push_str(call["function"]["arguments"].as_str().unwrap_or_default());
        }
        if let Some(reason) = choice["finish_reason"].as_str() {
            self.finish_reason = Some(reason.to_owned());
        }
        self.tokens(choice, dialect);
    }

    fn tokens(&mut self, choice: &Value, dialect: Dialect) {
        let key = if dialect == Dialect::LlamaCpp { "tokens" } else { "token_ids" };
        let stated = ids(&choice[key]);
        let logprobs = &choice["logprobs"];
        // Of chat completions, with the id of each token where the server is llama.cpp.
        let entries = logprobs["content"].as_array().map(Vec::as_slice).unwrap_or_default();
        let of_entries: Option<Vec<u32>> = entries.iter().map(|entry| id(&entry["id"])).collect();
        let of_entries = of_entries.filter(|ids| !ids.is_empty());
        self.ids.extend(stated.or(of_entries).unwrap_or_default());
        self.logprobs.extend(entries.iter().filter_map(|entry| number(&entry["logprob"])));
        // Of completions.
        self.logprobs.extend(logprobs["token_logprobs"].as_array().into_iter().flatten().filter_map(number));
        // SGLang's own, where OpenAI's are missing: `[logprob, id, text]`.
        if self.ids.is_empty() || self.logprobs.is_empty() {
            let own: Vec<(u32, f32)> = choice["meta_info"]["output_token_logprobs"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|entry| Some((id(&entry[1])?, number(&entry[0])?)))
                .collect();
            if !own.is_empty() {
                (self.ids, self.logprobs) = own.into_iter().unzip();
            }
        }
    }

    /// * `plain`: nothing changes the distribution, so that the sampler's log-probabilities are the policy's as well.
    fn choice(self, plain: bool, ended: Ended) -> ChoiceRecord {
        let ids = Some(self.ids).filter(|ids| !ids.is_empty());
        let fitting = Some(self.logprobs).filter(|logprobs| ids.as_ref().is_some_and(|ids| ids.len() == logprobs.len()));
        ChoiceRecord {
            content: self.content.filter(|content| !content.is_empty() || self.calls.is_empty()),
            tool_calls: self.calls,
            malformed: Vec::new(),
            finish_reason: self.finish_reason.or_else(|| (ended == Ended::Yes).then(|| "stop".to_owned())),
            behaviour: fitting.clone().filter(|_| plain),
            sampled: fitting,
            ids,
        }
    }
}

/// A whole response of the Responses API, which has no token ids.
fn fill_response(response: &Value, record: &mut CallRecord) {
    if let Some(id) = response["id"].as_str() {
        record.response_id = id.to_owned();
    }
    if let Some(model) = response["model"].as_str() {
        record.model = model.to_owned();
    }
    fill_usage(&response["usage"], record);
    let mut choice = ChoiceRecord::default();
    for item in response["output"].as_array().into_iter().flatten() {
        let text = |key: &str| item[key].as_str().unwrap_or_default().to_owned();
        match item["type"].as_str() {
            Some("message") => {
                let texts = item["content"].as_array().into_iter().flatten().filter_map(|part| part["text"].as_str());
                choice.content.get_or_insert_default().extend(texts);
            }
            Some("function_call") => {
                choice.tool_calls.push(ToolCall { id: text("call_id"), name: text("name"), arguments: text("arguments") });
            }
            _ => {}
        }
    }
    let reason = match response["status"].as_str() {
        Some("incomplete") => "length",
        _ if !choice.tool_calls.is_empty() => "tool_calls",
        _ => "stop",
    };
    choice.finish_reason = Some(reason.to_owned());
    record.choices = vec![choice];
}

fn fill_usage(usage: &Value, record: &mut CallRecord) {
    let count = |keys: [&str; 2]| keys.iter().find_map(|key| usage[*key].as_u64()).and_then(|count| usize::try_from(count).ok());
    record.input_tokens = count(["prompt_tokens", "input_tokens"]);
    record.output_tokens = count(["completion_tokens", "output_tokens"]);
    let details =
        [&usage["prompt_tokens_details"], &usage["input_tokens_details"]].into_iter().find(|details| details.is_object());
    record.cached_tokens =
        details.and_then(|details| details["cached_tokens"].as_u64()).and_then(|count| usize::try_from(count).ok());
}

/// Whether the request leaves the policy's distribution as it is: then one log-probability is both of ours.
fn samples_plainly(record: &CallRecord) -> bool {
    let is = |key: &str, neutral: &[f64]| {
        let value = record.parameters.get(&format!("gen_ai.request.{key}")).and_then(Value::as_f64);
        value.is_none_or(|value| neutral.contains(&value))
    };
    let no_bias = record.parameters.get("gen_ai.request.logit_bias").is_none_or(|bias| *bias == json!({}));
    is("temperature", &[1.0])
        && is("top_p", &[1.0])
        && is("top_k", &[0.0, -1.0])
        && is("min_p", &[0.0])
        && is("presence_penalty", &[0.0])
        && is("frequency_penalty", &[0.0])
        && is("repetition_penalty", &[1.0])
        && is("repeat_penalty", &[1.0])
        && no_bias
}

fn ids(value: &Value) -> Option<Vec<u32>> {
    value.as_array()?.iter().map(id).collect()
}

fn id(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|id| u32::try_from(id).ok())
}

fn number(value: &Value) -> Option<f32> {
    value.as_f64().map(|number| number as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(dialect: Dialect, parameters: Value, chunks: &[Value]) -> CallRecord {
        let parameters =
            parameters.as_object().unwrap().iter().map(|(key, value)| (format!("gen_ai.request.{key}"), value.clone()));
        let mut record = CallRecord { parameters: parameters.collect(), ..CallRecord::default() };
        let mut gathered = Gathered::new(dialect);
        chunks.iter().for_each(|chunk| gathered.add(chunk));
        gathered.record_whole(&mut record);
        record
    }

    fn tokens(record: &CallRecord) -> (Option<&[u32]>, Option<&[u32]>, Option<&[f32]>, Option<&[f32]>) {
        let choice = &record.choices[0];
        (record.prompt_ids.as_deref(), choice.ids.as_deref(), choice.behaviour.as_deref(), choice.sampled.as_deref())
    }

    #[test]
    fn token_ids_stand_where_each_server_puts_them() {
        let entry = |logprob: f64| json!({ "token": "t", "logprob": logprob, "top_logprobs": [] });
        let content = json!({ "content": [entry(-0.5), entry(-0.25)] });
        let message = json!({ "role": "assistant", "content": "hi" });
        let vllm = json!({ "id": "c", "prompt_token_ids": [1, 2],
            "choices": [{ "index": 0, "message": message, "finish_reason": "stop", "token_ids": [3, 4], "logprobs": content }] });
        let sglang = json!({ "id": "c",
            "choices": [{ "index": 0, "message": message, "finish_reason": "stop", "prompt_token_ids": [1, 2], "token_ids": [3, 4], "logprobs": content }] });
        let older = json!({ "id": "c", "choices": [{ "index": 0, "message": message, "finish_reason": "stop", "prompt_token_ids": [1, 2],
            "meta_info": { "output_token_logprobs": [[-0.5, 3, null], [-0.25, 4, null]] } }] });
        for (dialect, answer) in [(Dialect::Vllm, vllm), (Dialect::Sglang, sglang), (Dialect::Sglang, older)] {
            let record = record(dialect, json!({}), &[answer]);
            let logprobs = Some(&[-0.5, -0.25][..]);
            assert_eq!(tokens(&record), (Some(&[1, 2][..]), Some(&[3, 4][..]), logprobs, logprobs), "{dialect:?}");
            assert_eq!(record.choices[0].content.as_deref(), Some("hi"));
        }
        let entry = |id: u32, logprob: f64| json!({ "id": id, "token": "t", "logprob": logprob, "top_logprobs": [] });
        let llama = json!({ "id": "c", "choices": [{ "index": 0, "message": message, "finish_reason": "stop",
            "logprobs": { "content": [entry(3, -0.5), entry(4, -0.25)] } }] });
        let found = record(Dialect::LlamaCpp, json!({}), &[llama]);
        assert_eq!(tokens(&found), (None, Some(&[3, 4][..]), Some(&[-0.5, -0.25][..]), Some(&[-0.5, -0.25][..])));
    }

    #[test]
    fn what_a_changed_distribution_sampled_is_not_the_policys() {
        let answer = json!({ "choices": [{ "index": 0, "text": "x", "finish_reason": "length", "prompt_token_ids": [1], "token_ids": [3],
            "logprobs": { "tokens": ["x"], "token_logprobs": [-0.5] } }], "usage": { "prompt_tokens": 1, "completion_tokens": 1 } });
        let record = record(Dialect::Vllm, json!({ "top_p": 0.5 }), &[answer]);
        assert_eq!(tokens(&record), (Some(&[1][..]), Some(&[3][..]), None, Some(&[-0.5][..])));
        assert_eq!((record.input_tokens, record.output_tokens), (Some(1), Some(1)));
    }

    #[test]
    fn chunks_come_together() {
        let chunk = |choice: Value| json!({ "id": "c", "object": "chat.completion.chunk", "choices": [choice] });
        let call = |index: usize, id: Option<&str>, name: Option<&str>, arguments: &str| json!({ "index": 0, "delta": { "tool_calls": [{ "index": index, "id": id, "function": { "name": name, "arguments": arguments } }] } });
        let chunks = [
            chunk(call(0, Some("a"), Some("f"), "")),
            chunk(call(0, None, None, "{\"x\":")),
            chunk(call(0, None, None, "1}")),
            chunk(call(1, Some("b"), Some("g"), "{}")),
            chunk(json!({ "index": 0, "delta": {}, "finish_reason": "tool_calls" })),
            json!({ "id": "c", "choices": [], "usage": { "prompt_tokens": 7, "completion_tokens": 5, "prompt_tokens_details": { "cached_tokens": 4 } } }),
        ];
        let record = record(Dialect::Openai, json!({}), &chunks);
        let calls: Vec<_> = record.choices[0]
            .tool_calls
            .iter()
            .map(|call| (call.id.as_str(), call.name.as_str(), call.arguments.as_str()))
            .collect();
        assert_eq!(calls, [("a", "f", "{\"x\":1}"), ("b", "g", "{}")]);
        assert_eq!(
            (record.choices[0].content.as_deref(), record.choices[0].finish_reason.as_deref()),
            (None, Some("tool_calls"))
        );
        assert_eq!((record.input_tokens, record.output_tokens, record.cached_tokens), (Some(7), Some(5), Some(4)));
    }

    #[test]
    fn responses_whole_or_as_their_last_event() {
        let response = json!({ "id": "resp_1", "object": "response", "status": "completed", "model": "m", "usage": { "input_tokens": 3, "output_tokens": 2 },
            "output": [{ "type": "message", "content": [{ "type": "output_text", "text": "hi" }] },
                       { "type": "function_call", "call_id": "c", "name": "f", "arguments": "{}" }] });
        for chunk in [response.clone(), json!({ "type": "response.completed", "response": response })] {
            let record = record(Dialect::Openai, json!({}), &[chunk]);
            assert_eq!((record.response_id.as_str(), record.input_tokens), ("resp_1", Some(3)));
            assert_eq!((record.choices[0].content.as_deref(), record.choices[0].tool_calls[0].id.as_str()), (Some("hi"), "c"));
        }
    }
}
