//! `memory`, `fit` and `target_devices` through the real program, with full-size configurations.

mod support;

use serde_json::Value;
use support::Sandbox;

const LLAMA: &str = "Llama-3.2-3B-Instruct-q4f16_1";
const QWEN: &str = "Qwen3-1.7B-q4f16_1";
const GEMMA: &str = "gemma-2-2b-it-q4f16_1";
const PHI: &str = "Phi-3.5-mini-instruct-q4f16_1";
const MISTRAL: &str = "Mistral-7B-Instruct-v0.3-q4f16_1";

/// A manifest as people write it.
const MANIFEST: &str = r#"// two models
{
    "device": "iphone",
    "model_list": [
        { // the large one
            "model": "models/Llama-3.2-3B-Instruct-q4f16_1", "model_id": "llama",
            "bundle_weight": true,
        },
        {
            "model": "models/Qwen3-1.7B-q4f16_1", "model_id": "qwen", "bundle_weight": true,
            "overrides": { "context_window_size": 2048, /* enough */ "prefill_chunk_size": 128 }
        }
    ],
}
"#;

fn two_models(manifest: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.catalogue(LLAMA);
    sandbox.catalogue(QWEN);
    sandbox.write("mlc-package-config.json", manifest);
    sandbox
}

fn model<'a>(value: &'a Value, id: &str) -> &'a Value {
    value["models"].as_array().unwrap().iter().find(|model| model["model_id"] == id).unwrap()
}

#[test]
fn memory_says_what_fits_and_how_it_grows() {
    let sandbox = two_models(MANIFEST);
    let value = sandbox.run(&["memory", "--json", "--phone", "iphone-13", "--phone", "iphone-15-pro"]).json();
    let llama = model(&value, "llama");
    // As docs/memory.md has it for these sizes.
    assert_eq!(llama["weights"], 1_807_423_488u64);
    let total = llama["total"].as_i64().unwrap();
    let of = |place: usize, key: &str| llama["on"][place][key].clone();
    assert_eq!(
        (of(0, "phone"), of(0, "available"), of(0, "fits")),
        ("iphone-13".into(), 1_900_000_000.into(), false.into())
    );
    assert_eq!(of(0, "left"), 1_900_000_000 - total);
    assert_eq!((of(1, "available"), of(1, "fits")), (2_800_000_000u64.into(), true.into()));
    assert_eq!(of(1, "left"), 2_800_000_000 - total);
    assert_eq!(model(&value, "qwen")["on"][0]["fits"], true);

    let growth = llama["growth"].as_array().unwrap();
    let number = |value: &Value, key: &str| value[key].as_u64().unwrap();
    assert!(growth.len() > 20);
    let parts = ["weights", "kv_cache", "workspace", "tokenizer"];
    for (a, b) in growth.iter().zip(&growth[1..]) {
        assert_eq!(number(a, "total"), parts.map(|part| number(a, part)).iter().sum::<u64>());
        let same_context = a["context"] == b["context"];
        let grows = if same_context { "workspace" } else { "kv_cache" };
        assert!(number(b, grows) > number(a, grows), "{a} {b}");
    }
    let planned = growth.iter().find(|at| {
        at["context"] == llama["context_window_size"] && at["prefill_chunk_size"] == llama["prefill_chunk_size"]
    });
    assert_eq!(planned.unwrap()["total"], total);
}

#[test]
fn the_app_decides_how_much_is_available() {
    let sandbox = two_models(MANIFEST);
    let available = |args: &[&str]| {
        let value = sandbox.run(&[&["memory", "qwen", "--json", "--phone", "iphone-15-pro"], args].concat()).json();
        assert_eq!(value["models"].as_array().unwrap().len(), 1);
        value["models"][0]["on"][0]["available"].as_u64().unwrap()
    };
    assert_eq!(available(&[]), 2_800_000_000);
    assert_eq!(available(&["--increased-memory-limit"]), 5_800_000_000);
    assert_eq!(available(&["--increased-memory-limit", "--reserve", "1GB"]), 5_000_000_000);
    let said = MANIFEST.replace("\"device\"", "\"increased_memory_limit\": true, \"app_reserve_bytes\": 0, \"device\"");
    sandbox.write("mlc-package-config.json", &said);
    assert_eq!(available(&[]), 6_000_000_000);
    assert_eq!(available(&["--reserve", "300MB"]), 5_700_000_000);
}

#[test]
fn what_is_unknown_is_said_to_be_unknown() {
    let sandbox = two_models(&MANIFEST.replace("iphone", "android"));
    let value = sandbox.run(&["memory", "--json"]).json();
    let on = &model(&value, "llama")["on"];
    assert!(on.as_array().unwrap().len() > 1);
    for phone in on.as_array().unwrap() {
        assert!(phone["available"].is_null() && phone["fits"].is_null(), "{phone}");
        assert_eq!(phone["largest_buffer_fits"], true);
    }
    let text = sandbox.run(&["memory"]);
    assert!(text.stdout.contains("nobody knows"), "{}", text.stdout);
    let refused = sandbox.run(&["fit", "--phone", "android-8gb"]);
    assert_eq!(refused.code, 2);
    assert!(refused.stderr.contains("give --budget"), "{}", refused.stderr);
    let wrong = sandbox.run(&["memory", "--phone", "iphone-13"]);
    assert!(wrong.code == 2 && wrong.stderr.contains("an iOS device"), "{}", wrong.stderr);
    let misspelt = sandbox.run(&["memory", "--phone", "android-8g"]);
    assert!(misspelt.code == 2 && misspelt.stderr.contains("did you mean android-8gb?"), "{}", misspelt.stderr);
}

#[test]
fn profiles_of_ones_own() {
    let sandbox = two_models(
        &MANIFEST
            .replace("iphone", "android")
            .replace("\"model_list\"", "\"target_devices\": [\"mine\"], \"model_list\""),
    );
    let profile = |buffer: u64| {
        format!(
            r#"{{"devices":[{{"name":"mine","title":"My phone","platform":"android","ram":{{"bytes":8000000000,"source":"the box"}},
                "app_limit":{{"bytes":4000000000,"source":"I tried"}},"max_buffer":{{"bytes":{buffer},"source":"clinfo"}}}}]}}"#
        )
    };
    let unknown = sandbox.run(&["plan"]);
    assert!(unknown.code == 2 && unknown.stderr.contains("knapsack-devices.json"), "{}", unknown.stderr);
    sandbox.write("knapsack-devices.json", &profile(1_000_000_000));
    assert_eq!(sandbox.run(&["plan"]).code, 0);
    assert!(sandbox.run(&["memory", "--list-phones"]).stdout.contains("I tried"));
    let value = sandbox.run(&["memory", "--json"]).json();
    assert_eq!(model(&value, "llama")["on"][0]["available"], 3_800_000_000u64);

    sandbox.write("small.json", &profile(150_000_000));
    let small = sandbox.run(&["plan", "--devices", "small.json"]);
    assert_eq!(small.code, 2);
    assert!(small.stderr.contains("buffer-too-large") && small.stderr.contains("My phone"), "{}", small.stderr);
    sandbox.write("knapsack-devices.json", r#"{"devices":[{}]}"#);
    let broken = sandbox.run(&["plan"]);
    assert!(broken.code == 2 && broken.stderr.contains("knapsack-devices.json"), "{}", broken.stderr);
}

#[test]
fn fit_writes_what_fits_and_disturbs_nothing() {
    let sandbox = two_models(MANIFEST);
    let fitted = sandbox.run(&["fit", "--phone", "iphone-13", "--json"]).json();
    assert_eq!(sandbox.read("mlc-package-config.json"), MANIFEST);
    let wrote = sandbox.run(&["fit", "--phone", "iphone-13", "--write"]);
    assert_eq!(wrote.code, 0, "{}", wrote.stderr);
    let size = |id: &str, key: &str| model(&fitted, id)[key].as_u64().unwrap();
    let mut expected = MANIFEST.replace(
        "            \"bundle_weight\": true,\n        },",
        &format!(
            "            \"bundle_weight\": true,\n            \"overrides\": {{\n                \"context_window_size\": {},\n                \
             \"prefill_chunk_size\": {}\n            }},\n        }},",
            size("llama", "context_window_size"),
            size("llama", "prefill_chunk_size")
        ),
    );
    expected = expected.replace("2048, /*", &format!("{}, /*", size("qwen", "context_window_size")));
    expected = expected.replace("size\": 128 }", &format!("size\": {} }}", size("qwen", "prefill_chunk_size")));
    assert_eq!(sandbox.read("mlc-package-config.json"), expected);
    let again = sandbox.run(&["fit", "--phone", "iphone-13", "--write", "--json"]).json();
    assert_eq!((&again["written"], &again["models"]), (&Value::Array(vec![]), &fitted["models"]));

    // `package` finds the same, and that the phone holds it.
    let phone = expected.replace("\"device\"", "\"target_devices\": [\"iphone-13\"], \"device\"");
    sandbox.write("mlc-package-config.json", &phone);
    let plan = sandbox.run(&["plan", "--message-format", "json"]);
    assert_eq!(plan.code, 0, "{}", plan.stdout);
    let plan: Value = serde_json::from_str(plan.stdout.lines().last().unwrap()).unwrap();
    for id in ["llama", "qwen"] {
        assert_eq!(model(&plan, id)["total"], model(&fitted, id)["total"]);
        assert!(size(id, "total") <= 1_900_000_000);
    }
    // A step more of the context does not fit, and `package` says so.
    let context = size("qwen", "context_window_size");
    sandbox
        .write("mlc-package-config.json", &phone.replace(&format!("{context}, /*"), &format!("{}, /*", context + 256)));
    let refused = sandbox.run(&["package"]);
    assert_eq!(refused.code, 2);
    assert!(refused.stderr.contains("what iPhone 13 leaves") && !sandbox.path("dist").exists(), "{}", refused.stderr);
}

#[test]
fn what_does_not_fit_is_said_with_numbers() {
    let sandbox = two_models(MANIFEST);
    let refused = sandbox.run(&["fit", "--phone", "iphone-13", "--min-context", "2048", "--write"]);
    assert_eq!(refused.code, 1);
    assert_eq!(sandbox.read("mlc-package-config.json"), MANIFEST);
    for part in [
        "llama does not fit",
        "context 512",
        "context 2048, chunk 128: the model needs 2050236672 bytes",
        "150236672 more",
    ] {
        assert!(refused.stderr.contains(part), "{part}: {}", refused.stderr);
    }
    assert!(!refused.stderr.contains("qwen does not fit"));
    let below = sandbox.run(&["fit", "llama", "--budget", "1GB", "--json"]);
    assert_eq!((below.code, &below.json()["models"][0]["fits"]), (1, &Value::from(false)));
    let beyond = sandbox.run(&["fit", "qwen", "--budget", "100GB", "--min-context", "50000"]);
    assert!(beyond.code == 1 && beyond.stderr.contains("the model's own context is 40960"), "{}", beyond.stderr);
    let nothing = sandbox.run(&["fit"]);
    assert!(nothing.code == 2 && nothing.stderr.contains("--phone or --budget"), "{}", nothing.stderr);
    let misspelt = sandbox.run(&["fit", "lama", "--budget", "1GB"]);
    assert!(misspelt.code == 2 && misspelt.stderr.contains("did you mean llama?"), "{}", misspelt.stderr);
}

/// A model of a file that the manifest extends is changed there.
#[test]
fn fit_follows_extends() {
    let sandbox =
        two_models("{ \"extends\": \"base.json\", \"model_list\": [{ \"model_id\": \"qwen\", \"model\": null }] }");
    sandbox.write("base.json", MANIFEST);
    let manifest = sandbox.read("mlc-package-config.json");
    let wrote = sandbox.run(&["fit", "--phone", "iphone-15-pro", "--write"]);
    assert_eq!(wrote.code, 0, "{}", wrote.stderr);
    assert_eq!(sandbox.read("mlc-package-config.json"), manifest);
    assert!(sandbox.read("base.json").contains("\"context_window_size\": 8448"), "{}", sandbox.read("base.json"));
}

/// An entry with a model of the catalogue.
fn entry(name: &str, bytes: u64, overrides: &str) -> String {
    format!(
        r#"{{"model":"models/{name}","model_id":"{name}","bundle_weight":true,"estimated_vram_bytes":{bytes},"overrides":{overrides}}}"#
    )
}

/// Plans entries as a manifest.
fn plan(sandbox: &Sandbox, device: &str, entries: &[String]) -> support::Outcome {
    let manifest = format!(r#"{{"device":"{device}","model_list":[{}]}}"#, entries.join(","));
    sandbox.write("mlc-package-config.json", &manifest);
    sandbox.run(&["plan"])
}

/// MLCChat's manifest for Android: five of its six entries plan as they are; the sizes that they leave open are told. What the
/// sixth declares does not hold its weights and its window: an error that says so.
#[test]
fn mlc_chat_s_manifest() {
    let sandbox = Sandbox::new();
    let both = r#"{"context_window_size":2048,"prefill_chunk_size":128}"#;
    let mut entries = vec![
        entry(PHI, 4_250_586_449, r#"{"prefill_chunk_size":128}"#),
        entry("Qwen3-0.6B-q0f16", 3_000_000_000, both),
        entry(QWEN, 3_000_000_000, both),
        entry(GEMMA, 3_000_000_000, "{}"),
        entry(LLAMA, 4_679_979_417, "{}"),
    ];
    for name in [PHI, QWEN, LLAMA, GEMMA, MISTRAL, "Qwen3-0.6B-q0f16"] {
        sandbox.catalogue(name);
    }
    let told = plan(&sandbox, "android", &entries).expect(0).stderr;
    for moderate in ["Phi-3.5-mini-instruct-q4f16_1", "3B-Instruct-q4f16_1"] {
        let moderate = format!("{moderate}: context_window_size = 4096, the default (the model's own is 131072)");
        assert!(told.contains(&moderate), "{moderate}: {told}");
    }
    // Nobody says that the app goes through a store: MLC's is pushed over a cable.
    assert_eq!(told.matches("warning[store-limit]: the bundled weights take at least ").count(), 2, "{told}");
    let stated = sandbox.run(&["plan", "--store", "play"]).expect(2).stderr;
    assert_eq!(stated.matches("error[store-limit]: the bundled weights take at least ").count(), 2, "{stated}");
    assert!(!sandbox.run(&["plan", "--store", "none"]).expect(0).stderr.contains("store-limit"));
    for verb in ["check", "plan", "package"] {
        let another = sandbox.run(&[verb, "--store", "app-store"]).expect(2).stderr;
        assert!(
            another.contains("error[delivery-conflict]: the package is for android, whose apps the App Store"),
            "{another}"
        );
    }
    // The model's own is asked for, and fills the budget.
    let asked = [entry(LLAMA, 4_679_979_417, r#"{"context_window_size":-1}"#)];
    let asked = plan(&sandbox, "android", &asked).expect(0).stderr;
    let reduced = "3B-Instruct-q4f16_1: context_window_size = 24832, reduced from the model's own 131072";
    assert!(asked.contains(reduced), "{asked}");
    let large = "warning[large-kv-cache]: Llama-3.2-3B-Instruct-q4f16_1: the KV cache takes ";
    assert!(asked.contains(large) && !told.contains(large), "{asked}");
    entries.push(entry(MISTRAL, 4_115_131_883, r#"{"sliding_window_size":768,"prefill_chunk_size":256}"#));
    let refused = plan(&sandbox, "android", &entries).expect(2).stderr;
    for part in ["needs 4236552960 bytes", "no context window fits", "or declare 4236552960", "--allow-over-budget"] {
        assert!(refused.contains(part), "{part}: {refused}");
    }
    assert_eq!(sandbox.run(&["plan", "--allow-over-budget"]).code, 0);
}

/// The same for iPhone (mlc-llm 06c00e7), less Qwen2.5-1.5B, which is not in the catalogue.
#[test]
fn mlc_chat_s_manifest_for_iphone() {
    let sandbox = Sandbox::new();
    for name in [LLAMA, GEMMA, PHI] {
        sandbox.catalogue(name);
    }
    sandbox.catalogue_in(MISTRAL, "q3f16_1");
    let mut entries = vec![
        entry(LLAMA, 3_000_000_000, r#"{"prefill_chunk_size":128,"context_window_size":2048}"#),
        entry(GEMMA, 3_000_000_000, r#"{"prefill_chunk_size":128}"#),
        entry(PHI, 3_043_000_000, r#"{"prefill_chunk_size":128}"#),
    ];
    let told = plan(&sandbox, "iphone", &entries).expect(0).stderr;
    assert!(told.contains("q4f16_1: context_window_size = 2048, reduced from the model's own 131072"), "{told}");
    // One warning, because nobody says that the app goes through the App Store.
    assert_eq!(told.matches("warning[").count(), 1, "{told}");
    assert!(told.contains("warning[store-limit]: the bundled weights take at least 5."), "{told}");
    let stated = sandbox.run(&["plan", "--store", "app-store"]).expect(2).stderr;
    assert!(stated.contains("error[store-limit]: the bundled weights take at least 5."), "{stated}");
    entries.push(entry(MISTRAL, 3_316_000_000, r#"{"prefill_chunk_size":128,"context_window_size":768}"#));
    let refused = plan(&sandbox, "iphone", &entries).expect(2).stderr;
    assert!(refused.contains("needs 3390638336 bytes") && refused.contains("or declare 3390638336"), "{refused}");
}
