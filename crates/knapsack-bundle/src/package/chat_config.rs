//! The bundled `mlc-chat-config.json`: the source's with the sizes that the library was compiled for.

use knapsack_artifact::json;
use knapsack_artifact::library::ModelInfo;
use serde_json::Value;

/// Sets the windows, keeps everything else and its order.
///
/// # Errors
/// What is wrong with `source`, as text.
pub(super) fn with_windows(source: &[u8], model: &ModelInfo) -> Result<Vec<u8>, String> {
    let Value::Object(mut config) = json::parse_portable(source).map_err(|error| error.to_string())? else {
        return Err("it is no object".to_owned());
    };
    let unset_or = |value: Option<u32>| Value::from(value.map_or(-1, i64::from));
    let mut windows = vec![
        ("context_window_size", unset_or(model.context_window_size)),
        ("sliding_window_size", unset_or(model.sliding_window_size)),
        ("prefill_chunk_size", Value::from(model.prefill_chunk_size)),
    ];
    if model.sliding_window_size.is_some() {
        windows.push(("attention_sink_size", Value::from(model.attention_sink_size)));
    }
    for (key, value) in windows {
        // The architecture's own section repeats some of them, by family.
        if let Some(slot) = config.get_mut("model_config").and_then(|section| section.get_mut(key)) {
            *slot = value.clone();
        }
        config.insert(key.into(), value);
    }
    let mut text = serde_json::to_vec_pretty(&config).map_err(|error| error.to_string())?;
    text.push(b'\n');
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Map;

    #[test]
    fn windows_are_set_and_the_rest_is_kept_in_order() {
        let source =
            std::fs::read(knapsack_testkit::mlc_fixture("llama", "q4f16_1").join("mlc-chat-config.json")).unwrap();
        let mut model = crate::testing::model_library("x", 16).model;
        let before: Map<String, Value> = serde_json::from_slice(&source).unwrap();
        let text = with_windows(&source, &model).unwrap();
        let after: Map<String, Value> = serde_json::from_slice(&text).unwrap();
        assert!(before.keys().eq(after.keys()), "order or keys changed");
        for (key, value) in &after {
            match &**key {
                "context_window_size" => assert_eq!(value, 256),
                "prefill_chunk_size" => assert_eq!(value, 16),
                "model_config" => {
                    assert_eq!((&value["context_window_size"], &value["prefill_chunk_size"]), (&256.into(), &16.into()))
                }
                _ => assert_eq!(value, &before[key], "{key}"),
            }
        }
        model.context_window_size = None;
        (model.sliding_window_size, model.attention_sink_size) = (Some(64), 4);
        let after: Map<String, Value> = serde_json::from_slice(&with_windows(&source, &model).unwrap()).unwrap();
        assert_eq!((&after["context_window_size"], &after["sliding_window_size"]), (&(-1).into(), &64.into()));
        assert_eq!(after["attention_sink_size"], 4);
        assert!(with_windows(b"[]", &model).is_err());
    }
}
