//! The graders `f1` and `em`: words compared as SQuAD does (Rajpurkar et al. 2016, arXiv 1606.05250, section 6.1).

use std::collections::HashMap;
use std::sync::LazyLock;

use anyhow::Result;
use regex::Regex;

use super::Grade;
use crate::exit::Fault;

/// The expression that finds the answer within a text.
pub fn pattern(text: &str) -> Result<Regex> {
    let found = regex::RegexBuilder::new(text).dot_matches_new_line(true).build();
    let pattern = found.map_err(|error| Fault::Usage(format!("`agent.grader.pattern` is no regular expression: {error}")))?;
    if pattern.captures_len() < 2 {
        return Err(Fault::Usage(format!("`agent.grader.pattern` `{text}` has no group `(...)` for the answer")).into());
    }
    Ok(pattern)
}

/// The best score over the right answers.
///
/// * `pattern`: the last match's first group is the answer; a text without a match is compared whole.
/// * `format_weight`: share of the reward for matching `pattern`; the score has the rest.
pub fn grade(
    answer: &str,
    golds: &[String],
    pattern: Option<&Regex>,
    format_weight: f64,
    score: impl Fn(&str, &str) -> f64,
) -> Grade {
    let found = pattern.and_then(|pattern| pattern.captures_iter(answer).last()?.get(1)).map(|group| group.as_str());
    let best = golds.iter().map(|gold| score(found.unwrap_or(answer), gold)).fold(0.0, f64::max);
    let format = if found.is_some() { format_weight } else { 0.0 };
    let comment = (pattern.is_some() && found.is_none()).then(|| "the answer is not in the format that was asked for".to_owned());
    Grade { reward: best * (1.0 - format_weight) + format, comment }
}

/// Harmonic mean of precision and recall over the words of both. Where one has no words, 1 if the other has none either.
pub fn f1(answer: &str, gold: &str) -> f64 {
    let (answer, gold) = (normalise(answer), normalise(gold));
    let (answer, gold): (Vec<&str>, Vec<&str>) = (answer.split(' ').collect(), gold.split(' ').collect());
    if answer == [""] || gold == [""] {
        return f64::from(u8::from(answer == gold));
    }
    let mut left: HashMap<&str, usize> = HashMap::new();
    for word in &gold {
        *left.entry(word).or_default() += 1;
    }
    let mut shared = 0;
    for word in &answer {
        if let Some(count) = left.get_mut(word).filter(|count| **count > 0) {
            *count -= 1;
            shared += 1;
        }
    }
    // 2 P R / (P + R) with P = shared / answer and R = shared / gold.
    2.0 * f64::from(shared) / (answer.len() + gold.len()) as f64
}

/// 1 where both are the same words in the same order, else 0.
pub fn em(answer: &str, gold: &str) -> f64 {
    f64::from(u8::from(normalise(answer) == normalise(gold)))
}

/// Lower case, no ASCII punctuation, no articles, single spaces: in that order, so that "U.S." becomes "us" and "A.N." is no article.
fn normalise(text: &str) -> String {
    static ARTICLES: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\b(a|an|the)\b").expect("a fixed expression"));
    let lower: String = text.to_lowercase().chars().filter(|c| !c.is_ascii_punctuation()).collect();
    ARTICLES.replace_all(&lower, " ").split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_normalised_as_squad_does() {
        for (text, expected) in [
            ("The  Cat, sat!", "cat sat"),
            ("a", ""),
            ("U.S.", "us"),
            ("an apple a day", "apple day"),
            ("Anthem", "anthem"),
            ("twenty-one", "twentyone"),
            ("$1,000.50", "100050"),
            ("the-end", "theend"),
            ("\u{2018}quoted\u{2019}", "\u{2018}quoted\u{2019}"),
            ("ÉCOLE", "école"),
            ("tab\tand\nline", "tab and line"),
        ] {
            assert_eq!(normalise(text), expected, "{text}");
        }
    }

    #[test]
    fn f1_and_em_by_hand() {
        for (answer, gold, expected_f1, expected_em) in [
            ("Denver Broncos", "the Denver Broncos", 1.0, 1.0),
            // One of two words is shared with three: P 1/2, R 1/3.
            ("red house", "big red car", 0.4, 0.0),
            // A word counts as often as it stands on both sides: P 1/2, R 1.
            ("no no", "no", 2.0 / 3.0, 0.0),
            ("x", "y", 0.0, 0.0),
            ("the", "", 1.0, 1.0),
            ("the", "y", 0.0, 0.0),
            ("sat cat", "cat sat", 1.0, 0.0),
        ] {
            assert!((f1(answer, gold) - expected_f1).abs() < 1e-12, "f1 of {answer} and {gold}");
            assert_eq!(em(answer, gold), expected_em, "{answer} and {gold}");
        }
    }

    #[test]
    fn a_pattern_finds_the_answer_and_pays_for_the_format() {
        let pattern = pattern("<answer>(.*?)</answer>").unwrap();
        let golds = ["Paris".to_owned(), "City of Paris".to_owned()];
        let reward = |text| grade(text, &golds, Some(&pattern), 0.1, f1).reward;
        assert!((reward("I think so. <answer>Paris</answer>") - 1.0).abs() < 1e-12);
        assert!((reward("<answer>Rome</answer> no, <answer>\nParis</answer>") - 1.0).abs() < 1e-12, "the last one counts");
        assert!((reward("<answer>Rome</answer>") - 0.1).abs() < 1e-12);
        assert!((reward("Paris") - 0.9).abs() < 1e-12);
        assert!(super::pattern("no group").is_err());
    }
}
