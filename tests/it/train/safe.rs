//! What a training that is left alone must bear: stops and kills at any step, what cannot be learnt from, too little memory, object stores.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use fulgurite::lake::Lineage;
use fulgurite::model::{Model, ModelConfig};
use fulgurite::schema;
use serde_json::{Value, json};
use tch::{Device, Kind};

use crate::peers::{self, Server};
use crate::rows;

use super::bench::{Bench, END, FAST, WORDS, game, tiny_policy, transition, with, write_text_side};

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_trained_on_is_said() {
    let plain = || transition("a", "a0", 0, &[1, 3], &[4, END]);
    let cases: [(Vec<Value>, &[&str], i32, &str); 7] = [
        (vec![], &[], 1, "there is nothing to train on: the batch has no transitions"),
        (
            vec![with(plain(), json!({"drop_reason": "no_variance"}))],
            &[],
            1,
            "dropped by credit: 1 no_variance. A group whose rewards",
        ),
        (vec![with(plain(), json!({"behaviour_logprobs": null}))], &[], 1, "refused by train: 1 no_behaviour_logprobs"),
        (vec![with(plain(), json!({"policy_version": 3}))], &[], 1, "refused by train: 1 newer_policy"),
        (vec![with(plain(), json!({"temperature": 0.0}))], &[], 1, "refused by train: 1 greedy"),
        (vec![plain()], &["loss.correction.kind=icepop"], 2, "set `train.old_logprobs` to \"recompute\""),
        (vec![plain()], &["policy=4"], 2, "there is no policy 4"),
    ];
    for (rows, settings, code, expected) in cases {
        let bench = Bench::new(&rows).await;
        let output = bench.train(settings);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(expected), "{expected}: {said}");
        assert_eq!(bench.lake().await.policies().await.unwrap().len(), 1);
    }
    // Without the sampler's log-probs, the trainer's own will do.
    let bench = Bench::new(&[with(plain(), json!({"behaviour_logprobs": null}))]).await;
    bench.trained(&["old_logprobs=recompute"]);
    // The next policy is trained on rows of its own, and not on those of the one before.
    let lake = bench.lake().await;
    let mut run = lake.begin("policy", "0001").await.unwrap();
    let folder = lake.fetch_policy(&lake.policy(Some(1)).await.unwrap()).await.unwrap();
    run.put_policy(2, Some(1), folder.path()).await.unwrap();
    run.commit(Lineage::new("policy", json!({})).unwrap(), BTreeMap::new()).await.unwrap();
    let output = bench.train(&["policy=2"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("1 too_old_policy. `train.max_policy_lag` is 0"), "{said}");
    bench.trained(&["policy=2", "max_policy_lag=2", "old_logprobs=recompute"]);
    assert_eq!(bench.lake().await.policy(None).await.unwrap().parent, Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_that_are_not_finite_are_left_out_and_three_in_a_row_end_the_run() {
    let infinite = |rollout: usize| {
        with(transition("a", &format!("a{rollout}"), 0, &[1, 3], &[4, END]), json!({ "weight": 1e308, "advantage": 1e308 }))
    };
    let bench = Bench::new(&(0..4).map(infinite).collect::<Vec<_>>()).await;
    let output = bench.train(&["minibatches=4"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("3 steps in a row have no finite loss") && said.contains("train.learning_rate"), "{said}");
    let states = bench.lake().await.manifest("checkpoint", "b").await.unwrap().unwrap().states;
    assert_eq!(states.keys().collect::<Vec<_>>(), ["aside-000000", "aside-000001", "aside-000002"]);

    let mut rows = game();
    rows[0] = with(rows[0].clone(), json!({ "weight": 1e308, "advantage": 1e308 }));
    let bench = Bench::new(&rows).await;
    let said = bench.trained(&["minibatches=6", "epochs=2"]);
    assert!(said.contains("was left out"), "{said}");
    let skipped = bench.query("select count(*) as n from train_steps where skipped");
    assert_eq!(skipped[0]["n"], 2);
    let model = bench.model(1).await;
    assert!(model.parameters().iter().all(|(_, weight)| weight.isfinite().all().int64_value(&[]) == 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_divergence_above_the_limit_ends_the_run_early() {
    let bench = Bench::new(&game()).await;
    let said = bench.trained(&[&FAST[..], &["epochs=50", "max_kl=0.05", "old_logprobs=recompute"]].concat());
    assert!(said.contains("above `train.max_kl`"), "{said}");
    let steps = bench.query("select max(approx_kl) as most, count(*) as n from train_steps");
    assert!(steps[0]["most"].as_f64().unwrap() <= 0.05);
    let count = steps[0]["n"].as_i64().unwrap();
    assert!((2..50).contains(&count), "{count}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_is_too_large_is_refused_before_it_is_loaded() {
    let free_bytes = fulgurite::model::memory::available_bytes().unwrap();
    // Layers of 16.8 million weights, so many that the weights alone take half of what is free: their gradients and AdamW's means do not fit.
    let layers = free_bytes / 2 / (4 * (4 * 1024 * 1024 + 3 * 1024 * 4096));
    let policy = |folder: &Path| {
        let config = json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": WORDS.len(), "hidden_size": 1024,
            "intermediate_size": 4096, "num_hidden_layers": layers, "num_attention_heads": 16, "num_key_value_heads": 16,
            "max_position_embeddings": 64, "tie_word_embeddings": true,
        });
        std::fs::create_dir_all(folder).unwrap();
        std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
        std::fs::write(folder.join("model.safetensors"), "never read").unwrap();
        write_text_side(folder);
        folder.to_owned()
    };
    let bench = Bench::of(&policy, &game()).await;
    let output = bench.train(&["activation_checkpointing=never"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("training needs about") && said.contains("GB are free"), "{said}");
    assert!(said.contains("what would fit: `train.lora.rank=16`"), "{said}");
}

/// A row of 16384 tokens takes no more than what its tokens take: attention's scores alone would be 1 GiB. benches/train.py goes to 32768.
#[tokio::test(flavor = "multi_thread")]
async fn memory_is_linear_in_the_length_of_a_row() {
    let policy = |folder: &Path| {
        let config = json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": WORDS.len(), "hidden_size": 16,
            "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1,
            "max_position_embeddings": 32768, "rms_norm_eps": 1e-5, "rope_theta": 1e6, "tie_word_embeddings": true,
        });
        Model::random(ModelConfig::from_json(config).unwrap(), 5, Device::Cpu, Kind::Float).unwrap().save(folder).unwrap();
        write_text_side(folder);
        folder.to_owned()
    };
    let mut peaks_mib = Vec::new();
    for length in [1024, 16384] {
        let prompt: Vec<u32> = (0..length - 2).map(|token| token * 7 % 16).collect();
        let bench = Bench::of(&policy, &[transition("a", "a0", 0, &prompt, &[4, END])]).await;
        let mut child = bench.command(&[&FAST[..], &["micro_batch_tokens=32768"]].concat());
        let mut child = child.stderr(std::process::Stdio::null()).spawn().unwrap();
        let status = format!("/proc/{}/status", child.id());
        let mut peak_mib = 0;
        while child.try_wait().unwrap().is_none() {
            let text = std::fs::read_to_string(&status).unwrap_or_default();
            let peak = text.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
            peak_mib = peak.map_or(peak_mib, |kib| kib / 1024);
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(child.wait().unwrap().success());
        let steps = bench.query("select row_tokens, loss, grad_norm from train_steps");
        assert_eq!(steps[0]["row_tokens"], i64::from(length - 1), "the last token is read and computes nothing");
        assert!(steps[0]["loss"].as_f64().unwrap().is_finite() && steps[0]["grad_norm"].as_f64().unwrap() > 0.0);
        peaks_mib.push(peak_mib);
    }
    assert!(peaks_mib[0] > 0 && peaks_mib[1] < peaks_mib[0] + 256, "{peaks_mib:?} MiB");
}

/// Policies and checkpoints on an object store: the same policy as on a disk, and the same folder when it is exported.
#[test]
fn an_object_store_gives_the_same_policy() {
    let Some(python) = peers::python() else { return };
    let server = Server::start(Command::new(python).arg(peers::script("s3_server.py")).arg("lakes"));
    let folder = tempfile::tempdir().unwrap();
    let tiny = tiny_policy(&folder.path().join("tiny"));
    let traces = Path::new(env!("CARGO_MANIFEST_DIR")).join("sample_data/langgraph");
    let (directory, store) = (folder.path().join("lake"), "s3://lakes/of/policies");
    let mut exported = Vec::new();
    for (lake, name) in [(directory.to_str().unwrap(), "from-directory"), (store, "from-store")] {
        let run = |arguments: &[&str]| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_fulgurite"));
            command.args(arguments).args(["--lake", lake]).env("AWS_ENDPOINT_URL", &server.url);
            let output = command.env("AWS_ACCESS_KEY_ID", "test").env("AWS_SECRET_ACCESS_KEY", "test").output().unwrap();
            assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        };
        run(&["policy", "import", "--from", tiny.to_str().unwrap()]);
        run(&["ingest", traces.to_str().unwrap(), "--batch", "b"]);
        run(&["build", "--batch", "b"]);
        let settings = ["old_logprobs=recompute", "checkpoint_steps=1", "minibatches=3", "learning_rate=0.01"];
        let settings: Vec<String> = settings.iter().map(|setting| format!("--set=train.{setting}")).collect();
        let train: Vec<&str> =
            ["train", "--batch", "b", "--threads", "1"].into_iter().chain(settings.iter().map(String::as_str)).collect();
        run(&train);
        let to = folder.path().join(name);
        run(&["policy", "export", "--version", "1", "--to", to.to_str().unwrap()]);
        let query = "select step, loss, grad_norm, row_tokens, trie_tokens from train_steps order by step";
        let files: BTreeMap<String, Vec<u8>> = std::fs::read_dir(&to)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(&path).unwrap()))
            .collect();
        exported.push((run(&["sql", "--format", "jsonl", query]), files));
    }
    assert_eq!(exported[0].0.lines().count(), 3);
    assert_eq!(exported[0].0, exported[1].0);
    assert!(exported[0].1.contains_key("model.safetensors"));
    assert!(exported[0].1 == exported[1].1, "the exported folders differ");
}

/// Three trainings in a row on a lake that keeps one optimiser's state beside the best policy's.
#[tokio::test(flavor = "multi_thread")]
async fn states_of_older_optimisers_go_but_that_of_the_best_policy() {
    let bench = Bench::new(&game()).await;
    let lake = bench.lake().await;
    let with_state = async || -> Vec<u64> {
        let manifests = lake.policy_manifests().await.unwrap().into_iter().filter(|manifest| !manifest.states.is_empty());
        manifests.filter_map(|manifest| Some(manifest.policy?.version)).collect()
    };
    let folders = |batch: &str| std::fs::read_dir(bench.location().join("_states/train").join(batch)).map_or(0, Iterator::count);
    // What the rollouts of policies 1 to 4 earned: policy 2 is the best of those that are known when the last training ends.
    let earned = [("b", 0.1), ("c", 0.4), ("d", 0.9), ("e", 0.2), ("f", 0.3)];
    let mut kept = Vec::new();
    for (version, (batch, reward)) in earned.into_iter().enumerate() {
        let rows: Vec<Value> =
            game().into_iter().map(|row| with(row, json!({ "policy_version": version, "outcome": reward }))).collect();
        let run = lake.begin("credit", batch).await.unwrap();
        let mut writer = run.writer("transitions", 0).unwrap();
        writer.write(&rows::batch(schema::table("transitions").unwrap(), &rows)).unwrap();
        writer.finish().await.unwrap();
        run.commit(Lineage::new("credit", json!({ "rows": version })).unwrap(), BTreeMap::new()).await.unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_fulgurite"));
        command.args(["train", "--threads", "1", "--batch", batch, "--lake", bench.location().to_str().unwrap()]);
        let output = command.args(["--set", "train.keep_states=1"]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(String::from_utf8_lossy(&output.stderr).contains("done"), "{}", String::from_utf8_lossy(&output.stderr));
        kept.push(with_state().await);
    }
    assert_eq!(kept, [vec![1], vec![1, 2], vec![2, 3], vec![2, 4], vec![2, 5]]);
    assert_eq!(["b", "c", "d", "e", "f"].map(folders), [0, 1, 0, 0, 1], "their files are gone too");
    // What is left of a policy whose state went is whole: it stands, and is trained from, with a word about the optimiser.
    assert_eq!(lake.policies().await.unwrap().len(), 6);
    assert!(bench.trained(&["keep_states=1"]).contains("nothing to do"));
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_step_it_ends_with_the_same_bytes() {
    let settings = [&FAST[..], &["epochs=10", "minibatches=3", "checkpoint_steps=1"]].concat();
    let calm = Bench::new(&game()).await;
    let started = Instant::now();
    calm.trained(&settings);
    let undisturbed = started.elapsed();
    let expected = calm.files(1).await;
    let again = Bench::new(&game()).await;
    again.trained(&settings);
    assert_eq!(again.files(1).await, expected, "same inputs and seed, same bytes");

    let killed = Bench::new(&game()).await;
    let (mut went_on, mut ended) = (0, false);
    for kill in 0..30u32 {
        let log = killed.folder.path().join(format!("log-{kill}"));
        let mut child = killed.command(&settings).stderr(std::fs::File::create(&log).unwrap()).spawn().unwrap();
        std::thread::sleep(undisturbed.mul_f64(0.2 + 0.15 * f64::from(kill % 5)));
        ended = child.try_wait().unwrap().is_some();
        child.kill().unwrap();
        child.wait().unwrap();
        went_on += u32::from(std::fs::read_to_string(&log).unwrap().contains("going on after step"));
        if ended {
            break;
        }
    }
    if !ended {
        killed.trained(&settings);
    }
    assert!(went_on > 0, "no run went on from a checkpoint");
    assert_eq!(killed.files(1).await, expected);
    let columns = "step, loss, grad_norm, entropy, approx_kl, trie_tokens";
    let query = format!("select {columns} from train_steps order by step");
    assert_eq!(killed.query(&query), calm.query(&query));
    let left = killed.lake().await.manifest("checkpoint", "b").await.unwrap().unwrap();
    assert!(left.states.is_empty(), "checkpoints go with the run's end: {:?}", left.states.keys());
}

#[tokio::test(flavor = "multi_thread")]
async fn interrupted_it_goes_on_where_it_was() {
    let settings = [&FAST[..], &["epochs=200", "minibatches=3", "checkpoint_steps=0"]].concat();
    let bench = Bench::new(&game()).await;
    let log = bench.folder.path().join("log");
    let mut child = bench.command(&settings).stderr(std::fs::File::create(&log).unwrap()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while !std::fs::read_to_string(&log).unwrap().contains("step 1/") && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id() as i32), nix::sys::signal::Signal::SIGINT).unwrap();
    let code = child.wait().unwrap().code();
    let said = std::fs::read_to_string(&log).unwrap();
    assert_eq!(code, Some(130), "{said}");
    assert!(said.contains("the same command goes on from there"), "{said}");
    let folders = ["_states/checkpoint", "_manifests/checkpoint"];
    for folder in folders {
        copy_folder(&bench.location().join(folder), &bench.folder.path().join(folder));
    }
    let shorter = bench.trained(&settings);
    assert!(shorter.contains("going on after step"), "{shorter}");

    // As if it had been killed when the policy was committed and the checkpoint still there.
    for folder in folders {
        let _ = std::fs::remove_dir_all(bench.location().join(folder));
        copy_folder(&bench.folder.path().join(folder), &bench.location().join(folder));
    }
    let left = async || bench.lake().await.manifest("checkpoint", "b").await.unwrap().unwrap().states.len();
    assert_eq!(left().await, 1);
    let again = bench.command(&settings).arg("--dry-run").output().unwrap();
    assert!(again.status.success() && left().await == 1, "{again:?}");
    assert!(bench.trained(&settings).contains("nothing to do"));
    assert_eq!(left().await, 0);
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_folder(&entry.path(), &to),
            false => drop(std::fs::copy(entry.path(), to).unwrap()),
        }
    }
}
