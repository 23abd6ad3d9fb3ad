//! llama.cpp's GBNF as Lark.
//!
//! Rules become rules of the same structure. Names may have any case in GBNF and decide in Lark whether something is a terminal, so
//! they are numbered. A rule that leads to no recursion is a terminal, a regular expression that is matched as a whole, where the
//! whole grammar has no recursion; otherwise literals and character classes are the terminals, because a longer one would take
//! characters that the grammar means for what follows.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Deepest nesting of groups.
const MAX_DEPTH: usize = 100;
/// Largest number of repetitions that is written out.
const MAX_REPEAT: u32 = 10_000;

/// Translates; the start rule is `root`.
pub(super) fn to_lark(text: &str) -> Result<String, String> {
    let mut parser = Parser { rest: text, line: 1, rules: BTreeMap::new() };
    let rules = parser.grammar()?;
    let root = parser.rules.get("root").copied().ok_or("it has no rule `root`")?;
    let defined: BTreeMap<usize, &Node> = rules.iter().map(|(number, node)| (*number, node)).collect();
    if let Some((name, _)) = parser.rules.iter().find(|(_, number)| !defined.contains_key(number)) {
        return Err(format!("the rule `{name}` is not defined"));
    }
    let terminal = !is_recursive(&defined);
    let name = |number: usize| if terminal { format!("R{number}") } else { format!("r{number}") };
    let mut out = format!("start: {}\n", name(root));
    for (number, node) in &rules {
        let _ = write!(out, "{}: ", name(*number));
        node.write(&name, &mut out);
        out.push('\n');
    }
    Ok(out)
}

enum Node {
    Rule(usize),
    Literal(String),
    /// The inside of a class, in the syntax of regular expressions.
    Class(String),
    All(Vec<Node>),
    Any(Vec<Node>),
    Repeat(Box<Node>, u32, Option<u32>),
}

impl Node {
    fn write(&self, name: &dyn Fn(usize) -> String, out: &mut String) {
        match self {
            Node::Rule(number) => out.push_str(&name(*number)),
            Node::Literal(text) => out.push_str(&serde_json::Value::from(text.as_str()).to_string()),
            Node::Class(inside) => {
                let _ = write!(out, "/{inside}/");
            }
            Node::All(parts) if parts.is_empty() => out.push_str("\"\""),
            Node::All(parts) => list(parts, " ", name, out),
            Node::Any(parts) => {
                out.push('(');
                list(parts, " | ", name, out);
                out.push(')');
            }
            Node::Repeat(part, low, high) => {
                out.push('(');
                part.write(name, out);
                out.push(')');
                let _ = match (low, high) {
                    (0, None) => out.write_str("*"),
                    (1, None) => out.write_str("+"),
                    (0, Some(1)) => out.write_str("?"),
                    (low, None) => write!(out, "{{{low},}}"),
                    (low, Some(high)) => write!(out, "{{{low},{high}}}"),
                };
            }
        }
    }

    fn rules(&self, into: &mut Vec<usize>) {
        match self {
            Node::Rule(number) => into.push(*number),
            Node::Literal(_) | Node::Class(_) => {}
            Node::All(parts) | Node::Any(parts) => parts.iter().for_each(|part| part.rules(into)),
            Node::Repeat(part, ..) => part.rules(into),
        }
    }
}

fn list(parts: &[Node], between: &str, name: &dyn Fn(usize) -> String, out: &mut String) {
    for (index, part) in parts.iter().enumerate() {
        if index > 0 {
            out.push_str(between);
        }
        part.write(name, out);
    }
}

/// Whether a rule leads back to itself: what is left after taking away, again and again, the rules that name no other.
fn is_recursive(rules: &BTreeMap<usize, &Node>) -> bool {
    let mut left: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (number, node) in rules {
        node.rules(left.entry(*number).or_default());
    }
    loop {
        let done: Vec<usize> = left.iter().filter(|(_, uses)| uses.is_empty()).map(|(number, _)| *number).collect();
        if done.is_empty() {
            return !left.is_empty();
        }
        left.retain(|number, _| !done.contains(number));
        left.values_mut().for_each(|uses| uses.retain(|used| done.binary_search(used).is_err()));
    }
}

struct Parser<'a> {
    rest: &'a str,
    line: usize,
    /// Numbers of the names that occur.
    rules: BTreeMap<String, usize>,
}

impl Parser<'_> {
    fn grammar(&mut self) -> Result<Vec<(usize, Node)>, String> {
        let mut rules: Vec<(usize, Node)> = Vec::new();
        self.space(true);
        while !self.rest.is_empty() {
            let number = self.name()?;
            self.space(false);
            if !self.take("::=") {
                return Err(self.expected("`::=`"));
            }
            self.space(true);
            if rules.iter().any(|(known, _)| *known == number) {
                return Err(format!("line {}: the rule is defined twice", self.line));
            }
            let node = self.alternatives(0)?;
            rules.push((number, node));
            self.space(true);
        }
        Ok(rules)
    }

    fn expected(&self, what: &str) -> String {
        let found: String = self.rest.chars().take(20).collect();
        format!("line {}: expected {what}, found {found:?}", self.line)
    }

    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let character = self.peek()?;
        self.rest = &self.rest[character.len_utf8()..];
        self.line += usize::from(character == '\n');
        Some(character)
    }

    fn take(&mut self, text: &str) -> bool {
        let rest = self.rest.strip_prefix(text);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    /// Passes blanks and comments, and line ends where they mean nothing.
    fn space(&mut self, lines: bool) {
        while let Some(character) = self.peek() {
            match character {
                ' ' | '\t' => drop(self.next()),
                '\r' | '\n' if lines => drop(self.next()),
                '#' => {
                    let end = self.rest.find('\n').unwrap_or(self.rest.len());
                    self.rest = &self.rest[end..];
                }
                _ => return,
            }
        }
    }

    fn name(&mut self) -> Result<usize, String> {
        let end =
            self.rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_')).unwrap_or(self.rest.len());
        if end == 0 {
            return Err(self.expected("the name of a rule"));
        }
        let (name, rest) = self.rest.split_at(end);
        self.rest = rest;
        let next = self.rules.len();
        Ok(*self.rules.entry(name.to_owned()).or_insert(next))
    }

    fn alternatives(&mut self, depth: usize) -> Result<Node, String> {
        if depth > MAX_DEPTH {
            return Err(format!("line {}: groups are nested more than {MAX_DEPTH} deep", self.line));
        }
        let mut parts = vec![self.sequence(depth)?];
        loop {
            self.space(depth > 0);
            if !self.take("|") {
                break;
            }
            self.space(true);
            parts.push(self.sequence(depth)?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Node::Any(parts) })
    }

    fn sequence(&mut self, depth: usize) -> Result<Node, String> {
        let mut parts = Vec::new();
        loop {
            self.space(depth > 0);
            let part = match self.peek() {
                Some('"') => self.literal()?,
                Some('[') => self.class()?,
                Some('.') => {
                    self.next();
                    Node::Class("(?s:.)".into())
                }
                Some('(') => {
                    self.next();
                    self.space(true);
                    let group = self.alternatives(depth + 1)?;
                    self.space(true);
                    if !self.take(")") {
                        return Err(self.expected("`)`"));
                    }
                    // A group of its own, also where it is one part.
                    Node::Any(vec![group])
                }
                Some(c) if c.is_ascii_alphanumeric() || c == '_' || c == '-' => Node::Rule(self.name()?),
                _ => break,
            };
            parts.push(self.repeated(part)?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Node::All(parts) })
    }

    fn repeated(&mut self, part: Node) -> Result<Node, String> {
        let (low, high) = match self.peek() {
            Some('*') => (0, None),
            Some('+') => (1, None),
            Some('?') => (0, Some(1)),
            Some('{') => {
                self.next();
                let low = self.number()?.unwrap_or(0);
                let high = if self.take(",") { self.number()? } else { Some(low) };
                if self.peek() != Some('}') || high.is_some_and(|high| high < low) {
                    return Err(self.expected("`}` after a number, or two with the smaller first"));
                }
                (low, high)
            }
            _ => return Ok(part),
        };
        self.next();
        self.repeated(Node::Repeat(Box::new(part), low, high))
    }

    fn number(&mut self) -> Result<Option<u32>, String> {
        let end = self.rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(self.rest.len());
        let (digits, rest) = self.rest.split_at(end);
        self.rest = rest;
        if digits.is_empty() {
            return Ok(None);
        }
        match digits.parse() {
            Ok(number) if number <= MAX_REPEAT => Ok(Some(number)),
            _ => Err(format!("line {}: {digits} repetitions, at most {MAX_REPEAT}", self.line)),
        }
    }

    fn literal(&mut self) -> Result<Node, String> {
        self.next();
        let mut text = String::new();
        loop {
            match self.character("\"")? {
                None => return Ok(Node::Literal(text)),
                Some((character, _)) => text.push(character),
            }
        }
    }

    fn class(&mut self) -> Result<Node, String> {
        self.next();
        let mut inside = String::from("[");
        if self.take("^") {
            inside.push('^');
        }
        let begin = inside.len();
        while let Some((character, escaped)) = self.character("]")? {
            // A dash between two characters makes a range, here and there; at either end it is itself.
            let range = character == '-' && !escaped && inside.len() > begin && self.peek() != Some(']');
            match range {
                true => inside.push('-'),
                false => {
                    let _ = write!(inside, "\\u{{{:x}}}", u32::from(character));
                }
            }
        }
        if inside.len() == begin {
            // Nothing, or anything.
            return Err(format!("line {}: an empty character class", self.line));
        }
        inside.push(']');
        Ok(Node::Class(inside))
    }

    /// A character before `end`, and whether it was escaped; `None` at the end, which is passed.
    fn character(&mut self, end: &str) -> Result<Option<(char, bool)>, String> {
        if self.take(end) {
            return Ok(None);
        }
        let unfinished = || format!("`{end}` is missing");
        match self.next().ok_or_else(unfinished)? {
            '\\' => {}
            character => return Ok(Some((character, false))),
        }
        let character = match self.next().ok_or_else(unfinished)? {
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'x' => self.hex(2)?,
            'u' => self.hex(4)?,
            'U' => self.hex(8)?,
            character @ ('"' | '\\' | '[' | ']' | '-' | '^' | '/' | '.') => character,
            other => return Err(format!("line {}: there is no escape `\\{other}`", self.line)),
        };
        Ok(Some((character, true)))
    }

    fn hex(&mut self, digits: usize) -> Result<char, String> {
        let code = self.rest.get(..digits).and_then(|hex| u32::from_str_radix(hex, 16).ok()).and_then(char::from_u32);
        let code = code.ok_or_else(|| self.expected(&format!("{digits} hexadecimal digits of a character")))?;
        self.rest = &self.rest[digits..];
        Ok(code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_literals_classes_and_repetitions() {
        let text = "# a list\nroot ::= (\"-\" Item-x \"\\n\")+ end?\nItem-x ::= [a-z^\\]-]{2,5} | \"ü\\\"\" \\\n";
        assert!(to_lark(text).unwrap_err().contains("line 3"), "a stray backslash");
        let lark = to_lark(&text.replace(" \\\n", "\nend ::= . [^x] \"\"\n")).unwrap();
        assert_eq!(
            lark,
            "start: R0\nR0: ((\"-\" R1 \"\\n\"))+ (R2)?\nR1: ((/[\\u{61}-\\u{7a}\\u{5e}\\u{5d}\\u{2d}]/){2,5} | \"ü\\\"\")\n\
             R2: /(?s:.)/ /[^\\u{78}]/ \"\"\n"
        );
        // With recursion there are rules instead of terminals.
        assert_eq!(to_lark("root ::= \"(\" root \")\" | \"x\"").unwrap(), "start: r0\nr0: (\"(\" r0 \")\" | \"x\")\n");
    }

    #[test]
    fn what_is_wrong_has_a_place() {
        for (text, problem) in [
            ("", "no rule `root`"),
            ("root ::= a", "`a` is not defined"),
            ("root = \"x\"", "line 1: expected `::=`"),
            ("root ::= \"x", "`\"` is missing"),
            ("root ::= [x", "`]` is missing"),
            ("root ::= []", "empty character class"),
            ("root ::= (\"x\"", "expected `)`"),
            ("root ::= \"x\"{5,2}", "the smaller first"),
            ("root ::= \"x\"{99999}", "at most 10000"),
            ("root ::= \"\\q\"", "no escape `\\q`"),
            ("root ::= \"\\ud800\"", "hexadecimal digits"),
            ("root ::= \"a\"\nroot ::= \"b\"", "defined twice"),
        ] {
            assert!(to_lark(text).unwrap_err().contains(problem), "{text}: {:?}", to_lark(text));
        }
        assert!(to_lark(&format!("root ::= {}", "(".repeat(100_000))).unwrap_err().contains("nested"));
    }
}
