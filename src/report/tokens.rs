//! The tokens of a response as they are coloured: by what training changed where it wrote that down, else by how likely they were.

use std::collections::BTreeMap;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::lake::Lake;
use crate::text::Tokenizer;

/// Tokens of a response that are shown at most.
pub const SHOWN: usize = 600;

/// Changes of a log-prob that tell the shades apart, in nats.
const CHANGES: [f64; 4] = [0.01, 0.05, 0.2, 0.6];

/// Probabilities below which a sampled token is shaded, darker from one to the next.
const PROBABILITIES: [f64; 4] = [0.9, 0.5, 0.1, 0.01];

/// Files of a policy that its tokenizer is made of.
const TOKENIZER_FILES: [&str; 5] =
    ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json", "config.json"];

/// A row of `report/chosen_tokens`.
#[derive(Debug, Clone, Deserialize)]
pub struct TokenRow {
    pub batch: String,
    pub rollout_id: String,
    pub call_id: String,
    pub token: String,
    pub logprob_before: Option<f64>,
    pub logprob_after: Option<f64>,
    pub clip: String,
}

/// A token as the page shows it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Token {
    pub text: String,
    /// Class of the page: `u1` to `u4` for what became more likely, `d1` to `d4` for less, `s1` to `s4` for what was unlikely.
    pub class: String,
    /// Log-probs as text: before and after training, or the sampler's alone.
    pub numbers: String,
}

/// The tokens of a response, and by what they are coloured.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Tokens {
    /// `change` or `logprob`.
    pub by: &'static str,
    pub tokens: Vec<Token>,
    /// Tokens that are not shown.
    pub more: usize,
    /// Shade of the call's advantage, which all of its tokens share.
    pub advantage_class: String,
}

/// Tokens that were trained on.
pub fn trained(rows: &[TokenRow]) -> Tokens {
    let tokens = rows.iter().take(SHOWN).map(|row| {
        let (before, after) = (row.logprob_before.unwrap_or(f64::NAN), row.logprob_after.unwrap_or(f64::NAN));
        let clipped = if row.clip == "none" { String::new() } else { format!(", held at the bound `{}`", row.clip) };
        let numbers = format!("log-prob {} → {} ({}){clipped}", signed(before), signed(after), signed(after - before));
        Token { text: shown(&row.token), class: shade(after - before, CHANGES, ["u", "d"]), numbers }
    });
    Tokens { by: "change", tokens: tokens.collect(), more: rows.len().saturating_sub(SHOWN), ..Tokens::default() }
}

/// Tokens as they were sampled.
///
/// * `logprobs`: the sampler's; empty where it recorded none.
pub fn sampled(ids: &[i64], logprobs: &[f64], tokenizer: &Tokenizer) -> Tokens {
    let tokens = ids.iter().take(SHOWN).enumerate().map(|(index, id)| {
        let text = u32::try_from(*id).map(|id| tokenizer.decode(&[id])).unwrap_or_default();
        let (class, numbers) = match logprobs.get(index) {
            None => (String::new(), String::new()),
            Some(logprob) => {
                let level = PROBABILITIES.iter().filter(|bound| logprob.exp() < **bound).count();
                let class = if level > 0 { format!("s{level}") } else { String::new() };
                (class, format!("log-prob {}, probability {:.3}", signed(*logprob), logprob.exp()))
            }
        };
        Token { text: shown(&text), class, numbers }
    });
    Tokens { by: "logprob", tokens: tokens.collect(), more: ids.len().saturating_sub(SHOWN), ..Tokens::default() }
}

/// The shade of an advantage beside the largest one.
pub fn advantage_class(advantage: Option<f64>, scale: f64) -> String {
    let share = advantage.unwrap_or(0.0) / if scale > 0.0 { scale } else { 1.0 };
    shade(share, [1e-9, 0.25, 0.5, 0.75], ["p", "n"])
}

fn shade(value: f64, bounds: [f64; 4], [plus, minus]: [&str; 2]) -> String {
    match bounds.iter().filter(|bound| value.abs() >= **bound).count() {
        0 => String::new(),
        level => format!("{}{level}", if value > 0.0 { plus } else { minus }),
    }
}

/// A number with its sign, as typography has it.
pub fn signed(value: f64) -> String {
    match value {
        value if value.is_nan() => "?".to_owned(),
        value if value.abs() < 5e-4 => "0.000".to_owned(),
        value if value > 0.0 => format!("+{value:.3}"),
        value => format!("−{:.3}", value.abs()),
    }
}

/// Line ends are seen, and an empty token too.
fn shown(token: &str) -> String {
    if token.is_empty() { "∅".to_owned() } else { token.replace('\n', "↵\n") }
}

/// The tokenizers of the lake's policies, by version; a model's weights are not read.
pub async fn tokenizer(lake: &Lake, version: Option<i64>, found: &mut BTreeMap<u64, Option<Tokenizer>>) -> Result<Option<u64>> {
    let policies = lake.policies().await?;
    let wanted = version.and_then(|version| u64::try_from(version).ok());
    let Some(policy) = policies.iter().find(|policy| Some(policy.version) == wanted) else { return Ok(None) };
    if let std::collections::btree_map::Entry::Vacant(entry) = found.entry(policy.version) {
        let folder = tempfile::tempdir()?;
        for file in policy.stored.files.iter().filter(|file| TOKENIZER_FILES.contains(&file.name.as_str())) {
            let path = object_store::path::Path::from(format!("{}/{}", policy.stored.folder, file.name));
            let bytes = object_store::ObjectStoreExt::get(&lake.committed(), &path).await?.bytes().await?;
            std::fs::write(folder.path().join(&file.name), bytes)?;
        }
        entry.insert(Tokenizer::load(folder.path()).ok());
    }
    Ok(Some(policy.version))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shades_follow_the_bounds_and_the_sign() {
        for (value, expected) in [(0.0, ""), (0.009, ""), (0.01, "u1"), (-0.06, "d2"), (0.3, "u3"), (-2.0, "d4"), (f64::NAN, "")]
        {
            assert_eq!(shade(value, CHANGES, ["u", "d"]), expected, "{value}");
        }
        for (advantage, expected) in [(Some(1.4), "p3"), (Some(-2.0), "n4"), (Some(0.0), ""), (None, ""), (Some(0.1), "p1")] {
            assert_eq!(advantage_class(advantage, 2.0), expected, "{advantage:?}");
        }
        assert_eq!(advantage_class(Some(1.0), 0.0), "p4");
    }

    #[test]
    fn a_trained_token_says_what_changed() {
        let row = TokenRow {
            batch: "b".into(),
            rollout_id: "r".into(),
            call_id: "c".into(),
            token: "a\n".into(),
            logprob_before: Some(-1.0),
            logprob_after: Some(-0.75),
            clip: "high".into(),
        };
        let found = trained(&vec![row; SHOWN + 2]);
        assert_eq!((found.tokens.len(), found.more), (SHOWN, 2));
        let token = &found.tokens[0];
        assert_eq!((token.text.as_str(), token.class.as_str()), ("a↵\n", "u3"));
        assert_eq!(token.numbers, "log-prob −1.000 → −0.750 (+0.250), held at the bound `high`");
    }
}
