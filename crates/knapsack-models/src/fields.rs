//! Typed and bounded reading of configuration values. Everything in a configuration is taken for hostile.

use crate::error::ConfigError;
use knapsack_tensor::Activation;
use serde_json::{Map, Value};
use std::cell::RefCell;
use std::collections::HashSet;

/// Most layers of a model.
pub(crate) const MAX_LAYERS: u32 = 1024;
/// Largest width of anything.
pub(crate) const MAX_DIM: u32 = 1 << 20;
/// Largest position count or window.
pub(crate) const MAX_POSITIONS: u32 = 1 << 28;

/// Which keys were asked for: each with the object that it stands in.
#[derive(Default)]
pub(crate) struct Asked(RefCell<HashSet<(*const Map<String, Value>, String)>>);

/// The values of one JSON object. Lookups take alternative keys, the first that is there and not null counts.
#[derive(Clone, Copy)]
pub(crate) struct Fields<'a> {
    map: &'a Map<String, Value>,
    /// Where keys that are not in `map` may be too (MLC's `kwargs`).
    rest: Option<&'a Map<String, Value>>,
    /// The object around it, for keys that are in neither.
    outer: Option<&'a Map<String, Value>>,
    /// Whether this is MLC's `model_config` and no checkpoint's `config.json`.
    pub(crate) mlc: bool,
    asked: &'a Asked,
}

impl<'a> Fields<'a> {
    pub(crate) fn new(value: &'a Value, asked: &'a Asked) -> Result<Self, ConfigError> {
        let map = value.as_object().ok_or(ConfigError::Shape("is not a JSON object"))?;
        let rest = map.get("kwargs").and_then(Value::as_object);
        Ok(Fields { map, rest, outer: None, mlc: false, asked })
    }

    /// The same, as MLC's.
    pub(crate) fn of_mlc(self) -> Self {
        Fields { mlc: true, ..self }
    }

    /// The same, with another object's values for keys that this one lacks.
    pub(crate) fn with_rest(self, rest: &Fields<'a>) -> Self {
        Fields { outer: Some(rest.map), ..self }
    }

    /// The same, with values for keys that are in no place.
    pub(crate) fn or(self, defaults: &'a Map<String, Value>) -> Self {
        Fields { outer: self.outer.or(Some(defaults)), ..self }
    }

    /// The object under `key`.
    pub(crate) fn object(&self, key: &str) -> Result<Option<Fields<'a>>, ConfigError> {
        match self.get(&[key]) {
            None => Ok(None),
            Some((_, value @ Value::Object(_))) => {
                Ok(Some(Fields { mlc: self.mlc, ..Fields::new(value, self.asked)? }))
            }
            Some((key, value)) => Err(invalid(key, value, "an object")),
        }
    }

    /// Every key of this very object, with its value.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&'a str, &'a Value)> + use<'a> {
        self.map.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// A value of this very object, null or not.
    pub(crate) fn own(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key)
    }

    fn places(&self) -> impl Iterator<Item = &'a Map<String, Value>> + use<'a> {
        [Some(self.map), self.rest, self.outer].into_iter().flatten()
    }

    /// The first of the keys that is there and not null.
    pub(crate) fn get<'k>(&self, keys: &[&'k str]) -> Option<(&'k str, &'a Value)> {
        let mut asked = self.asked.0.borrow_mut();
        for map in self.places() {
            for key in keys.iter().filter(|key| map.contains_key(**key)) {
                asked.insert((std::ptr::from_ref(map), (*key).to_owned()));
            }
        }
        let find = |key: &&'k str| self.places().filter_map(|map| map.get(*key)).find(|value| !value.is_null());
        keys.iter().find_map(|key| Some((*key, find(key)?)))
    }

    /// Takes note of keys that change nothing.
    pub(crate) fn skip(&self, keys: &[&str]) {
        let _ = self.get(keys);
    }

    /// The values that nobody asked for and that are neither null nor false, objects left out; in order.
    pub(crate) fn unasked(&self) -> impl Iterator<Item = (&'a str, &'a Value)> {
        let asked = self.asked.0.borrow();
        let inner = [Some(self.map), self.rest].into_iter().flatten();
        let unasked =
            inner.flat_map(|map| map.iter().map(move |(key, value)| (map, key, value))).filter(|(map, key, value)| {
                let idle = matches!(value, Value::Null | Value::Bool(false));
                !idle && !asked.contains(&(std::ptr::from_ref(*map), (*key).clone()))
            });
        unasked.map(|(_, key, value)| (key.as_str(), value)).collect::<Vec<_>>().into_iter()
    }

    fn integer_in(&self, keys: &[&str], range: std::ops::RangeInclusive<u32>) -> Result<Option<u32>, ConfigError> {
        let Some((key, value)) = self.get(keys) else { return Ok(None) };
        // Some configurations write whole numbers as floats.
        let number =
            value.as_u64().or_else(|| value.as_f64().filter(|x| x.fract() == 0.0 && *x >= 0.0).map(|x| x as u64));
        number
            .and_then(|number| u32::try_from(number).ok())
            .filter(|number| range.contains(number))
            .map(Some)
            .ok_or_else(|| invalid(key, value, &format!("an integer from {} to {}", range.start(), range.end())))
    }

    /// A width: 1 to [`MAX_DIM`].
    pub(crate) fn dim(&self, keys: &[&str]) -> Result<u32, ConfigError> {
        self.integer_in(keys, 1..=MAX_DIM)?.ok_or_else(|| missing(keys))
    }

    /// A width that MLC writes as 0 and others leave out when it is to be derived.
    pub(crate) fn dim_or(&self, keys: &[&str], default: u32) -> Result<u32, ConfigError> {
        match self.integer_in(keys, 0..=MAX_DIM)? {
            None | Some(0) if default == 0 => Err(missing(keys)),
            None | Some(0) => Ok(default),
            Some(dim) => Ok(dim),
        }
    }

    pub(crate) fn layers(&self, keys: &[&str]) -> Result<u32, ConfigError> {
        self.integer_in(keys, 1..=MAX_LAYERS)?.ok_or_else(|| missing(keys))
    }

    /// A count of positions; 0 and -1 mean that there is none.
    pub(crate) fn positions(&self, keys: &[&str]) -> Result<Option<u32>, ConfigError> {
        match self.get(keys) {
            Some((_, value)) if value.as_i64() == Some(-1) => Ok(None),
            _ => Ok(self.integer_in(keys, 0..=MAX_POSITIONS)?.filter(|&n| n > 0)),
        }
    }

    /// A number that may be 0, such as attention sinks; -1 means that it is not set.
    pub(crate) fn count(&self, keys: &[&str]) -> Result<Option<u32>, ConfigError> {
        match self.get(keys) {
            Some((_, value)) if value.as_i64() == Some(-1) => Ok(None),
            _ => self.integer_in(keys, 0..=MAX_POSITIONS),
        }
    }

    /// A finite number.
    pub(crate) fn number(&self, keys: &[&str]) -> Result<Option<f64>, ConfigError> {
        let Some((key, value)) = self.get(keys) else { return Ok(None) };
        let number = value.as_f64().filter(|x| x.is_finite() && x.abs() <= 1e30);
        number.map(Some).ok_or_else(|| invalid(key, value, "a finite number"))
    }

    /// A number above 0.
    pub(crate) fn positive(&self, keys: &[&str]) -> Result<Option<f64>, ConfigError> {
        match self.number(keys)? {
            // Neither 0 nor anything that is 0 as a float32.
            Some(x) if (x as f32) <= 0.0 => {
                let (key, value) = self.get(keys).expect("it was just read");
                Err(invalid(key, value, "a number above 0"))
            }
            other => Ok(other),
        }
    }

    pub(crate) fn positive_f32(&self, keys: &[&str]) -> Result<Option<f32>, ConfigError> {
        Ok(self.positive(keys)?.map(|x| x as f32))
    }

    pub(crate) fn flag(&self, keys: &[&str], default: bool) -> Result<bool, ConfigError> {
        match self.get(keys) {
            None => Ok(default),
            Some((_, Value::Bool(flag))) => Ok(*flag),
            Some((key, value)) => Err(invalid(key, value, "true or false")),
        }
    }

    pub(crate) fn text(&self, keys: &[&str]) -> Result<Option<&'a str>, ConfigError> {
        match self.get(keys) {
            None => Ok(None),
            Some((_, Value::String(text))) => Ok(Some(text)),
            Some((key, value)) => Err(invalid(key, value, "a string")),
        }
    }

    /// An array of at most `most` numbers above 0.
    pub(crate) fn factors(&self, key: &str, most: usize) -> Result<Vec<f64>, ConfigError> {
        let Some((key, value)) = self.get(&[key]) else { return Err(missing(&[key])) };
        let expected = || invalid(key, value, "an array of numbers above 0, one for each pair of rotated elements");
        let list = value.as_array().filter(|list| list.len() <= most).ok_or_else(expected)?;
        let factor = |x: &Value| x.as_f64().filter(|x| *x > 1e-6 && *x < 1e9);
        list.iter().map(factor).collect::<Option<_>>().ok_or_else(expected)
    }

    /// The activation's name in transformers.
    pub(crate) fn activation(&self, keys: &[&str]) -> Result<Option<Activation>, ConfigError> {
        let Some(name) = self.text(keys)? else { return Ok(None) };
        match name {
            "silu" | "swish" => Ok(Some(Activation::Silu)),
            "gelu" => Ok(Some(Activation::Gelu)),
            "gelu_pytorch_tanh" | "gelu_new" | "gelu_fast" => Ok(Some(Activation::GeluTanh)),
            "relu" => Ok(Some(Activation::Relu)),
            _ => {
                let (key, value) = self.get(keys).expect("it was just read");
                Err(invalid(key, value, "silu, gelu, gelu_new, gelu_pytorch_tanh or relu"))
            }
        }
    }
}

pub(crate) fn missing(keys: &[&str]) -> ConfigError {
    ConfigError::Missing { key: keys.join("` or `") }
}

pub(crate) fn invalid(key: &str, value: &Value, expected: &str) -> ConfigError {
    ConfigError::Invalid { key: key.to_owned(), found: shortened(value), expected: expected.to_owned() }
}

/// The value as JSON, at most some 60 characters of it.
pub(crate) fn shortened(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
