//! Grammars under a policy that finds every id equally likely: whatever it says fits.

use serde_json::{Value as Json, json};
use tempfile::TempDir;

use super::*;
use crate::generate::sample::{Sampled, Sampler};
use crate::generate::{Key, Request, Sampling};
use crate::policy::new::{self, Sizes};

/// Llama 3's way of writing calls, as far as the format is found out by it.
const LLAMA: &str = "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}{# <|python_tag|> #}";

/// Ids that the model has and the tokenizer has not.
const PADDING: usize = 8;

fn text(template: Option<&str>) -> Text {
    let folder: TempDir = tempfile::tempdir().unwrap();
    let texts = [
        "{\"name\": \"weather\", \"city\": \"Köln\", \"days\": 3}",
        "naïve 😀 日本語",
        "a\tb\n\nc  d",
        "[1.5, -2e3, true, null]",
    ];
    let texts: Vec<String> = texts.iter().cycle().take(12).map(|text| (*text).to_owned()).collect();
    new::make(folder.path(), &Sizes { hidden: 16, layers: 1, heads: 2, vocab: 400, context: 512, seed: 0 }, &texts).unwrap();
    if let Some(template) = template {
        std::fs::write(folder.path().join("chat_template.jinja"), template).unwrap();
    }
    Text::load(folder.path()).unwrap()
}

fn schema(schema: Json) -> Schema {
    Schema { schema, strict: true }
}

fn content(of: Json) -> Form {
    Form { content: Some(schema(of)), ..Form::default() }
}

/// One answer at temperature 1, the id that ends it included.
fn say(text: &Text, grammar: &Grammar, sample: u64) -> Vec<Sampled> {
    let sampling = Sampling { grammar: Some(grammar.clone()), ..Sampling::default() };
    let mut sampler = Sampler::new(&Request { prompt: vec![1], sampling, key: Key { sample, ..Key::default() } });
    let logits = vec![0.5; text.tokenizer().vocab_size() + PADDING];
    let mut said: Vec<Sampled> = Vec::new();
    while said.last().is_none_or(|last| !text.end_ids().contains(&last.id)) {
        assert!(said.len() < 50_000, "it never ends");
        said.push(sampler.next(&logits).expect("goes on"));
    }
    said
}

fn words(text: &Text, said: &[Sampled]) -> String {
    text.decode(&said[..said.len() - 1].iter().map(|sampled| sampled.id).collect::<Vec<u32>>())
}

#[test]
fn every_text_fits_its_schema() {
    let text = text(None);
    let grammars = Grammars::new(&text).unwrap();
    let closed = |properties: Json| {
        let required: Vec<&String> = properties.as_object().unwrap().keys().collect();
        json!({ "type": "object", "properties": properties, "required": required, "additionalProperties": false })
    };
    let person = json!({ "$defs": { "name": { "type": "string", "minLength": 1, "maxLength": 6 } }, "type": "object",
        "properties": { "name": { "$ref": "#/$defs/name" }, "friends": { "type": "array", "items": { "$ref": "#/$defs/name" } } },
        "required": ["name", "friends"], "additionalProperties": false });
    let schemas = [
        json!({ "type": "object" }),
        json!({ "type": "object", "additionalProperties": { "type": "integer" } }),
        json!({ "enum": ["red", "größer", "日本 \"語\"", 5, null, true] }),
        json!({ "const": { "a": [1, "x"] } }),
        json!({ "type": "string" }),
        json!({ "type": "string", "pattern": "^[a-c]{2,4}-[0-9]+$" }),
        json!({ "type": "string", "format": "uuid" }),
        json!({ "type": "integer", "minimum": -3, "exclusiveMaximum": 12 }),
        json!({ "type": "number", "minimum": 0, "maximum": 1 }),
        json!({ "type": "integer", "multipleOf": 5, "minimum": -1000, "maximum": 1000 }),
        json!({ "type": ["string", "null"], "maxLength": 3 }),
        json!({ "anyOf": [{ "type": "boolean" }, closed(json!({ "why": { "type": "string", "maxLength": 9 } }))] }),
        json!({ "type": "array", "items": { "type": "array", "items": { "type": "number" }, "minItems": 1, "maxItems": 3 }, "maxItems": 4 }),
        closed(
            json!({ "answer": { "type": "number" }, "steps": { "type": "array", "items": closed(json!({ "sum": { "type": "string" } })) } }),
        ),
        person,
    ];
    for of in schemas {
        let grammar = grammars.of(&content(of.clone())).unwrap_or_else(|reason| panic!("{of}: {reason}"));
        let validator = jsonschema::options().should_validate_formats(true).build(&of).unwrap();
        let mut different = std::collections::BTreeSet::new();
        for sample in 0..30 {
            let said = words(&text, &say(&text, &grammar, sample));
            match serde_json::from_str::<Json>(&said) {
                Ok(value) => assert!(validator.is_valid(&value), "{of}: {said}"),
                // JSON knows no largest number, Rust does.
                Err(error) => assert!(error.to_string().starts_with("number out of range"), "{of}: {said}: {error}"),
            }
            different.insert(said);
        }
        assert!(different.len() > 1 || of.get("const").is_some(), "{of}: {different:?}");
    }
}

#[test]
fn every_call_is_one_of_a_tool_in_the_format_of_the_model() {
    let add = json!({ "type": "object", "properties": { "a": { "type": "integer" }, "b": { "type": "integer" } }, "required": ["a", "b"],
        "additionalProperties": false });
    let find = json!({ "type": "object", "properties": { "query": { "type": "string", "maxLength": 12 } }, "required": ["query"],
        "additionalProperties": false });
    let tools = [("add", &add), ("find \"it\"", &find)];
    for (template, format) in [(None, ToolFormat::Hermes), (Some(LLAMA), ToolFormat::Llama3)] {
        let text = text(template);
        assert_eq!(text.tool_format(), format);
        let grammars = Grammars::new(&text).unwrap();
        for parallel in [false, true] {
            let form = Form {
                content: None,
                tools: tools.iter().map(|(name, of)| ((*name).to_owned(), schema((*of).clone()))).collect(),
                parallel,
            };
            let grammar = grammars.of(&form).unwrap();
            let mut counts = std::collections::BTreeMap::<String, usize>::new();
            let mut most = 0;
            for sample in 0..40 {
                let said = words(&text, &say(&text, &grammar, sample));
                let parsed = text.parse_response(&said);
                assert_eq!((&parsed.content, &parsed.malformed), (&None, &Vec::new()), "{said}");
                most = most.max(parsed.tool_calls.len());
                assert!(!parsed.tool_calls.is_empty(), "{said}");
                for call in parsed.tool_calls {
                    let (_, of) = tools.iter().find(|(name, _)| *name == call.name).expect("a tool of the request");
                    assert!(jsonschema::is_valid(of, &serde_json::from_str(&call.arguments).unwrap()), "{said}");
                    *counts.entry(call.name).or_default() += 1;
                }
            }
            assert_eq!((counts.len(), most > 1), (2, parallel), "{format:?}: {counts:?}, at most {most}");
        }
    }
}

#[test]
fn an_answer_may_be_a_text_or_calls() {
    let text = text(None);
    let grammars = Grammars::new(&text).unwrap();
    let form = Form {
        content: Some(schema(json!({ "type": "boolean" }))),
        tools: vec![("f".to_owned(), schema(json!({ "type": "object", "additionalProperties": false })))],
        parallel: false,
    };
    let grammar = grammars.of(&form).unwrap();
    let parsed = (0..40).map(|sample| text.parse_response(&words(&text, &say(&text, &grammar, sample))));
    let (calls, texts): (Vec<_>, Vec<_>) = parsed.partition(|parsed| parsed.content.is_none());
    assert!(calls.iter().all(|parsed| parsed.tool_calls.len() == 1) && calls.len() > 1);
    assert!(texts.iter().all(|parsed| matches!(parsed.content.as_deref(), Some("true" | "false"))) && texts.len() > 1);
}

/// What the trainer recomputes knows nothing of the grammar; what was drawn from does.
#[test]
fn only_one_of_the_logprobs_knows_the_grammar() {
    let text = text(None);
    let grammar = Grammars::new(&text).unwrap().of(&content(json!({ "enum": [7] }))).unwrap();
    let said = say(&text, &grammar, 0);
    assert_eq!(words(&text, &said), "7");
    let all = ((text.tokenizer().vocab_size() + PADDING) as f32).ln();
    // First `7` alone fits, then each id that ends an answer.
    assert_eq!(said.len(), 2);
    for (sampled, fitting) in said.iter().zip([1, text.end_ids().len()]) {
        assert!((sampled.behaviour_logprob + all).abs() < 1e-5, "{sampled:?}");
        assert!((sampled.sampled_logprob + (fitting as f32).ln()).abs() < 1e-6, "{sampled:?}");
    }
}

#[test]
fn what_cannot_be_compiled_has_a_reason() {
    let text = text(None);
    let grammars = Grammars::new(&text).unwrap();
    let reason = |of: Json| grammars.of(&content(of)).unwrap_err();
    for (of, expected) in [
        (json!({ "$ref": "#/$defs/none" }), "none"),
        (json!({ "type": "integer", "minimum": 3, "maximum": 2 }), "minimum"),
        (json!({ "type": "string", "pattern": "(" }), "("),
        (json!({ "type": "array", "uniqueItems": true }), "uniqueItems"),
        (json!(true), "has to be a JSON object"),
    ] {
        let reason = reason(of.clone());
        assert!(reason.contains(expected), "{of}: {reason}");
    }
    // Without `strict` the answer is held to what it can be.
    let lenient = Form {
        content: Some(Schema { schema: json!({ "type": "array", "uniqueItems": true }), strict: false }),
        ..Form::default()
    };
    assert!(grammars.of(&lenient).is_ok());
}

#[test]
fn a_grammar_is_compiled_once() {
    let text = text(None);
    let grammars = Grammars::new(&text).unwrap();
    let of = |number: usize| grammars.of(&content(json!({ "const": number }))).unwrap();
    let first = of(0);
    assert_eq!(of(0), first);
    (1..=KEPT).for_each(|number| drop(of(number)));
    assert_ne!(of(0), first, "so many are kept and no more");
}
