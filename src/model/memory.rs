//! How much memory a training step will take, said before anything is loaded.

use tch::Kind;

use super::ModelConfig;
use super::weights::shapes;
use crate::exit::Fault;

/// What decides a step's memory.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Of the weights and the activations; the optimiser's numbers are f32 or wider.
    pub kind: Kind,
    /// The rank of an adapter on every projection; `None` trains every weight.
    pub lora_rank: Option<i64>,
    /// A second copy of the weights stands beside: a reference policy that is not the model without its adapter.
    pub reference: bool,
    /// Tokens that go through the model at once.
    pub tokens: i64,
    /// Tokens whose logits are there at once.
    pub logit_tokens: i64,
    /// Layers are computed again on the way back, so that one layer's activations at a time are there.
    pub checkpointing: bool,
}

/// Bytes of each part at the fullest moment of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Need {
    pub weights: u64,
    pub gradients: u64,
    /// Both moments of AdamW, and an f32 copy of what is trained where the model is narrower.
    pub optimiser: u64,
    pub activations: u64,
    pub logits: u64,
}

impl Need {
    pub fn total(&self) -> u64 {
        self.weights + self.gradients + self.optimiser + self.activations + self.logits
    }
}

/// The numbers in a model's weights.
pub fn parameter_count(config: &ModelConfig) -> u64 {
    shapes(config).values().map(|shape| shape.iter().product::<i64>() as u64).sum()
}

/// The numbers in an adapter of this rank on every projection.
pub fn adapter_count(config: &ModelConfig, rank: i64) -> u64 {
    let projections = shapes(config).into_iter().filter(|(name, _)| name.ends_with("_proj.weight"));
    projections.map(|(_, shape)| (rank * (shape[0] + shape[1])) as u64).sum()
}

/// An estimate: attention is taken to keep no scores, and what the allocator holds back is not in it.
pub fn need(config: &ModelConfig, plan: &Plan) -> Need {
    let size = plan.kind.elt_size_in_bytes() as u64;
    let wide = size.max(4);
    let all = parameter_count(config);
    let trained = plan.lora_rank.map_or(all, |rank| adapter_count(config, rank));
    let adapter = plan.lora_rank.map_or(0, |_| trained);
    let copies = if plan.reference && plan.lora_rank.is_none() { 2 } else { 1 };
    let master = if size < 4 { trained } else { 0 };

    let (width, inner) = (config.hidden_size, config.intermediate_size);
    let (queries, keys) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
    // What one layer keeps of a token for the way back: the squares, scaled and normed inputs of both norms, queries and keys before and after
    // their rotation, values, what attention gives, and the gate before and after its activation, the other branch and their product. For
    // SmolLM2-135M that is 13 440 numbers; the process was seen to grow by 13 277 for each of 512 tokens and layer.
    let layer = 8 * width + 3 * queries + 5 * keys + 4 * inner;
    let layers = config.layers.max(1);
    let kept = if plan.checkpointing { layers * width + layer } else { layers * layer };
    // The logits of a chunk, their logarithms and their slopes.
    let logits = 3 * plan.logit_tokens.min(plan.tokens) as u64 * config.vocab_size as u64 * wide;
    Need {
        weights: all * size * copies + adapter * size,
        gradients: trained * size,
        optimiser: (2 * trained + master) * wide,
        activations: (plan.tokens * kept) as u64 * size,
        logits,
    }
}

/// Fails where a step needs more than there is, and says what would fit. Returns the bytes that are left.
///
/// * `available_bytes`: for weights, gradients, optimiser and step together, before the model is loaded.
pub fn check(config: &ModelConfig, plan: &Plan, available_bytes: u64) -> Result<u64, Fault> {
    let asked = need(config, plan);
    if let Some(left) = available_bytes.checked_sub(asked.total()) {
        return Ok(left);
    }
    let fits = |changed: &Plan| need(config, changed).total() <= available_bytes;
    let mut ways = Vec::new();
    if let Some(tokens) = most_tokens(plan, fits) {
        ways.push(format!("`train.micro_batch_tokens={tokens}`"));
    }
    let checkpointed = Plan { checkpointing: true, ..plan.clone() };
    if !plan.checkpointing && fits(&checkpointed) {
        ways.push("`train.activation_checkpointing=always`".to_owned());
    }
    let adapted = Plan { lora_rank: Some(16), checkpointing: true, ..plan.clone() };
    if plan.lora_rank.is_none() && fits(&adapted) {
        ways.push(ADAPTED.to_owned());
    } else if plan.lora_rank.is_none()
        && let Some(tokens) = most_tokens(&adapted, fits)
    {
        ways.push(format!("{ADAPTED} and `train.micro_batch_tokens={tokens}`"));
    }
    let Need { weights, gradients, optimiser, activations, logits } = asked;
    let parts = [
        ("weights", weights),
        ("gradients", gradients),
        ("optimiser", optimiser),
        ("activations", activations),
        ("logits", logits),
    ];
    let parts: Vec<String> = parts.iter().map(|(name, bytes)| format!("{name} {}", gigabytes(*bytes))).collect();
    let ways = if ways.is_empty() { "nothing of this model".to_owned() } else { ways.join("; or ") };
    Err(Fault::Failed(format!(
        "training needs about {} ({}), and {} are free; what would fit: {ways}",
        gigabytes(asked.total()),
        parts.join(", "),
        gigabytes(available_bytes)
    )))
}

/// What needs least.
const ADAPTED: &str = "`train.lora.rank=16` with `train.activation_checkpointing=always`";

/// The largest power of two of tokens, of 64 at least, that fits and is less than the plan's.
fn most_tokens(plan: &Plan, fits: impl Fn(&Plan) -> bool) -> Option<i64> {
    let smaller = (6..31).map(|power| 1i64 << power).take_while(|tokens| *tokens < plan.tokens);
    smaller.filter(|tokens| fits(&Plan { tokens: *tokens, ..plan.clone() })).max()
}

fn gigabytes(bytes: u64) -> String {
    format!("{:.1} GB", bytes as f64 / 1e9)
}

/// Main memory that a process can still take: what the system has left, or less where a control group has a limit. `None` where neither can be
/// read.
pub fn available_bytes() -> Option<u64> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
    let free = free_of(&meminfo)?;
    let number = |name: &str| std::fs::read_to_string(format!("/sys/fs/cgroup/{name}")).ok()?.trim().parse::<u64>().ok();
    let left = number("memory.max").zip(number("memory.current")).map(|(limit, used)| limit.saturating_sub(used));
    Some(left.map_or(free, |left| left.min(free)))
}

fn free_of(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SmolLM2-135M.
    fn smol() -> ModelConfig {
        let keys = serde_json::json!({"model_type": "llama", "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536,
            "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": true});
        ModelConfig::from_json(keys).unwrap()
    }

    const PLAN: Plan =
        Plan { kind: Kind::Float, lora_rank: None, reference: false, tokens: 4096, logit_tokens: 256, checkpointing: true };

    #[test]
    fn weights_are_counted() {
        // As its authors give it.
        assert_eq!(parameter_count(&smol()), 134_515_008);
        // 30 layers of 8 * (2 * (576 + 576) + 2 * (576 + 192) + 3 * (576 + 1536)).
        assert_eq!(adapter_count(&smol(), 8), 2_442_240);
    }

    #[test]
    fn parts_follow_from_the_plan() {
        let all = 134_515_008;
        let full = need(&smol(), &PLAN);
        assert_eq!((full.weights, full.gradients, full.optimiser), (4 * all, 4 * all, 8 * all));
        assert_eq!(full.logits, 3 * 256 * 49152 * 4);
        let half = need(&smol(), &Plan { kind: Kind::BFloat16, ..PLAN });
        assert_eq!((half.weights, half.gradients, half.optimiser), (2 * all, 2 * all, 12 * all));
        let adapter = need(&smol(), &Plan { lora_rank: Some(8), reference: true, ..PLAN });
        assert_eq!((adapter.weights, adapter.optimiser), (4 * (all + 2_442_240), 8 * 2_442_240));
        assert_eq!(need(&smol(), &Plan { reference: true, ..PLAN }).weights, 8 * all);
    }

    #[test]
    fn what_would_fit_is_said() {
        assert!(check(&smol(), &PLAN, 8_000_000_000).is_ok());
        let message = |plan: &Plan, available| check(&smol(), plan, available).unwrap_err().to_string();
        let said = message(&PLAN, 2_500_000_000);
        assert!(
            said.contains("2.5 GB are free; what would fit: `train.micro_batch_tokens=")
                && said.contains("; or `train.lora.rank=16`"),
            "{said}"
        );
        let said = message(&Plan { checkpointing: false, ..PLAN }, 4_000_000_000);
        assert!(said.contains("; or `train.activation_checkpointing=always`; or `train.lora.rank=16`"), "{said}");
        assert!(message(&PLAN, 100_000_000).ends_with("what would fit: nothing of this model"));
        // What is said to fit does.
        let tokens = most_tokens(&PLAN, |plan| need(&smol(), plan).total() <= 2_500_000_000).unwrap();
        assert!(check(&smol(), &Plan { tokens, ..PLAN }, 2_500_000_000).is_ok());
    }

    #[test]
    fn free_memory_is_read() {
        assert_eq!(free_of("MemTotal:  9 kB\nMemAvailable:    5 kB\n"), Some(5120));
        assert_eq!(free_of("MemTotal:  9 kB\n"), None);
    }
}
