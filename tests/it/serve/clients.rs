//! Real clients, unchanged, against the policy whose weights are set by hand: each script checks what it gets, and prints `ok`.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use fulgurite::lake::Lake;
use fulgurite::serve::{Outcome, Server};
use tokio::process::Command;

use super::{KEY, derived, rollout, served, table};
use crate::cases::BATCH;
use crate::peers::skip;

/// The Python that `scripts/clients-env.sh` prepares; says why a test is skipped where there is none.
pub fn python() -> Option<PathBuf> {
    let home = std::env::var_os("FULGURITE_CLIENTS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv-clients"), PathBuf::from);
    let python = home.join("bin/python");
    if python.exists() {
        return Some(python);
    }
    skip(&format!("no `{}`; scripts/clients-env.sh makes it", python.display()));
    None
}

/// Runs a script with nothing but the environment that SDKs read.
async fn run(python: &Path, script: &str, base_url: &str, otlp: Option<&str>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
    let mut command = Command::new(python);
    command
        .arg(folder.join(script))
        .env("OPENAI_BASE_URL", base_url)
        .env("OPENAI_API_KEY", KEY)
        .env("PYTHONDONTWRITEBYTECODE", "1");
    command.env("NO_PROXY", "127.0.0.1").env("OPENAI_AGENTS_DISABLE_TRACING", "1");
    if let Some(otlp) = otlp {
        command
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", otlp)
            .env("OTEL_EXPORTER_OTLP_HEADERS", format!("authorization=Bearer%20{KEY}"));
        command.env("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip");
    }
    let done = command.stdin(Stdio::null()).output().await.expect("python runs");
    let (out, error) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success() && out.trim_end().ends_with("ok"), "{script}: {}\n{out}\n{error}", done.status);
}

fn base_url(server: &Server) -> String {
    format!("http://{}/v1", server.address())
}

async fn check(script: &str) {
    let Some(python) = python() else { return };
    let server = served(false).await;
    run(&python, script, &base_url(&server), None).await;
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openai() {
    check("openai_sdk.py").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn langchain() {
    check("langchain_agent.py").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openai_agents() {
    check("agents_sdk.py").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn autogen() {
    check("autogen_agent.py").await;
}

/// The spans of OpenTelemetry's own exporter land beside the calls: each call is one, of the agent that the exporter names.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opentelemetry() {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().unwrap();
    let lake = Lake::open(folder.path().to_str().unwrap()).await.unwrap();
    let server = served(false).await;
    let session = server.sessions().begin(rollout("r-1")).unwrap();
    run(&python, "otlp_exporter.py", &server.base_url(&session), Some(&server.otlp_endpoint(&session))).await;
    server.sessions().finish(&session, &Outcome::default(), &lake, BATCH).await.unwrap();
    server.stop().await.unwrap();
    let context = derived(&lake).await;
    let calls = table(&context, "select step, agent, token_source, finish_reason from calls order by step").await;
    // The second call, which only the server recorded, has no agent of its own.
    assert_eq!(calls, [["0", "adder", "engine", "tool_calls"], ["1", "", "engine", "stop"]].map(|row| row.map(str::to_owned)));
    let tools = table(&context, "select name, status, step, agent from tool_calls").await;
    assert_eq!(tools, [["add", "ok", "0", "adder"].map(str::to_owned)]);
}
