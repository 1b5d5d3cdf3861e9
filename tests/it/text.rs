//! The calls of the sample data, whose sources recorded no token ids, as a policy's template and tokenizer make them.

use std::path::Path;
use std::process::Command;

use fulgurite::policy::new::{self, Sizes};
use fulgurite::text::Text;
use serde_json::Value;

use crate::stages::{fulgurite, rebuild};

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn list(row: &Value, column: &str) -> Vec<Value> {
    row[column].as_str().map_or_else(Vec::new, |json| serde_json::from_str(json).unwrap())
}

/// Read back, a response says what was recorded.
#[test]
fn recorded_calls_are_tokenised_and_read_back() {
    let (lake, policy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for stage in ["ingest", "derive"] {
        output(&mut rebuild(stage, lake.path()));
    }
    let query =
        "select messages, tools, response from calls where response is not null and messages is not null order by call_id";
    let rows = output(fulgurite("sql", lake.path().to_str().unwrap()).args(["--format", "jsonl", query]));
    let rows: Vec<Value> = rows.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(rows.len() >= 40, "{} calls", rows.len());

    let texts = new::read_texts(&[Path::new(env!("CARGO_MANIFEST_DIR")).join("sample_data/langgraph/runs.jsonl")]).unwrap();
    let sizes = Sizes { hidden: 8, layers: 1, heads: 1, vocab: 1024, context: 4096, seed: 0 };
    new::make(policy.path(), &sizes, &texts).unwrap();
    let text = Text::load(policy.path()).unwrap();
    let (mut asked, mut characters, mut tokens) = (0, 0, 0);
    for row in &rows {
        let response: Value = serde_json::from_str(row["response"].as_str().unwrap()).unwrap();
        let (messages, tools) = (list(row, "messages"), list(row, "tools"));
        let call = text.tokenize_call(&messages, &tools, &response).unwrap();
        let prompt = text.decode(&call.prompt);
        assert!(prompt.ends_with("<|im_end|>\n<|im_start|>assistant\n"), "{prompt}");
        for tool in &tools {
            assert!(prompt.contains(tool["name"].as_str().unwrap()), "{prompt}");
        }
        let (end, said) = call.response.split_last().unwrap();
        assert!(text.end_ids().contains(end));
        let parsed = text.parse_response(&text.decode(said));
        assert_eq!(parsed.malformed, Vec::<String>::new());
        let content = response["content"].as_str().filter(|content| !content.is_empty());
        assert_eq!(parsed.content.as_deref(), content);
        let expected = response["tool_calls"].as_array().map_or(&[] as &[Value], Vec::as_slice);
        assert_eq!(parsed.tool_calls.len(), expected.len(), "{response}");
        for (found, expected) in parsed.tool_calls.iter().zip(expected) {
            assert_eq!(found.name, expected["function"]["name"]);
            // Some sources record no text where a call has no arguments.
            let json = |text: &str| serde_json::from_str::<Value>(if text.is_empty() { "{}" } else { text }).unwrap();
            assert_eq!(json(&found.arguments), json(expected["function"]["arguments"].as_str().unwrap()));
        }
        asked += expected.len();
        characters += prompt.chars().count();
        tokens += call.prompt.len();
    }
    assert!(asked >= 20, "{asked} tool calls");
    assert!(characters > 2 * tokens, "a tokenizer learnt from such texts makes {tokens} tokens of {characters} characters");
}
