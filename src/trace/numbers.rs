//! Lists of token ids and of log-probabilities, encoded as bytes: written number by number, they would be most of what spilling costs.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, Visitor};
use serde::ser::{Serialize, Serializer};

/// A number of four bytes.
pub trait Number: Copy {
    fn bytes(self) -> [u8; 4];
    fn of(bytes: [u8; 4]) -> Self;
}

impl Number for i32 {
    fn bytes(self) -> [u8; 4] {
        self.to_le_bytes()
    }

    fn of(bytes: [u8; 4]) -> Self {
        Self::from_le_bytes(bytes)
    }
}

impl Number for f32 {
    fn bytes(self) -> [u8; 4] {
        self.to_le_bytes()
    }

    fn of(bytes: [u8; 4]) -> Self {
        Self::from_le_bytes(bytes)
    }
}

struct Written(Vec<u8>);

impl Serialize for Written {
    fn serialize<S: Serializer>(&self, target: S) -> Result<S::Ok, S::Error> {
        target.serialize_bytes(&self.0)
    }
}

pub fn serialize<T: Number, S: Serializer>(list: &Option<Vec<T>>, target: S) -> Result<S::Ok, S::Error> {
    let written = list.as_ref().map(|list| {
        let mut bytes = vec![0; 4 * list.len()];
        for (place, number) in bytes.chunks_exact_mut(4).zip(list) {
            place.copy_from_slice(&number.bytes());
        }
        Written(bytes)
    });
    written.serialize(target)
}

struct Read<T>(Vec<T>);

impl<'de, T: Number> Deserialize<'de> for Read<T> {
    fn deserialize<D: Deserializer<'de>>(source: D) -> Result<Self, D::Error> {
        source.deserialize_bytes(ReadBytes(PhantomData)).map(Read)
    }
}

struct ReadBytes<T>(PhantomData<T>);

impl<T: Number> Visitor<'_> for ReadBytes<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("numbers of four bytes")
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Vec<T>, E> {
        let (numbers, rest) = bytes.as_chunks::<4>();
        if !rest.is_empty() {
            return Err(E::invalid_length(bytes.len(), &self));
        }
        Ok(numbers.iter().copied().map(T::of).collect())
    }
}

pub fn deserialize<'de, T: Number, D: Deserializer<'de>>(source: D) -> Result<Option<Vec<T>>, D::Error> {
    Ok(Option::<Read<T>>::deserialize(source)?.map(|Read(list)| list))
}

#[cfg(test)]
mod tests {
    use crate::trace::span::{Choice, Llm};

    #[test]
    fn numbers_come_back_as_they_were() {
        for (ids, logprobs) in
            [(None, None), (Some(vec![]), Some(vec![])), (Some(vec![0, -1, i32::MAX, i32::MIN]), Some(vec![-0.5, 0.0, f32::MIN]))]
        {
            let choice = Choice { token_ids: ids.clone(), logprobs: logprobs.clone(), ..Choice::default() };
            let llm = Llm { prompt_token_ids: ids.clone(), choices: vec![choice], ..Llm::default() };
            let llm: Llm = postcard::from_bytes(&postcard::to_stdvec(&llm).unwrap()).unwrap();
            assert_eq!((&llm.prompt_token_ids, &llm.choices[0].token_ids, &llm.choices[0].logprobs), (&ids, &ids, &logprobs));
        }
    }
}
