//! Holds `knapsack.h` against the Rust code: every function, callback and struct that crosses has the same types in the same
//! order on both sides. Both are read as text, in the plain form that they are written in.

use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::path::Path;

const HEADER: &str = "crates/knapsack-ffi/include/knapsack.h";
const SOURCES: &str = "crates/knapsack-ffi/src/c";

/// Name of a declaration, and what it is as a canonical C text.
type Declarations = BTreeMap<String, String>;

pub(crate) fn check(root: &Path) -> Result<Vec<String>> {
    let header = c(&std::fs::read_to_string(root.join(HEADER)).context(HEADER)?);
    let mut code = Declarations::new();
    for entry in std::fs::read_dir(root.join(SOURCES)).context(SOURCES)? {
        let path = entry?.path();
        code.extend(rust(&std::fs::read_to_string(&path).with_context(|| path.display().to_string())?));
    }
    Ok(differences(&header, &code))
}

fn differences(header: &Declarations, code: &Declarations) -> Vec<String> {
    let mut problems = Vec::new();
    for (name, declared) in header {
        match code.get(name) {
            None => problems.push(format!("{HEADER} declares {name}, which {SOURCES} does not have")),
            Some(defined) if defined != declared => {
                problems.push(format!("{name} is `{declared}` in {HEADER} and `{defined}` in {SOURCES}"));
            }
            Some(_) => {}
        }
    }
    let missing = code.keys().filter(|name| !header.contains_key(*name));
    problems.extend(missing.map(|name| format!("{SOURCES} has {name}, which {HEADER} does not declare")));
    problems
}

/// Text between `open` and the matching end, and what follows it.
fn block(text: &str, open: char, close: char) -> Option<(&str, &str)> {
    let start = text.find(open)?;
    let mut depth = 0;
    for (at, letter) in text[start..].char_indices() {
        depth += i32::from(letter == open) - i32::from(letter == close);
        if depth == 0 {
            return Some((&text[start + 1..start + at], &text[start + at + 1..]));
        }
    }
    None
}

fn squeeze(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

// -- C --

fn c(text: &str) -> Declarations {
    let mut plain = String::new();
    let mut rest = text;
    while let Some(start) = rest.find("/*") {
        plain.push_str(&rest[..start]);
        rest = rest[start..].split_once("*/").map_or("", |(_, after)| after);
    }
    plain.push_str(rest);
    let plain: String = plain
        .lines()
        .filter(|line| !line.starts_with('#') && !line.contains("extern \"C\""))
        .collect::<Vec<_>>()
        .join("\n");
    let mut found = Declarations::new();
    let mut rest = plain.as_str();
    while let Some(end) = rest.find([';', '{']) {
        let head = squeeze(&rest[..end]);
        if rest[end..].starts_with('{') {
            let Some((fields, after)) = block(&rest[end..], '{', '}') else { break };
            let name = head.trim_start_matches("typedef struct ").to_owned();
            let fields = fields.split(';').map(c_item).filter(|f| !f.is_empty()).collect::<Vec<_>>().join("; ");
            found.insert(name, fields);
            rest = after.split_once(';').map_or("", |(_, after)| after);
            continue;
        }
        rest = &rest[end + 1..];
        if let Some((result, name)) = head.strip_prefix("typedef ").and_then(|h| h.split_once("(*")) {
            let (name, arguments) = name.split_once(')').unwrap_or((name, ""));
            let (arguments, _) = block(arguments, '(', ')').unwrap_or_default();
            found.insert(name.to_owned(), format!("{} ({})", result.trim(), c_list(arguments)));
        } else if let Some((before, _)) = head.split_once('(') {
            let name = before.rsplit([' ', '*']).next().unwrap_or_default();
            let result = before[..before.len() - name.len()].trim();
            let (arguments, _) = block(&head, '(', ')').unwrap_or_default();
            found.insert(name.to_owned(), format!("{} ({})", c_type(result), c_list(arguments)));
        }
    }
    found
}

fn c_list(arguments: &str) -> String {
    if arguments.trim() == "void" {
        return String::new();
    }
    arguments.split(',').map(c_item).collect::<Vec<_>>().join(", ")
}

/// `const T *name` as `name: const T *`.
fn c_item(item: &str) -> String {
    let item = squeeze(item);
    let name = item.rsplit([' ', '*']).next().unwrap_or_default().to_owned();
    if name.is_empty() {
        return String::new();
    }
    format!("{name}: {}", c_type(&item[..item.len() - name.len()]))
}

fn c_type(text: &str) -> String {
    squeeze(&text.replace('*', " * ")).replace("* *", "**")
}

// -- Rust --

fn rust(text: &str) -> Declarations {
    let mut found = Declarations::new();
    let code: String = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    for (at, _) in code.match_indices("extern \"C\" fn") {
        let rest = &code[at + "extern \"C\" fn".len()..];
        let before = code[..at].rsplit(['\n', ';']).next().unwrap_or_default();
        let Some((arguments, after)) = block(rest, '(', ')') else { continue };
        let end = after.find(['{', ';']).unwrap_or(after.len());
        let result = after[..end].trim().strip_prefix("->").map_or("void", str::trim);
        let own = rest[..rest.find('(').unwrap_or(0)].trim();
        let name = match own {
            // An alias: `pub type Name = unsafe extern "C" fn(…)`, perhaps over two lines.
            "" => code[..at].rsplit("pub type ").next().and_then(|t| t.split_once(' ')).map_or("", |(name, _)| name),
            own if before.trim_start().starts_with("pub ") => own,
            _ => continue,
        };
        let list = arguments.split(',').map(rust_item).filter(|item| !item.is_empty()).collect::<Vec<_>>().join(", ");
        found.insert(name.to_owned(), format!("{} ({list})", c_of(result)));
    }
    for (at, _) in code.match_indices("#[repr(C)]") {
        let Some((name, _)) = code[at..].split_once("pub struct ").and_then(|(_, rest)| rest.split_once(' ')) else {
            continue;
        };
        let Some((fields, _)) = block(&code[at..][code[at..].find("pub struct").unwrap_or(0)..], '{', '}') else {
            continue;
        };
        let fields = fields.split(',').map(rust_item).filter(|item| !item.is_empty()).collect::<Vec<_>>().join("; ");
        found.insert(name.to_owned(), fields);
    }
    found
}

fn rust_item(item: &str) -> String {
    let item = squeeze(item);
    item.trim_start_matches("pub ")
        .split_once(": ")
        .map_or_else(String::new, |(name, kind)| format!("{name}: {}", c_of(kind)))
}

/// A Rust type as C spells it.
fn c_of(kind: &str) -> String {
    let kind = kind.trim();
    if let Some(inner) = kind.strip_prefix("Option<").and_then(|k| k.strip_suffix('>')) {
        return c_of(inner);
    }
    if let Some(inner) = kind.strip_prefix("*const ") {
        return format!("const {} *", c_of(inner)).replace("* *", "**");
    }
    if let Some(inner) = kind.strip_prefix("*mut ") {
        return format!("{} *", c_of(inner)).replace("* *", "**");
    }
    match kind {
        "u8" => "uint8_t",
        "u32" => "uint32_t",
        "i32" => "int32_t",
        "u64" => "uint64_t",
        "i64" => "int64_t",
        "usize" => "size_t",
        "f32" => "float",
        "c_void" => "void",
        other => other,
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER_TEXT: &str = "/* x; */\n#include <a>\ntypedef struct A A;\ntypedef struct S {\n  /* y */ size_t size;\n  const uint8_t *data;\n} S;\n\
        typedef bool (*F)(void *context, S text);\nuint32_t f(void);\nA *g(const A *a, S **out, F call);\n";
    const CODE: &str = "#[repr(C)]\n#[derive(Clone)]\npub struct S {\n    /// Doc.\n    pub size: usize,\n    pub data: *const u8,\n}\n\
        pub type F =\n    unsafe extern \"C\" fn(context: *mut c_void, text: S) -> bool;\n\
        pub extern \"C\" fn f() -> u32 { 1 }\npub unsafe extern \"C\" fn g(\n    a: *const A,\n    out: *mut *mut S,\n    call: F,\n) -> *mut A {\n}\n";

    #[test]
    fn the_same_in_both_languages() {
        let (header, code) = (c(HEADER_TEXT), rust(CODE));
        assert_eq!(header.len(), 4, "{header:?}");
        assert_eq!(differences(&header, &code), Vec::<String>::new());
    }

    #[test]
    fn every_kind_of_difference_is_noticed() {
        for (from, to) in [
            ("size_t size;", ""),
            ("const uint8_t", "uint8_t"),
            ("bool (*F)", "void (*F)"),
            ("S **out", "S *out"),
            ("uint32_t f(void);", ""),
            ("const A *a, ", ""),
        ] {
            let changed = HEADER_TEXT.replace(from, to);
            assert_ne!(changed, HEADER_TEXT);
            assert_eq!(differences(&c(&changed), &rust(CODE)).len(), 1, "{from}");
        }
    }
}
