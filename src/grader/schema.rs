//! The grader `json_schema`: JSON that a schema accepts.

use anyhow::{Context as _, Result, anyhow};
use serde_json::Value;

use super::Grade;

/// 1 where the answer is JSON and the schema accepts it. One fence of backticks around it is taken off.
pub fn grade(answer: &str, schema: &Value) -> Result<Grade> {
    let validator = jsonschema::validator_for(schema).map_err(|error| anyhow!("{error}")).context("the JSON schema is none")?;
    let value: Value = match serde_json::from_str(without_fence(answer)) {
        Ok(value) => value,
        Err(error) => return Ok(Grade::wrong(format!("not JSON: {error}"))),
    };
    let broken = validator.iter_errors(&value).next();
    Ok(broken.map_or_else(|| Grade::of(true), |error| Grade::wrong(format!("at `{}`: {error}", error.instance_path()))))
}

fn without_fence(text: &str) -> &str {
    let text = text.trim();
    let Some(inner) = text.strip_prefix("```").and_then(|rest| rest.strip_suffix("```")) else { return text };
    inner.split_once('\n').map_or(inner, |(_, body)| body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_schema_decides() {
        let schema = json!({"type": "object", "required": ["city"], "properties": {"city": {"type": "string"}}});
        for (answer, reward) in [
            (r#"{"city": "Bern"}"#, 1.0),
            ("```json\n{\"city\": \"Bern\"}\n```", 1.0),
            (r#"{"city": 3}"#, 0.0),
            (r#"{"town": "Bern"}"#, 0.0),
            ("Bern", 0.0),
        ] {
            assert_eq!(grade(answer, &schema).unwrap().reward, reward, "{answer}");
        }
        let comment = grade(r#"{"city": 3}"#, &schema).unwrap().comment.unwrap();
        assert!(comment.contains("/city"), "{comment}");
        assert!(grade("{}", &json!({"type": 3})).is_err());
    }
}
