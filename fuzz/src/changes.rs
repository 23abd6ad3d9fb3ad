//! Inputs that are changes to a valid JSON value: the first byte says to which, then eight bytes for each change.

use serde_json::{Value, json};

/// Most changes of one input.
const MOST: usize = 8;

/// A valid value and the places in it.
pub(crate) struct Base {
    value: Value,
    /// JSON pointers to everything below the value.
    places: Vec<String>,
}

impl Base {
    pub(crate) fn new(value: Value) -> Self {
        let mut places = Vec::new();
        collect(&value, "", &mut places);
        Self { value, places }
    }
}

fn collect(value: &Value, at: &str, places: &mut Vec<String>) {
    let mut step = |key: &str, value: &Value| {
        let place = format!("{at}/{}", key.replace('~', "~0").replace('/', "~1"));
        collect(value, &place, places);
        places.push(place);
    };
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| step(key, value)),
        Value::Array(items) => items.iter().enumerate().for_each(|(i, value)| step(&i.to_string(), value)),
        _ => {}
    }
}

/// The changed value that `data` stands for; `None` when it names none.
pub(crate) fn changed(bases: &[Base], data: &[u8]) -> Option<Value> {
    let (which, data) = data.split_first()?;
    let base = bases.get(usize::from(*which))?;
    let mut value = base.value.clone();
    for change in data.as_chunks::<8>().0.iter().take(MOST) {
        let [low, high, operation, rest @ ..] = *change;
        let place = base.places.get(usize::from(u16::from_le_bytes([low, high])) % base.places.len())?;
        apply(&mut value, base, place, operation, rest);
    }
    Some(value)
}

/// What changes most: bounds of types, and what is just beside sizes that are usual.
fn interesting(which: u8) -> Value {
    let numbers = [
        json!(0),
        json!(1),
        json!(2),
        json!(-1),
        json!(7),
        json!(8),
        json!(31),
        json!(32),
        json!(33),
        json!(64),
        json!(127),
        json!(128),
        json!(255),
        json!(256),
        json!(257),
        json!(4096),
        json!(65_535),
        json!(65_536),
        json!(1u32 << 31),
        json!(u32::MAX),
        json!(1u64 << 32),
        json!(1u64 << 53),
        json!(i64::MAX),
        json!(i64::MIN),
        json!(u64::MAX),
        json!(0.5),
        json!(-0.0),
        json!(1e-45),
        json!(1e38),
        json!(1e308),
        json!(null),
        json!(true),
        json!(false),
        json!(""),
        json!("q4f16_1"),
        json!([]),
        json!({}),
        json!([1]),
        json!([0, 0, 0, 0]),
        json!("\u{1b}[31m\u{202e}"),
        json!("../x"),
    ];
    numbers[usize::from(which) % numbers.len()].clone()
}

fn apply(value: &mut Value, base: &Base, place: &str, operation: u8, rest: [u8; 5]) {
    let number = u32::from_le_bytes([rest[0], rest[1], rest[2], rest[3]]);
    let other = || base.value.pointer(&base.places[number as usize % base.places.len()]).cloned();
    match operation % 8 {
        0 => replace(value, place, interesting(rest[0])),
        1 => replace(value, place, json!(number % 1024)),
        2 => replace(value, place, json!(number)),
        3 => replace(value, place, other().unwrap_or_default()),
        4 => remove(value, place),
        5 => repeat(value, place, usize::from(rest[0]) % 40),
        6 => {
            if let Some(Value::Number(found)) = value.pointer_mut(place)
                && let Some(n) = found.as_u64()
            {
                *found = [n.wrapping_add(1), n.wrapping_sub(1), n.wrapping_mul(2), n / 2, n.wrapping_mul(256)]
                    [usize::from(rest[0]) % 5]
                    .into();
            }
        }
        _ => {
            if let Some(parent) = place.rsplit_once('/').and_then(|(parent, _)| value.pointer_mut(parent)) {
                add(parent, rest[0], other().unwrap_or_default());
            }
        }
    }
}

fn replace(value: &mut Value, place: &str, new: Value) {
    if let Some(found) = value.pointer_mut(place) {
        *found = new;
    }
}

fn remove(value: &mut Value, place: &str) {
    let Some((parent, key)) = place.rsplit_once('/') else { return };
    match value.pointer_mut(parent) {
        Some(Value::Object(map)) => drop(map.remove(key)),
        Some(Value::Array(items)) => {
            if let Ok(index) = key.parse::<usize>()
                && index < items.len()
            {
                items.remove(index);
            }
        }
        _ => {}
    }
}

/// A list gets its last item again, a string its text.
fn repeat(value: &mut Value, place: &str, times: usize) {
    match value.pointer_mut(place) {
        Some(Value::Array(items)) => {
            let last = items.last().cloned();
            items.extend(last.into_iter().cycle().take(times));
        }
        Some(Value::String(text)) if text.len() < 1000 => *text = text.repeat(times),
        _ => {}
    }
}

fn add(parent: &mut Value, key: u8, new: Value) {
    match parent {
        Value::Array(items) => items.push(new),
        Value::Object(map) => drop(map.insert(KEYS[usize::from(key) % KEYS.len()].to_owned(), new)),
        _ => {}
    }
}

/// Keys that valid values may lack.
const KEYS: [&str; 29] = [
    "rope_scaling",
    "rope_parameters",
    "rope_theta",
    "sliding_window",
    "sliding_window_size",
    "attention_sink_size",
    "head_dim",
    "num_key_value_heads",
    "tie_word_embeddings",
    "layer_types",
    "text_config",
    "attention_bias",
    "quantization_config",
    "hidden_activation",
    "max_position_embeddings",
    "context_window_size",
    "prefill_chunk_size",
    "states",
    "bias",
    "soft_cap",
    "partial_rotary_factor",
    "model_type",
    "architectures",
    "conv_template",
    "lookups",
    "carried",
    "groups",
    "scale",
    "value_norm",
];
