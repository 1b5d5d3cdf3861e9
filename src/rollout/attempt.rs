//! One attempt at a rollout: the agent gets its task, and ends in one of the ways that an agent can end.

use std::path::Path;
use std::pin::pin;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;

use super::agent::AgentConfig;
use super::process::{Output, Running};
use super::tasks::Task;
use super::urls::Urls;
use crate::exit::Fault;
use crate::serve::Session;

/// Least time between two looks at the agent's clock.
const TICK: Duration = Duration::from_millis(10);

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Ended {
    Answered(Answer),
    /// The agent's fault: it counts.
    Failed(String),
    /// The agent's own time was over.
    TimedOut,
    /// Nobody's fault who learns from it.
    Infrastructure(String),
}

/// What the agent said last.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Answer {
    pub text: String,
    /// Where the agent scores itself.
    pub reward: Option<f64>,
}

/// An attempt with what the agent printed.
#[derive(Debug, Clone, PartialEq)]
pub struct Attempt {
    pub ended: Ended,
    pub output: Output,
}

/// Runs the agent's command as a process of its own.
///
/// Errors: `Fault::Usage` where there is no such command.
pub async fn once(config: &AgentConfig, folder: &Path, task: &Task, urls: &Urls, session: &Session) -> Result<Attempt> {
    let started = Running::start(&config.program(folder, Some(urls)), false);
    let (mut running, mut stdin, _) = match started {
        Ok(started) => started,
        Err(error) if error.downcast_ref::<Fault>().is_some() => return Err(error),
        // No more processes, memory or descriptors: the machine's fault.
        Err(error) => return Ok(Attempt { ended: Ended::Infrastructure(format!("{error:#}")), output: Output::default() }),
    };
    let question = format!("{}\n", task.shown());
    let work = async {
        // An agent that does not read its input may still have its task from elsewhere.
        let _ = stdin.write_all(question.as_bytes()).await;
        drop(stdin);
        running.exited().await
    };
    let status = within(session, config.timeout(), work).await;
    let output = running.end().await;
    let ended = match status {
        None => Ended::TimedOut,
        Some(Err(error)) => Ended::Infrastructure(format!("{error:#}")),
        Some(Ok(status)) if !status.success() => Ended::Failed(format!("{status}{}", last_words(&output.stderr))),
        Some(Ok(_)) => answer(output.stdout.trim_end().lines().last().unwrap_or_default()),
    };
    Ok(Attempt { ended, output })
}

/// Waits for some work, but no longer than `limit` of the agent's own time: its clock stands still while the server works for it.
pub async fn within<T>(session: &Session, limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    let (started, busy_before) = (Instant::now(), session.busy());
    let mut work = pin!(work);
    loop {
        let busy = session.busy().saturating_sub(busy_before);
        let left = limit.saturating_sub(started.elapsed().saturating_sub(busy));
        if left.is_zero() {
            return None;
        }
        tokio::select! {
            biased;
            done = &mut work => return Some(done),
            () = tokio::time::sleep(left.max(TICK)) => {}
        }
    }
}

/// Reads a line as the agent's last word: JSON with `answer`, `reward` or `error`, else the text itself.
pub fn answer(line: &str) -> Ended {
    let line = line.trim();
    let object = serde_json::from_str::<Value>(line).ok().filter(|value| {
        value.as_object().is_some_and(|object| ["answer", "reward", "error"].iter().any(|key| object.contains_key(*key)))
    });
    let Some(object) = object else { return Ended::Answered(Answer { text: line.to_owned(), reward: None }) };
    if let Some(error) = object.get("error").filter(|error| !error.is_null()) {
        return Ended::Failed(text(error));
    }
    let answer = object.get("answer").filter(|answer| !answer.is_null()).map(text).unwrap_or_default();
    Ended::Answered(Answer { text: answer, reward: object["reward"].as_f64().filter(|reward| reward.is_finite()) })
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The end of what a program said on standard error, for a message.
pub fn last_words(stderr: &str) -> String {
    stderr.trim_end().lines().last().map_or_else(String::new, |line| format!(": {}", line.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::Rollout;
    use crate::serve::Sessions;
    use serde_json::json;

    #[test]
    fn the_last_line_is_the_answer() {
        let answered = |text: &str, reward| Ended::Answered(Answer { text: text.to_owned(), reward });
        for (line, expected) in [
            ("42", answered("42", None)),
            ("The answer is 42.", answered("The answer is 42.", None)),
            (r#"{"answer": "42"}"#, answered("42", None)),
            (r#"{"answer": 42, "reward": 0.5}"#, answered("42", Some(0.5))),
            (r#"{"reward": 1}"#, answered("", Some(1.0))),
            (r#"{"answer": null, "reward": null}"#, answered("", None)),
            (r#"{"error": "lost my way"}"#, Ended::Failed("lost my way".into())),
            (r#"{"answer": "x", "error": null}"#, answered("x", None)),
            (r#"{"city": "Bern"}"#, answered(r#"{"city": "Bern"}"#, None)),
            ("", answered("", None)),
        ] {
            assert_eq!(answer(line), expected, "{line}");
        }
    }

    async fn attempt(script: &str, timeout_s: f64) -> Attempt {
        let command = ["sh", "-c", script].map(str::to_owned).to_vec();
        let config = AgentConfig { command, timeout_s, grace_s: 0.2, output_kib: 1, ..AgentConfig::default() };
        let session = Sessions::default().begin(Rollout { id: "r".into(), ..Rollout::default() }).unwrap();
        let task: Task = serde_json::from_value(json!({"id": "t", "input": "2 + 2?", "expected": "secret"})).unwrap();
        let urls = Urls::new("http://127.0.0.1:1", "key", "policy", "r", 0);
        once(&config, Path::new("."), &task, &urls, &session).await.unwrap()
    }

    #[tokio::test]
    async fn every_way_to_end() {
        let answered = |text: &str| Ended::Answered(Answer { text: text.to_owned(), reward: None });
        for (script, timeout_s, expected) in [
            ("echo thinking; echo 4", 20.0, answered("4")),
            ("cat", 20.0, answered(r#"{"id":"t","input":"2 + 2?","metadata":null}"#)),
            ("echo $OPENAI_BASE_URL $OPENAI_API_KEY", 20.0, answered("http://127.0.0.1:1/rollout/r/attempt/0/v1 key")),
            ("echo oops >&2; exit 3", 20.0, Ended::Failed("exit status: 3: oops".into())),
            ("kill -9 $$", 20.0, Ended::Failed("signal: 9 (SIGKILL)".into())),
            ("sleep 60", 0.3, Ended::TimedOut),
            ("trap '' TERM; while true; do sleep 1; done", 0.3, Ended::TimedOut),
            ("while true; do yes; done", 0.3, Ended::TimedOut),
            ("bomb() { sleep 60 & sleep 60 & sleep 60 & }; bomb; bomb; echo 5", 20.0, answered("5")),
            ("true", 20.0, answered("")),
        ] {
            let attempt = attempt(script, timeout_s).await;
            assert_eq!(attempt.ended, expected, "{script}");
            assert!(attempt.output.stdout.len() < 1200, "{script}");
        }
    }

    #[tokio::test]
    async fn the_clock_stands_still_while_the_server_works() {
        let session = Sessions::default().begin(Rollout { id: "r".into(), ..Rollout::default() }).unwrap();
        session.begin_call().unwrap();
        let limit = Duration::from_millis(30);
        let slow = tokio::time::sleep(Duration::from_millis(300));
        assert!(within(&session, limit, slow).await.is_some(), "a call was under way all the time");
        let idle = Sessions::default().begin(Rollout { id: "r".into(), ..Rollout::default() }).unwrap();
        assert!(within(&idle, limit, tokio::time::sleep(Duration::from_secs(30))).await.is_none());
    }
}
