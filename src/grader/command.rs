//! The grader `command`: a program of the user's own.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use super::{Grade, GraderConfig};
use crate::rollout::process::{Program, Running};

/// Bytes of its output that are looked at.
const OUTPUT_BYTES: usize = 64 << 10;

/// Gives the task and the answer to the program as JSON, and reads the last line that it writes.
///
/// Errors: it fails, takes too long or states no reward. That is the grader's fault, so nobody is scored by it.
pub async fn grade(config: &GraderConfig, folder: &Path, answer: &str, task: &Value) -> Result<Grade> {
    let program = Program {
        command: config.command.clone(),
        folder: folder.to_path_buf(),
        output_bytes: OUTPUT_BYTES,
        grace: Duration::from_secs(1),
        ..Program::default()
    };
    let (mut running, mut stdin, _) = Running::start(&program, false)?;
    let question = json!({ "task": task, "answer": answer }).to_string();
    let talk = async {
        // One that does not read its input may still know its mind.
        let _ = stdin.write_all(question.as_bytes()).await;
        drop(stdin);
        running.exited().await
    };
    let ended = tokio::time::timeout(Duration::from_secs_f64(config.timeout_s), talk).await;
    let output = running.end().await;
    let name = config.command.join(" ");
    let status = ended.ok().with_context(|| format!("the grader `{name}` took longer than {} s", config.timeout_s))??;
    if !status.success() {
        bail!("the grader `{name}` ended with {status}: {}", output.stderr.trim());
    }
    read(&output.stdout).with_context(|| format!("the grader `{name}` stated no reward"))
}

fn read(output: &str) -> Result<Grade> {
    let line = output.trim_end().lines().last().unwrap_or_default();
    let value: Value = serde_json::from_str(line).with_context(|| format!("its last line is `{line}`"))?;
    let reward = value.as_f64().or_else(|| value["reward"].as_f64()).filter(|reward| reward.is_finite());
    let reward = reward.with_context(|| format!("its last line is `{line}`"))?;
    Ok(Grade { reward, comment: value["comment"].as_str().map(str::to_owned) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(script: &str) -> GraderConfig {
        let command = ["sh", "-c", script].map(str::to_owned).to_vec();
        GraderConfig { command, timeout_s: 1.0, ..GraderConfig::default() }
    }

    async fn graded(script: &str) -> Result<Grade> {
        grade(&config(script), Path::new("."), "x y", &json!({"id": "t"})).await
    }

    #[tokio::test]
    async fn the_last_line_is_the_reward() {
        assert_eq!(graded("echo thinking; echo 0.25").await.unwrap(), Grade { reward: 0.25, comment: None });
        let echoed = graded(r#"read line; echo "$line" | grep -q '"answer":"x y"' && echo '{"reward": 1, "comment": "fine"}'"#);
        assert_eq!(echoed.await.unwrap(), Grade { reward: 1.0, comment: Some("fine".into()) });
    }

    #[tokio::test]
    async fn a_grader_that_fails_scores_nobody() {
        for (script, reason) in [
            ("exit 2", "ended with"),
            ("echo well done", "stated no reward"),
            ("sleep 30", "took longer than 1 s"),
            ("echo NaN", "stated no reward"),
        ] {
            let error = format!("{:#}", graded(script).await.unwrap_err());
            assert!(error.contains(reason), "{script}: {error}");
        }
    }
}
