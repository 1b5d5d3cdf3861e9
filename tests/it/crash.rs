//! Killed at any instant, a stage leaves the old state or the new one, and running it again gives what an undisturbed run gives.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fulgurite::exit::code_of;
use fulgurite::lake::Lake;

use crate::lake::{lineage, values};
use crate::stages::{STAGES, rebuild};

/// Kills for each stage.
const KILLS: usize = 20;

/// Rows and hashes of every file of every table, by `<stage>/<batch>/<table>`; every file is read and compared with its manifest.
type Contents = BTreeMap<String, Vec<(u64, String)>>;

async fn contents(location: &Path) -> Contents {
    let lake = Lake::open(location.to_str().unwrap()).await.unwrap();
    let mut contents = Contents::new();
    for manifest in lake.manifests().await.unwrap() {
        for (table, entry) in &manifest.tables {
            let files = entry.files.iter().map(|file| {
                let bytes = std::fs::read(location.join(&file.path)).unwrap();
                assert_eq!(blake3::hash(&bytes).to_hex().as_str(), file.hash, "{}", file.path);
                (file.rows, file.hash.clone())
            });
            contents.insert(format!("{}/{}/{table}", manifest.stage, manifest.batch), files.collect());
        }
    }
    contents
}

/// Instants to kill at, spread over a little more than the time that an undisturbed run took: the same in every run of the test.
fn instants(seed: &str, undisturbed: Duration) -> Vec<Duration> {
    let mut random = blake3::Hasher::new().update(seed.as_bytes()).finalize_xof();
    let mut next = || {
        let mut bytes = [0; 4];
        random.fill(&mut bytes);
        f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX)
    };
    (0..KILLS).map(|_| undisturbed.mul_f64(1.1 * next())).collect()
}

/// Runs a command to its end and says how long it took.
fn finish(mut command: Command) -> Duration {
    let started = Instant::now();
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&[output.stdout, output.stderr].concat()));
    started.elapsed()
}

/// Starts a command, kills it at every instant in turn, and looks at the lake after each.
async fn kill_at(instants: Vec<Duration>, command: impl Fn() -> Command, lake: &Path, allowed: &[Contents]) {
    let mut ended_before = 0;
    for instant in instants {
        let mut child = command().stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(instant);
        ended_before += usize::from(child.try_wait().unwrap().is_some());
        child.kill().unwrap();
        child.wait().unwrap();
        let found = contents(lake).await;
        assert!(allowed.contains(&found), "killed after {instant:?}: neither the old state nor the new one: {found:?}");
    }
    assert!(ended_before < KILLS, "no kill came before the end");
}

/// Runs the stage `values` in this process, as the environment says: the lake, the setting that its rows follow from, and a file to wait
/// for once the run has begun.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by the tests below"]
async fn stage_process() {
    let variable = |name: &str| std::env::var(format!("FULGURITE_TEST_{name}")).unwrap_or_default();
    let result = stage(&variable("LAKE"), variable("SETTING").parse().unwrap(), &variable("GO")).await;
    if let Err(error) = result {
        eprintln!("{error:#}");
        std::process::exit(code_of(&error) as i32);
    }
}

async fn stage(location: &str, setting: u32, go: &str) -> anyhow::Result<()> {
    let lake = Lake::open(location).await?;
    let run = lake.begin("values", "b").await?;
    if !go.is_empty() {
        println!("ready");
    }
    while !go.is_empty() && !Path::new(go).exists() {
        std::thread::sleep(Duration::from_millis(2));
    }
    for part in 0..40 {
        let mut writer = run.writer("values", part)?;
        let from = i64::from(part) * 1500;
        writer.write(&values(from, from + 1000 + i64::from(setting)))?;
        writer.finish().await?;
    }
    run.commit(lineage(setting), BTreeMap::new()).await?;
    Ok(())
}

fn stage_command(lake: &Path, setting: u32) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "crash::stage_process", "--ignored", "--nocapture"]);
    command.env("FULGURITE_TEST_LAKE", lake).env("FULGURITE_TEST_SETTING", setting.to_string());
    command
}

#[tokio::test]
async fn a_killed_run_leaves_the_old_state_or_the_new() {
    let folder = tempfile::tempdir().unwrap();
    let (calm, killed) = (folder.path().join("calm"), folder.path().join("killed"));
    finish(stage_command(&calm, 1));
    let old = contents(&calm).await;
    let undisturbed = finish(stage_command(&calm, 2));
    let new = contents(&calm).await;
    assert_ne!(old, new);

    finish(stage_command(&killed, 1));
    kill_at(instants("values", undisturbed), || stage_command(&killed, 2), &killed, &[old, new.clone()]).await;
    finish(stage_command(&killed, 2));
    assert_eq!(contents(&killed).await, new);

    // What the killed runs left is found, taken away, and nothing else.
    let lake = Lake::open(killed.to_str().unwrap()).await.unwrap();
    assert!(!lake.vacuum(Duration::ZERO, false).await.unwrap().paths.is_empty());
    assert_eq!(contents(&killed).await, new);
    let files = std::fs::read_dir(killed.join("values/batch=b")).unwrap().count();
    assert_eq!(files, new.values().map(Vec::len).sum::<usize>());
}

#[tokio::test]
async fn of_processes_that_began_together_one_commits() {
    let folder = tempfile::tempdir().unwrap();
    let (lake, go) = (folder.path().join("lake"), folder.path().join("go"));
    let started: Vec<Child> = (1..=4)
        .map(|setting| {
            let mut command = stage_command(&lake, setting);
            command.env("FULGURITE_TEST_GO", &go).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .map(|mut child| {
            wait_for_word(&mut child, "ready");
            child
        })
        .collect();
    std::fs::write(&go, "").unwrap();
    let ended: Vec<_> = started.into_iter().map(|child| child.wait_with_output().unwrap()).collect();
    let mut codes: Vec<_> = ended.iter().map(|output| output.status.code().unwrap()).collect();
    codes.sort_unstable();
    assert_eq!(codes, [0, 75, 75, 75]);
    for output in ended.iter().filter(|output| output.status.code() == Some(75)) {
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("another run of `values` on batch `b` committed first"), "{said}");
    }
    let found = contents(&lake).await;
    assert_eq!(found["values/b/values"].len(), 40);
    let files = std::fs::read_dir(lake.join("values/batch=b")).unwrap().count();
    assert_eq!(files, 40, "those that lost took their files away");
}

fn wait_for_word(child: &mut Child, word: &str) {
    use std::io::{BufRead, BufReader};
    let mut lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    lines.find(|line| line.as_ref().unwrap().contains(word)).unwrap().unwrap();
}

#[tokio::test]
async fn every_stage_survives_being_killed() {
    let folder = tempfile::tempdir().unwrap();
    let (calm, killed) = (folder.path().join("calm"), folder.path().join("killed"));
    let mut before = Contents::new();
    for stage in STAGES {
        let undisturbed = finish(rebuild(stage, &calm));
        let after = contents(&calm).await;
        assert!(after.len() > before.len(), "{stage} wrote nothing");
        kill_at(instants(stage, undisturbed), || rebuild(stage, &killed), &killed, &[before, after.clone()]).await;
        finish(rebuild(stage, &killed));
        assert_eq!(contents(&killed).await, after, "{stage}");
        before = after;
    }
}

#[tokio::test]
async fn runs_of_a_stage_at_the_same_time_damage_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let lake = folder.path().join("lake");
    for stage in STAGES {
        finish(rebuild(stage, &lake));
        let alone = contents(&lake).await;
        let started: Vec<Child> =
            (0..3).map(|_| rebuild(stage, &lake).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()).collect();
        for child in started {
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "{stage}: {}", String::from_utf8_lossy(&output.stderr));
        }
        assert_eq!(contents(&lake).await, alone, "{stage}: the same from the same");
    }
}
