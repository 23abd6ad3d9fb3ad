//! Templates that are valid and too expensive end with an error, soon and without taking the process with them.

use knapsack_jinja::{Context, ErrorKind, Limits, Template};
use proptest::prelude::*;
use serde_json::json;
use std::time::{Duration, Instant};

fn context() -> Vec<(&'static str, Context)> {
    vec![
        ("messages", Context::Data(json!([{"role": "user", "content": "hello"}]))),
        ("text", Context::Data(json!("abc"))),
    ]
}

fn render(source: &str) -> Result<String, knapsack_jinja::Error> {
    let template = Template::parse(source)?;
    let text = template.render(&context(), &|_| String::new(), Limits::default())?;
    Ok(text.as_str().to_owned())
}

fn trips(name: &str, source: &str) {
    let start = Instant::now();
    let error = render(source).err().unwrap_or_else(|| panic!("{name} is rendered"));
    assert!(matches!(error.kind, ErrorKind::Limit | ErrorKind::Operation), "{name}: {error:?}");
    assert!(start.elapsed() < Duration::from_secs(20), "{name} took {:?}", start.elapsed());
}

#[test]
fn nesting_is_limited_while_parsing() {
    let n = 100_000;
    for (name, source) in [
        ("left-deep sum", format!("{{{{ 1{} }}}}", "+1".repeat(n))),
        ("left-deep filters", format!("{{{{ 'x'{} }}}}", "|trim".repeat(n))),
        ("left-deep attributes", format!("{{{{ x{} }}}}", ".a".repeat(n))),
        ("left-deep calls", format!("{{{{ x{} }}}}", "()".repeat(n))),
        ("left-deep items", format!("{{{{ x{} }}}}", "[0]".repeat(n))),
        ("left-deep or", format!("{{{{ x{} }}}}", " or x".repeat(n))),
        ("left-deep and", format!("{{{{ x{} }}}}", " and x".repeat(n))),
        ("left-deep tests", format!("{{{{ x{} }}}}", " is defined".repeat(n / 2))),
        ("choices", format!("{{{{ x{} }}}}", " if x else x".repeat(n / 2))),
        ("not", format!("{{{{ {}x }}}}", "not ".repeat(n))),
        ("minus", format!("{{{{ {}1 }}}}", "-".repeat(n))),
        ("parentheses", format!("{{{{ {}1{} }}}}", "(".repeat(n), ")".repeat(n))),
        ("lists", format!("{{{{ {}{} }}}}", "[".repeat(n), "]".repeat(n))),
        ("dictionaries", format!("{{{{ {}1{} }}}}", "{1:".repeat(n), "}".repeat(n))),
        ("subscripts", format!("{{{{ {}1{} }}}}", "x[".repeat(n), "]".repeat(n))),
        ("arguments", format!("{{{{ {}1{} }}}}", "f(".repeat(n), ")".repeat(n))),
        ("ifs", "{% if x %}".repeat(n)),
        ("loops", "{% for x in y %}".repeat(n / 2)),
        ("targets", format!("{{% set {}a{} = 1 %}}", "(".repeat(n), ")".repeat(n))),
        ("powers", format!("{{{{ 2{} }}}}", "**2".repeat(n))),
    ] {
        let error = Template::parse(&source).expect_err(name);
        assert!(error.to_string().contains("nested too deeply"), "{name}: {error}");
    }
    // Long and flat is no nesting.
    assert_eq!(render(&format!("{{{{ 'a'{} }}}}", " ~ 'a'".repeat(1000))).unwrap().len(), 1001);
    assert_eq!(render(&format!("{{% if x %}}{}{{% endif %}}b", "{% elif x %}a".repeat(10_000))).unwrap(), "b");
}

#[test]
fn values_that_contain_themselves() {
    for source in [
        "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}",
        "{% set ns = namespace() %}{% set ns.x = [ns] %}{{ ns.x }}",
        "{% set ns = namespace() %}{% set ns.x = {'a': ns} %}{{ ns.x | string }}",
        "{% set a = namespace() %}{% set b = namespace() %}{% set a.x = [b] %}{% set b.x = [a] %}{{ a.x | tojson }}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(1000) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(1000) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x | tojson }}",
        "{% set a = namespace(x=[1]) %}{% set b = namespace(x=[1]) %}{% for i in range(1000) %}{% set a.x = [a.x] %}\
         {% set b.x = [b.x] %}{% endfor %}{{ a.x == b.x }}",
        "{% set a = namespace(x=[1]) %}{% set b = namespace(x=[2]) %}{% for i in range(1000) %}{% set a.x = [a.x] %}\
         {% set b.x = [b.x] %}{% endfor %}{{ [a.x, b.x] | sort }}",
        "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
        "{% macro f(x) %}{% call f(x) %}{% endcall %}{% endmacro %}{{ f(1) }}",
        "{% for x in [[]] recursive %}{{ loop([x]) }}{% endfor %}",
    ] {
        trips(source, source);
    }
    // A hundred thousand containers inside each other are made and freed without recursion.
    let deep = "{% set ns = namespace(x=[]) %}{% for i in range(100000) %}{% set ns.x = [ns.x] %}{% endfor %}ok";
    assert_eq!(render(deep).unwrap(), "ok");
}

#[test]
fn memory_in_one_instruction() {
    for source in [
        "{{ 'x' * 100000000000 }}",
        "{{ [1] * 100000000000 }}",
        "{{ text | indent(10000000000) }}",
        "{{ ('a\n' * 100000) | indent(100000) }}",
        "{{ text | center(10000000000) }}",
        "{{ text.ljust(10000000000) }}",
        "{{ text.zfill(10000000000) }}",
        "{{ '%10000000000d' % 1 }}",
        "{{ '%.1000000000f' % 1.5 }}",
        "{{ '{:>10000000000}'.format(1) }}",
        "{{ [1] | batch(10000000000, 'x') }}",
        "{{ [1] | slice(10000000000) }}",
        "{{ range(10000000000) }}",
        "{{ ('a' * 1000000).replace('a', 'b' * 1000000) }}",
        "{{ ('a' * 1000000).replace('', 'b' * 1000000) }}",
        "{{ range(100000) | join('x' * 1000000) }}",
        "{{ ('x' * 100000).join(range(100000) | map('string')) }}",
        "{{ [[[1]]] | tojson(indent=100000000) }}",
        "{{ 9 ** 9 ** 9 }}",
        "{{ messages | list * 100000000 }}",
    ] {
        trips(source, source);
    }
}

#[test]
fn growth_in_loops() {
    for body in [
        "ns.x + ns.x",
        "ns.x ~ ns.x",
        "ns.x * 2",
        "[ns.x, ns.x] | join",
        "ns.x.replace('a', 'aa')",
        "'%s%s' % (ns.x, ns.x)",
        "ns.x | replace('a', 'aaa')",
        "'{0}{0}'.format(ns.x)",
    ] {
        let source = format!(
            "{{% set ns = namespace(x='a') %}}{{% for i in range(100) %}}{{% set ns.x = {body} %}}{{% endfor %}}{{{{ ns.x | length }}}}"
        );
        trips(body, &source);
    }
    for source in [
        "{% set ns = namespace(x=[1]) %}{% for i in range(100) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
        "{% set ns = namespace(x=[]) %}{% for i in range(100000) %}{% set ns.x = [range(1000)] + ns.x %}{% endfor %}",
        "{% for i in range(1000) %}{% for j in range(1000) %}{{ 'x' * 1000 }}{% endfor %}{% endfor %}",
        "{% set x %}{% for i in range(100000) %}{{ 'x' * 10000 }}{% endfor %}{% endset %}",
    ] {
        trips(source, source);
    }
}

#[test]
fn time_without_memory() {
    let dag = "{% set a = namespace(x=[1]) %}{% set b = namespace(x=[1]) %}{% for i in range(60) %}{% set a.x = [a.x, a.x] %}\
               {% set b.x = [b.x, b.x] %}{% endfor %}";
    for tail in [
        "{{ a.x == b.x }}",
        "{{ a.x | string | length }}",
        "{{ a.x | tojson }}",
        "{{ [a.x, b.x] | sort }}",
        "{{ a.x in [b.x] }}",
        "{{ [a.x, b.x] | max }}",
    ] {
        trips(tail, &format!("{dag}{tail}"));
    }
    for source in [
        "{% for a in range(100000) %}{% for b in range(100000) %}{% set c = a %}{% endfor %}{% endfor %}",
        "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
        "{% for a in range(100000) %}{{ ('ab' * 100000).find('ba' * 50000 ~ 'x') }}{% endfor %}",
        "{% for a in range(100000) %}{{ range(10000) | sort | first }}{% endfor %}",
    ] {
        trips(source, source);
    }
}

#[test]
fn the_source_is_limited() {
    assert_eq!(Template::parse(&"x".repeat(2 << 20)).unwrap_err().kind, ErrorKind::Limit);
    let nested = (0..300).fold(json!([]), |inner, _| json!([inner]));
    let template = Template::parse("{{ x is defined }}").unwrap();
    let deep = [("x", Context::Data((0..300).fold(nested, |inner, _| json!([inner]))))];
    assert_eq!(template.render(&deep, &|_| String::new(), Limits::default()).unwrap_err().kind, ErrorKind::Limit);
}

/// Pieces that templates are made of.
const PIECES: &[&str] = &[
    "{{",
    "}}",
    "{%",
    "%}",
    "{#",
    "#}",
    "-",
    "+",
    " ",
    "\n",
    "if",
    "else",
    "elif",
    "endif",
    "for",
    "in",
    "endfor",
    "set",
    "endset",
    "macro",
    "endmacro",
    "call",
    "endcall",
    "raw",
    "endraw",
    "filter",
    "endfilter",
    "with",
    "endwith",
    "loop",
    ".index",
    "messages",
    "[0]",
    "[-1]",
    "[1:]",
    "[::-1]",
    ".content",
    "('a')",
    "()",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    "'é'",
    "'%s'",
    "'{}'",
    "1",
    "0",
    "-5",
    "1.5",
    "9223372036854775807",
    "none",
    "true",
    "x",
    "=",
    "==",
    "<",
    "~",
    "*",
    "**",
    "//",
    "%",
    "|",
    "trim",
    "tojson",
    "length",
    "sort",
    "join",
    "indent",
    "batch",
    "slice",
    "format",
    "is",
    "not",
    "defined",
    "mapping",
    "range",
    "namespace",
    ".split",
    ".replace",
    ".format",
    ".center",
    ",",
    ":",
    "and",
    "or",
    "upper",
    "round",
    "int",
    "groupby",
    "first",
    "unique",
    "truncate",
    "title",
];

proptest! {
    /// Whatever is put together, the answer is a text or an error, and never a panic that was caught.
    #[test]
    fn nothing_panics(pieces in proptest::collection::vec(proptest::sample::select(PIECES), 0..30), tagged: bool) {
        let source = if tagged { format!("{{{{ {} }}}}", pieces.join(" ")) } else { pieces.concat() };
        let limits = Limits { steps: 100_000, ..Limits::default() };
        let result = Template::parse(&source).and_then(|template| template.render(&context(), &|_| String::new(), limits));
        if let Err(error) = result {
            prop_assert!(error.message != "the interpreter gave up", "{source}");
        }
    }

    #[test]
    fn no_expression_panics(
        value in proptest::sample::select(&["messages", "text", "'é日x'", "[3, 'a', none]", "{'a': [1]}", "-7", "1.5", "none", "(1, 2)", "''"][..]),
        filter in proptest::sample::select(&["abs", "attr", "batch", "capitalize", "center", "dictsort", "escape", "first", "float", "format",
            "groupby", "indent", "int", "items", "join", "last", "length", "list", "map", "max", "min", "replace", "reverse", "round", "select",
            "selectattr", "slice", "sort", "string", "sum", "title", "tojson", "trim", "truncate", "unique", "wordcount"][..]),
        arguments in proptest::collection::vec(proptest::sample::select(&["0", "-1", "2", "9223372036854775807", "-9223372036854775807 - 1", "'a'",
            "''", "none", "true", "[1]", "1e300", "'é'"][..]), 0..4),
    ) {
        let arguments = arguments.join(", ");
        let methods = "split rsplit strip find rfind count replace center zfill partition startswith format join splitlines title".split(' ');
        let calls = methods.map(|method| format!("{{{{ ({value}).{method}({arguments}) }}}}"));
        let operators = ["+", "-", "*", "/", "//", "%", "**", "<", "in"].map(|operator| format!("{{{{ ({value}) {operator} ({}) }}}}", arguments.split(", ").next().filter(|a| !a.is_empty()).unwrap_or("0")));
        for source in std::iter::once(format!("{{{{ ({value}) | {filter}({arguments}) }}}}")).chain(calls).chain(operators) {
            if let Err(error) = render(&source) {
                prop_assert!(error.message != "the interpreter gave up", "{source}");
            }
        }
    }
}
