//! What this interpreter makes of a table of templates is what transformers' environment makes of them. The table is written by
//! `scripts/jinja_references.py`.

use knapsack_jinja::{Context, Limits, Template};
use serde_json::Value;

fn read(name: &str) -> Value {
    let path = format!("{}/tests/{name}", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn every_template_renders_as_in_python() {
    let (cases, context) = (read("python.json"), read("context.json"));
    let context: Vec<(&str, Context)> = context
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, value)| (name.as_str(), Context::Data(value.clone())))
        .collect();
    let mut wrong = Vec::new();
    for case in cases.as_array().unwrap() {
        let source = case["template"].as_str().unwrap();
        let rendered = Template::parse(source)
            .and_then(|template| template.render(&context, &|_| "now".to_owned(), Limits::default()));
        let same = match (&rendered, case["rendered"].as_str()) {
            (Ok(text), Some(expected)) => text.as_str() == expected,
            (Err(_), None) => true,
            _ => false,
        };
        if !same {
            let got = rendered.map(|text| text.as_str().to_owned()).map_err(|error| error.to_string());
            wrong.push(format!("{source}\n  Python: {:?}\n  here:   {got:?}", case["rendered"]));
        }
    }
    assert!(cases.as_array().unwrap().len() > 150);
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}
