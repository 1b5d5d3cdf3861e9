//! The report as a user makes it, and as a browser shows it: of the sample traces, and of texts that want to be markup.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::peers;
use crate::stages::{STAGES, fulgurite, rebuild};

/// Names that Chromium goes by.
const BROWSERS: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];

/// Text that would leave an element, an attribute, a script or a drawing, if it could.
const HOSTILE: &str =
    "</script></svg></details><script>document.title='taken'</script><img src=x onerror=\"alert(1)\">' onfocus='alert(2)\u{202e}";

fn done(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn report(lake: &Path, output: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fulgurite"));
    command.arg("report").arg("--lake").arg(lake).arg("--output").arg(output).args(arguments).output().unwrap()
}

/// A lake with the sample traces as batch `b`, and hostile ones with token ids of policy 0 as batch `hostile`.
fn lake(folder: &Path) -> PathBuf {
    let lake = folder.join("lake");
    for stage in STAGES {
        done(&mut rebuild(stage, &lake));
    }
    let conversation = |number: usize, reward: f64| {
        let call = json!({"id": HOSTILE, "type": "function", "function": {"name": HOSTILE, "arguments": json!({"a": HOSTILE}).to_string()}});
        json!({
            "messages": [
                {"role": "system", "content": HOSTILE},
                {"role": "user", "content": HOSTILE},
                {"role": "assistant", "name": HOSTILE, "content": HOSTILE, "tool_calls": [call], "token_ids": [70, 71, 72], "logprobs": [-0.01, -0.5, -5.0]},
                {"role": "tool", "tool_call_id": HOSTILE, "content": HOSTILE, "is_error": true},
                {"role": "assistant", "name": HOSTILE, "content": HOSTILE},
            ],
            "reward": {HOSTILE: reward}, "group": HOSTILE, "task_id": HOSTILE, "rollout_id": format!("{HOSTILE}{number}"), "policy_version": 0,
        })
    };
    let traces = folder.join("hostile.jsonl");
    std::fs::write(&traces, format!("{}\n{}\n", conversation(0, 1.0), conversation(1, 0.0))).unwrap();
    let location = lake.to_str().unwrap();
    for stage in ["ingest", "build"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fulgurite"));
        command.args([stage, "--lake", location, "--batch", "hostile"]);
        done(if stage == "ingest" { command.arg(&traces) } else { &mut command });
    }
    let policy = Path::new(env!("CARGO_MANIFEST_DIR")).join("sample_data/tiny-policy");
    done(fulgurite("policy", location).args(["import", "--from"]).arg(policy));
    lake
}

fn browser() -> Option<&'static str> {
    let there = |name: &&str| Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success());
    let found = BROWSERS.into_iter().find(there);
    if found.is_none() {
        peers::skip("no Chromium; scripts/browser-env.sh installs it");
    }
    found
}

#[test]
fn a_report_is_one_page_of_its_lake() {
    let folder = tempfile::tempdir().unwrap();
    let (lake, page) = (lake(folder.path()), folder.path().join("report.html"));
    let output = report(&lake, &page, &["--json", "--rollouts", "5"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let html = std::fs::read_to_string(&page).unwrap();
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&summary["stage"], &summary["batch"], &summary["status"]), (&json!("report"), &json!("all"), &json!("done")));
    let counts = &summary["counts"];
    assert_eq!((&counts["rollouts"], &counts["rollouts_shown"], &counts["batches"]), (&json!(18), &json!(7), &json!(2)));
    assert_eq!(counts["bytes"].as_u64().unwrap() as usize, html.len());
    assert_eq!(html.matches("<details class=\"rollout\"").count(), 7);
    // The page's own script alone, and what an agent wrote as text.
    assert_eq!((html.matches("<script").count(), html.matches("</script").count()), (1, 1));
    assert!(!html.contains("<img") && html.contains("&lt;img src=x onerror="), "what an agent wrote is text");
    assert!(!html.contains('\u{202e}') && html.contains("⟨U+202E⟩"), "and turns no line around");
    assert!(
        html.contains("Shaded by how unlikely the sampler found each token"),
        "the ids of the hostile batch are read by policy 0"
    );

    let again = folder.path().join("again.html");
    assert!(report(&lake, &again, &["--rollouts", "5"]).status.success());
    assert!(std::fs::read_to_string(&again).unwrap() == html, "the same lake gives the same bytes");

    assert!(report(&lake, &again, &["--batch", "b", "--rollouts", "100"]).status.success());
    let one = std::fs::read_to_string(&again).unwrap();
    assert!(one.contains("All 16 rollouts.") && !one.contains("onerror"), "one batch alone");

    let Some(browser) = browser() else { return };
    let script = peers::script("report_browser.py");
    let used = done(Command::new("python3").arg(script).arg(browser).arg(&page).args(std::env::var_os("FULGURITE_PICTURES")));
    assert_eq!(String::from_utf8_lossy(&used.stdout), "7 rollouts opened and filtered\n");
}

#[test]
fn a_lake_without_rollouts_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("report.html");
    let said = |arguments: &[&str], lake: &str| {
        let output = report(&folder.path().join(lake), &page, arguments);
        assert!(!page.exists(), "no page is left behind");
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    std::fs::create_dir(folder.path().join("empty")).unwrap();
    let (code, error) = said(&[], "empty");
    assert!(
        code == Some(2) && error.contains("there is nothing to report in") && error.contains("`fulgurite ingest`"),
        "{error}"
    );
    done(&mut rebuild("ingest", &folder.path().join("ingested")));
    let (code, error) = said(&[], "ingested");
    assert!(code == Some(2) && error.contains("`fulgurite build --batch b` makes them"), "{error}");
    let (code, error) = said(&[], "nowhere");
    assert!(code == Some(2) && error.contains("there is no lake at"), "{error}");
}
