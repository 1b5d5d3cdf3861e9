//! Settings of `[agent]`: which agent runs, and within which limits.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::process::Program;
use super::urls::Urls;
use crate::exit::Fault;
use crate::grader::GraderConfig;

/// The agent: a command, or one that is built in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AgentConfig {
    /// The program and its arguments. It finds its model by OPENAI_BASE_URL and OPENAI_API_KEY, and its task as JSON on standard input.
    pub command: Vec<String>,
    /// An agent of our own in place of a command: calculator.
    pub builtin: Option<Builtin>,
    /// once: a process a rollout, whose last line of output is the answer. worker: processes that stay, one task a line in and one
    /// answer a line out, with the rollout's addresses under `rollout`.
    pub mode: Mode,
    /// Rollouts under way at once.
    pub concurrency: usize,
    /// Seconds of its own that an agent may take for a rollout; its clock stands still while the server works for it.
    pub timeout_s: f64,
    /// LLM calls that a rollout may make; more are refused.
    pub max_calls: u64,
    /// Further attempts at a rollout whose attempt failed in a class of `retry`.
    pub retries: u32,
    /// Failure classes that are tried again: infrastructure, agent, timeout.
    pub retry: Vec<FailureClass>,
    /// Reward of a rollout that failed by the agent's fault.
    pub failure_reward: f64,
    /// Reward of a rollout that ended well and has none; where nothing is said it is recorded as missing, and not learned from.
    pub missing_reward: Option<f64>,
    /// Variables added to the agent's environment.
    pub environment: BTreeMap<String, String>,
    /// Working folder of the agent, beside the pipeline file.
    pub folder: String,
    /// Kibibytes of what the agent prints that are kept with its rollout: the first half and the last.
    pub output_kib: usize,
    /// Seconds between asking an agent to end and killing it with everything that it started.
    pub grace_s: f64,
    pub grader: GraderConfig,
}

/// An agent of our own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Builtin {
    /// Answers with a calculator.
    Calculator,
}

/// How a command is run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    #[default]
    Once,
    Worker,
}

/// Whose fault a failure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FailureClass {
    Infrastructure,
    Agent,
    Timeout,
}

impl Default for AgentConfig {
    fn default() -> AgentConfig {
        AgentConfig {
            command: Vec::new(),
            builtin: None,
            mode: Mode::Once,
            concurrency: 8,
            timeout_s: 300.0,
            max_calls: 64,
            retries: 2,
            retry: vec![FailureClass::Infrastructure],
            failure_reward: 0.0,
            missing_reward: None,
            environment: BTreeMap::new(),
            folder: ".".to_owned(),
            output_kib: 64,
            grace_s: 2.0,
            grader: GraderConfig::default(),
        }
    }
}

impl AgentConfig {
    /// `Fault::Usage` names a setting that cannot be.
    pub fn check(&self) -> Result<()> {
        let wrong = |what: String| Err(Fault::Usage(what).into());
        if self.command.is_empty() == self.builtin.is_none() {
            return wrong("name the agent: either `agent.command` or `agent.builtin`".to_owned());
        }
        if self.concurrency == 0 {
            return wrong("`agent.concurrency` is 0; nothing would ever run".to_owned());
        }
        for (name, value) in [("timeout_s", self.timeout_s), ("grace_s", self.grace_s)] {
            if !(0.0..1e9).contains(&value) {
                return wrong(format!("`agent.{name}` is {value}; it has to be 0 or more"));
            }
        }
        for (name, value) in [("failure_reward", Some(self.failure_reward)), ("missing_reward", self.missing_reward)] {
            if value.is_some_and(|value| !value.is_finite()) {
                return wrong(format!("`agent.{name}` has to be finite"));
            }
        }
        Ok(())
    }

    pub fn timeout(&self) -> Duration {
        Duration::from_secs_f64(self.timeout_s)
    }

    /// The command as a program.
    ///
    /// * `pipeline_folder`: where relative folders begin.
    /// * `urls`: of the rollout, for a process that serves only that one.
    pub fn program(&self, pipeline_folder: &Path, urls: Option<&Urls>) -> Program {
        let folder = pipeline_folder.join(&self.folder);
        let mut environment = urls.map(Urls::environment).unwrap_or_default();
        environment.extend(self.environment.clone());
        let mut command = self.command.clone();
        // A program given by a path is looked for from where the agent runs, as a shell there would.
        if let Some(name) = command.first_mut().filter(|name| name.contains('/')) {
            *name = absolute(&folder.join(name.as_str())).to_string_lossy().into_owned();
        }
        Program {
            command,
            environment,
            folder,
            output_bytes: self.output_kib << 10,
            grace: Duration::from_secs_f64(self.grace_s),
        }
    }
}

/// An absolute path, links left as they are: a program in a virtual environment knows its place by the link.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf())
}
