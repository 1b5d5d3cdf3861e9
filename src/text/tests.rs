//! A whole policy folder: what is rendered, tokenised, parsed and streamed fits together.

use std::path::Path;

use serde_json::{Value as Json, json};
use tempfile::TempDir;

use super::*;
use crate::policy::new::{self, Sizes};

const TEXTS: [&str; 4] =
    ["What is the weather in Köln today? It is grey.", "weather in Paris: 12 degrees", "naïve 😀 日本語", "a\tb\n\nc  d"];

fn sizes() -> Sizes {
    Sizes { hidden: 16, layers: 1, heads: 2, vocab: 400, context: 512, seed: 0 }
}

fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let texts: Vec<String> = TEXTS.iter().cycle().take(12).map(|text| (*text).to_owned()).collect();
    new::make(folder.path(), &sizes(), &texts).unwrap();
    folder
}

fn with_template(template: &str) -> Text {
    let folder = folder();
    std::fs::write(folder.path().join("chat_template.jinja"), template).unwrap();
    Text::load(folder.path()).unwrap()
}

fn weather() -> Vec<Json> {
    // As the column `calls.tools` holds it.
    vec![json!({ "name": "weather", "description": "now", "parameters": { "type": "object", "properties": {} } })]
}

fn conversation() -> Vec<Json> {
    let call = json!({ "id": "c1", "type": "function", "function": { "name": "weather", "arguments": "{\"city\": \"Köln\"}" } });
    vec![
        json!({ "role": "user", "content": "What is the weather?" }),
        json!({ "role": "assistant", "content": null, "tool_calls": [call] }),
        json!({ "role": "tool", "content": "grey", "tool_call_id": "c1" }),
    ]
}

/// A template that says nothing of tools, as SmolLM2's.
const PLAIN: &str = "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message['content'] + '<|im_end|>' }}\n{% endfor %}\
                     {% if add_generation_prompt %}<|im_start|>assistant\n{{ '' }}{% endif %}";

#[test]
fn the_same_texts_and_seed_give_the_same_policy() {
    let (one, other) = (folder(), folder());
    for name in ["model.safetensors", "tokenizer.json", "config.json", "tokenizer_config.json", "generation_config.json"] {
        assert_eq!(std::fs::read(one.path().join(name)).unwrap(), std::fs::read(other.path().join(name)).unwrap(), "{name}");
    }
}

#[test]
fn a_folder_without_tokenizer_is_refused_and_one_without_template_answers_no_chat() {
    assert_eq!(Text::load(Path::new("nowhere")).unwrap_err().to_string(), "there is no folder `nowhere`");
    let folder = folder();
    std::fs::remove_file(folder.path().join("chat_template.jinja")).unwrap();
    let text = Text::load(folder.path()).unwrap();
    assert!(text.render(&conversation(), &[], true).unwrap_err().to_string().starts_with("the policy has no chat template"));
    std::fs::remove_file(folder.path().join("tokenizer.json")).unwrap();
    assert!(Text::load(folder.path()).unwrap_err().to_string().starts_with("there is no `tokenizer.json`"));
}

#[test]
fn every_text_comes_back() {
    let folder = folder();
    let text = Text::load(folder.path()).unwrap();
    for given in TEXTS.into_iter().chain(["", "\u{0}\u{7f}\u{10ffff}", "<|im_start|>user\n<tool_call>{}</tool_call><|im_end|>"]) {
        let ids = text.encode(given);
        assert_eq!(text.decode(&ids), given);
        let pieces: Vec<u8> = ids.iter().flat_map(|id| text.tokenizer().piece(*id)).collect();
        assert_eq!(pieces, given.as_bytes(), "{given}");
        let mut stream = text.stream_decoder();
        let mut given_parts: Vec<String> = ids.iter().map(|id| stream.push(*id)).collect();
        given_parts.push(stream.finish());
        assert_eq!(given_parts.concat(), given);
        assert!(given_parts.iter().all(|part| !part.contains('\u{fffd}')), "{given_parts:?}");
    }
    assert_eq!(text.encode("<|im_end|>"), [2]);
    assert_eq!(text.end_ids(), [0, 2]);
    assert!(text.tokenizer().is_special(2) && !text.tokenizer().is_special(text.encode("<tool_call>")[0]));
}

#[test]
fn a_stream_ends_as_decoding_does_whatever_the_ids() {
    let folder = folder();
    let text = Text::load(folder.path()).unwrap();
    let mut noise = blake3::Hasher::new().finalize_xof();
    for _ in 0..200 {
        let mut bytes = [0; 48];
        noise.fill(&mut bytes);
        let ids: Vec<u32> = bytes.chunks(2).map(|pair| u32::from(u16::from_le_bytes([pair[0], pair[1]])) % 420).collect();
        let mut stream = text.stream_decoder();
        let streamed: String = ids.iter().map(|id| stream.push(*id)).collect::<String>() + &stream.finish();
        assert_eq!(streamed, text.decode(&ids), "{ids:?}");
    }
}

#[test]
fn a_response_is_what_the_model_would_have_written() {
    let folder = folder();
    let text = Text::load(folder.path()).unwrap();
    assert_eq!((text.tool_format(), text.folding), (ToolFormat::Hermes, Folding::default()));
    let prompt = text.render(&conversation()[..1], &weather(), true).unwrap();
    let tool = r#"{"type": "function", "function": {"name": "weather", "description": "now", "parameters": {"type": "object", "properties": {}}}}"#;
    let expected = format!(
        "<|im_start|>system\nTools:\n<tools>\n{tool}\n</tools><|im_end|>\n<|im_start|>user\nWhat is the weather?<|im_end|>\n<|im_start|>assistant\n"
    );
    assert_eq!(prompt, expected);
    let response = text.response(&conversation()[..1], &weather(), &conversation()[1]).unwrap();
    assert_eq!(response, "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Köln\"}}\n</tool_call><|im_end|>");
    // What was sampled, said again as history, begins the next prompt with the same ids.
    let call = text.tokenize_call(&conversation()[..1], &weather(), &conversation()[1]).unwrap();
    let next = text.encode(&text.render(&conversation(), &weather(), true).unwrap());
    assert!(next.starts_with(&[call.prompt.clone(), call.response.clone()].concat()));
    let parsed = text.parse_response(&text.decode(&call.response[..call.response.len() - 1]));
    assert_eq!((parsed.content, parsed.malformed.len()), (None, 0));
    assert_eq!(parsed.tool_calls[0].arguments, "{\"city\": \"Köln\"}");
    assert_eq!(
        text.response(&conversation(), &[], &json!({ "role": "assistant", "content": "Grey." })).unwrap(),
        "Grey.<|im_end|>"
    );
}

#[test]
fn a_template_that_ignores_tools_has_them_told_in_text() {
    let text = with_template(PLAIN);
    assert_eq!(text.folding, Folding { tools: true, calls: true, content: false });
    let rendered = text.render(&conversation(), &weather(), true).unwrap();
    let block = rendered.split("<tools>\n").nth(1).unwrap().split("\n</tools>").next().unwrap();
    assert_eq!(block.lines().count(), 1);
    assert_eq!(serde_json::from_str::<Json>(block).unwrap()["function"]["name"], "weather");
    let (_, rest) = rendered.split_once("<|im_end|>\n").unwrap();
    assert_eq!(
        rest,
        "<|im_start|>user\nWhat is the weather?<|im_end|>\n<|im_start|>assistant\n<tool_call>\n{\"name\": \"weather\", \"arguments\": \
         {\"city\": \"Köln\"}}\n</tool_call><|im_end|>\n<|im_start|>user\n<tool_response>\ngrey\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
    );
    // The block stands once, after what the system said.
    let system = json!({ "role": "system", "content": "Be brief." });
    let told = text.render(&[vec![system], conversation()].concat(), &weather(), true).unwrap();
    assert!(told.starts_with("<|im_start|>system\nBe brief.\n\n# Tools\n"), "{told}");
    assert_eq!(told.matches("<tools>\n").count(), 1);
    let call = text.tokenize_call(&conversation()[..1], &weather(), &conversation()[1]).unwrap();
    let next = text.encode(&text.render(&conversation(), &weather(), true).unwrap());
    assert!(next.starts_with(&[call.prompt, call.response].concat()));
    // Without tools it is left alone.
    let alone = text.render(&conversation()[..1], &[], true).unwrap();
    assert_eq!(alone, "<|im_start|>user\nWhat is the weather?<|im_end|>\n<|im_start|>assistant\n");
}

#[test]
fn a_response_that_the_template_writes_in_another_way_is_put_together() {
    // One call at a time is all that this template takes, and it opens a thought by itself.
    let source = "{% for message in messages %}{% if message.tool_calls and message.tool_calls | length > 1 %}{{ raise_exception('one') }}{% endif %}\
                  <|im_start|>{{ message.role }} {{ message.content }}{% for call in message.tool_calls or [] %}<tool_call>{{ call | tojson }}</tool_call>{% endfor %}\
                  {% for tool in tools or [] %}{{ tool | tojson }}{% endfor %}<|im_end|>{% endfor %}\
                  {% if add_generation_prompt %}<|im_start|>assistant <think></think>{% endif %}";
    let text = with_template(source);
    let mut response = conversation()[1].clone();
    let call = response["tool_calls"][0].clone();
    response["tool_calls"] = json!([call, call]);
    let written = text.response(&conversation()[..1], &weather(), &response).unwrap();
    let block = "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Köln\"}}\n</tool_call>";
    assert_eq!(written, format!("{block}\n{block}<|im_end|>"));
    let thought = text.parse_response("<think>\nhm\n</think>\n\nGrey.");
    assert_eq!((thought.reasoning.as_deref(), thought.content.as_deref()), (Some("hm"), Some("Grey.")));
}

#[test]
fn end_ids_are_all_that_the_folder_names() {
    let folder = folder();
    let path = folder.path().join("generation_config.json");
    std::fs::write(&path, r#"{"eos_token_id": 7}"#).unwrap();
    // 7 is named there, 2 in config.json and as the text of `eos_token`.
    assert_eq!(Text::load(folder.path()).unwrap().end_ids(), [2, 7]);
    std::fs::write(folder.path().join("chat_template.jinja"), PLAIN.replace("<|im_end|>", "<|endoftext|>")).unwrap();
    assert_eq!(Text::load(folder.path()).unwrap().end_ids(), [0, 2, 7], "and what the template ends a turn with");
}
