//! The loop, as a user runs it: killed over and over, it ends with the policy that an undisturbed run ends with.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use fulgurite::lake::Lake;

/// Kills before it may come to its end.
const KILLS: u32 = 4;

const PIPELINE: &str = r#"
threads = 1
[agent]
builtin = "calculator"
max_calls = 2
concurrency = 3
[agent.grader]
kind = "numeric"
[rollout]
tasks = "tasks.jsonl"
tasks_per_iteration = 2
samples = 4
refill = 1
[generate]
kv_mib = 16
deterministic = true
[credit]
comparison = "group_std"
[train]
learning_rate = 1e-3
[eval]
split = "val"
[loop]
iterations = 2
eval_every = 2
schedule = "linear"
"#;

fn fulgurite(arguments: &[&str], folder: &Path, lake: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fulgurite"));
    command.args(arguments).args(["--lake", lake, "--pipeline", "pipeline.toml"]).current_dir(folder);
    command
}

fn finish(mut command: Command) -> (Duration, String) {
    let started = Instant::now();
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?}: {said}");
    (started.elapsed(), said)
}

fn printed(mut command: Command) -> String {
    String::from_utf8(command.output().unwrap().stdout).unwrap()
}

fn prepare(folder: &Path, lake: &str) {
    let sizes = ["--hidden", "32", "--layers", "2", "--heads", "2", "--vocab", "320", "--context", "512"];
    finish(fulgurite(&[&["policy", "new", "--text", "tasks.jsonl"][..], &sizes].concat(), folder, lake));
}

/// What every policy of a lake is made of, by version.
async fn policies(folder: &Path, lake: &str) -> BTreeMap<u64, String> {
    let lake = Lake::open(folder.join(lake).to_str().unwrap()).await.unwrap();
    lake.policies().await.unwrap().into_iter().map(|policy| (policy.version, policy.stored.hash())).collect()
}

#[tokio::test]
async fn a_loop_that_is_killed_ends_with_the_bytes_of_one_that_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::write(folder.join("pipeline.toml"), PIPELINE).unwrap();
    let task = |number: usize, split: &str| {
        format!(
            "{{\"id\":\"t{number}\",\"input\":\"What is {number} + 2?\",\"expected\":{},\"split\":\"{split}\"}}\n",
            number + 2
        )
    };
    let tasks: String = (0..6).map(|number| task(number, if number < 4 { "train" } else { "val" })).collect();
    std::fs::write(folder.join("tasks.jsonl"), tasks).unwrap();

    prepare(folder, "calm");
    let (undisturbed, said) = finish(fulgurite(&["loop"], folder, "calm"));
    assert!(said.contains("2 iterations are finished"), "{said}");
    let calm = policies(folder, "calm").await;
    assert_eq!(calm.keys().copied().collect::<Vec<_>>(), [0, 1, 2], "{said}");
    assert!(said.contains("% of it in the model") && said.contains("the best policy is"), "{said}");
    let rates =
        fulgurite(&["sql", "--format", "csv", "select batch, learning_rate from train_steps order by batch"], folder, "calm");
    assert_eq!(printed(rates), "batch,learning_rate\niter-0000,0.001\niter-0001,0.0005\n");

    prepare(folder, "killed");
    let mut ended_before = 0;
    for kill in 0..KILLS {
        let mut child = fulgurite(&["loop"], folder, "killed").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // At another place of the iteration each time, and always further than a start takes.
        std::thread::sleep(undisturbed.mul_f64(0.15 + 0.07 * f64::from(kill)));
        ended_before += u32::from(child.try_wait().unwrap().is_some());
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(ended_before < KILLS, "no kill came before the end");
    finish(fulgurite(&["loop"], folder, "killed"));
    assert_eq!(policies(folder, "killed").await, calm);

    // Nothing is left to do, and a further iteration goes on from there.
    let (_, said) = finish(fulgurite(&["loop", "--skip-exit-code", "0"], folder, "killed"));
    assert!(said.contains("loop iter-0001: nothing to do"), "{said}");
    let (_, said) = finish(fulgurite(&["loop", "--iterations", "3", "--dry-run"], folder, "killed"));
    assert!(said.contains("iter-0001: finished") && said.contains("iter-0002: would run rollout"), "{said}");
}
