//! Lists and JSON values of bounded size: a value takes tens of bytes of memory for the two that it may take in the text, so what a
//! request may carry of them is counted while it is read.

use serde::de::value::SeqAccessDeserializer;
use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use std::fmt;
use std::marker::PhantomData;

/// Most values in one field of a request.
const MAX_VALUES: usize = 50_000;
/// Most characters of all the strings in it, keys included.
const MAX_BYTES: usize = 1 << 20;

/// A JSON value of at most [`MAX_VALUES`] values and [`MAX_BYTES`] of text.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Json(pub(crate) Value);

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut left = Left { values: MAX_VALUES, bytes: MAX_BYTES };
        Seed(&mut left).deserialize(deserializer).map(Json)
    }
}

struct Left {
    values: usize,
    bytes: usize,
}

impl Left {
    fn value<E: Error>(&mut self) -> Result<(), E> {
        let left = self.values.checked_sub(1);
        self.values = left.ok_or_else(|| E::custom(format_args!("more than {MAX_VALUES} values")))?;
        Ok(())
    }

    fn text<E: Error>(&mut self, text: &str) -> Result<(), E> {
        let left = self.bytes.checked_sub(text.len());
        self.bytes = left.ok_or_else(|| E::custom(format_args!("more than {MAX_BYTES} bytes of text")))?;
        Ok(())
    }
}

struct Seed<'a>(&'a mut Left);

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.0.value()?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
        self.0.text(text)?;
        Ok(text.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(Seed(self.0))? {
            list.push(item);
        }
        Ok(list.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            self.0.text(&key)?;
            map.insert(key, entries.next_value_seed(Seed(self.0))?);
        }
        Ok(map.into())
    }
}

/// An array of at most `MAX` items.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct List<T, const MAX: usize>(pub(crate) Vec<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for List<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Items<T, const MAX: usize>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for Items<T, MAX> {
            type Value = List<T, MAX>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = items.next_element()? {
                    if list.len() == MAX {
                        return Err(Error::custom(format_args!("more than {MAX} items")));
                    }
                    list.push(item);
                }
                Ok(List(list))
            }
        }
        deserializer.deserialize_seq(Items(PhantomData))
    }
}

/// One string, or an array of at most `MAX` items.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum TextOr<T, const MAX: usize> {
    /// Where the request has one string.
    Text(String),
    /// Where it has an array.
    List(Vec<T>),
}

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for TextOr<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either<T, const MAX: usize>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for Either<T, MAX> {
            type Value = TextOr<T, MAX>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an array")
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(TextOr::Text(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Self::Value, A::Error> {
                let items = List::<T, MAX>::deserialize(SeqAccessDeserializer::new(items))?;
                Ok(TextOr::List(items.0))
            }
        }
        deserializer.deserialize_any(Either(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn equals_what_serde_reads_and_has_an_end() {
        let value = json!({ "a": [1, -2, 3.5, null, true, "x"], "b": { "c": {} } });
        assert_eq!(serde_json::from_str::<Json>(&value.to_string()).unwrap().0, value);
        let many = format!("[{}0]", "0,".repeat(MAX_VALUES));
        assert!(serde_json::from_str::<Json>(&many).unwrap_err().to_string().contains("more than 50000 values"));
        let long = format!("[\"{}\"]", "x".repeat(MAX_BYTES + 1));
        assert!(serde_json::from_str::<Json>(&long).unwrap_err().to_string().contains("bytes of text"));
        assert!(serde_json::from_str::<Json>(&"[".repeat(100_000)).is_err());
    }
}
