//! Whatever is in the file: no panic, every finding can be shown, and an accepted manifest keeps its promises.

use knapsack_config::{DeviceProfiles, Environment, Overrides, load_text, set_overrides};
use proptest::prelude::*;
use std::path::Path;

fn environment() -> Environment {
    Environment { devices: DeviceProfiles::built_in().unwrap(), ..Environment::default() }
}

/// Reads, renders in every form, and checks what an accepted manifest promises.
fn exercise(text: &str) {
    match load_text(Path::new("m.json"), text, &environment()) {
        Ok(loaded) => {
            assert!(!loaded.manifest.models.is_empty());
            for model in &loaded.manifest.models {
                let id = &model.model_id.value;
                assert!(!id.contains(['/', '\\', '\0']) && !id.starts_with('.') && !id.is_empty());
                assert!(loaded.report.sources.text(model.model_id.span).contains(id.as_str()));
            }
        }
        Err(report) => {
            assert!(report.has_errors());
            report.render(true);
            for finding in &report.diagnostics {
                serde_json::to_string(&finding.located(&report.sources)).unwrap();
            }
        }
    }
    let overrides: Overrides = "context_window_size=512".parse().unwrap();
    if let Ok(changed) = set_overrides(text, "b", &overrides) {
        assert_eq!(set_overrides(&changed, "b", &overrides).as_deref(), Ok(changed.as_str()));
    }
}

const RIGHT: &str = r#"{ // ü
  "device": "iphone",
  "model_list": [
    { "model": "HF://a/b", "model_id": "b", "estimated_vram_bytes": 3000000000,
      "overrides": { "context_window_size": 2048, "prefill_chunk_size": 128 } },
  ],
  "target_devices": ["iphone-13"]
}"#;

/// Pieces that manifests are made of.
fn piece() -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        "{",
        "}",
        "[",
        "]",
        ":",
        ",",
        "\"",
        "'",
        "//",
        "/*",
        "*/",
        "\n",
        "\r",
        " ",
        "null",
        "true",
        "false",
        "-1",
        "0",
        "1e9",
        "0x1",
        "\"device\"",
        "\"iphone\"",
        "\"model_list\"",
        "\"model\"",
        "\"model_id\"",
        "\"HF://a/b\"",
        "\"b\"",
        "\"overrides\"",
        "\"extends\"",
        "\"m.json\"",
        "\"context_window_size\"",
        "\"estimated_vram_bytes\"",
        "\"\\u0000\"",
        "\"\\ud800\"",
        "\u{feff}",
        "é",
        "字",
    ]);
    prop_oneof![8 => known.prop_map(str::to_owned), 1 => "\\PC{0,4}", 1 => any::<char>().prop_map(String::from)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn any_text(text in "\\PC*") {
        exercise(&text);
    }

    #[test]
    fn any_pieces(pieces in prop::collection::vec(piece(), 0..60)) {
        exercise(&pieces.concat());
    }

    #[test]
    fn a_right_manifest_gone_wrong(at in 0usize..RIGHT.len(), removed in 0usize..8, inserted in piece()) {
        let start = (0..=at).rev().find(|at| RIGHT.is_char_boundary(*at)).unwrap_or(0);
        let end = (start + removed..=RIGHT.len()).find(|at| RIGHT.is_char_boundary(*at)).unwrap_or(RIGHT.len());
        exercise(&format!("{}{inserted}{}", &RIGHT[..start], &RIGHT[end..]));
    }

    #[test]
    fn overrides_read_back(context in prop::option::of(1u64..1 << 31), chunk in prop::option::of(1u64..1 << 31), sinks in prop::option::of(0u64..100)) {
        let overrides = Overrides { context_window_size: context, prefill_chunk_size: chunk, attention_sink_size: sinks, sliding_window_size: None, ..Overrides::default() };
        let read = overrides.to_string().parse::<Overrides>();
        prop_assert_eq!(read.is_ok(), overrides.conflicts().is_empty());
        if let Ok(read) = read {
            prop_assert_eq!(read, overrides);
        }
    }

    #[test]
    fn any_overrides(text in "\\PC*") {
        let _ = text.parse::<Overrides>();
    }
}
