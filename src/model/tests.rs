//! Logits against those of transformers, on the fixtures that `scripts/fixtures/models.py` makes.

use std::path::{Path, PathBuf};

use tch::{Device, Kind, Tensor};

use super::safetensors::read_all;
use super::{Model, attend};

const MODELS: [&str; 9] =
    ["llama_tied", "llama_biased", "llama_sharded_bf16", "qwen2", "qwen3", "llama3", "linear", "yarn", "yarn_mscale"];

pub(super) fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models")
}

pub(super) fn load(name: &str, kind: Kind) -> Model {
    Model::load(&fixtures().join(name), Device::Cpu, kind).expect(name)
}

/// Logits of one sequence at these positions.
pub(super) fn logits(model: &Model, ids_n: &Tensor, positions_n: &Tensor) -> Tensor {
    let rotations = model.rotations(positions_n);
    let mut x_nd = model.embed(ids_n);
    for index in 0..model.layers.len() {
        x_nd = model.layer(index, &x_nd, &rotations, &mut attend::causal);
    }
    model.logits(&model.final_norm(&x_nd))
}

pub(super) fn furthest(left: &Tensor, right: &Tensor) -> f64 {
    assert_eq!(left.size(), right.size());
    (left.to_kind(Kind::Double) - right.to_kind(Kind::Double)).abs().max().double_value(&[])
}

/// The furthest that a model's logits are from those in a fixture.
pub(super) fn off(model: &Model, folder: &str, expected: &str) -> f64 {
    let tensors = read_all(&fixtures().join(folder).join("expected.safetensors")).unwrap();
    let row = |row: i64| logits(model, &tensors["ids"].get(row), &tensors["positions"].get(row));
    furthest(&Tensor::stack(&[row(0), row(1)], 0), &tensors[expected])
}

#[test]
fn logits_are_those_of_transformers() {
    let _guard = tch::no_grad_guard();
    for name in MODELS {
        // Logits of bf16 reach 8, where its steps are of 0.03.
        let kinds =
            [(Kind::Double, "logits_f64", 1e-9), (Kind::Float, "logits_f32", 2e-5), (Kind::BFloat16, "logits_bf16", 0.07)];
        for (kind, expected, limit) in kinds {
            let off = off(&load(name, kind), name, expected);
            assert!(off < limit, "{name} in {kind:?}: off by {off:e}");
        }
    }
}

/// The furthest, relative to its size, that a gradient's norm or its product with its parameter is from those in a fixture.
pub(super) fn gradients_off(model: &Model, folder: &str) -> f64 {
    let tensors = read_all(&fixtures().join(folder).join("expected.safetensors")).unwrap();
    let trained = model.trainable();
    for (_, parameter) in &trained {
        let _ = parameter.set_requires_grad(true);
    }
    let ids_n = tensors["ids"].get(0);
    let logits_nv = logits(model, &ids_n, &tensors["positions"].get(0));
    logits_nv.narrow(0, 0, 16).log_softmax(-1, Kind::Double).nll_loss(&ids_n.narrow(0, 1, 16)).backward();
    let numbers: Vec<Tensor> = trained
        .iter()
        .map(|(_, parameter)| Tensor::stack(&[parameter.grad().norm(), (parameter.grad() * parameter).sum(None)], 0).detach())
        .collect();
    let (found, expected) = (Tensor::stack(&numbers, 0), &tensors["gradients"]);
    let norms = expected.narrow(1, 0, 1);
    furthest(&(found / &norms), &(expected / &norms))
}

#[test]
fn gradients_are_those_of_transformers() {
    for name in MODELS {
        let off = gradients_off(&load(name, Kind::Double), name);
        assert!(off < 1e-9, "{name}: off by {off:e}");
    }
}

#[test]
fn decoding_with_a_cache_equals_the_full_forward() {
    let _guard = tch::no_grad_guard();
    for name in ["llama_tied", "qwen3", "yarn"] {
        let model = load(name, Kind::Double);
        let ids_n = (Tensor::arange(11, (Kind::Int64, Device::Cpu)) * 5).remainder(31);
        let mut cache: Vec<Option<(Tensor, Tensor)>> = model.layers.iter().map(|_| None).collect();
        let mut steps = Vec::new();
        // A prompt of five tokens at once, then one at a time.
        for (start, length) in [(0, 5), (5, 1), (6, 1), (7, 1), (8, 1), (9, 1), (10, 1)] {
            let rotations = model.rotations(&Tensor::arange_start(start, start + length, (Kind::Int64, Device::Cpu)));
            let mut x_nd = model.embed(&ids_n.narrow(0, start, length));
            for (index, cached) in cache.iter_mut().enumerate() {
                x_nd = model.layer(index, &x_nd, &rotations, &mut |q_nhc, k_ngc, v_ngc| {
                    let (k_mgc, v_mgc) = match cached.as_ref() {
                        None => (k_ngc.shallow_clone(), v_ngc.shallow_clone()),
                        Some((k_mgc, v_mgc)) => (Tensor::cat(&[k_mgc, k_ngc], 0), Tensor::cat(&[v_mgc, v_ngc], 0)),
                    };
                    let attended_nhc = attend::attention(q_nhc, &k_mgc, &v_mgc, None, start == 0);
                    *cached = Some((k_mgc, v_mgc));
                    attended_nhc
                });
            }
            steps.push(model.logits(&model.final_norm(&x_nd)));
        }
        let off = furthest(&Tensor::cat(&steps, 0), &model.forward(&ids_n));
        assert!(off < 1e-12, "{name}: off by {off:e}");
    }
}

#[test]
fn sequences_side_by_side_equal_one_by_one() {
    let _guard = tch::no_grad_guard();
    for name in ["llama_biased", "qwen2", "qwen3"] {
        let model = load(name, Kind::Double);
        let lengths = [3, 9, 1, 6];
        let ids: Vec<Tensor> = lengths
            .iter()
            .map(|length| (Tensor::arange(*length, (Kind::Int64, Device::Cpu)) * (length + 2)).remainder(31))
            .collect();
        let places: Vec<Tensor> = lengths.iter().map(|length| Tensor::arange(*length, (Kind::Int64, Device::Cpu))).collect();
        let owners: Vec<Tensor> =
            (0..).zip(lengths).map(|(row, length)| Tensor::full([length], row, (Kind::Int64, Device::Cpu))).collect();
        let (positions_n, owners_n) = (Tensor::cat(&places, 0), Tensor::cat(&owners, 0));
        let order_n = Tensor::arange(lengths.iter().sum::<i64>(), (Kind::Int64, Device::Cpu));
        let earlier_nn = order_n.unsqueeze(1).ge_tensor(&order_n.unsqueeze(0));
        let mask_nn = owners_n.unsqueeze(1).eq_tensor(&owners_n.unsqueeze(0)).logical_and(&earlier_nn);

        let rotations = model.rotations(&positions_n);
        let mut x_nd = model.embed(&Tensor::cat(&ids, 0));
        for index in 0..model.layers.len() {
            x_nd = model.layer(index, &x_nd, &rotations, &mut |q, k, v| attend::attention(q, k, v, Some(&mask_nn), false));
        }
        let together = model.logits(&model.final_norm(&x_nd));
        let apart: Vec<Tensor> = ids.iter().map(|ids_n| model.forward(ids_n)).collect();
        let off = furthest(&together, &Tensor::cat(&apart, 0));
        assert!(off < 1e-12, "{name}: off by {off:e}");
    }
}

#[test]
fn a_saved_model_is_the_same_model() {
    let folder = tempfile::tempdir().unwrap();
    for name in MODELS {
        for kind in [Kind::Double, Kind::BFloat16] {
            let model = load(name, kind);
            let (first, again) = (folder.path().join("first"), folder.path().join("again"));
            model.save(&first).unwrap();
            let back = Model::load(&first, Device::Cpu, kind).unwrap();
            for ((left_name, left), (right_name, right)) in model.parameters().iter().zip(back.parameters()) {
                assert_eq!(*left_name, right_name);
                assert!(left.equal(&right), "{name}: {left_name}");
            }
            assert_eq!(back.config, super::ModelConfig { source: back.config.source.clone(), ..model.config.clone() });
            back.save(&again).unwrap();
            for file in ["model.safetensors", "config.json"] {
                assert_eq!(std::fs::read(first.join(file)).unwrap(), std::fs::read(again.join(file)).unwrap(), "{name}: {file}");
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let model = load("llama_tied", Kind::Float);
    let up = "model.layers.1.mlp.up_proj.weight";
    // What is done to the tensors and to the configuration, and what has to be in the message.
    let cases: [(&str, fn(&mut Vec<(String, Tensor)>, &mut serde_json::Value), &str); 8] = [
        ("missing", |tensors, _| tensors.retain(|(name, _)| name != "model.layers.1.mlp.up_proj.weight"), up),
        (
            "shape",
            |_, config| config["intermediate_size"] = 25.into(),
            "`model.layers.0.mlp.down_proj.weight` has the shape [16, 24]; its config.json says [16, 25]",
        ),
        (
            "unknown",
            |tensors, _| tensors.push(("model.layers.0.extra".to_owned(), Tensor::from_slice(&[1.0f32]))),
            "model.layers.0.extra",
        ),
        ("architecture", |_, config| config["model_type"] = "mamba".into(), "architecture `mamba` is not supported"),
        (
            "class",
            |_, config| config["architectures"][0] = "LlamaForSequenceClassification".into(),
            "LlamaForSequenceClassification",
        ),
        (
            "rope",
            |_, config| config["rope_parameters"]["rope_type"] = "longrope".into(),
            "`rope_type` `longrope` is not supported",
        ),
        ("activation", |_, config| config["hidden_act"] = "gelu".into(), "`hidden_act` = \"gelu\" is not supported"),
        ("key", |_, config| drop(config.as_object_mut().unwrap().remove("vocab_size")), "`vocab_size` is missing"),
    ];
    for (case, change, message) in cases {
        model.save(folder.path()).unwrap();
        let mut tensors = model.parameters();
        let mut config = model.config.to_json(Kind::Float);
        change(&mut tensors, &mut config);
        super::safetensors::write(&folder.path().join("model.safetensors"), &tensors).unwrap();
        std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        let error = Model::load(folder.path(), Device::Cpu, Kind::Float).expect_err(case);
        assert!(format!("{error:#}").contains(message), "{case}: {error:#}");
    }
}

#[test]
fn both_forms_of_rope_settings_say_the_same() {
    let new = serde_json::json!({"rope_parameters": {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}});
    let old = serde_json::json!({"rope_theta": 500000.0, "rope_scaling": {"type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}});
    let [new, old] = [new, old].map(|keys| super::Rope::from_json(keys.as_object().unwrap(), 131072).unwrap());
    assert_eq!(new, old);
    assert_eq!(new.theta, 500000.0);
}

#[test]
fn a_random_model_depends_on_its_seed_alone() {
    let config = load("qwen3", Kind::Float).config;
    let make = |seed, kind| Model::random(config.clone(), seed, Device::Cpu, kind).unwrap();
    let (model, again, other) = (make(1, Kind::Float), make(1, Kind::Double), make(2, Kind::Float));
    assert!(model.embedding_vd.equal(&again.embedding_vd.to_kind(Kind::Float)));
    assert!(!model.embedding_vd.equal(&other.embedding_vd));
    let deviation = model.embedding_vd.std(true).double_value(&[]);
    assert!((deviation - 0.02).abs() < 0.002, "{deviation}");
}

/// Needs a Python with torch, transformers and peft: `make peers` names it.
#[test]
fn saved_models_load_in_transformers_and_peft() {
    use std::io::Write as _;
    let Some(python) = std::env::var_os("FULGURITE_TORCH_PYTHON") else {
        let _ = writeln!(std::io::stderr(), "skipped: FULGURITE_TORCH_PYTHON names no Python with transformers");
        return;
    };
    let _guard = tch::no_grad_guard();
    let folder = tempfile::tempdir().unwrap();
    let ids_n = (Tensor::arange(13, (Kind::Int64, Device::Cpu)) * 11).remainder(31);
    let save = |model: &Model, name: &str| {
        let folder = folder.path().join(name);
        model.save(&folder).unwrap();
        if !model.adapter_parameters().is_empty() {
            model.save_adapter(&folder.join("adapter"), None).unwrap();
        }
        let logits = model.forward(&ids_n);
        let expected = [("ids".to_owned(), ids_n.shallow_clone()), ("logits".to_owned(), logits)];
        super::safetensors::write(&folder.join("logits.safetensors"), &expected).unwrap();
    };
    for name in MODELS {
        save(&load(name, Kind::Double), name);
    }
    for name in ["llama_biased", "qwen2", "qwen3"] {
        let file = super::gguf::Gguf::open(&fixtures().join(format!("{name}.gguf"))).unwrap();
        save(&Model::from_gguf(&file, Device::Cpu, Kind::Double).unwrap(), &format!("{name}_gguf"));
    }
    let mut adapted = load("qwen2", Kind::Double);
    adapted.add_adapter(2, 3.0, &["q_proj", "v_proj", "down_proj"], 5).unwrap();
    let halves = adapted.layers.iter().flat_map(|layer| layer.projections()).filter_map(|(_, linear)| linear.lora.as_ref());
    halves.for_each(|lora| drop(lora.b_or.shallow_clone().fill_(0.1)));
    save(&adapted, "qwen2_adapted");
    save(&adapted.merged(), "qwen2_merged");

    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/load_models.py");
    let run = std::process::Command::new(python).arg(script).arg(folder.path()).env("HF_HUB_OFFLINE", "1").output().unwrap();
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{said}{}", String::from_utf8_lossy(&run.stderr));
    assert_eq!(said.lines().count(), MODELS.len() + 5);
    print!("{said}");
}

/// The file that `make models` fetches; the expected numbers are those of transformers, which dequantised it by itself.
#[test]
fn a_real_model_answers_as_in_transformers() {
    use std::io::Write as _;
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = root.join("models/SmolLM2-135M-Instruct.Q4_1.gguf");
    if !path.exists() {
        let _ = writeln!(std::io::stderr(), "skipped: no `{}`; `make models` fetches it", path.display());
        return;
    }
    let _guard = tch::no_grad_guard();
    let model = Model::from_gguf(&super::gguf::Gguf::open(&path).unwrap(), Device::Cpu, Kind::Float).unwrap();
    let expected = read_all(&root.join("tests/fixtures/smollm2.safetensors")).unwrap();
    let mut ids_n = expected["prompt"].shallow_clone();
    let logits_nv = model.forward(&ids_n);
    let off = furthest(&logits_nv.slice(1, None, None, 96), &expected["logits"]);
    // The logits reach 36, where a step of f32 is 4e-6.
    assert!(off < 1e-4, "off by {off:e}");
    let answer: Vec<i64> = Vec::try_from(&expected["answer"]).unwrap();
    for (place, wanted) in answer.into_iter().enumerate() {
        let next = model.forward(&ids_n).get(-1).argmax(0, false);
        assert_eq!(next.int64_value(&[]), wanted, "token {place} of the answer");
        ids_n = Tensor::cat(&[ids_n, next.view([1])], 0);
    }
    println!("off by {off:.1e}");
}
