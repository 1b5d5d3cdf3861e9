//! The stage `train` as a user runs it: tiny policies, transitions written for the test, the program itself.

mod bench;
mod safe;

use std::path::Path;

use serde_json::{Value, json};
use tch::Kind;

use crate::stages::fulgurite;

use bench::{Bench, END, FAST, game, transition, with, write_text_side};

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_learns_what_is_rewarded() {
    let bench = Bench::new(&game()).await;
    let said = bench.trained(&[&FAST[..], &["epochs=4", "minibatches=2", "tokens=true"]].concat());
    assert!(said.contains("train b: done") && said.contains("step 8/8, loss"), "{said}");
    let prompt = [1, 3, 6, 15, END, 2, 3];
    let margin = async |version| bench.logp(version, &prompt, &[4, END]).await - bench.logp(version, &prompt, &[5, END]).await;
    let (before, after) = (margin(0).await, margin(1).await);
    assert!(after > before + 0.5, "{before} {after}");

    let steps = bench.query("select * from train_steps order by step");
    assert_eq!(steps.len(), 8);
    assert_eq!(steps[0]["policy_version"], 1);
    let sum = |name: &str| steps.iter().map(|step| step[name].as_i64().unwrap()).sum::<i64>();
    assert_eq!((sum("calls"), sum("rollouts"), sum("response_tokens")), (4 * 8, 4 * 6, 4 * 18));
    assert!(sum("trie_tokens") < sum("row_tokens"), "prompts are shared");
    assert!(steps.iter().all(|step| step["loss"].as_f64().unwrap().is_finite()));
    assert!(steps[0]["grad_norm"].as_f64().unwrap() > 0.0);
    // Group means of 2/3, by hand.
    assert!((steps[0]["frac_reward_zero_std"].as_f64().unwrap()).abs() < 1e-12);

    let tokens = bench.query("select * from train_tokens order by rollout_id, step, position");
    assert_eq!(tokens.len(), 18);
    let yes = tokens.iter().find(|token| token["rollout_id"] == "a0" && token["position"] == 0).unwrap();
    assert_eq!((yes["token_id"].as_i64(), yes["token"].as_str()), (Some(4), Some("yes")));
    let logp = |name: &str| yes[name].as_f64().unwrap();
    assert!((logp("logprob_before") - bench.logp(0, &prompt, &[4]).await).abs() < 1e-4);
    assert!((logp("logprob_after") - bench.logp(1, &prompt, &[4]).await).abs() < 1e-4);
    // What the sampler recorded, what credit gave, and where the ratio of now to then stands, by hand from the bounds 0.8, 1.28 and 3.
    for token in &tokens {
        let number = |name: &str| token[name].as_f64().unwrap();
        let (ratio, advantage) = ((number("logprob_after") - number("behaviour_logprob")).exp(), number("advantage"));
        assert_eq!((number("behaviour_logprob"), number("weight")), (-2.75, 1.0));
        assert_eq!(advantage, if token["rollout_id"].as_str().unwrap().ends_with('1') { -0.5 } else { 0.5 });
        let expected = match () {
            () if advantage > 0.0 && ratio > 1.28 => "high",
            () if advantage < 0.0 && ratio < 0.8 => "low",
            () if advantage < 0.0 && ratio > 3.0 => "dual",
            () => "none",
        };
        assert_eq!(token["clip"], expected, "{token}");
    }
    assert!(tokens.iter().any(|token| token["clip"] == "high"));

    assert!(bench.trained(&[&FAST[..], &["epochs=4", "minibatches=2", "tokens=true"]].concat()).contains("nothing to do"));
    assert!(bench.location().join("tensorboard/b/events.out.tfevents.0.fulgurite").is_file());
    // Everything but the weights is the parent's.
    let (zero, one) = (bench.files(0).await, bench.files(1).await);
    let changed: Vec<_> = zero.iter().zip(&one).filter(|(one, other)| one != other).map(|(one, _)| one.0.as_str()).collect();
    assert_eq!(changed, ["model.safetensors"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_traces_are_imitated() {
    let message = |role: &str, content: &str| json!({ "role": role, "content": content });
    let row = |rollout: &str, answer: &str, outcome: f64| {
        let changes = json!({
            "prompt_token_ids": null, "response_token_ids": null, "behaviour_logprobs": null, "policy_version": null, "advantage": null,
            "token_source": "none", "temperature": null, "drop_reason": "singleton", "outcome": outcome,
            "messages": json!([message("user", "three is ?")]).to_string(), "response": message("assistant", answer).to_string(),
        });
        with(transition(rollout, rollout, 0, &[], &[]), changes)
    };
    let rows = [row("r0", "three", 1.0), row("r1", "four", 0.0)];
    let bench = Bench::new(&rows).await;
    let output = bench.train(&[]);
    assert_eq!(output.status.code(), Some(1), "nothing can be compared");
    assert!(String::from_utf8_lossy(&output.stderr).contains("dropped by credit: 2 singleton"));

    bench.trained(&[&FAST[..], &["algorithm=sft", "min_outcome=1", "epochs=20"]].concat());
    let prompt = [1, 3, 9, 14, 15, END, 2, 3];
    assert!(bench.logp(1, &prompt, &[9, END]).await > bench.logp(0, &prompt, &[9, END]).await + 3.0);
    let steps = bench.query("select calls, response_tokens, entropy, ppo_kl from train_steps where step = 0");
    assert_eq!(steps[0]["calls"], 1, "the failed one is not imitated");
    assert_eq!(steps[0]["response_tokens"], 2, "the word and the end of the turn");
    assert_eq!(steps[0]["ppo_kl"], Value::Null, "imitation has no ratio");
}

/// What a case of scripts/fixtures/train.py is called here, under `train.`.
fn settings_of(case: &Value) -> Vec<String> {
    let mut settings: Vec<String> =
        ["epochs=3", "learning_rate=0.01", "clip_norm=0.5", "optimiser.epsilon=0.001", "optimiser.weight_decay=0.1"]
            .map(str::to_owned)
            .into();
    for (key, value) in case.as_object().unwrap() {
        let name = match key.as_str() {
            "recompute" => {
                settings.push("old_logprobs=recompute".to_owned());
                continue;
            }
            "entropy_bonus" => "entropy_bonus",
            "kl" => "kl.coefficient",
            "kl_place" => "kl.place",
            "kl_estimator" => "kl.estimator",
            "correction" => "correction.kind",
            "low" => "correction.low",
            "high" => "correction.high",
            other => panic!("`{other}` is new"),
        };
        settings.push(format!("loss.{name}={}", value.as_str().map_or(value.to_string(), str::to_owned)));
    }
    settings
}

/// Three updates by PPO, with a divergence in the loss and in the reward, an entropy bonus, old log-probs computed anew and every correction for
/// another sampler, against PyTorch doing the same row by row: scripts/fixtures/train.py.
#[tokio::test(flavor = "multi_thread")]
async fn whole_updates_are_those_of_pytorch() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/train");
    let expected: Value = serde_json::from_slice(&std::fs::read(fixtures.join("rows.json")).unwrap()).unwrap();
    let rows: Vec<Value> = expected["rows"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| {
            let ids = |name: &str| -> Vec<u32> { serde_json::from_value(row[name].clone()).unwrap() };
            let text = |name: &str| row[name].as_str().unwrap();
            let plain =
                transition(text("group"), text("rollout"), row["step"].as_i64().unwrap(), &ids("prompt"), &ids("response"));
            let names = ["temperature", "advantage", "weight", "behaviour_logprobs"];
            with(
                plain,
                names.iter().map(|name| ((*name).to_owned(), row[*name].clone())).collect::<serde_json::Map<_, _>>().into(),
            )
        })
        .collect();
    let policy = |folder: &Path| {
        std::fs::create_dir_all(folder).unwrap();
        for name in ["config.json", "model.safetensors"] {
            std::fs::copy(fixtures.join("model").join(name), folder.join(name)).unwrap();
        }
        write_text_side(folder);
        folder.to_owned()
    };
    let after = fulgurite::model::safetensors::read_all(&fixtures.join("after.safetensors")).unwrap();
    let cases = expected["cases"].as_object().unwrap();
    assert_eq!(cases.len(), 9);
    for (index, (name, case)) in cases.iter().enumerate() {
        let settings = settings_of(&case["case"]);
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        let bench = Bench::of(&policy, &rows).await;
        // Two thirds of the cases in small pieces, or with no memory for activations, which are computed again.
        let pieces: &[&str] =
            [&[][..], &["micro_batch_tokens=12", "activation_checkpointing=always"], &["activation_mib=0"]][index % 3];
        bench.trained(&[&settings[..], pieces].concat());
        for (tensor, weight) in bench.model(1).await.parameters() {
            let expected = after[&format!("{name}.{tensor}")].to_kind(Kind::Double);
            let distance = (&weight - expected).abs().max().double_value(&[]);
            assert!(distance < 1e-6, "{name}, {tensor}: {distance}");
        }
        let steps = bench.query("select loss, grad_norm, correction_mean, frac_tokens_rejected from train_steps order by step");
        for (column, key) in [("loss", "losses"), ("grad_norm", "norms")] {
            for (step, expected) in steps.iter().zip(case[key].as_array().unwrap()) {
                assert!((step[column].as_f64().unwrap() - expected.as_f64().unwrap()).abs() < 1e-5, "{name}, {column}");
            }
        }
        if let Some(mean) = case["correction_mean"].as_f64() {
            assert!((steps[0]["correction_mean"].as_f64().unwrap() - mean).abs() < 1e-5, "{name}");
            let tokens: usize = rows.iter().map(|row| row["response_token_ids"].as_array().unwrap().len()).sum();
            let rejected = steps[0]["frac_tokens_rejected"].as_f64().unwrap() * tokens as f64;
            assert!((rejected - case["rejected"].as_f64().unwrap()).abs() < 1e-9, "{name}: {rejected}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn micro_batches_change_nothing() {
    let mut policies = Vec::new();
    for tokens in ["8", "20", "100000"] {
        let bench = Bench::new(&game()).await;
        let micro = format!("micro_batch_tokens={tokens}");
        // Adam makes steps of the rate's size out of gradients of any, so that a coarse epsilon is needed to see no more than rounding.
        bench.trained(&[&FAST[..], &["compute=f64", "epochs=2", "optimiser.epsilon=0.1", &micro]].concat());
        policies.push(bench.model(1).await.parameters());
    }
    for other in &policies[1..] {
        for ((name, one), (_, other)) in policies[0].iter().zip(other) {
            let distance = (one - other).abs().max().double_value(&[]);
            assert!(distance < 1e-7, "{name}: {distance}"); // saved in f32
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adapter_is_trained_merged_and_gone_on_with() {
    let bench = Bench::new(&game()).await;
    let settings = ["lora.rank=2", "learning_rate=0.02", "epochs=4", "loss.kl.coefficient=0.1"];
    bench.trained(&settings);
    let prompt = [1, 3, 6, 15, END, 2, 3];
    let margin = async |version| bench.logp(version, &prompt, &[4, END]).await - bench.logp(version, &prompt, &[5, END]).await;
    assert!(margin(1).await > margin(0).await + 0.1);
    // The reference is the model without its adapter, which is what the first step still is.
    let steps = bench.query("select reference_kl from train_steps order by step");
    assert!(steps[0]["reference_kl"].as_f64().unwrap().abs() < 1e-9 && steps[3]["reference_kl"].as_f64().unwrap() > 1e-6);
    // What is no projection stays as it was.
    let names = ["model.embed_tokens.weight", "model.norm.weight"];
    let (zero, one) = (bench.model(0).await.parameters(), bench.model(1).await.parameters());
    for ((name, before), (_, after)) in zero.iter().zip(&one) {
        let kept = names.contains(&name.as_str()) || name.contains("layernorm");
        assert_eq!(before == after, kept, "{name}");
    }
    // The weights of policy 1 are those of policy 0 with the adapter that lies beside them.
    let lake = bench.lake().await;
    let folder = lake.fetch_policy(&lake.policy(Some(1)).await.unwrap()).await.unwrap();
    let mut model = bench.model(0).await;
    model.load_adapter(&folder.path().join("adapter")).unwrap();
    for ((name, one), (_, other)) in model.merged().parameters().iter().zip(&one) {
        assert!((one - other).abs().max().double_value(&[]) < 1e-6, "{name}");
    }
    // The next batch goes on with that adapter, on the weights of policy 0.
    bench.train_on_a_second_batch(&settings).await;
    let base =
        std::fs::read(lake.fetch_policy(&lake.policy(Some(2)).await.unwrap()).await.unwrap().path().join("adapter/base.json"));
    assert_eq!(serde_json::from_slice::<Value>(&base.unwrap()).unwrap()["policy"], 0);
    assert!(margin(2).await > margin(1).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_critic_learns_to_tell_returns_apart() {
    // Question 6 is worth 1, question 7 nothing.
    let rows: Vec<Value> =
        game().into_iter().map(|row| with(row.clone(), json!({ "return_value": f64::from(row["group_id"] == "a") }))).collect();
    let bench = Bench::new(&rows).await;
    let settings = ["critic.enabled=true", "critic.clip=inf", "critic.learning_rate=0.03", "learning_rate=0.001", "epochs=60"];
    bench.trained(&settings);
    let steps = bench.query("select vf_loss, vf_explained_variance, value_mean from train_steps order by step");
    let number = |step: usize, name: &str| steps[step][name].as_f64().unwrap();
    // A new head says 0 to all: half the mean square of the returns, times 0.5, is 0.125; nothing is explained.
    assert!((number(0, "vf_loss") - 0.125).abs() < 1e-9, "{}", number(0, "vf_loss"));
    assert_eq!((number(0, "vf_explained_variance"), number(0, "value_mean")), (0.0, 0.0));
    assert!(number(59, "vf_loss") < 0.02 && number(59, "vf_explained_variance") > 0.8, "{:?}", steps[59]);
    let names: Vec<String> = bench.files(1).await.into_iter().map(|(name, _)| name).collect();
    assert!(names.contains(&"value_head.safetensors".to_owned()), "{names:?}");
}

/// values → credit by `gae` → train → values of the next policy, on recorded traces.
#[tokio::test(flavor = "multi_thread")]
async fn a_critic_goes_round() {
    let bench = Bench::new(&[]).await;
    let location = bench.location();
    let run = |subcommand: &str, settings: &[&str]| {
        let mut command = fulgurite(subcommand, location.to_str().unwrap());
        command.args(["--threads", "1"]);
        for setting in settings {
            command.args(["--set", setting]);
        }
        if subcommand == "ingest" {
            command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("sample_data/langgraph"));
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stderr).unwrap()
    };
    for stage in ["ingest", "derive", "air", "values"] {
        run(stage, &[]);
    }
    let gae = ["credit.method=gae", "credit.comparison=none"];
    run("credit", &gae);
    let values = "select min(value) as least, max(value) as most, count(*) as n from \"values\"";
    let zero = bench.query(values);
    assert_eq!(
        (zero[0]["least"].as_f64(), zero[0]["most"].as_f64()),
        (Some(0.0), Some(0.0)),
        "a policy without a head expects nothing"
    );
    assert_eq!(zero[0]["n"], bench.query("select count(*) as n from calls")[0]["n"]);
    let critic = [
        "train.old_logprobs=recompute",
        "train.critic.enabled=true",
        "train.critic.clip=inf",
        "train.learning_rate=0.001",
        "train.epochs=3",
    ];
    run("train", &critic);
    assert!(run("values", &[]).contains("nothing to do"), "the batch's values stay those of the policy that is trained on it");
    run("values", &["train.policy=1"]);
    let one = bench.query(values);
    assert!(one[0]["most"].as_f64().unwrap() > 0.0, "{one:?}");
}
