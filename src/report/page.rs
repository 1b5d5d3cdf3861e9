//! The page: one HTML file with its styles and its script inside, and nothing from anywhere else.
//!
//! What agents wrote is not to be trusted. The template escapes every text, control and direction characters are made visible, no text of the
//! lake is in the script, and the page's own policy forbids whatever has not its nonce.

use anyhow::{Context as _, Result};
use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, UndefinedBehavior, Value, context};
use serde::Serialize;

use super::figures::{CreditRow, Figure, Table, Trend};
use super::rollout::Rollout;
use crate::text::python;

/// What the page says. Everything is text but the drawings in `Figure` and `Trend`.
#[derive(Debug, Default, Serialize)]
pub struct Page {
    pub lake: String,
    pub as_of: String,
    pub lede: Vec<String>,
    /// Name, value, and what it is of.
    pub tiles: Vec<(String, String, String)>,
    pub rewards: Vec<Figure>,
    pub air: Vec<Trend>,
    pub failures: Vec<Trend>,
    pub credit_steps: Vec<String>,
    pub credit: Vec<CreditRow>,
    pub advantages: Option<Figure>,
    pub drops: Vec<(String, usize)>,
    pub algorithms: String,
    pub training: Vec<Figure>,
    pub training_table: Table,
    pub throughput: Option<Figure>,
    pub rollouts: Vec<Rollout>,
    pub sample_note: String,
    pub tokens_note: String,
    /// Of the rollouts, for the selects.
    pub batches: Vec<String>,
    pub failure_classes: Vec<String>,
}

/// The page as HTML.
///
/// * `nonce`: what styles and script are allowed by; hexadecimal, and not to be guessed by who wrote the traces.
pub fn render(page: &Page, nonce: &str) -> Result<String> {
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().context("these are valid settings")?;
    environment.set_syntax(syntax);
    environment.set_formatter(|out, state, value| match value.as_str().filter(|_| !value.is_safe()).and_then(visible) {
        Some(text) => minijinja::escape_formatter(out, state, &Value::from(text)),
        None => minijinja::escape_formatter(out, state, value),
    });
    environment.add_template("page.html", include_str!("page.html")).context("the report's template is well-formed")?;
    let template = environment.get_template("page.html").context("it was just added")?;
    let (style, script) = (include_str!("page.css"), include_str!("page.js"));
    let page = python::value(&serde_json::to_value(page)?);
    template.render(context! { page, style, script, nonce }).context("the report cannot be rendered")
}

/// A text whose control and direction characters can be seen, and do nothing; `None` where it has none.
fn visible(text: &str) -> Option<String> {
    let hidden = |c: char| {
        (c.is_control() && !matches!(c, '\n' | '\t'))
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}' | '\u{feff}')
    };
    if !text.contains(hidden) {
        return None;
    }
    let mut out = String::with_capacity(text.len());
    for character in text.replace("\r\n", "\n").chars() {
        match character {
            character if !hidden(character) => out.push(character),
            character if u32::from(character) < 0x20 => {
                out.push(char::from_u32(0x2400 + u32::from(character)).unwrap_or('\u{fffd}'));
            }
            character => out.push_str(&format!("⟨U+{:04X}⟩", u32::from(character))),
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::rollout::{Finding, Said, Step, Tool};
    use crate::report::tokens::{Token, Tokens};

    /// Text that would leave wherever it stands.
    const HOSTILE: &str =
        "</script></textarea></svg><script>alert(1)</script><img src=x onerror=alert(2)>\" onfocus=\"alert(3)' x='{{ 7*7 }}<!--";

    fn hostile() -> Page {
        let text = || HOSTILE.to_owned();
        let said = || Said { role: text(), text: text(), reasoning: text() };
        let token = Token { text: text(), class: text(), numbers: text() };
        let step = Step {
            step: 0,
            agent: text(),
            about: text(),
            rewritten: true,
            more_messages: 3,
            messages: vec![said()],
            response: said(),
            tools: vec![Tool {
                name: text(),
                arguments: text(),
                status: text(),
                evidence: text(),
                answer: text(),
                seconds: text(),
            }],
            findings: vec![Finding { rule: text(), value: text(), sign: "minus", scaled: text(), evidence: text() }],
            advantage: text(),
            advantage_class: text(),
            numbers: vec![("reward", text())],
            reason: text(),
            dropped: text(),
            error: text(),
            tokens: Some(Tokens { by: "change", tokens: vec![token], more: 2, advantage_class: text() }),
        };
        let rollout = Rollout {
            batch: text(),
            rollout_id: text(),
            task: text(),
            title: text(),
            reward: text(),
            level: "full",
            air: text(),
            failure: text(),
            tool_errors: 1,
            calls: 1,
            agents: vec![text()],
            tools: vec![text()],
            facts: vec![("group", text())],
            task_input: text(),
            stated: vec![text()],
            steps: vec![step],
            more_calls: 2,
        };
        let table = Table { head: vec![text()], rows: vec![vec![text()]] };
        let figure =
            Figure { title: text(), note: text(), legend: vec![("c1", text())], table: table.clone(), ..Figure::default() };
        let trend = || Trend { name: text(), spark: String::new(), course: text(), cells: vec![text()] };
        Page {
            lake: text(),
            as_of: text(),
            lede: vec![text()],
            tiles: vec![(text(), text(), text())],
            rewards: vec![figure.clone()],
            air: vec![trend()],
            failures: vec![trend()],
            credit_steps: vec![text()],
            credit: vec![CreditRow { agent: text(), cells: vec![(text(), text(), text())] }],
            advantages: Some(figure.clone()),
            drops: vec![(text(), 1)],
            algorithms: text(),
            training: vec![figure.clone()],
            training_table: table,
            throughput: Some(figure),
            rollouts: vec![rollout],
            sample_note: text(),
            tokens_note: text(),
            batches: vec![text()],
            failure_classes: vec![text()],
        }
    }

    #[test]
    fn no_text_of_the_lake_becomes_markup() {
        let plain = render(&Page::default(), "00").unwrap();
        let html = render(&hostile(), "00").unwrap();
        assert_eq!(html.matches("<script").count(), plain.matches("<script").count());
        assert_eq!(html.matches("</script").count(), plain.matches("</script").count());
        for markup in ["<img", "<!--", "\" onfocus", "' x='", "</textarea"] {
            assert!(!html.contains(markup), "{markup}");
        }
        assert!(html.matches("alert(1)").count() > 40 && html.contains("{{ 7*7 }}"), "the text is there, as text");
    }

    #[test]
    fn nothing_is_fetched_from_anywhere() {
        let html = render(&hostile(), "00").unwrap();
        for link in ["http://", "https://", "url(", "@import", " src=\"", " href=\"/"] {
            assert!(!html.contains(link), "{link}");
        }
        assert!(html.contains("default-src 'none'"));
    }

    #[test]
    fn hidden_characters_are_seen() {
        for (text, expected) in [
            ("plain\ttext\n", None),
            ("a\u{202e}b", Some("a⟨U+202E⟩b")),
            ("\u{0}\u{1b}[31m", Some("␀␛[31m")),
            ("a\r\nb", Some("a\nb")),
            ("\u{85}", Some("⟨U+0085⟩")),
        ] {
            assert_eq!(visible(text).as_deref(), expected, "{text:?}");
        }
    }
}
