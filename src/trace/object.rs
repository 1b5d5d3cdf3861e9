//! A JSON object with its values still as text, in the order of the source.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::attributes::push_json_string;
use super::message::text::{compact, text};

/// The fields of a JSON object. A key may come twice; the later one counts where a field is looked up.
#[derive(Debug, Default)]
pub struct Object<'a> {
    fields: Vec<(Cow<'a, str>, &'a RawValue)>,
}

impl<'a> Object<'a> {
    /// `None` where the text is not one JSON object.
    pub fn parse(json: &'a str) -> Option<Self> {
        if !json.trim_start().starts_with('{') {
            return None;
        }
        serde_json::from_str(json).ok()
    }

    /// Fields whose value is not null.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &'a RawValue)> {
        self.fields.iter().map(|(key, value)| (key.as_ref(), *value)).filter(|(_, value)| value.get() != "null")
    }

    /// The value of a key; `None` for a missing one and for null.
    pub fn get(&self, key: &str) -> Option<&'a RawValue> {
        let (_, value) = self.fields.iter().rev().find(|(field, _)| field == key)?;
        (value.get() != "null").then_some(value)
    }

    /// The value of a key as text: strings decoded, all else as compact JSON.
    pub fn text(&self, key: &str) -> Option<Cow<'a, str>> {
        self.get(key).map(text)
    }

    pub fn object(&self, key: &str) -> Option<Object<'a>> {
        Object::parse(self.get(key)?.get())
    }

    /// A number, also one that was written as a string.
    pub fn number(&self, key: &str) -> Option<f64> {
        self.text(key)?.trim().parse().ok()
    }

    /// A whole number, also one that was written as a string or as `3.0`.
    pub fn integer(&self, key: &str) -> Option<i64> {
        let text = self.text(key)?;
        let text = text.trim();
        text.parse().ok().or_else(|| text.strip_suffix(".0")?.parse().ok())
    }

    /// A value of a known type; `None` where it has another.
    pub fn parse_field<T: Deserialize<'a>>(&self, key: &str) -> Option<T> {
        serde_json::from_str(self.get(key)?.get()).ok()
    }

    /// A compact JSON object of the fields that `keep` chooses, without nulls; `None` where there are none.
    pub fn to_json(&self, mut keep: impl FnMut(&str) -> bool) -> Option<String> {
        let mut json = String::new();
        for (key, value) in self.iter().filter(|(key, _)| keep(key)) {
            json.push(if json.is_empty() { '{' } else { ',' });
            push_json_string(&mut json, key);
            json.push(':');
            json.push_str(&compact(value.get()));
        }
        if json.is_empty() {
            return None;
        }
        json.push('}');
        Some(json)
    }
}

/// The elements of a JSON array as text; `None` for any other value.
pub fn list(value: &RawValue) -> Option<Vec<&RawValue>> {
    if !value.get().starts_with('[') {
        return None;
    }
    serde_json::from_str(value.get()).ok()
}

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields<'a>(std::marker::PhantomData<&'a ()>);

        impl<'de: 'a, 'a> Visitor<'de> for Fields<'a> {
            type Value = Object<'a>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Object<'a>, M::Error> {
                let mut fields = Vec::new();
                while let Some((Key(key), value)) = map.next_entry::<Key<'a>, &'a RawValue>()? {
                    fields.push((key, value));
                }
                Ok(Object { fields })
            }
        }

        deserializer.deserialize_map(Fields(std::marker::PhantomData))
    }
}

#[derive(serde::Deserialize)]
#[serde(transparent)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_keep_their_order_and_their_text() {
        let object = Object::parse(r#"{"b": 1.50, "a\n": [1, 2], "n": null, "i": "3", "w": 2.0}"#).unwrap();
        assert_eq!(object.to_json(|_| true).as_deref(), Some(r#"{"b":1.50,"a\n":[1,2],"i":"3","w":2.0}"#));
        assert_eq!(object.integer("i"), Some(3));
        assert_eq!(object.integer("w"), Some(2));
        assert!(object.get("n").is_none());
        assert!(Object::parse("[1]").is_none());
    }
}
