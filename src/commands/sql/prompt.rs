//! The prompt of `fulgurite sql`: history, completion of names, statements over several lines.

use std::path::PathBuf;

use anyhow::Result;
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::history::DefaultHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Config, Editor, Helper, Highlighter, Hinter};

use super::{Session, Target};
use crate::commands::table::{Column, render};
use crate::progress::Progress;
use crate::schema;

const HELP: &str = "\
statements end with `;` and may span lines
\\d          tables
\\d TABLE    its columns and what they mean
\\q          leave (so does Ctrl-D)
";

/// Words that are completed beside the names.
const KEYWORDS: [&str; 22] = [
    "and",
    "as",
    "asc",
    "avg(",
    "between",
    "case",
    "count(*)",
    "desc",
    "distinct",
    "explain",
    "from",
    "group by",
    "having",
    "is not null",
    "is null",
    "join",
    "limit",
    "order by",
    "over (",
    "select",
    "sum(",
    "where",
];

/// Asks and answers until the person leaves. A mistake is shown, and the prompt goes on.
pub async fn run(session: &Session, target: &Target, progress: &Progress) -> Result<()> {
    let mut editor: Editor<Names, DefaultHistory> = Editor::with_config(Config::builder().auto_add_history(true).build())?;
    editor.set_helper(Some(Names::of_the_lake()));
    let history = history_file();
    if let Some(path) = &history {
        // The first time there is none.
        let _ = editor.load_history(path);
    }
    progress.message("fulgurite sql: `\\d` lists the tables, `\\?` helps, `\\q` leaves");
    loop {
        let line = match editor.readline("sql> ") {
            Ok(line) => line,
            // Ctrl-C takes the line back, Ctrl-D leaves.
            Err(ReadlineError::Interrupted) => continue,
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(error.into()),
        };
        match line.trim() {
            "" => {}
            "\\q" | "quit" | "exit" | "quit;" | "exit;" => break,
            "\\?" | "help" | "help;" => target.text(HELP)?,
            command if command.starts_with("\\d") => show(described(command[2..].trim().trim_end_matches(';')), target)?,
            command if command.starts_with('\\') => eprintln!("error: there is no `{command}`; `\\?` helps"),
            statement => show(session.answer(statement, target).await.map(|()| String::new()), target)?,
        }
        // Ctrl-C during a query stops that query only.
        session.stop.flag().store(0, std::sync::atomic::Ordering::Relaxed);
    }
    if let Some(path) = &history {
        let _ = path.parent().map(std::fs::create_dir_all);
        if let Err(error) = editor.save_history(path) {
            progress.warning(format!("the history is not kept: cannot write `{}`: {error}", path.display()));
        }
    }
    Ok(())
}

/// Prints what came back, or what went wrong: the prompt goes on either way.
fn show(answer: Result<String>, target: &Target) -> Result<()> {
    match answer {
        Ok(text) if text.is_empty() => Ok(()),
        Ok(text) => target.text(&text),
        Err(error) => {
            eprintln!("error: {error:#}");
            Ok(())
        }
    }
}

/// `\d` and `\d TABLE`: what `schemas/` says.
fn described(name: &str) -> Result<String> {
    if name.is_empty() {
        let columns = [Column::left("table"), Column::left("made by"), Column::left("meaning")];
        let rows: Vec<_> = schema::tables()
            .iter()
            .map(|table| vec![table.doc.name.clone(), table.doc.made_by.clone(), table.doc.about.clone()])
            .collect();
        return Ok(render(&columns, &rows));
    }
    let table = schema::table(name)?;
    let columns = [Column::left("column"), Column::left("type"), Column::left("null"), Column::left("meaning")];
    let batch = vec!["batch".to_owned(), "text".to_owned(), String::new(), "batch that the row belongs to".to_owned()];
    let documented = table.doc.columns.iter().map(|column| {
        let null = if column.nullable { "yes" } else { "" };
        vec![column.name.clone(), column.sql_type.clone(), null.to_owned(), column.doc.clone()]
    });
    let rows: Vec<_> = std::iter::once(batch).chain(documented).collect();
    Ok(format!("{}\n\n{}", table.doc.about, render(&columns, &rows)))
}

/// `$XDG_STATE_HOME/fulgurite/sql_history`, or below `~/.local/state`; none where there is no home.
fn history_file() -> Option<PathBuf> {
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from);
    let state = state.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state")))?;
    Some(state.join("fulgurite/sql_history"))
}

/// Completes names of tables, columns and the commonest words.
#[derive(Helper, Hinter, Highlighter)]
struct Names {
    words: Vec<String>,
}

impl Names {
    fn of_the_lake() -> Names {
        let columns = schema::tables().iter().flat_map(|table| table.doc.columns.iter().map(|column| column.name.clone()));
        let tables = schema::tables().iter().map(|table| table.doc.name.clone());
        let mut words: Vec<String> =
            tables.chain(columns).chain(KEYWORDS.map(str::to_owned)).chain(["batch".to_owned()]).collect();
        words.sort();
        words.dedup();
        Names { words }
    }
}

impl Completer for Names {
    type Candidate = String;

    fn complete(&self, line: &str, cursor: usize, _: &rustyline::Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        let before = &line[..cursor];
        let start = before.rfind(|character: char| !character.is_alphanumeric() && character != '_').map_or(0, |at| at + 1);
        let start = before.ceil_char_boundary(start);
        let begun = before[start..].to_lowercase();
        let matching = self.words.iter().filter(|word| !begun.is_empty() && word.starts_with(&begun)).cloned().collect();
        Ok((start, matching))
    }
}

impl Validator for Names {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        let text = context.input().trim();
        let complete =
            text.is_empty() || text.starts_with('\\') || text.ends_with(';') || ["help", "quit", "exit"].contains(&text);
        Ok(if complete { ValidationResult::Valid(None) } else { ValidationResult::Incomplete })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed_from_the_last_word() {
        let history = DefaultHistory::new();
        let (start, words) =
            Names::of_the_lake().complete("select observ", 13, &rustyline::Context::new(&history)).expect("completes");
        assert_eq!((start, words), (7, vec!["observation_hash".to_owned(), "observation_tokens".to_owned()]));
    }

    #[test]
    fn a_table_is_described_by_its_schema() {
        let text = described("rewards").expect("is a table");
        assert!(text.contains("is_outcome"), "{text}");
        assert!(described("nope").expect_err("is none").downcast_ref::<crate::exit::Fault>().is_some());
    }
}
