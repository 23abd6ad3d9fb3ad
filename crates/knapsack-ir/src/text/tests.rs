use super::*;
use crate::verify;
use proptest::prelude::*;

/// A layer of everything: each operation at least once.
pub(crate) const EVERYTHING: &str = include_str!("everything.graph");

#[test]
fn printing_and_reading_are_inverse() {
    let graph = parse(EVERYTHING).unwrap();
    assert_eq!(verify(&graph), Ok(()));
    let text = print(&graph);
    assert_eq!(parse(&text).unwrap(), graph);
    let code = |text: &str| {
        let lines = text.lines().map(|line| line.split("//").next().unwrap().trim().to_owned());
        lines.filter(|line| !line.is_empty()).collect::<Vec<_>>()
    };
    assert_eq!(code(&text), code(EVERYTHING));
}

#[test]
fn errors_name_line_and_problem() {
    for (text, expected) in [
        ("", "line 1: no graph"),
        ("grph a b", "line 1: `graph` is expected first"),
        ("graph a b vocab=1 hidden=x", "line 1: `x` is not what is expected here"),
        ("graph a b vocab=1 hidden=1 layers=1", "line 2: no return"),
        ("graph a b vocab=1 hidden=1 layers=1\n%0:tokens = token", "line 2: no operation `token`"),
        ("graph a b vocab=1 hidden=1 layers=1\n%0:tokens = tokens 1", "line 2: `1` is too much"),
        ("graph a b vocab=1 hidden=1 layers=1\n%4294967295:tokens = tokens", "line 2: `%4294967295` is not a value"),
        ("graph a b vocab=1 hidden=1 layers=1\nparam @1 x float16[1]", "line 2: parameter 0 is expected, not 1"),
        ("graph a b vocab=1 hidden=1 layers=1\nreturn %0\nreturn %0", "line 3: the graph has returned already"),
        ("graph a b vocab=1 hidden=1 layers=1\n%0:f32[2,3] = tokens", "line 2: `2` rows"),
    ] {
        assert_eq!(parse(text).unwrap_err().to_string(), expected);
    }
}

proptest! {
    /// Whatever is changed in a graph's text, reading and verifying it end with a value, not a panic.
    #[test]
    fn changed_text_is_read_or_refused(at in 0usize..EVERYTHING.len(), with in "[ -~]{0,4}", length in 0usize..6) {
        let mut text = EVERYTHING.to_owned();
        if text.is_char_boundary(at) {
            let end = (at + length).min(text.len());
            text.replace_range(at..end, &with);
            if let Ok(graph) = parse(&text) {
                let _ = verify(&graph);
                prop_assert!(parse(&print(&graph)).is_ok());
            }
        }
    }
}
