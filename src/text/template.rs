//! The chat template: messages and tools into the text that the model was trained on, as transformers' `apply_chat_template` writes it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, context};
use serde_json::Value as Json;

use super::python::{self, Dumps};
use crate::exit::Fault;

/// Name of the template that is meant where there is one only.
pub const DEFAULT: &str = "default";

/// Name of the template that transformers takes where tools are offered, if there is one.
const TOOL_USE: &str = "tool_use";

/// File of the default template in a model folder, and the folder of those that have other names.
pub const FILE: &str = "chat_template.jinja";
pub const FOLDER: &str = "additional_chat_templates";

/// The template files of a model folder, by the name of the template.
pub fn files(folder: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let mut files = BTreeMap::new();
    let default = folder.join(FILE);
    if default.exists() {
        files.insert(DEFAULT.to_owned(), default);
    }
    let named = folder.join(FOLDER);
    if named.is_dir() {
        for entry in std::fs::read_dir(&named).with_context(|| format!("cannot list `{}`", named.display()))? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".jinja"));
            if let Some(name) = name {
                files.insert(name.to_owned(), path.clone());
            }
        }
    }
    Ok(files)
}

/// A chat template, compiled.
///
/// Left out: `~` joins floats and None as Rust writes them, and the `else` of a loop whose every pass ends in `continue` is skipped; no template of
/// the supported families does either.
#[derive(Debug)]
pub struct Template {
    environment: Environment<'static>,
    sources: BTreeMap<String, String>,
}

impl Template {
    /// * `sources`: Jinja texts by name; one named `default` or `tool_use` at least.
    /// * `special_tokens`: texts by name, such as `bos_token`: templates write them.
    ///
    /// `Fault::Usage` where a text is no template.
    pub fn new(sources: BTreeMap<String, String>, special_tokens: BTreeMap<String, String>) -> Result<Template> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().context("these are valid settings")?;
        environment.set_syntax(syntax);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.set_formatter(|out, _, value| Ok(out.write_str(&python::text(value))?));
        environment.add_test("iterable", is_iterable);
        environment.add_filter("tojson", to_json);
        environment.add_filter("string", |value: Value| python::text(&value));
        environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        for (name, text) in special_tokens {
            environment.add_global(name, text);
        }
        environment.add_function("strftime_now", clock(None));
        if !sources.contains_key(DEFAULT) && !sources.contains_key(TOOL_USE) {
            let names: Vec<&str> = sources.keys().map(String::as_str).collect();
            let message = format!("there is no chat template `{DEFAULT}`; there are {}", names.join(", "));
            return Err(Fault::Usage(message).into());
        }
        for (name, source) in &sources {
            let added = environment.add_template_owned(name.clone(), without_generation_tags(source));
            added.map_err(|error| Fault::Usage(format!("the chat template `{name}` cannot be read: {error:#}")))?;
        }
        Ok(Template { environment, sources })
    }

    /// Fixes the clock that a template may ask for today's date, so that the same messages give the same text on any day.
    pub fn set_now(&mut self, now: jiff::Zoned) {
        self.environment.add_function("strftime_now", clock(Some(now)));
    }

    /// The text of the template that is used with or without tools.
    pub fn source(&self, tools: bool) -> &str {
        self.sources.get(self.chosen(tools)).map_or("", String::as_str)
    }

    /// Every template by its name.
    pub fn sources(&self) -> &BTreeMap<String, String> {
        &self.sources
    }

    fn chosen(&self, tools: bool) -> &str {
        if self.sources.contains_key(DEFAULT) && !(tools && self.sources.contains_key(TOOL_USE)) { DEFAULT } else { TOOL_USE }
    }

    /// The text of a conversation.
    ///
    /// * `messages`, `tools`: in the shape that templates are written for; no tools is none, as transformers' `tools=None`.
    ///
    /// Fails where the template itself refuses the messages, with what it says.
    pub fn render(&self, messages: &[Json], tools: &[Json], add_generation_prompt: bool) -> Result<String> {
        let context = context! {
            messages => python::values(messages),
            tools => if tools.is_empty() { Value::from(()) } else { python::values(tools) },
            documents => (),
            add_generation_prompt,
        };
        let template = self.environment.get_template(self.chosen(!tools.is_empty())).context("the chat template is there")?;
        let rendered = template.render(context);
        rendered.map_err(|error| Fault::Failed(format!("the chat template refuses these messages: {error:#}")).into())
    }
}

/// `strftime_now(format)`: today, or the day that was fixed.
fn clock(now: Option<jiff::Zoned>) -> impl Fn(String) -> Result<String, Error> + Send + Sync + 'static {
    move |format| {
        let now = now.clone().unwrap_or_else(jiff::Zoned::now);
        let text = jiff::fmt::strtime::format(&format, &now);
        text.map_err(|error| Error::new(ErrorKind::InvalidOperation, error.to_string()))
    }
}

/// What Python can iterate over; what is not defined counts as empty.
fn is_iterable(value: Value) -> bool {
    matches!(value.kind(), ValueKind::Undefined | ValueKind::String | ValueKind::Seq | ValueKind::Map | ValueKind::Iterable)
}

/// transformers' filter of that name: `json.dumps` without HTML escapes, with the options that templates use.
fn to_json(value: Value, kwargs: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = kwargs.get("indent")?;
    let separators: Option<(String, String)> = match kwargs.get::<Option<Value>>("separators")? {
        Some(pair) => {
            let pair: Vec<String> = pair.try_iter()?.map(|one| python::text(&one)).collect();
            let [item, key] = pair.try_into().map_err(|_| Error::new(ErrorKind::InvalidOperation, "separators are two texts"))?;
            Some((item, key))
        }
        None => None,
    };
    let (item_separator, key_separator) = separators.unwrap_or_else(|| {
        let item = if indent.is_some() { "," } else { ", " };
        (item.to_owned(), ": ".to_owned())
    });
    let dumps = Dumps {
        ensure_ascii: kwargs.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        indent,
        item_separator,
        key_separator,
        sort_keys: kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
    };
    kwargs.assert_all_used()?;
    dumps.dump(&value)
}

/// Some templates mark what the assistant said with a tag of transformers' own, which prints nothing.
fn without_generation_tags(source: &str) -> String {
    let tag = regex::Regex::new(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}").expect("the pattern is well-formed");
    let replaced = tag.replace_all(source, |found: &regex::Captures<'_>| {
        let statement = if found.get(2).is_some() { "endif" } else { "if true" };
        format!("{{%{} {statement} {}%}}", &found[1], &found[3])
    });
    replaced.into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::messages;

    /// What transformers made of conversations, by scripts/fixtures/templates.py.
    fn check(fixture: &Path) -> usize {
        let made: Json = serde_json::from_slice(&std::fs::read(fixture).unwrap()).unwrap();
        let special: BTreeMap<String, String> = serde_json::from_value(made["special_tokens"].clone()).unwrap();
        let sources: BTreeMap<String, String> = serde_json::from_value(made["templates"].clone()).unwrap();
        let compile = |(name, source): (&String, &String)| {
            let sources = BTreeMap::from([(DEFAULT.to_owned(), source.clone())]);
            (name.clone(), Template::new(sources, special.clone()).unwrap_or_else(|error| panic!("{name}: {error:#}")))
        };
        let templates: BTreeMap<String, Template> = sources.iter().map(compile).collect();
        let mut failures = Vec::new();
        let cases = made["cases"].as_array().unwrap();
        for case in cases {
            let (template, conversation) = (case["template"].as_str().unwrap(), case["conversation"].as_str().unwrap());
            let given = &made["conversations"][conversation];
            let messages = messages::for_template(given["messages"].as_array().unwrap()).unwrap();
            let tools = messages::tools_for_template(given["tools"].as_array().map_or(&[], Vec::as_slice));
            let rendered = templates[template].render(&messages, &tools, case["add_generation_prompt"].as_bool().unwrap());
            match (rendered, case["text"].as_str()) {
                (Ok(text), Some(expected)) if text == expected => {}
                (Err(_), None) => {}
                (Ok(text), expected) => {
                    failures.push(format!("{template}, {conversation}:\n{text:?}\nwhere transformers has\n{expected:?}"));
                }
                (Err(error), Some(_)) => failures.push(format!("{template}, {conversation}: {error:#}")),
            }
        }
        assert!(failures.is_empty(), "{} of {} differ:\n{}", failures.len(), cases.len(), failures.join("\n\n"));
        cases.len()
    }

    #[test]
    fn texts_are_those_of_transformers() {
        assert_eq!(check(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/templates.json")), 136);
    }

    /// The same on templates of released models, which are not ours to keep; scripts/fixtures/templates.py says how to make the file.
    #[test]
    fn texts_are_those_of_transformers_on_other_templates() {
        use std::io::Write as _;
        let Some(fixture) = std::env::var_os("FULGURITE_TEMPLATES").map(PathBuf::from) else {
            let _ = writeln!(std::io::stderr(), "skipped: FULGURITE_TEMPLATES names no file of scripts/fixtures/templates.py");
            return;
        };
        assert!(check(&fixture) > 0);
    }

    #[test]
    fn what_is_no_template_is_refused() {
        let new = |name: &str, source: &str| {
            Template::new(BTreeMap::from([(name.to_owned(), source.to_owned())]), BTreeMap::new()).map(drop).unwrap_err()
        };
        assert!(new(DEFAULT, "{% if %}").to_string().starts_with("the chat template `default` cannot be read"));
        assert_eq!(new("rag", "x").to_string(), "there is no chat template `default`; there are rag");
    }

    #[test]
    fn the_clock_can_be_fixed_and_tools_have_their_own_template() {
        let sources = [(DEFAULT, "{{ strftime_now('%d %b %Y') }}"), (TOOL_USE, "{{ tools | length }} tools")];
        let sources = sources.map(|(name, source)| (name.to_owned(), source.to_owned()));
        let mut template = Template::new(sources.into(), BTreeMap::new()).unwrap();
        template.set_now("2026-11-02T10:00:00[UTC]".parse().unwrap());
        assert_eq!(template.render(&[], &[], true).unwrap(), "02 Nov 2026");
        assert_eq!(template.render(&[], &[Json::Null], true).unwrap(), "1 tools");
    }
}
