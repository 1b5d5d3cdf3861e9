//! Flat attributes of a span, between the container that reads them and the convention that understands them.

mod value;

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::scan;
pub(super) use value::next_escape;
pub use value::{Value, push_json_string};

/// Attributes of one span, sorted by key. Conventions `take` what they put into typed fields; the rest becomes the column
/// `attributes`.
#[derive(Debug, Clone, Default)]
pub struct Attributes<'a> {
    entries: Vec<(Cow<'a, str>, Option<Value<'a>>)>,
    marks: Marks,
}

/// A set of keys that may take a key for one of its own, but never misses one. Most keys that a convention asks for are not
/// there, and long common prefixes make the search for them slow.
#[derive(Debug, Clone, Copy, Default)]
struct Marks([u64; 4]);

impl Marks {
    fn add(&mut self, key: &str) {
        let (word, bit) = Self::place(key);
        self.0[word] |= bit;
    }

    fn may_have(&self, key: &str) -> bool {
        let (word, bit) = Self::place(key);
        self.0[word] & bit != 0
    }

    /// By the length, the byte in the middle and the last two, in which keys differ most.
    #[inline]
    fn place(key: &str) -> (usize, u64) {
        let bytes = key.as_bytes();
        let byte = |at: usize| bytes.get(at).copied().map_or(0, usize::from);
        let last = bytes.len().wrapping_sub(1);
        let hash = bytes.len() * 37 + byte(last) * 11 + byte(last.wrapping_sub(1)) * 3 + byte(bytes.len() / 2) * 61;
        (hash / 64 % 4, 1 << (hash % 64))
    }
}

impl<'a> Attributes<'a> {
    /// Of two entries with one key the later wins, as it does in OpenTelemetry SDKs.
    pub fn new(mut entries: Vec<(Cow<'a, str>, Value<'a>)>) -> Self {
        entries.reverse();
        entries.sort_by(|a, b| a.0.cmp(&b.0));
        entries.dedup_by(|later, kept| later.0 == kept.0);
        let mut marks = Marks::default();
        let entries = entries.into_iter().map(|(key, value)| {
            marks.add(&key);
            (key, Some(value))
        });
        Self { entries: entries.collect(), marks }
    }

    /// The members of a JSON object: strings decoded, numbers and booleans as such, arrays and objects as their text. Members
    /// that are null are left out: they say nothing.
    ///
    /// # Errors
    /// The text is not JSON, or no object.
    pub fn from_json(json: &'a str) -> Result<Self, serde_json::Error> {
        if let Some((members, _)) = scan::members(json, None) {
            return Ok(Self::new(values(members)));
        }
        let mut source = serde_json::Deserializer::from_str(json);
        let entries = source.deserialize_map(Members)?;
        source.end()?;
        Ok(Self::new(entries))
    }

    /// As [`Attributes::from_json`], with the members of the object under one key apart, read in the same pass.
    ///
    /// # Errors
    /// The text is not JSON, or no object, or what stands under the key is neither an object nor null.
    pub fn from_json_apart(json: &'a str, key: &'static str) -> Result<(Self, Self), serde_json::Error> {
        if let Some((outer, inner)) = scan::members(json, Some(key)) {
            return Ok((Self::new(values(outer)), Self::new(values(inner))));
        }
        let mut source = serde_json::Deserializer::from_str(json);
        let (entries, inner) = source.deserialize_map(MembersApart { key })?;
        source.end()?;
        Ok((Self::new(entries), Self::new(inner)))
    }

    /// The members of a value that is an object, or a string that holds one; empty for anything else.
    pub fn of_object(value: Option<&'a Value<'_>>) -> Self {
        value.and_then(Value::object_text).and_then(|json| Self::from_json(json).ok()).unwrap_or_default()
    }

    /// Removes a value that is an object, or a string that holds one; anything else stays. See [`Attributes::of_object`].
    pub fn take_object(&mut self, key: &str) -> Option<Value<'a>> {
        let value = self.get(key)?;
        let json = value.object_text()?;
        if matches!(value, Value::Str(_)) && Attributes::from_json(json).is_err() {
            return None;
        }
        self.take(key)
    }

    /// Sets a value, in place of the one that the key has.
    pub fn put(&mut self, key: impl Into<Cow<'a, str>>, value: Value<'a>) {
        let key = key.into();
        match self.entries.binary_search_by(|(entry, _)| entry.cmp(&key)) {
            Ok(at) => self.entries[at].1 = Some(value),
            Err(at) => {
                self.marks.add(&key);
                self.entries.insert(at, (key, Some(value)));
            }
        }
    }

    /// Adds the values of keys that are not here.
    pub fn fill_from(&mut self, other: &Attributes<'a>) {
        for (key, value) in other.iter() {
            if !self.contains(key) {
                self.put(key.to_owned(), value.clone());
            }
        }
    }

    /// Puts what is left of an object back under its key; nothing where nothing is left.
    pub fn put_rest(&mut self, key: &'static str, rest: &Attributes<'_>) {
        if let Some(json) = rest.to_json() {
            self.put(key, Value::Json(Cow::Owned(json)));
        }
    }

    pub fn get(&self, key: &str) -> Option<&Value<'a>> {
        self.entries[self.position(key)?].1.as_ref()
    }

    /// Removes and returns a value: only for what goes whole into a typed field.
    pub fn take(&mut self, key: &str) -> Option<Value<'a>> {
        let position = self.position(key)?;
        self.entries[position].1.take()
    }

    pub fn contains(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// The text of a string value.
    pub fn text(&self, key: &str) -> Option<&str> {
        match self.get(key)? {
            Value::Str(text) => Some(text),
            _ => None,
        }
    }

    /// Removes a string value, or anything else as its text (numbers in decimal, arrays and maps as JSON).
    pub fn take_text(&mut self, key: &str) -> Option<String> {
        self.take(key)?.into_text()
    }

    /// Removes an integer, also one that was written as a string or as a whole double.
    pub fn take_int(&mut self, key: &str) -> Option<i64> {
        let number = self.get(key)?.as_int()?;
        self.take(key);
        Some(number)
    }

    /// Removes a number, also one that was written as a string.
    pub fn take_double(&mut self, key: &str) -> Option<f64> {
        let number = self.get(key)?.as_double()?;
        self.take(key);
        Some(number)
    }

    pub fn take_bool(&mut self, key: &str) -> Option<bool> {
        let flag = self.get(key)?.as_bool()?;
        self.take(key);
        Some(flag)
    }

    /// Puts another value in the place of one that is there; `None` removes it.
    pub fn replace(&mut self, key: &str, value: Option<Value<'a>>) {
        if let Some(position) = self.position(key) {
            self.entries[position].1 = value;
        }
    }

    /// Moves a value into a field that is still empty. Where the field has the same value already, the attribute goes too;
    /// where it has another, or the value has another type, the attribute stays.
    pub fn fill_text(&mut self, key: &str, field: &mut Option<String>) {
        let Some(position) = self.position(key) else { return };
        let entry = &mut self.entries[position].1;
        match field {
            None => *field = entry.take().and_then(Value::into_text),
            Some(known) => {
                if entry.as_ref().and_then(Value::as_text).as_deref() == Some(known) {
                    *entry = None;
                }
            }
        }
    }

    /// As `fill_text`.
    pub fn fill_int(&mut self, key: &str, field: &mut Option<i64>) {
        self.fill(key, field, Value::as_int);
    }

    /// As `fill_text`. A number that is not finite stays.
    pub fn fill_double(&mut self, key: &str, field: &mut Option<f64>) {
        self.fill(key, field, |value| value.as_double().filter(|number| number.is_finite()));
    }

    /// As `fill_text`.
    pub fn fill_bool(&mut self, key: &str, field: &mut Option<bool>) {
        self.fill(key, field, Value::as_bool);
    }

    fn fill<T: Copy + PartialEq>(&mut self, key: &str, field: &mut Option<T>, read: impl Fn(&Value<'a>) -> Option<T>) {
        let Some(position) = self.position(key) else { return };
        let entry = &mut self.entries[position].1;
        if let Some(found) = entry.as_ref().and_then(read)
            && *field.get_or_insert(found) == found
        {
            *entry = None;
        }
    }

    /// Values that are left, with keys that begin with `prefix`, in the order of their keys (text order: `.10` comes before `.9`).
    pub fn with_prefix<'s>(&'s self, prefix: &'s str) -> impl Iterator<Item = (&'s str, &'s Value<'a>)> + 's {
        let start = self.entries.partition_point(|(key, _)| key.as_ref() < prefix);
        self.entries[start..]
            .iter()
            .take_while(move |(key, _)| key.starts_with(prefix))
            .filter_map(|(key, value)| Some((key.as_ref(), value.as_ref()?)))
    }

    pub fn has_prefix(&self, prefix: &str) -> bool {
        self.with_prefix(prefix).next().is_some()
    }

    /// Removes and returns every value whose key begins with `prefix`, keys shortened by it.
    pub fn take_prefix(&mut self, prefix: &str) -> Vec<(String, Value<'a>)> {
        let start = self.entries.partition_point(|(key, _)| key.as_ref() < prefix);
        self.entries[start..]
            .iter_mut()
            .take_while(|(key, _)| key.starts_with(prefix))
            .filter_map(|(key, value)| Some((key[prefix.len()..].to_owned(), value.take()?)))
            .collect()
    }

    /// Gives every value whose key begins with `prefix` to `place`, key shortened by it; what `place` gives back stays.
    pub fn drain_prefix(&mut self, prefix: &str, mut place: impl FnMut(&str, Value<'a>) -> Option<Value<'a>>) {
        let start = self.entries.partition_point(|(key, _)| key.as_ref() < prefix);
        for (key, value) in self.entries[start..].iter_mut().take_while(|(key, _)| key.starts_with(prefix)) {
            if let Some(taken) = value.take() {
                *value = place(&key[prefix.len()..], taken);
            }
        }
    }

    /// Values that are left, in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value<'a>)> {
        self.entries.iter().filter_map(|(key, value)| Some((key.as_ref(), value.as_ref()?)))
    }

    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    /// What is left, as a JSON object; `None` where nothing is.
    pub fn to_json(&self) -> Option<String> {
        let mut json = String::from("{");
        for (key, value) in self.iter() {
            if json.len() > 1 {
                json.push(',');
            }
            push_json_string(&mut json, key);
            json.push(':');
            value.push_json(&mut json);
        }
        if json.len() == 1 {
            return None;
        }
        json.push('}');
        Some(json)
    }

    fn position(&self, key: &str) -> Option<usize> {
        if !self.marks.may_have(key) {
            return None;
        }
        self.entries.binary_search_by(|(entry, _)| entry.as_ref().cmp(key)).ok()
    }
}

/// Reads a JSON object without a copy of what it holds.
struct Members;

impl<'de> Visitor<'de> for Members {
    type Value = MemberList<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::with_capacity(32);
        while let Some((Key(key), value)) = map.next_entry::<Key<'de>, &'de RawValue>()? {
            push_member(&mut members, key, value.get());
        }
        Ok(members)
    }
}

/// As `Members`, and the members of the object under one key.
struct MembersApart {
    key: &'static str,
}

impl<'de> Visitor<'de> for MembersApart {
    type Value = (MemberList<'de>, MemberList<'de>);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::with_capacity(16);
        let mut inner = Vec::new();
        while let Some(Key(key)) = map.next_key::<Key<'de>>()? {
            if key == self.key {
                inner = map.next_value::<Option<Inner<'de>>>()?.map(|Inner(members)| members).unwrap_or_default();
            } else {
                push_member(&mut members, key, map.next_value::<&'de RawValue>()?.get());
            }
        }
        Ok((members, inner))
    }
}

type MemberList<'a> = Vec<(Cow<'a, str>, Value<'a>)>;

struct Inner<'a>(MemberList<'a>);

impl<'de> Deserialize<'de> for Inner<'de> {
    fn deserialize<D: Deserializer<'de>>(source: D) -> Result<Self, D::Error> {
        source.deserialize_map(Members).map(Inner)
    }
}

#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

fn values<'a>(members: Vec<(&'a str, &'a str)>) -> MemberList<'a> {
    let mut list = Vec::with_capacity(members.len());
    members.into_iter().for_each(|(key, value)| push_member(&mut list, Cow::Borrowed(key), value));
    list
}

fn push_member<'a>(members: &mut MemberList<'a>, key: Cow<'a, str>, value: &'a str) {
    match Value::from_json(value) {
        Value::Null => {}
        value => members.push((key, value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes() -> Attributes<'static> {
        Attributes::new(vec![
            ("b.10.role".into(), Value::Str("user".into())),
            ("a".into(), Value::Int(1)),
            ("b.9.role".into(), Value::Str("system".into())),
            ("a".into(), Value::Int(2)),
            ("c".into(), Value::Double(f64::NAN)),
        ])
    }

    #[test]
    fn later_value_of_a_key_wins() {
        assert_eq!(attributes().get("a"), Some(&Value::Int(2)));
    }

    #[test]
    fn json_objects_become_attributes() {
        let json =
            r#"{"s":"a\"b","i":-3,"d":1.50,"t":true,"n":null,"o":{"x": [1, 2]},"big":18446744073709551615,"o2":"{\"y\": 1}"}"#;
        let mut attributes = Attributes::from_json(json).unwrap();
        assert_eq!(attributes.text("s"), Some("a\"b"));
        assert_eq!(attributes.take_int("i"), Some(-3));
        assert_eq!(attributes.take_double("d"), Some(1.5));
        assert!(!attributes.contains("n"));
        assert_eq!(attributes.take_object("s"), None);
        attributes.put("brackets", Value::Str("{no json}".into()));
        assert_eq!(attributes.take_object("brackets"), None);
        attributes.take("brackets");
        let inner = attributes.take_object("o2");
        assert_eq!(Attributes::of_object(inner.as_ref()).take_int("y"), Some(1));
        let inner = attributes.take_object("o");
        assert_eq!(Attributes::of_object(inner.as_ref()).get("x").unwrap().elements(), ["1", "2"]);
        assert_eq!(attributes.to_json().as_deref(), Some(r#"{"big":18446744073709551615,"s":"a\"b","t":true}"#));
        let (outer, inner) = Attributes::from_json_apart(r#"{"a":1,"o":{"b":"x","n":null},"c":[2]}"#, "o").unwrap();
        assert_eq!((outer.to_json().as_deref(), inner.to_json().as_deref()), (Some(r#"{"a":1,"c":[2]}"#), Some(r#"{"b":"x"}"#)));
        assert!(Attributes::from_json_apart(r#"{"o":"{}"}"#, "o").is_err());
        assert!(Attributes::from_json_apart(r#"{"o":null}"#, "o").unwrap().1.is_empty());
        assert!(Attributes::from_json("[]").is_err() && Attributes::from_json("{} {}").is_err());
    }

    #[test]
    fn lists_of_numbers_are_compact_as_text() {
        let attributes =
            Attributes::from_json(r#"{"ids":[1, 22, 333],"mixed":[1, "a b", [2, 3]],"negative":[-1, 2.5]}"#).unwrap();
        let ids = attributes.get("ids").unwrap();
        assert_eq!(ids.as_ints(), Some(vec![1, 22, 333]));
        assert_eq!((ids.as_text().as_deref(), ids.clone().into_text().as_deref()), (Some("[1,22,333]"), Some("[1,22,333]")));
        assert_eq!(ids.elements(), ["1", "22", "333"]);
        let expected = r#"{"ids":[1,22,333],"mixed":[1,"a b",[2,3]],"negative":[-1,2.5]}"#;
        assert_eq!(attributes.to_json().as_deref(), Some(expected));
    }

    #[test]
    fn taken_values_are_not_in_the_rest() {
        let mut attributes = attributes();
        assert_eq!(attributes.take_prefix("b.").len(), 2);
        assert_eq!(attributes.take_int("a"), Some(2));
        assert_eq!(attributes.to_json().as_deref(), Some(r#"{"c":"NaN"}"#));
    }
}
