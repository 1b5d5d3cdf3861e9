//! Graders: what an answer is worth, where the agent does not say so itself.
//!
//! Each is a plain function from an answer and what was expected to a [`Grade`], in a file of its own. A wrong or unusable answer is a grade
//! of 0 with the reason as its comment; an error means that the task or the setting is at fault, and nobody should be scored by it.

mod command;
mod numeric;
mod schema;
mod sql;
mod words;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::exit::Fault;

/// How answers are scored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GraderConfig {
    /// What scores an answer: none (the agent states its reward), exact, numeric, f1, em, sql, json_schema or command.
    pub kind: Kind,
    /// numeric: how far the answer may be from what is expected, as a share of it (of 1 where it is smaller than 1).
    pub tolerance: f64,
    /// f1 and em: expression whose first group is the answer within the text, such as `<answer>(.*?)</answer>`; the whole text where empty.
    pub pattern: String,
    /// f1 and em: share of the reward that is given for matching `pattern` at all, 0 to 1.
    pub format_weight: f64,
    /// sql: database that both queries run on, beside the pipeline file; a task's metadata may name another under `database`.
    pub database: String,
    /// json_schema: file of the schema, beside the pipeline file; where empty, what a task expects is the schema.
    pub schema: String,
    /// command: a program and its arguments. Gets {"task", "answer"} as JSON on standard input; its last line is the reward, a number or
    /// {"reward", "comment"}.
    pub command: Vec<String>,
    /// sql and command: seconds before a query or program is ended.
    pub timeout_s: f64,
}

/// What scores an answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Nothing: the agent states its reward.
    #[default]
    None,
    /// The same text, but for white space at its ends.
    Exact,
    /// The last number in the text.
    Numeric,
    /// Shared words, as SQuAD counts them.
    F1,
    /// The same words, as SQuAD compares them.
    Em,
    /// The same rows from a database.
    Sql,
    /// JSON that a schema accepts.
    JsonSchema,
    /// A program of the user's own.
    Command,
}

impl Default for GraderConfig {
    fn default() -> GraderConfig {
        GraderConfig {
            kind: Kind::None,
            tolerance: 1e-6,
            pattern: String::new(),
            format_weight: 0.0,
            database: String::new(),
            schema: String::new(),
            command: Vec::new(),
            timeout_s: 10.0,
        }
    }
}

/// What an answer is worth.
#[derive(Debug, Clone, PartialEq)]
pub struct Grade {
    /// 0 to 1; a command may state any finite number.
    pub reward: f64,
    /// Why, where that is not plain.
    pub comment: Option<String>,
}

impl Grade {
    fn of(right: bool) -> Grade {
        Grade { reward: f64::from(u8::from(right)), comment: None }
    }

    fn wrong(comment: impl Into<String>) -> Grade {
        Grade { reward: 0.0, comment: Some(comment.into()) }
    }
}

/// What a task holds that a grader wants.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    /// The right answer; an array holds several of which any will do.
    pub expected: &'a Value,
    pub metadata: &'a Value,
    /// The task as its file has it, for a command.
    pub task: &'a Value,
}

/// A grader with its files found and its expression compiled.
#[derive(Debug, Clone)]
pub struct Grader {
    config: GraderConfig,
    folder: PathBuf,
    pattern: Option<regex::Regex>,
    schema: Option<Value>,
}

impl Grader {
    /// * `folder`: where relative paths of the configuration begin.
    ///
    /// `Fault::Usage` names a setting that cannot be.
    pub fn new(config: &GraderConfig, folder: &Path) -> Result<Grader> {
        if !(config.tolerance >= 0.0 && config.tolerance.is_finite()) {
            return Err(Fault::Usage(format!("`agent.grader.tolerance` is {}; it has to be 0 or more", config.tolerance)).into());
        }
        if !(0.0..=1.0).contains(&config.format_weight) {
            return Err(Fault::Usage(format!("`agent.grader.format_weight` is {}, not 0 to 1", config.format_weight)).into());
        }
        if !(config.timeout_s > 0.0 && config.timeout_s.is_finite()) {
            return Err(Fault::Usage(format!("`agent.grader.timeout_s` is {}; it has to be above 0", config.timeout_s)).into());
        }
        if config.kind == Kind::Command && config.command.is_empty() {
            return Err(Fault::Usage("`agent.grader.kind` is `command`: name it in `agent.grader.command`".to_owned()).into());
        }
        let schema = match config.schema.as_str() {
            "" => None,
            path => {
                let text = std::fs::read_to_string(folder.join(path))
                    .map_err(|error| Fault::Usage(format!("cannot read `agent.grader.schema`, `{path}`: {error}")))?;
                Some(
                    serde_json::from_str(&text)
                        .map_err(|error| Fault::Usage(format!("`agent.grader.schema`, `{path}`, is not JSON: {error}")))?,
                )
            }
        };
        let pattern = (!config.pattern.is_empty()).then(|| words::pattern(&config.pattern)).transpose()?;
        Ok(Grader { config: config.clone(), folder: folder.to_path_buf(), pattern, schema })
    }

    /// Scores an answer; `None` where the agent is to state its reward.
    ///
    /// Errors: what is expected cannot be used (a gold query that fails, a number that is none), or a command failed.
    pub async fn grade(&self, answer: &str, expected: Expected<'_>) -> Result<Option<Grade>> {
        let config = &self.config;
        let grade = match config.kind {
            Kind::None => return Ok(None),
            Kind::Exact => Grade::of(texts(expected.expected)?.iter().any(|gold| gold.trim() == answer.trim())),
            Kind::Numeric => numeric::grade(answer, expected.expected, config.tolerance)?,
            Kind::F1 => words::grade(answer, &texts(expected.expected)?, self.pattern.as_ref(), config.format_weight, words::f1),
            Kind::Em => words::grade(answer, &texts(expected.expected)?, self.pattern.as_ref(), config.format_weight, words::em),
            Kind::Sql => self.sql(answer, expected).await?,
            Kind::JsonSchema => schema::grade(answer, self.schema.as_ref().unwrap_or(expected.expected))?,
            Kind::Command => command::grade(config, &self.folder, answer, expected.task).await?,
        };
        Ok(Some(grade))
    }

    async fn sql(&self, answer: &str, expected: Expected<'_>) -> Result<Grade> {
        let database = expected.metadata["database"].as_str().unwrap_or(&self.config.database);
        if database.is_empty() {
            let message = "the grader `sql` has no database: name it in `agent.grader.database`, or in a task's metadata";
            return Err(Fault::Usage(message.to_owned()).into());
        }
        let (database, timeout) = (self.folder.join(database), std::time::Duration::from_secs_f64(self.config.timeout_s));
        let (answer, golds) = (answer.to_owned(), texts(expected.expected)?);
        tokio::task::spawn_blocking(move || sql::grade(&answer, &golds, &database, timeout))
            .await
            .context("the grader panicked")?
    }
}

/// Every right answer as text.
fn texts(expected: &Value) -> Result<Vec<String>> {
    let text = |value: &Value| match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(flag) => Ok(flag.to_string()),
        other => anyhow::bail!("`expected` holds {other}, where a text is wanted"),
    };
    match expected {
        Value::Array(values) if !values.is_empty() => values.iter().map(text).collect(),
        Value::Null | Value::Array(_) => anyhow::bail!("the task states nothing under `expected`"),
        one => Ok(vec![text(one)?]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[tokio::test]
    async fn exact_compares_texts_and_takes_any_of_several() {
        let config = GraderConfig { kind: Kind::Exact, ..GraderConfig::default() };
        let grader = Grader::new(&config, Path::new(".")).unwrap();
        for (answer, expected, reward) in [
            (" Paris\n", json!("Paris"), 1.0),
            ("paris", json!("Paris"), 0.0),
            ("7", json!(7), 1.0),
            ("b", json!(["a", "b"]), 1.0),
        ] {
            let expected = Expected { expected: &expected, metadata: &Value::Null, task: &Value::Null };
            assert_eq!(grader.grade(answer, expected).await.unwrap(), Some(Grade::of(reward == 1.0)), "{answer}");
        }
        let nothing = Expected { expected: &Value::Null, metadata: &Value::Null, task: &Value::Null };
        assert!(grader.grade("x", nothing).await.is_err(), "a task without an answer scores nobody");
    }
}
