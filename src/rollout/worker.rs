//! Agents that stay up: one task a line, one answer a line. Importing a framework costs seconds, which a worker pays once.

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{ChildStdin, ChildStdout};
use tokio::time::timeout;

use super::agent::AgentConfig;
use super::attempt::{Attempt, Ended, answer, last_words, within};
use super::process::{Output, Running};
use super::tasks::Task;
use super::urls::Urls;
use crate::exit::Fault;
use crate::serve::Session;

/// Longest line that a worker may answer.
const MOST_LINE_BYTES: usize = 16 << 20;

/// How long the answer of a worker that has ended may take to be read.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Workers that wait for a task. There are as many as rollouts under way at once, each started when it is first needed.
#[derive(Debug)]
pub struct Workers {
    config: AgentConfig,
    folder: PathBuf,
    idle: Mutex<Vec<Worker>>,
}

/// A process that reads tasks.
#[derive(Debug)]
struct Worker {
    running: Running,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Workers {
    pub fn new(config: &AgentConfig, folder: &Path) -> Workers {
        Workers { config: config.clone(), folder: folder.to_path_buf(), idle: Mutex::default() }
    }

    /// Lets a worker answer a task. One that fails, or takes too long, is ended with everything that it started; the next task gets another.
    ///
    /// Errors: `Fault::Usage` where there is no such command.
    pub async fn attempt(&self, task: &Task, urls: &Urls, session: &Session) -> Result<Attempt> {
        let idle = self.idle.lock().ok().and_then(|mut idle| idle.pop());
        let mut worker = match idle.map_or_else(|| self.start(), Ok) {
            Ok(worker) => worker,
            Err(error) if error.downcast_ref::<Fault>().is_some() => return Err(error),
            Err(error) => return Ok(Attempt { ended: Ended::Infrastructure(format!("{error:#}")), output: Output::default() }),
        };
        let line = line(task, urls);
        let answered = within(session, self.config.timeout(), worker.ask(&line)).await;
        let ended = match answered {
            Some(Ok(line)) => {
                let output = Output { stdout: String::new(), stderr: worker.running.take_stderr() };
                if let Ok(mut idle) = self.idle.lock() {
                    idle.push(worker);
                }
                return Ok(Attempt { ended: answer(&line), output });
            }
            Some(Err(error)) => Err(error),
            None => Ok(()),
        };
        let output = worker.running.end().await;
        let ended = match ended {
            Ok(()) => Ended::TimedOut,
            Err(error) => Ended::Failed(format!("{error:#}{}", last_words(&output.stderr))),
        };
        Ok(Attempt { ended, output })
    }

    fn start(&self) -> Result<Worker> {
        let (running, stdin, stdout) = Running::start(&self.config.program(&self.folder, None), true)?;
        let stdout = stdout.context("a worker talks over its standard output")?;
        Ok(Worker { running, stdin, stdout: BufReader::new(stdout) })
    }

    /// Ends all workers: they see the end of their input, and are killed where that does not move them.
    pub async fn end(self) {
        for worker in self.idle.into_inner().unwrap_or_default() {
            drop(worker.stdin);
            worker.running.end().await;
        }
    }
}

impl Worker {
    async fn ask(&mut self, line: &str) -> Result<String> {
        self.stdin.write_all(line.as_bytes()).await.context("the worker does not read its tasks")?;
        let mut answer = pin!(read_line(&mut self.stdout));
        tokio::select! {
            biased;
            answer = &mut answer => answer,
            // A child that outlives the worker may hold its output open, whose end then never comes.
            ended = self.running.exited() => {
                ended?;
                timeout(LAST_WORDS, answer).await.unwrap_or_else(|_| bail!("the worker ended without an answer"))
            }
        }
    }
}

/// The task as an agent sees it, with the rollout's addresses beside it.
fn line(task: &Task, urls: &Urls) -> String {
    let mut shown = task.shown();
    if let Value::Object(fields) = &mut shown {
        fields.insert("rollout".to_owned(), urls.json());
    }
    format!("{shown}\n")
}

async fn read_line(stream: &mut (impl AsyncBufRead + Unpin)) -> Result<String> {
    let mut line = Vec::new();
    loop {
        let bytes = stream.fill_buf().await.context("the worker's output cannot be read")?;
        if bytes.is_empty() {
            bail!("the worker ended without an answer");
        }
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let taken = end.map_or(bytes.len(), |end| end + 1);
        line.extend_from_slice(&bytes[..taken]);
        stream.consume(taken);
        if line.len() > MOST_LINE_BYTES {
            bail!("the worker's answer is longer than {} MiB", MOST_LINE_BYTES >> 20);
        }
        if end.is_some() {
            return Ok(String::from_utf8_lossy(&line).trim().to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::agent::Mode;
    use super::super::attempt::Answer;
    use super::*;
    use crate::serve::Rollout;
    use crate::serve::Sessions;
    use serde_json::json;

    #[tokio::test]
    async fn a_worker_serves_several_tasks_and_is_replaced_when_it_fails() {
        // Counts its tasks; dies at `die`, hangs at `hang`, floods at `flood`, answers with its address at `where`.
        let script = r#"n=0; while read -r line; do n=$((n+1)); case "$line" in
            *die*) echo broken >&2; exit 1;; *hang*) sleep 60;; *flood*) yes | tr -d '\n';;
            *where*) echo "$line" | sed 's/.*"base_url":"\([^"]*\)".*/\1/';; *) echo $n;; esac; done"#;
        let command = ["sh", "-c", script].map(str::to_owned).to_vec();
        let config = AgentConfig { command, mode: Mode::Worker, timeout_s: 1.0, grace_s: 0.2, ..AgentConfig::default() };
        let workers = Workers::new(&config, Path::new("."));
        let session = Sessions::default().begin(Rollout { id: "r".into(), ..Rollout::default() }).unwrap();
        let urls = Urls::new("http://127.0.0.1:1", "key", "policy", "r", 0);
        let answered = |text: &str| Ended::Answered(Answer { text: text.to_owned(), reward: None });
        for (input, expected) in [
            ("a", answered("1")),
            ("b", answered("2")),
            ("where", answered("http://127.0.0.1:1/rollout/r/attempt/0/v1")),
            ("die", Ended::Failed("the worker ended without an answer: broken".into())),
            ("c", answered("1")),
            ("hang", Ended::TimedOut),
            ("d", answered("1")),
        ] {
            let task: Task = serde_json::from_value(json!({"id": "t", "input": input})).unwrap();
            assert_eq!(workers.attempt(&task, &urls, &session).await.unwrap().ended, expected, "{input}");
        }
        let flood: Task = serde_json::from_value(json!({"id": "t", "input": "flood"})).unwrap();
        let ended = workers.attempt(&flood, &urls, &session).await.unwrap().ended;
        assert!(matches!(ended, Ended::Failed(_) | Ended::TimedOut), "{ended:?}");
        workers.end().await;
    }
}
