//! The grader `numeric`: the last number in a text.

use std::sync::LazyLock;

use anyhow::{Context as _, Result};
use regex::Regex;
use serde_json::Value;

use super::{Grade, texts};

/// Whether the last number of the answer is one of those expected, within `tolerance * max(1, |expected|)`.
pub fn grade(answer: &str, expected: &Value, tolerance: f64) -> Result<Grade> {
    let golds: Vec<f64> = texts(expected)?
        .iter()
        .map(|gold| last_number(gold).with_context(|| format!("`expected` is `{gold}`, which holds no number")))
        .collect::<Result<_>>()?;
    let Some(number) = last_number(answer) else { return Ok(Grade::wrong("no number in the answer")) };
    Ok(Grade::of(golds.iter().any(|gold| (number - gold).abs() <= tolerance * gold.abs().max(1.0))))
}

/// The last number of a text: digits with commas between groups of three, a fraction, an exponent, a sign that follows no word or digit.
fn last_number(text: &str) -> Option<f64> {
    static NUMBER: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"(?x) [-+\u{2212}]? (?: (?: \d{1,3} (?: ,\d{3} )+ \b | \d+ ) (?: \.\d+ )? | \.\d+ ) (?: [eE][-+]?\d+ \b )?")
            .expect("a fixed expression")
    });
    let found = NUMBER.find_iter(text).last()?;
    let signed = found.as_str().replace(',', "").replace('\u{2212}', "-");
    let follows_a_value = text[..found.start()].ends_with(|c: char| c.is_alphanumeric() || c == ')');
    let number = if follows_a_value { signed.trim_start_matches(['-', '+']) } else { &signed };
    number.parse().ok().filter(|number: &f64| number.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_last_number_counts() {
        for (text, expected) in [
            ("The answer is 42.", Some(42.0)),
            ("3 apples and 4 pears make 7 fruits", Some(7.0)),
            ("#### 72", Some(72.0)),
            ("$1,234.50", Some(1234.5)),
            ("1,234,567", Some(1_234_567.0)),
            ("first 1, then 2,3", Some(3.0)),
            ("-3", Some(-3.0)),
            ("\u{2212}3.5 degrees", Some(-3.5)),
            ("10-3", Some(3.0)),
            ("(2)-3", Some(3.0)),
            (".5", Some(0.5)),
            ("6.02e23", Some(6.02e23)),
            ("2e", Some(2.0)),
            ("type5", Some(5.0)),
            ("1e999", None),
            ("no number", None),
            ("", None),
        ] {
            assert_eq!(last_number(text), expected, "{text}");
        }
    }

    #[test]
    fn tolerance_is_a_share_of_what_is_expected() {
        let reward = |answer: &str, gold: f64, tolerance| grade(answer, &json!(gold), tolerance).unwrap().reward;
        assert_eq!(reward("100.5", 100.0, 0.01), 1.0);
        assert_eq!(reward("102", 100.0, 0.01), 0.0);
        assert_eq!(reward("0.005", 0.0, 0.01), 1.0);
        assert_eq!(reward("about 0.33", 0.333, 0.005), 1.0);
        assert_eq!(reward("none", 1.0, 0.5), 0.0);
        assert!(grade("1", &json!("many"), 0.0).is_err());
    }
}
