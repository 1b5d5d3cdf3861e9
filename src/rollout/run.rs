//! Many rollouts at once, each from its first attempt to its trace in the lake.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use futures::StreamExt as _;
use serde_json::{Value, json};

use super::agent::{Builtin, FailureClass, Mode};
use super::attempt::{Answer, Attempt, Ended, once, within};
use super::calculator;
use super::plan;
use super::process::Output;
use super::served::Served;
use super::tasks::Task;
use super::urls::Urls;
use super::worker::Workers;
use crate::exit::Fault;
use crate::grader::{Expected, Grader};
use crate::progress::Bar;
use crate::serve::Rollout;
use crate::serve::Session;
use crate::serve::{Outcome, Reward, Status};
use crate::stage::Context;

/// Longest text of an answer that is kept beside its rollout.
const KEPT_ANSWER_CHARS: usize = 4096;

/// One rollout to run.
#[derive(Debug, Clone)]
pub struct Job<'a> {
    pub rollout_id: String,
    pub task: &'a Task,
    pub sample: u64,
    /// In place of what the agent asks for.
    pub temperature: Option<f64>,
    pub top_p: Option<f64>,
    /// Longest response of a call, in tokens.
    pub max_tokens: Option<u64>,
}

/// One rollout that has ended.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Done {
    pub rollout_id: String,
    pub task_id: String,
    pub sample: u64,
    /// Number of the attempt that counts.
    pub attempt: u32,
    pub reward: Option<f64>,
    /// agent, timeout, infrastructure or reward_missing.
    pub failure_class: Option<String>,
    /// Why it failed, in words.
    pub message: Option<String>,
    /// LLM calls of that attempt.
    pub calls: u64,
}

/// What the rollouts of one batch share.
pub struct Work<'a> {
    pub context: &'a Context,
    pub served: &'a Served,
    /// Where relative paths of the settings begin.
    pub folder: &'a Path,
    pub seed: u64,
    pub iteration: u64,
    pub split: &'a str,
}

/// Who acts.
enum Agent {
    Once,
    Workers(Box<Workers>),
    Calculator(reqwest::Client),
}

/// A rollout whose end is not in the lake yet.
struct Unwritten {
    session: Arc<Session>,
    outcome: Outcome,
    done: Done,
}

/// The reward so far, for the one who watches.
struct Watch {
    bar: Bar,
    count: AtomicU64,
    /// In millionths, since there is no atomic double.
    sum: AtomicU64,
}

impl Work<'_> {
    /// Runs what is not in the lake yet, as many at once as configured. Returns all, in the order of the jobs.
    ///
    /// Errors: wrong settings, a store that is down, a task that its grader cannot use; `Fault::TryAgain` where nothing but the
    /// infrastructure failed, and a stop that was asked for. What ended before is in the lake, and is not run again.
    pub async fn all(&self, jobs: &[Job<'_>]) -> Result<Vec<Done>> {
        let config = &self.context.config.agent;
        let grader = Grader::new(&config.grader, self.folder)?;
        let agent = match (config.builtin, config.mode) {
            (Some(Builtin::Calculator), _) => Agent::Calculator(reqwest::Client::builder().no_proxy().build()?),
            (None, Mode::Once) => Agent::Once,
            (None, Mode::Worker) => Agent::Workers(Box::new(Workers::new(config, self.folder))),
        };
        let finished = plan::finished(&self.context.lake, &self.context.batch).await?;
        let watch = Watch::new(self.context.progress.bar("rollouts", jobs.len() as u64));
        let (grader, agent, watch, finished) = (&grader, &agent, &watch, &finished);
        let runs = jobs.iter().enumerate().map(|(place, job)| async move {
            self.context.stop.check()?;
            let ended = match finished.contains(&job.rollout_id) {
                true => Ok((read(self.context, job).await?, None)),
                false => self.one(job, agent, grader).await.map(|unwritten| (unwritten.done.clone(), Some(unwritten))),
            };
            let (done, unwritten) = ended?;
            watch.ended(&done);
            // What the infrastructure broke is kept back: where it broke everything, nothing is written, and a later run tries again.
            let unwritten = match unwritten {
                Some(unwritten) if unwritten.outcome.status != Status::Infrastructure => {
                    self.write(&unwritten).await?;
                    None
                }
                other => other,
            };
            anyhow::Ok((place, done, unwritten))
        });
        let mut runs = futures::stream::iter(runs).buffer_unordered(config.concurrency);
        let (mut done, mut kept_back) = (Vec::with_capacity(jobs.len()), Vec::new());
        while let Some(ended) = runs.next().await {
            let (place, one, unwritten) = ended?;
            done.push((place, one));
            kept_back.extend(unwritten);
        }
        drop(runs);
        done.sort_by_key(|(place, _)| *place);
        let done: Vec<Done> = done.into_iter().map(|(_, done)| done).collect();
        if !done.is_empty() && kept_back.len() == done.len() {
            let why = kept_back[0].outcome.message.clone().unwrap_or_default();
            return Err(Fault::TryAgain(format!("every rollout failed by no fault of the agent, the first with: {why}")).into());
        }
        for unwritten in &kept_back {
            self.write(unwritten).await?;
        }
        Ok(done)
    }

    /// All attempts at one rollout. The last one is not written yet.
    async fn one(&self, job: &Job<'_>, agent: &Agent, grader: &Grader) -> Result<Unwritten> {
        let config = &self.context.config.agent;
        let mut number = 0;
        loop {
            let session = self.served.sessions().begin(self.rollout(job, number))?;
            let urls = self.served.urls(&job.rollout_id, number);
            let attempt = match agent {
                Agent::Once => once(config, self.folder, job.task, &urls, &session).await?,
                Agent::Workers(workers) => workers.attempt(job.task, &urls, &session).await?,
                Agent::Calculator(client) => self.calculate(client, job, &urls, &session).await,
            };
            self.context.stop.check()?;
            let mut unwritten = self.judge(job, number, session, attempt, grader).await?;
            let class = match unwritten.outcome.status {
                Status::Succeeded => None,
                Status::Failed => Some(FailureClass::Agent),
                Status::Timeout => Some(FailureClass::Timeout),
                Status::Infrastructure => Some(FailureClass::Infrastructure),
            };
            if number < config.retries && class.is_some_and(|class| config.retry.contains(&class)) {
                unwritten.outcome.retried = true;
                self.write(&unwritten).await?;
                number += 1;
                continue;
            }
            return Ok(unwritten);
        }
    }

    async fn calculate(&self, client: &reqwest::Client, job: &Job<'_>, urls: &Urls, session: &Session) -> Attempt {
        let question = job.task.input.as_str().map_or_else(|| job.task.input.to_string(), str::to_owned);
        let ended = match within(session, self.context.config.agent.timeout(), calculator::run(client, urls, &question)).await {
            None => Ended::TimedOut,
            Some(Ok(text)) => Ended::Answered(Answer { text, reward: None }),
            Some(Err(error)) => Ended::Failed(format!("{error:#}")),
        };
        Attempt { ended, output: Output::default() }
    }

    fn rollout(&self, job: &Job<'_>, attempt: u32) -> Rollout {
        Rollout {
            id: job.rollout_id.clone(),
            attempt,
            task_id: Some(job.task.id.clone()),
            group_id: Some(job.task.id.clone()),
            split: self.split.to_owned(),
            sample: job.sample,
            policy_version: i64::try_from(self.served.version).ok(),
            task: Some(job.task.shown()),
            seed: self.seed,
            iteration: self.iteration,
            temperature: job.temperature,
            top_p: job.top_p,
            max_tokens: job.max_tokens,
            max_calls: Some(self.context.config.agent.max_calls),
        }
    }

    /// What an attempt is worth.
    async fn judge(
        &self,
        job: &Job<'_>,
        number: u32,
        session: Arc<Session>,
        attempt: Attempt,
        grader: &Grader,
    ) -> Result<Unwritten> {
        let config = &self.context.config.agent;
        let Attempt { ended, output } = attempt;
        let mut attributes = vec![("fulgurite.agent.stderr".to_owned(), json!(output.stderr))];
        attributes.push(("fulgurite.agent.stdout".to_owned(), json!(output.stdout)));
        let (mut status, mut message, mut missing) = (Status::Succeeded, None, false);
        let reward = match ended {
            // A server that failed is why its client did.
            Ended::Failed(why) if session.server_failed() => {
                (status, message) = (Status::Infrastructure, Some(why));
                None
            }
            Ended::Infrastructure(why) => {
                (status, message) = (Status::Infrastructure, Some(why));
                None
            }
            Ended::Failed(why) => {
                (status, message) = (Status::Failed, Some(why));
                Some(Reward::outcome(config.failure_reward, "fallback"))
            }
            Ended::TimedOut => {
                (status, message) = (Status::Timeout, Some(format!("took longer than {} s of its own", config.timeout_s)));
                Some(Reward::outcome(config.failure_reward, "fallback"))
            }
            Ended::Answered(Answer { text, reward }) => {
                let metadata = &job.task.metadata;
                let expected = Expected { expected: &job.task.expected, metadata, task: &job.task.whole() };
                let kept: String = text.chars().take(KEPT_ANSWER_CHARS).collect();
                attributes.push(("fulgurite.agent.answer".to_owned(), json!(kept)));
                let graded = grader.grade(&text, expected).await;
                let graded =
                    graded.map_err(|error| error.context(format!("cannot score an answer to the task `{}`", job.task.id)))?;
                let graded = graded.map(|grade| Reward { comment: grade.comment, ..Reward::outcome(grade.reward, "grader") });
                let stated = reward.map(|reward| Reward::outcome(reward, "agent"));
                let posted = session.rewards().iter().any(|reward| reward.value.is_some());
                let fallback = config.missing_reward.filter(|_| !posted).map(|reward| Reward::outcome(reward, "fallback"));
                let found = graded.or(stated).or(fallback);
                missing = found.is_none() && !posted;
                found
            }
        };
        if let Some(reward) = reward {
            session.reward(reward);
        }
        let done = Done {
            rollout_id: job.rollout_id.clone(),
            task_id: job.task.id.clone(),
            sample: job.sample,
            attempt: number,
            // The one stated last counts.
            reward: session.rewards().iter().rev().find_map(|reward| reward.value),
            failure_class: if missing { Some("reward_missing") } else { status.failure_class() }.map(str::to_owned),
            message: message.clone(),
            calls: session.calls(),
        };
        Ok(Unwritten { session, outcome: Outcome { status, message, retried: false, attributes }, done })
    }

    async fn write(&self, unwritten: &Unwritten) -> Result<()> {
        let Unwritten { session, outcome, .. } = unwritten;
        self.served.sessions().finish(session, outcome, &self.context.lake, &self.context.batch).await?;
        Ok(())
    }
}

/// What became of rollouts that earlier runs finished, from their traces.
pub async fn read_all(context: &Context, jobs: &[Job<'_>]) -> Result<Vec<Done>> {
    let mut done = Vec::with_capacity(jobs.len());
    for job in jobs {
        done.push(read(context, job).await?);
    }
    Ok(done)
}

async fn read(context: &Context, job: &Job<'_>) -> Result<Done> {
    let text = plan::read(&context.lake, &context.batch, &job.rollout_id).await?;
    Ok(done_of(job, &text))
}

/// Reads back what `judge` found, from the spans that the server wrote.
fn done_of(job: &Job<'_>, trace: &str) -> Done {
    use crate::trace::convention::fulgurite::{call, reward, rollout};
    let mut done =
        Done { rollout_id: job.rollout_id.clone(), task_id: job.task.id.clone(), sample: job.sample, ..Done::default() };
    for line in trace.lines() {
        let Ok(line) = serde_json::from_str::<Value>(line) else { continue };
        let resources = line["resourceSpans"].as_array().into_iter().flatten();
        let scopes = resources.flat_map(|resource| resource["scopeSpans"].as_array().into_iter().flatten());
        for span in scopes.flat_map(|scope| scope["spans"].as_array().into_iter().flatten()) {
            let value = |key: &str| {
                let attributes = span["attributes"].as_array().into_iter().flatten();
                attributes.filter(|attribute| attribute["key"] == key).map(|attribute| &attribute["value"]).next_back()
            };
            if let Some(value) = value(reward::VALUE).and_then(|value| value["doubleValue"].as_f64()) {
                done.reward = Some(value);
            }
            done.calls += u64::from(value(call::HTTP_STATUS).is_some());
            if let Some(class) = value(rollout::FAILURE_CLASS).and_then(|value| value["stringValue"].as_str()) {
                done.failure_class = Some(class.to_owned());
            }
            if let Some(message) = value(rollout::MESSAGE).and_then(|value| value["stringValue"].as_str()) {
                done.message = Some(message.to_owned());
            }
        }
    }
    if done.failure_class.is_none() && done.reward.is_none() {
        done.failure_class = Some("reward_missing".to_owned());
    }
    done
}

impl Watch {
    fn new(bar: Bar) -> Watch {
        Watch { bar, count: AtomicU64::new(0), sum: AtomicU64::new(0) }
    }

    fn ended(&self, done: &Done) {
        if let Some(reward) = done.reward {
            let sum =
                self.sum.fetch_add((reward * 1e6) as i64 as u64, Ordering::Relaxed).wrapping_add((reward * 1e6) as i64 as u64);
            let count = self.count.fetch_add(1, Ordering::Relaxed) + 1;
            self.bar.tell(format!("rollouts, reward {:.3}", (sum as i64) as f64 / 1e6 / count as f64));
        }
        self.bar.inc(1);
    }
}
